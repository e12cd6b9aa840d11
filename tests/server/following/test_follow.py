"""Following over sockets: how what is asked for is refused, and how what was found is answered."""

from typing import Any

import pytest

from proxy.tools.fake.qwen import FakeQwen
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


@pytest.mark.parametrize("by_key", [False, True])
@pytest.mark.parametrize(
    ("query", "code", "word"),
    [
        ("after=x", "bad_request", "cursor"),
        ("mode=cooked", "unknown_mode", "raw, events"),
        ("mode=raw&offset=x", "bad_request", "offset"),
        ("heartbeat=x", "bad_request", "heartbeat"),
        ("wait=x", "bad_request", "wait"),
    ],
)
async def test_wrong_query_is_refused(tee: Tee, kept: Answer, by_key: bool, query: str, code: str, word: str) -> None:
    """By id and by key: 400, with what was wrong. What is wrong, test_follow_request.py says."""
    answer = await tee.follow("keys/k" if by_key else kept.stream_id, query)
    told = await error(answer)
    assert (answer.status, told["code"]) == (400, code)
    assert word in told["message"]
    assert await tee.listed() != []


@pytest.mark.parametrize("query", ["after=", "last_event_id=&mode="])
async def test_empty_query_follows_from_the_start(tee: Tee, kept: Answer, query: str) -> None:
    """As one that says nothing."""
    follower = await tee.follow(kept.stream_id, query)
    assert await follower.read() == stamped(bytes(kept.body), kept.epoch)


async def test_header_that_is_no_cursor_is_refused(tee: Tee, kept: Answer) -> None:
    """Bytes that are not UTF-8, too."""
    for cursor in (b"x", b"\xff", "\u0661".encode()):
        answer = await tee.follow(kept.stream_id, "", b"Last-Event-ID: " + cursor)
        assert (answer.status, (await error(answer))["code"]) == (400, "bad_request")


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
