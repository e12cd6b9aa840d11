"""The modes that rewrite, as a client has them: live, late, resumed, and when it goes wrong."""

import json
from typing import Any

import pytest

from tests.answers import joined, latest, made_cumulative, texts
from tests.cuts import messages
from tests.event_loops import on_one_loop
from tests.event_streams import DONE, FINISH, blocks, chunk_frame
from tests.http_client import Answer
from tests.proxy_under_test import Serve, begun
from tests.stage import Stage

EVENT_MODES = ("coalesced", "incremental", "cumulative")
FOLLOWED = (*EVENT_MODES, "text")
MODES = (*FOLLOWED, "json")
WORDS = ["The ", "stream ", "溪水 ", "goes ", "on ", "and ", "on ", "for ", "as ", "long ", "as ", "it ", "takes."]


def heard(mode: str, body: bytes) -> dict[Any, str]:
    return (latest if mode == "cumulative" else joined)(body)


@on_one_loop
@pytest.mark.parametrize("stated", [False, True])
async def test_stated_cumulative_upstream_is_read_so_from_its_first_text(
    perform: Serve, stage: Stage, stated: bool
) -> None:
    """Two texts alone are no evidence: without the setting they are increments."""
    tee = await perform(generations={"cumulative": stated})
    first, turn = await begun(tee, stage)
    text = await tee.follow(first.stream_id, "mode=text")
    turn.chunk(chunk_frame("ha"))
    turn.chunk(chunk_frame("haha"))
    if stated:
        await text.until(b"haha")
    turn.end(FINISH, DONE)
    await first.read()
    assert await text.read() == (b"haha" if stated else b"hahaha")
    incremental = await (await tee.follow(first.stream_id, "mode=incremental")).read()
    assert joined(incremental) == {(0, "content", -1): "haha" if stated else "hahaha"}


@pytest.mark.parametrize("cumulative", [False, True])
async def test_followers_of_every_mode_hear_the_same(perform: Serve, stage: Stage, cumulative: bool) -> None:
    """Those who were there from the start, those who joined in the middle, and those who came after the end."""
    tee = await perform()
    originator, turn = await begun(tee, stage)
    frames = [chunk_frame(word) for word in WORDS]
    frames = made_cumulative(frames) if cumulative else frames
    followers: list[tuple[str, Answer]] = []
    for place, frame in enumerate(frames):
        if place in (0, 3):
            followers += [(mode, await tee.follow(originator.stream_id, f"mode={mode}")) for mode in FOLLOWED]
        turn.chunk(frame)
    turn.end(FINISH, DONE)
    await originator.read()
    followers += [(mode, await tee.follow(originator.stream_id, f"mode={mode}")) for mode in MODES]
    for mode, follower in followers:
        body = await follower.read()
        assert (follower.status, follower.end) == (200, "whole")
        if mode == "text":
            assert follower.header("content-type") == "text/plain;charset=UTF-8"
            assert body.decode() == "".join(WORDS)
        elif mode == "json":
            assert follower.header("content-type") == "application/json; charset=utf-8"
            assert texts(json.loads(body)) == {(0, "content", -1): "".join(WORDS)}
        else:
            assert heard(mode, body) == {(0, "content", -1): "".join(WORDS)}
            assert messages(body)[-1].data == b"[DONE]"


@on_one_loop
@pytest.mark.parametrize("dialect", ["chat", "native"])
async def test_resuming_at_any_id_gives_the_rest(serve: Serve, dialect: str) -> None:
    """Over HTTP, with Last-Event-ID, in either dialect."""
    tee = await serve()
    answer = await tee.generate(dialect)
    await answer.read()
    for mode in EVENT_MODES:
        whole = await (await tee.follow(answer.stream_id, f"mode={mode}")).read()
        had = b""
        for block in blocks(whole):
            had += block
            ident = messages(block)[0].id
            assert ident is not None
            rest = await tee.follow(answer.stream_id, f"mode={mode}", b"Last-Event-ID: " + ident)
            assert rest.status == (204 if had == whole else 200)
            assert heard(mode, had + await rest.read()) == heard(mode, whole)


@on_one_loop
async def test_every_byte_of_the_text_is_a_place_to_resume(serve: Serve) -> None:
    """Also one within a character; beyond the end it is refused, at the end there is nothing more."""
    tee = await serve()
    answer = await tee.chat()
    await answer.read()
    whole = await (await tee.follow(answer.stream_id, "mode=text")).read()
    assert whole
    for offset in [*range(0, len(whole), max(1, len(whole) // 15)), len(whole) - 1]:
        follower = await tee.follow(answer.stream_id, f"mode=text&offset={offset}")
        assert await follower.read() == whole[offset:]
        assert follower.header("stream-offset") == str(offset)
    assert (await tee.follow(answer.stream_id, f"mode=text&offset={len(whole) + 1}")).status == 416
    assert (await tee.follow(answer.stream_id, "mode=json&offset=1")).status == 400


async def test_text_goes_on_from_a_byte_of_a_running_stream(perform: Serve, stage: Stage) -> None:
    """From within a piece, and from the end of what there is."""
    tee = await perform()
    originator, turn = await begun(tee, stage)
    turn.chunk(chunk_frame("溪水 "))
    await originator.bytes(1)
    followers = {n: await tee.follow(originator.stream_id, f"mode=text&offset={n}") for n in (0, 2, 7)}
    turn.end(chunk_frame("goes on"), FINISH, DONE)
    for offset, follower in followers.items():
        assert await follower.read() == "溪水 goes on".encode()[offset:]


@pytest.mark.parametrize("mode", FOLLOWED)
async def test_stream_that_breaks_off_never_looks_complete(perform: Serve, stage: Stage, mode: str) -> None:
    """An error event where there are events, else a response that breaks off as well."""
    tee = await perform()
    originator, turn = await begun(tee, stage)
    follower = await tee.follow(originator.stream_id, f"mode={mode}")
    turn.chunk(chunk_frame("The stream"))
    await originator.bytes(1)
    turn.reset()
    body = await follower.read()
    if mode in EVENT_MODES:
        assert follower.end == "whole"
        assert json.loads(messages(body)[-1].data)["error"]["code"] == "upstream_reset"
        assert heard(mode, body) == {(0, "content", -1): "The stream"}
    else:
        assert follower.end != "whole"
        assert body == b"The stream"
    assert b"[DONE]" not in body


@on_one_loop
async def test_what_the_log_no_longer_holds_is_refused_where_it_is_needed(perform: Serve, stage: Stage) -> None:
    """410 in the modes that tell of all the past; the others tell of the rest, a text's bytes can't be counted."""
    tee = await perform(limits={"log_bytes": 20_000})
    originator, turn = await begun(tee, stage)
    for _ in range(50):
        turn.chunk(chunk_frame("x" * 1000))
    await originator.bytes(50_000)
    info = await tee.info(originator.stream_id)
    assert info["first_seq"] > 1
    held = f"after={info['first_seq'] - 1}"
    for query in (f"mode=cumulative&{held}", "mode=json", f"mode=text&offset=0&{held}"):
        gone = await tee.follow(originator.stream_id, query)
        assert (gone.status, (await gone.json())["error"]["code"]) == (410, "offset_gone")
    follower = await tee.follow(originator.stream_id, f"mode=text&after={info['first_seq'] - 1}")
    turn.end(FINISH, DONE)
    assert await follower.read() == b"x" * 1000 * (50 - info["first_seq"] + 1)


@on_one_loop
@pytest.mark.parametrize("how", ["header", "configuration"])
async def test_strict_client_finds_a_space_after_each_colon(serve: Serve, how: str) -> None:
    """Where DashScope writes none; the events are the same, and a client that asks for raw gets what came."""
    tee = await serve(generations={"mode": "spaced"} if how == "configuration" else {})
    answer = await tee.native(*(["Stream-Mode: spaced"] if how == "header" else []))
    body = await answer.read()
    assert (answer.header("stream-mode"), answer.end) == ("spaced", "whole")
    raw = await (await tee.follow(answer.stream_id, "mode=raw")).read()
    assert b"\ndata:{" in raw
    lines = [line for line in body.split(b"\n") if line and not line.startswith(b":")]
    assert all(line.startswith((b"data: ", b"event: ", b"id: ")) for line in lines)
    assert [line[6:] for line in lines if line.startswith(b"data: ")] == [event.data for event in messages(raw)]
    asked = await tee.native("Stream-Mode: raw")
    assert (await asked.read()).count(b"\ndata:{") == raw.count(b"\ndata:{")
    ids = [event.id for event in messages(body)]
    rest = await tee.follow(answer.stream_id, "mode=spaced", b"Last-Event-ID: " + (ids[0] or b""))
    assert body.endswith(await rest.read())
