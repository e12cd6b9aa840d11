"""Following, word by word: what a cursor, a mode and a number of seconds may look like, and what is said otherwise."""

from typing import Any

import pytest

from proxy.tools.fake_qwen import FakeQwen
from tests.event_streams import blocks, stamped
from tests.http_client import KEY, Answer
from tests.proxy_under_test import PROMPT, Tee, teed

FRAMES = 8


@pytest.fixture
async def kept(tee: Tee) -> Answer:
    """A stream that has ended, with its body read."""
    answer = await tee.chat(fault=f"count; frames={FRAMES}")
    await answer.read()
    return answer


async def error(answer: Answer) -> dict[str, Any]:
    return (await answer.json())["error"]


@pytest.mark.parametrize(
    "cursor",
    ["x", "1.5", "-2", "+1", "1-", "-", "-x", "gen-", "gen-x", "1 ", "0x1", "\u0661", "1" * 19, "1e3", "NOW", "a b"],
)
@pytest.mark.parametrize("way", ["header", "last_event_id", "after", "starting_after"])
async def test_cursor_that_is_none_is_refused(tee: Tee, kept: Answer, way: str, cursor: str) -> None:
    """400 with what was given and what is allowed."""
    if way == "header":
        answer = await tee.follow(kept.stream_id, "", b"Last-Event-ID: " + cursor.strip().encode())
        if cursor.strip() == "1":
            assert answer.status == 200
            return
    else:
        escaped = "".join(f"%{byte:02X}" for byte in cursor.encode())
        answer = await tee.follow(kept.stream_id, f"{way}={escaped}")
    assert answer.status == 400
    told = await error(answer)
    assert told["code"] == "bad_request"
    assert all(word in told["message"] for word in ("cursor", "id", "number", "-1", "now"))
    assert await tee.listed() != []


async def test_cursor_that_is_long_is_not_repeated_whole(tee: Tee, kept: Answer) -> None:
    """A message does not grow with what a client sends."""
    told = await error(await tee.follow(kept.stream_id, "after=" + "x" * 5000))
    assert len(told["message"]) < 200


@pytest.mark.parametrize("query", ["", "after=", "last_event_id=", "mode=", "mode=events", "after=&starting_after="])
async def test_empty_word_is_none(tee: Tee, kept: Answer, query: str) -> None:
    """It gives what leaving it out gives: events, from the start."""
    follower = await tee.follow(kept.stream_id, query)
    assert await follower.read() == stamped(bytes(kept.body), kept.epoch)


@pytest.mark.parametrize("mode", ["cooked", "RAW", "event", "raw,events", "%00"])
async def test_mode_that_is_none_is_refused(tee: Tee, kept: Answer, mode: str) -> None:
    """400, with those there are."""
    answer = await tee.follow(kept.stream_id, f"mode={mode}")
    told = await error(answer)
    assert (answer.status, told["code"]) == (400, "unknown_mode")
    assert "raw, events" in told["message"]


@pytest.mark.parametrize("offset", ["-1", "x", "1.5", "", "1e3", "%C2%B2", "+1", " 1"])
async def test_offset_that_is_none_is_refused(tee: Tee, kept: Answer, offset: str) -> None:
    """Bytes are counted in whole numbers from 0."""
    answer = await tee.follow(kept.stream_id, f"mode=raw&offset={offset.replace(' ', '%20').replace('+', '%2B')}")
    told = await error(answer)
    assert (answer.status, told["code"]) == (400, "bad_request")
    assert "offset" in told["message"]


async def test_offset_goes_with_raw(tee: Tee, kept: Answer) -> None:
    """In events the bytes are others; the message says what to use."""
    for query in ("offset=5", "mode=events&offset=5"):
        answer = await tee.follow(kept.stream_id, query)
        told = await error(answer)
        assert (answer.status, told["code"]) == (400, "bad_request")
        assert "mode=raw" in told["message"]


@pytest.mark.parametrize("name", ["heartbeat", "wait"])
@pytest.mark.parametrize("seconds", ["x", "-1", "nan", "inf", "1e9", "", "1s"])
async def test_seconds_that_are_none_are_refused(tee: Tee, kept: Answer, name: str, seconds: str) -> None:
    """By id and by key, with the name and the range."""
    for ident in (kept.stream_id, "keys/k"):
        answer = await tee.follow(ident, f"{name}={seconds}")
        told = await error(answer)
        assert (answer.status, told["code"]) == (400, "bad_request")
        assert all(word in told["message"] for word in (name, "0", "86400"))


@pytest.mark.parametrize("seconds", ["0", "0.5", "15", "86400"])
async def test_seconds_are_numbers(tee: Tee, kept: Answer, seconds: str) -> None:
    """Parts of one, too."""
    assert (await tee.follow(kept.stream_id, f"heartbeat={seconds}&wait={seconds}")).status == 200


async def test_wait_is_capped(fake: FakeQwen) -> None:
    """Whatever is asked for, it is no longer than configured."""
    async with teed(fake.url, streams={"wait_max_s": 0.1}) as tee:
        follower = await tee.follow("keys/k", "wait=86400&heartbeat=0")
        assert await follower.read() == b""
        assert follower.end == "whole"


async def test_heartbeat_is_configured(fake: FakeQwen) -> None:
    """Without a wanted of the follower's the configuration's holds."""
    async with teed(fake.url, streams={"heartbeat_s": 0.1}) as tee:
        running = await tee.chat(fault="hang; after=0")
        follower = await tee.follow(running.stream_id)
        assert (await follower.until(b":\n:\n"))[:2] == b":\n"
        waiting = await tee.follow("keys/k", "wait=10")
        assert (await waiting.until(b":\n:\n"))[:2] == b":\n"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/info"), ("HEAD", ""), ("DELETE", ""), ("POST", "/cancel")],
)
@pytest.mark.parametrize("ident", ["st_x", "..%2Fx", "%00", "st_" + "a" * 26, "x" * 3000, "%C3%28"])
async def test_id_that_is_none_is_not_found(tee: Tee, fake: FakeQwen, method: str, path: str, ident: str) -> None:
    """404, whatever it looks like; it is not taken for a path of the upstream's."""
    answer = await tee.ask(method, f"/v1/streams/{ident}{path}")
    assert answer.status == 404
    assert fake.requests == []
    if method != "HEAD":
        assert (await error(answer))["code"] == "stream_not_found"


async def test_wrong_word_is_said_before_anything_is_done(tee: Tee, kept: Answer) -> None:
    """404 comes before 400: what is not the caller's is not there, whatever else is wrong."""
    assert (await tee.follow("st_x", "mode=cooked")).status == 404
    assert (await tee.follow(kept.stream_id, "mode=cooked")).status == 400


async def test_description_never_holds_text(tee: Tee) -> None:
    """Info and list are numbers and names: no prompt, no answer, no key."""
    answer = await tee.chat(fault="huge_frame; bytes=500")
    await answer.read()
    for path in (f"/v1/streams/{answer.stream_id}/info", "/v1/streams"):
        told = (await (await tee.ask("GET", path)).read()).decode()
        for word in (PROMPT, KEY, "x" * 20):
            assert word not in told


async def test_last_event_id_of_a_browser_is_understood(tee: Tee, kept: Answer) -> None:
    """What the last block said is what comes back, and gives nothing; the one before it gives the last block."""
    body = await (await tee.follow(kept.stream_id)).read()
    idents = [block.split(b"\nid: ")[1].split(b"\n")[0].decode() for block in blocks(body)]
    assert (await tee.follow(kept.stream_id, "", f"Last-Event-ID: {idents[-1]}")).status == 204
    rest = await tee.follow(kept.stream_id, "", f"Last-Event-ID: {idents[-2]}")
    assert await rest.read() == blocks(body)[-1]


async def test_204_is_bare(tee: Tee, kept: Answer) -> None:
    """No body, and the connection goes on; which stream it was is told."""
    client = await tee.send("GET", f"/v1/streams/{kept.stream_id}?after=now")
    answer = await client.answer()
    assert (answer.status, answer.header("stream-id")) == (204, kept.stream_id)
    assert answer.header("transfer-encoding") is None
    client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await client.answer()).status == 200
