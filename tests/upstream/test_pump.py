"""The pump: how it judges an ending, from what the upstream said and how its body ended."""

import functools
import json
import re
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.dialects.responses import RESPONSES
from proxy.dialects.usage import Usage
from proxy.stream.endings import COMPLETE
from proxy.stream.ledger import UNFINISHED
from proxy.upstream.connection import Connection
from proxy.upstream.exchange import Exchange
from proxy.upstream.pump import OnDisconnect, Pump
from proxy.wire.http import chunk
from tests.event_streams import DONE, FINISH, blocks, chunk_frame
from tests.fakes import FakeLoop, FakeSink
from tests.http_client import Answer
from tests.proxy_under_test import CHAT as CHAT_PATH
from tests.proxy_under_test import NATIVE, Tee, chat_body, native_body
from tests.pumped import Upstream
from tests.stage import EVENT_STREAM, Stage, Turn
from tests.streams import follow, new_stream

FRAME = chunk_frame("word")
LENGTH = FRAME + FINISH.replace(b'"stop"', b'"length"')
CHOICES = FRAME.replace(b'[{"index": 0,', b'[{"index": 1, "delta": {"content": "other"}}, {"index": 0,')
ERROR = b'data: {"error":{"message":"inspected","type":"data_inspection_failed","code":"data_inspection_failed"}}\n\n'
NATIVE_FRAME = (
    b"id:1\nevent:result\n:HTTP_STATUS/200\n"
    b'data:{"output":{"choices":[{"message":{"content":"word"},"finish_reason":"null"}]}}\n\n'
)
NATIVE_FINISH = NATIVE_FRAME.replace(b'"null"', b'"stop"')
NATIVE_ERROR = b'id:2\nevent:error\n:HTTP_STATUS/400\ndata:{"code":"DataInspectionFailed","message":"inspected"}\n\n'


# Policies.


@pytest.mark.parametrize(
    ("text", "grace_s"), [("cancel", 0), ("continue", None), ("grace=0", 0), ("grace=5", 5), ("grace=0.25", 0.25)]
)
def test_policy_is_read(text: str, grace_s: float | None) -> None:
    """None is for ever."""
    assert OnDisconnect.parse(text).grace_s == grace_s


@pytest.mark.parametrize(
    ("one", "other", "longer"), [(0, 5, 5), (5, 0, 5), (0.5, 0.25, 0.5), (None, 5, None), (0, None, None)]
)
def test_more_patient_of_two_policies(one: float | None, other: float | None, longer: float | None) -> None:
    """For ever is longest."""
    assert OnDisconnect(one).or_longer(OnDisconnect(other)) == OnDisconnect(longer)


@pytest.mark.parametrize(
    "text",
    ["", "stay", "Cancel", "cancel ", "grace", "grace=", "grace=x", "grace=-1", "grace=inf", "grace=nan", "grace=86400",
     "wait=5", "continue=5"],
)  # fmt: skip
def test_policy_that_is_none_is_refused(text: str) -> None:
    """Less than a day of grace."""
    with pytest.raises(ValueError):  # noqa: PT011  (whoever reads it says what is allowed)
        OnDisconnect.parse(text)


# Time.


async def test_silence_while_it_paused_is_not_the_upstreams() -> None:
    """Its time begins anew when reading does, as at the start."""
    stream = new_stream()
    pump = Pump(stream, OnDisconnect(0), max_frame_bytes=1000, overhead=float)
    pool: Any = None
    exchange = Exchange(pool, Connection(), b"POST")
    for begin in (functools.partial(pump.start, exchange), pump.resume):
        stream.fed_at = 0.0
        before = monotonic()
        begin()
        assert before <= pump.fed_at <= monotonic()
        assert pump.awaits_token
    assert exchange.progress is pump


# Events that come as chunks of their own.

_USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'


def _pump(**named: Any) -> Pump:
    settings: dict[str, Any] = {"max_frame_bytes": 1000, "overhead": float} | named
    return Pump(new_stream(), OnDisconnect(0), **settings)


def _takes(pump: Pump, *frames: bytes, at: float = 9.0) -> bool:
    return pump.take_events(list(frames), b"".join(map(chunk, frames)), at)


def test_events_are_not_taken_before_the_first_frame_has_come() -> None:
    """It says that reads begin frames; afterwards one of text leaves but its time, and others are looked at."""
    pump = _pump()
    assert not _takes(pump, FRAME)
    pump.received(FRAME, 1.0)
    assert _takes(pump, FRAME, at=2.0)
    assert _takes(pump, FRAME, FRAME, at=3.0)
    assert _takes(pump, FINISH, _USAGE, at=4.0)
    assert pump.stream.log.frames == [*[FRAME] * 4, FINISH, _USAGE]
    vitals = pump.stream.vitals
    assert (vitals.times, vitals.reader.finish_reason, vitals.reader.usage) == ([2.0, 3.0, 3.0], "stop", Usage(1, 2))
    assert pump.fed_at == 4.0


def test_first_text_after_thoughts_is_found_on_the_short_way() -> None:
    """Most of a thinking model's events are thoughts."""
    thought = FRAME.replace(b'"content": "word"', b'"content":null,"reasoning_content":"hm"')
    assert thought != FRAME
    pump = _pump()
    assert not _takes(pump, thought)
    pump.received(thought, 1.0)
    assert _takes(pump, thought, thought, at=2.0)
    assert _takes(pump, FRAME, at=3.0)
    assert _takes(pump, FRAME, at=4.0)
    vitals = pump.stream.vitals
    assert (vitals.first_token_at, vitals.first_content_at, vitals.times) == (1.0, 3.0, [2.0, 2.0, 3.0, 4.0])


def test_events_are_not_taken_while_a_frame_is_unfinished() -> None:
    """They would come between its halves."""
    pump = _pump()
    pump.received(FRAME + FRAME[:10], 1.0)
    assert not _takes(pump, FRAME)
    pump.received(FRAME[10:], 2.0)
    assert _takes(pump, FRAME)
    pump.received(FRAME[:10], 3.0)
    assert not _takes(pump, FRAME)


async def test_rest_of_a_read_is_counted_until_its_frame_is_whole() -> None:
    """Also if the read began with whole frames, and if the rest comes with more of them."""
    upstream = Upstream(FakeSink())
    counted = []
    for piece in (FRAME, FRAME + FRAME[:10], FRAME[10:20], FRAME[20:] + FRAME, FRAME[:10], FRAME[10:] + FRAME[:5]):
        upstream.send_piece(piece)
        counted.append(upstream.ledger.by_kind()[UNFINISHED])
    assert counted == [0, 10, 20, 0, 10, 5]


async def test_final_event_without_its_blank_line_ends_the_answer_wherever_it_comes() -> None:
    """In a read of its own, or after whole frames."""
    for reads in ([FRAME + FINISH, DONE[:-1]], [FRAME + FINISH + DONE[:-1]], [FRAME, FINISH + DONE[:-2]]):
        upstream = Upstream(FakeSink())
        for read in reads:
            upstream.send_piece(read)
        assert upstream.pump.ended_at == len(reads)


@pytest.mark.parametrize("short_way", [True, False])
def test_times_are_counted_now_and_then_however_many_events_a_read_brings(short_way: bool) -> None:
    """Three and then two a time: the number of frames is never a multiple of 64."""
    told: list[float] = []
    pump = _pump(overhead=told.append)
    pump.received(FRAME * 3, 1.0)
    for turn in range(200):
        if short_way:
            assert _takes(pump, FRAME, FRAME, at=2.0 + turn)
        else:
            pump.received(FRAME * 2, 2.0 + turn)
    assert len(told) == 403 // 64
    assert len(pump.stream.vitals.times) < 64 + 8


def test_events_that_may_be_too_long_or_hidden_are_not_taken() -> None:
    """The way that looks at each frame decides."""
    pump = _pump(max_frame_bytes=len(FRAME) + 20)
    pump.received(FRAME, 1.0)
    assert _takes(pump, FRAME)
    assert not _takes(pump, FRAME, FRAME)
    pump = _pump(hides_usage=True)
    pump.received(FRAME, 1.0)
    assert not _takes(pump, _USAGE)


# Endings.


def chunked(turn: Turn, body: bytes) -> None:
    """A body with a proper end."""
    turn.begin()
    turn.end(*([body] if body else []))


def unchunked(turn: Turn, body: bytes) -> None:
    """A body that ends with the connection."""
    turn.say(f"HTTP/1.1 200 OK\r\nContent-Type: {EVENT_STREAM}\r\n\r\n".encode() + body)
    turn.close()


def measured(turn: Turn, body: bytes) -> None:
    """A body with a length."""
    turn.reply("200 OK", f"Content-Type: {EVENT_STREAM}", body=body)


def cut(turn: Turn, body: bytes) -> None:
    """Chunks without their end."""
    turn.begin()
    turn.chunk(body)
    turn.close()


def overlong(turn: Turn, body: bytes) -> None:
    """A proper end, and then bytes that belong to nothing."""
    turn.begin()
    turn.chunk(body)
    turn.say(b"0\r\n\r\nHTTP/1.1 500 What\r\n\r\n")


class Case(NamedTuple):
    """A body, how it ends, and what is made of it: state and reason; and how many frames there are."""

    body: bytes
    how: Callable[[Turn, bytes], None]
    reason: str
    frames: int
    native: bool = False
    clean: bool | None = None
    """Whether mode raw ends properly though it failed, or the other way round; None: as the reason has it."""
    told: bool = True
    """The upstream's error, if it is one, is in a form that clients know."""


CASES = {
    "whole": Case(FRAME + FINISH + DONE, chunked, "complete", 3),
    "whole, measured": Case(FRAME + FINISH + DONE, measured, "complete", 3),
    "whole, ends with the connection": Case(FRAME + FINISH + DONE, unchunked, "complete", 3),
    "no done": Case(FRAME + FINISH, chunked, "complete", 2),
    "no done, ends with the connection": Case(FRAME + FINISH, unchunked, "complete", 2),
    "cut at the length": Case(LENGTH, unchunked, "complete", 2),
    "no finish": Case(FRAME, chunked, "upstream_reset", 1, clean=True),
    "one of two finishes": Case(CHOICES + FINISH, chunked, "upstream_reset", 2, clean=True),
    "no finish but done": Case(FRAME + DONE, chunked, "complete", 2),
    "no finish, ends with the connection": Case(FRAME, unchunked, "upstream_reset", 1),
    "empty": Case(b"", chunked, "upstream_reset", 0, clean=True),
    "done alone": Case(DONE, chunked, "upstream_reset", 1, clean=True),
    "nothing, ends with the connection": Case(b"", unchunked, "upstream_reset", 0),
    "cut after a frame": Case(FRAME, cut, "upstream_reset", 1),
    "cut after done": Case(FRAME + DONE, cut, "complete", 2),
    "cut in a frame": Case(FRAME + b'data: {"choi', cut, "upstream_reset", 1),
    "half a frame, then an end": Case(FRAME + b'data: {"choi', chunked, "upstream_reset", 1),
    "half a frame, then an end, measured": Case(FRAME + b'data: {"choi', measured, "upstream_reset", 1),
    "done without its blank line": Case(FRAME + FINISH + DONE[:-1], chunked, "complete", 3),
    "done without its line's end": Case(FRAME + FINISH + DONE[:-2], chunked, "complete", 3),
    "frame without its blank line": Case(FRAME + FINISH[:-1], chunked, "complete", 2),
    "blank lines at the end": Case(FRAME + DONE + b"\n\n\n", chunked, "complete", 3),
    "comments only": Case(b": one\n\n: two\n\n", chunked, "upstream_reset", 2, clean=True),
    "comments and done": Case(b": one\n\n" + DONE, chunked, "upstream_reset", 2, clean=True),
    "error inside": Case(FRAME + ERROR, chunked, "upstream_error", 2),
    "error first": Case(ERROR, chunked, "upstream_error", 1),
    "error, then done": Case(FRAME + ERROR + DONE, chunked, "upstream_error", 3),
    "error, cut": Case(FRAME + ERROR, cut, "upstream_error", 2, clean=False),
    "error after done": Case(FRAME + DONE + ERROR, chunked, "complete", 3),
    "flat error": Case(FRAME + b'data: {"code":"c","message":"m"}\n\n', chunked, "upstream_error", 2, told=False),
    "error as the tail": Case(FRAME + b'{"error":{"message":"m"}}', chunked, "upstream_error", 2, told=False),
    "HTML": Case(b"<html>\n<title>502</title></html>", chunked, "upstream_error", 1, told=False),
    "not JSON": Case(b"data: {not json\n\ndata: \n\n" + DONE, chunked, "upstream_error", 3, told=False),
    "other JSON": Case(
        b"data: [1]\n\ndata: 7\n\ndata: null\n\ndata: {}\n\n" + DONE, chunked, "upstream_reset", 5, clean=True
    ),
    "odd shapes": Case(
        b'data: {"choices":7}\n\ndata: {"choices":[7,{"delta":7}]}\n\ndata: {"choices":[{"delta":{"tool_calls":[7]}}],'
        b'"usage":7,"model":7}\n\n' + DONE, chunked, "complete", 4
    ),
    "bytes after it": Case(FRAME + DONE, overlong, "complete", 2),
    "native": Case(NATIVE_FRAME + NATIVE_FINISH, chunked, "complete", 2, native=True),
    "native, ends with the connection": Case(NATIVE_FRAME + NATIVE_FINISH, unchunked, "complete", 2, native=True),
    "native, unfinished, ends with the connection": Case(NATIVE_FRAME, unchunked, "upstream_reset", 1, native=True),
    "native error": Case(NATIVE_FRAME + NATIVE_ERROR, chunked, "upstream_error", 2, native=True),
    "native, cut": Case(NATIVE_FRAME, cut, "upstream_reset", 1, native=True),
    "native, odd shapes": Case(
        b'data:{"output":7,"usage":7}\n\ndata:{"output":{"choices":[7,{"message":7}]},"usage":{"models":[7]}}\n\n'
        b"data:not json\n\n", chunked, "upstream_error", 3, native=True, told=False
    ),
}  # fmt: skip


async def run(tee: Tee, stage: Stage, case: Case) -> Answer:
    """Have the upstream say a case; return what the client that asked has of it."""
    client = await (
        tee.send("POST", NATIVE, "X-DashScope-SSE: enable", body=native_body()) if case.native else tee.send_chat()
    )
    turn = await stage.next()
    await turn.body()
    case.how(turn, case.body)
    answer = await client.answer()
    await answer.read()
    return answer


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_ending_is_judged_by_what_came(tee: Tee, stage: Stage, case: Case) -> None:
    """A stream is complete when nothing can be missing; the client's body ends accordingly, with every byte."""
    answer = await run(tee, stage, case)
    info = await tee.info(answer.stream_id)
    assert info["ending"]["reason"] == case.reason
    assert info["state"] == ("complete" if case.reason == "complete" else "failed")
    assert info["events"] == case.frames
    assert answer.body == case.body
    clean = case.reason in ("complete", "upstream_error") if case.clean is None else case.clean
    assert (answer.end == "whole") == clean
    # An event mode ends with an error of ours if, and only if, the upstream has told of none.
    events = await (await tee.follow(answer.stream_id)).read()
    ours = case.reason != "complete" and not (case.reason == "upstream_error" and clean and case.told)
    assert (b'"type":"stream_error"' in events or b"\nstatus:502\n" in events) == ours


_SAID = [FRAME, CHOICES, FINISH, _USAGE, DONE, ERROR, b'data: {"code":"c","message":"m"}\n\n', b"<html>\n\n"]
_NOTHING = [b": keep-alive\n\n", b"\n\n", b'data: {"type":"ping"}\n\n', b"retry: 5\n\n", b"data:\n\n"]


def _outcome(reads: list[bytes]) -> tuple[Any, ...]:
    """Return all that is known of a stream whose body comes in these reads, and then ends."""
    pump = _pump()
    for at, data in enumerate(reads, 1):
        pump.received(data, float(at))
    pump.ended(b"", 99.0, None)
    vitals, ending = pump.stream.vitals, pump.stream.log.ending
    said = vitals.reader
    return ending, said.finish_reason, said.usage, said.failure, bool(vitals.first_token_at), vitals.model


@given(st.lists(st.sampled_from(_SAID), max_size=6), st.data())
def test_what_says_nothing_changes_nothing_wherever_it_stands(said: list[bytes], data: st.DataObject) -> None:
    """Comments, blank blocks, pings, any number of them, in any reads: ending, usage and finish are the same."""
    places = data.draw(st.lists(st.integers(0, 30), min_size=len(said) + 1, max_size=len(said) + 1))
    parts: list[bytes] = []
    for frame, count in zip([*said, b""], places, strict=True):
        parts += [data.draw(st.sampled_from(_NOTHING))] * count
        parts.append(frame)
    body, reads = b"".join(parts), []
    for cut in sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)), reverse=True):
        reads.insert(0, body[cut:])
        body = body[:cut]
    assert _outcome([read for read in [body, *reads] if read]) == _outcome(said)


@pytest.mark.parametrize("case", [CASES["whole"], CASES["native"]], ids=["chat", "native"])
async def test_first_token_is_timed(tee: Tee, stage: Stage, case: Case) -> None:
    """Model, finish reason and time to the first token are read from what passed."""
    info = await tee.info((await run(tee, stage, case)).stream_id)
    assert info["time_to_first_token_s"] > 0
    assert info["finish_reason"] == "stop"
    assert info["model"] in ((None, "qwen-max") if case.native else ("qwen3-max",))


async def test_reads_do_not_make_frames(tee: Tee, stage: Stage) -> None:
    """Law 2: the same bytes in any pieces are the same frames."""
    body = FRAME + b": comment\r\n\r\n" + FRAME.replace(b"\n", b"\r\n") + FRAME.replace(b"\n", b"\r") + DONE
    seen = []
    for size in (1, 3, 1000):
        client = await tee.send_chat()
        turn = await stage.next()
        await turn.body()
        turn.begin()
        for at in range(0, len(body), size):
            piece = body[at : at + size]
            await turn.pour(b"%x\r\n%b\r\n" % (len(piece), piece))
        turn.end()
        answer = await client.answer()
        assert await answer.read() == body
        events = await (await tee.follow(answer.stream_id)).read()
        seen.append(events.replace(answer.epoch.encode(), b"gen"))
        assert len(blocks(events)) == 4  # the comment leads the block behind it
        assert (await tee.info(answer.stream_id))["events"] == 5
    assert seen[0] == seen[1] == seen[2]


async def test_ending_is_said_once(tee: Tee, stage: Stage) -> None:
    """Cancelled as it ends, or cancelled twice: the first word stands."""
    answer = await run(tee, stage, CASES["cut after a frame"])
    before = await tee.info(answer.stream_id)
    await tee.ask("POST", f"/v1/streams/{answer.stream_id}/cancel")
    assert await tee.info(answer.stream_id) == before
    events = await (await tee.follow(answer.stream_id)).read()
    assert len(re.findall(rb"stream_error", events)) == 1
    assert await tee.metric("streamtee_streams_ended_total") == 1


# The last word of an API that has no final event.

_NATIVE_LAST = NATIVE_FINISH.replace(b"\n\n", b"")[:-1] + b',"usage":{"input_tokens":1,"output_tokens":2}}\n\n'


async def test_answer_is_known_after_some_silence_but_not_if_another_frame_comes() -> None:
    """The second choice of a native answer may begin when the first has finished."""
    loop = FakeLoop()
    upstream = Upstream(FakeSink(), loop=loop, dialect=DASHSCOPE)
    upstream.send(NATIVE_FRAME)
    loop.elapse(10)
    assert upstream.stream.outcome is None
    upstream.send(_NATIVE_LAST)
    loop.elapse(0.2)
    assert upstream.stream.outcome is None
    upstream.send(NATIVE_FRAME.replace(b"word", b"more"))
    loop.elapse(0.2)
    assert upstream.stream.outcome is None
    upstream.send(_NATIVE_LAST)
    loop.elapse(0.3)
    assert upstream.stream.outcome is COMPLETE
    assert upstream.stream.log.ending is None


def _native_choice(text: str, index: int, reason: str = "stop") -> bytes:
    """Return a native frame that ends a choice."""
    return _NATIVE_LAST.replace(b"word", text.encode()).replace(
        b'"stop"', b'"%b","index":%d' % (reason.encode(), index)
    )


_COUNTED = FINISH.replace(b"}\n\n", b',"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n')


@pytest.mark.parametrize(
    ("dialect", "choices", "frames"),
    [
        (DASHSCOPE, 2, [_native_choice("one", 0)]),
        (DASHSCOPE, 1, [_native_choice("call", 0, "tool_calls")]),
        (DASHSCOPE, 1, [_native_choice("one", 0) + _native_choice("two", 1)[:40]]),
        (DASHSCOPE, 1, [_native_choice("one", 0), _native_choice("two", 1)[:40]]),
        (CHAT, 1, [FRAME, _COUNTED]),
    ],
    ids=["a choice is missing", "a call", "half a frame", "half a frame later", "no final event"],
)
async def test_silence_says_nothing_while_something_is_missing(
    dialect: Dialect, choices: int, frames: list[bytes]
) -> None:
    """Of a chat completion the final event, though usage and finish reason have come: a usage may follow."""
    loop = FakeLoop()
    upstream = Upstream(FakeSink(), loop=loop, dialect=dialect)
    upstream.stream.reader.choices = choices
    for frame in frames:
        upstream.send_piece(frame)
        loop.elapse(0.1)
    loop.elapse(10)
    assert upstream.stream.outcome is None
    if dialect is DASHSCOPE:
        assert upstream.pump.enough_after_s == 0.0


async def test_comments_are_silence() -> None:
    """A native answer is known, however often its upstream shows that it is alive."""
    loop = FakeLoop()
    upstream = Upstream(FakeSink(), loop=loop, dialect=DASHSCOPE)
    upstream.send(_native_choice("one", 0) + b":ping\n\n")
    for _ in range(3):
        loop.elapse(0.1)
        upstream.send_piece(b":ping\n\n")
    assert upstream.stream.outcome is COMPLETE


@pytest.mark.parametrize(
    ("dialect", "frame", "ends"),
    [
        (CHAT, ERROR, True),
        (CHAT, b'data: {"code":500,"message":"inspected"}\n\n', True),
        (DASHSCOPE, NATIVE_ERROR, True),
        (RESPONSES, b'event: error\ndata: {"type":"error","code":"x","message":"inspected"}\n\n', True),
        (CHAT, FRAME, False),
        (CHAT, b"data: you are number 3 in the queue\n\n", False),
    ],
)
async def test_silence_ends_a_stream_after_an_error_that_is_stated_as_one(
    dialect: Dialect, frame: bytes, ends: bool
) -> None:
    """After other text more may come, which followers in mode raw are to get, though the stream has failed."""
    upstream = Upstream(FakeSink(), dialect=dialect)
    upstream.send(frame)
    assert bool(upstream.pump.enough_after_s) is ends


@pytest.mark.parametrize("ending", ["[DONE]", "finish reasons"])
async def test_cancel_after_the_last_word_changes_no_ending(ending: str, tee: Tee, stage: Stage) -> None:
    """A document said that the answer is complete, while a follower of the bytes beside it still waits."""
    path, body = (CHAT_PATH, chat_body()) if ending == "[DONE]" else (NATIVE, native_body())
    sse = "X-DashScope-SSE: enable"
    client = await tee.send("POST", path, sse, body=body)
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(FRAME if ending == "[DONE]" else NATIVE_FRAME)
    raw = await client.answer()
    document = await tee.send("GET", f"/v1/streams/{raw.stream_id}?mode=json&wait=5")
    turn.chunk(FINISH + DONE if ending == "[DONE]" else _NATIVE_LAST)
    told = await document.answer()
    assert told.status == 200
    cancelled = await tee.ask("POST", f"/v1/streams/{raw.stream_id}/cancel")
    assert (await cancelled.json())["ending"]["reason"] == "complete"
    await raw.read()
    assert raw.end == "whole"
    await turn.wait_left()


@pytest.mark.parametrize("left_by", ["last follower", "cancel"])
async def test_bytes_after_an_error_end_properly_only_if_the_final_event_came(left_by: str) -> None:
    """An upstream that is left after its error event may have had [DONE] on its way."""
    ends = []
    for said in (ERROR, ERROR + DONE):
        upstream = Upstream(FakeSink())
        upstream.pump.on_disconnect = OnDisconnect(0)
        upstream.send_piece(FRAME + said)
        if left_by == "cancel":
            upstream.stream.cancel()
        else:
            upstream.follower.leave("left")
            if said.endswith(DONE):
                upstream.pump.ended(b"", 9.0, None)
        follow(upstream.stream, late := FakeSink())
        ends.append((late.received == FRAME + said, late.ended))
    assert ends == [(True, "aborted"), (True, "closed")]


async def test_usage_that_follows_a_document_counts(tee: Tee, stage: Stage) -> None:
    """Though its client has left, which needs no more."""
    client = await tee.send("POST", NATIVE, "X-DashScope-SSE: enable", "Stream-Mode: json", body=native_body())
    turn = await stage.next()
    await turn.body()
    turn.begin()
    await turn.pour(chunk(NATIVE_FRAME + _NATIVE_LAST))
    answer = await client.answer()
    await answer.read()
    await client.leave()
    turn.end(_NATIVE_LAST.replace(b'"output_tokens":2', b'"output_tokens":7'))
    info = await tee.wait_ended(answer.stream_id)
    assert info["ending"]["reason"] == "complete"
    assert info["usage"]["completion"] == 7


async def test_native_document_is_answered_while_the_upstream_stays_open(tee: Tee, stage: Stage) -> None:
    """The stream is complete when the client leaves with its answer."""
    client = await tee.send(
        "POST",
        NATIVE,
        "X-DashScope-SSE: enable",
        "Stream-Mode: json",
        "Stream-On-Disconnect: cancel",
        body=native_body(),
    )
    turn = await stage.next()
    await turn.body()
    turn.begin()
    await turn.pour(chunk(NATIVE_FRAME + _NATIVE_LAST))
    answer = await client.answer()
    document = json.loads(await answer.read())
    assert answer.end == "whole"
    assert document["usage"] == {"input_tokens": 1, "output_tokens": 2}
    info = await tee.info(answer.stream_id)
    assert info["ending"] is None or info["ending"]["reason"] == "complete"
