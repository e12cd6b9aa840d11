"""Spans with other texts in their frames, byte by byte where it matters."""

import json
from typing import Any

import pytest

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.stream.modes.rewriting import Rewriter
from proxy.stream.stream import Stream
from tests.answers import joined, latest
from tests.cuts import messages
from tests.streams import new_stream

TAIL = ',"object":"chat.completion.chunk","usage":null,"created":1,"id":"c"}\n\n'
DONE = b"data: [DONE]\n\n"


def chunk(delta: str, index: int = 0, finish: str = "null", logprobs: str = "null") -> bytes:
    """Return a compatible frame in the key order of recorded ones."""
    choice = f'{{"finish_reason":{finish},"delta":{delta},"index":{index},"logprobs":{logprobs}}}'
    return f'data: {{"choices":[{choice}]{TAIL}'.encode()


def result(text: str, number: int, finish: str = "null", tokens: int = 1) -> bytes:
    """Return a native frame as recorded ones are."""
    return (
        f'id:{number}\nevent:result\n:HTTP_STATUS/200\ndata:{{"output":{{"choices":[{{"message":{{"content":"{text}",'
        f'"role":"assistant"}},"finish_reason":"{finish}"}}]}},"usage":{{"output_tokens":{tokens}}},"request_id":"r"}}\n\n'
    ).encode()


def stamped(frame: bytes, seq: int) -> bytes:
    return frame[:-1] + b"id: gen234-%d\n\n" % seq


def stream_of(*frames: bytes, dialect: Any = None) -> Stream:
    stream = new_stream(dialect or CHAT)
    stream.extend(list(frames))
    return stream


def coalesced(stream: Stream, start: int = 0, end: int | None = None) -> list[bytes]:
    return list(Rewriter(stream).coalesce(start, stream.log.end if end is None else end))


def states(stream: Stream, start: int = 0, end: int | None = None) -> list[bytes]:
    return list(Rewriter(stream).state(start, stream.log.end if end is None else end))


ROLE = chunk('{"content":"","role":"assistant"}')
HEL, LO, STOP = chunk('{"content":"Hel"}'), chunk('{"content":"lo"}'), chunk('{"content":""}', finish='"stop"')


def test_increments_are_merged_between_role_and_finish_reason() -> None:
    """Every other byte is as it came; the id is that of the last frame it is made of."""
    assert coalesced(stream_of(ROLE, HEL, LO, STOP, DONE)) == [
        stamped(ROLE, 1),
        stamped(chunk('{"content":"Hello"}'), 3),
        stamped(STOP, 4),
        stamped(DONE, 5),
    ]


def test_native_frames_keep_their_lines_and_their_usage() -> None:
    """Without a space after the colons; the usage is the latest, and the finish reason stays with the last text."""
    stream = stream_of(result("Hel", 1), result("lo", 2, tokens=5), result("!", 3, "stop", 6), dialect=DASHSCOPE)
    assert coalesced(stream) == [stamped(result("Hello!", 3, "stop", 6), 3)]
    assert coalesced(stream, 1, 2) == [stamped(result("lo", 2, tokens=5), 2)]


def test_cumulative_native_frames_become_increments_and_the_other_way_round() -> None:
    """Whichever the upstream sends."""
    cumulative = [result("Hel", 1), result("Hello", 2), result("Hello", 3, "stop")]
    increments = [result("Hel", 1), result("lo", 2), result("", 3, "stop")]
    for sent in (cumulative, increments):
        stream = stream_of(*sent, dialect=DASHSCOPE)
        found = [Rewriter(stream).increment(seq) for seq in (1, 2, 3)]
        assert found == [stamped(frame, seq) for seq, frame in enumerate(increments, 1)]
        assert [one for at in range(3) for one in states(stream, at, at + 1)] == [
            stamped(frame, seq) for seq, frame in enumerate(cumulative, 1)
        ]
    assert coalesced(stream_of(*cumulative, dialect=DASHSCOPE), 0, 2) == [stamped(result("Hello", 2), 2)]


def test_line_endings_stay_as_they_are() -> None:
    """CRLF, and a byte order mark before the first."""
    crlf = [frame.replace(b"\n", b"\r\n") for frame in (HEL, LO)]
    [merged] = coalesced(stream_of(b"\xef\xbb\xbf" + crlf[0], crlf[1]))
    assert merged == chunk('{"content":"Hello"}')[:-2] + b"\r\nid: gen234-2\r\n\r\n"


def test_reasoning_comes_before_content() -> None:
    """One frame each, each with an id to resume from; the other channel's place is left empty."""
    think = [chunk(f'{{"content":null,"reasoning_content":"{text}"}}') for text in "ab"]
    answer = [chunk(f'{{"content":"{text}","reasoning_content":null}}') for text in "cd"]
    assert coalesced(stream_of(*think, *answer)) == [
        stamped(chunk('{"content":null,"reasoning_content":"ab"}'), 2),
        stamped(chunk('{"content":"cd","reasoning_content":null}'), 4),
    ]


def test_channels_that_take_turns_have_one_id() -> None:
    """At the last frame: after the first of them something would be left out, or come twice."""
    stream = stream_of(*(chunk(f'{{"content":"{text}"}}', index) for text, index in (("a", 0), ("b", 1), ("c", 0))))
    first, last = coalesced(stream)
    assert b"id:" not in first
    assert last.endswith(b"id: gen234-3\n\n")
    assert joined(first + last) == {(0, "content", -1): "ac", (1, "content", -1): "b"}


def test_channels_of_one_frame_are_said_apart() -> None:
    """Each text once, also when the frame it is made of has two."""
    both = chunk('{"content":"c","reasoning_content":"r"}')
    merged = coalesced(stream_of(chunk('{"content":null,"reasoning_content":"q"}'), both, chunk('{"content":"d"}')))
    assert joined(b"".join(merged)) == {(0, "reasoning_content", -1): "qr", (0, "content", -1): "cd"}


def test_tool_call_is_named_once_and_its_arguments_are_merged() -> None:
    """Also when the upstream repeats the names with each fragment."""

    def call(arguments: str, index: int = 0) -> str:
        return (
            f'{{"tool_calls":[{{"index":{index},"id":"call_{index}","type":"function",'
            f'"function":{{"name":"f","arguments":"{arguments}"}}}}]}}'
        )

    stream = stream_of(chunk(call("{")), chunk(call("}")), chunk(call("[", 1)), chunk(call("]", 1)))
    assert coalesced(stream) == [stamped(chunk(call("{}")), 2), stamped(chunk(call("[]", 1)), 4)]
    [unnamed] = coalesced(stream, 1, 2)
    [fragment] = json.loads(messages(unnamed)[0].data)["choices"][0]["delta"]["tool_calls"]
    assert fragment == {"index": 0, "id": "", "type": "function", "function": {"arguments": "}"}}
    assert Rewriter(stream).increment(2) == unnamed
    [state] = states(stream)
    assert latest(state) == {(0, "arguments", 0): "{}", (0, "arguments", 1): "[]"}
    assert state.count(b'"name":"f"') == 2


def test_logprobs_are_joined() -> None:
    """As lists; those of another choice are left where they are."""
    probable = [f'{{"content":[{{"token":"{token}"}}],"refusal":null}}' for token in "ab"]
    frames = [
        chunk(f'{{"content":"{text}"}}', logprobs=logprobs) for text, logprobs in zip("ab", probable, strict=True)
    ]
    [merged] = coalesced(stream_of(*frames, chunk('{"content":"z"}', 1)))[:1]
    assert json.loads(messages(merged)[0].data)["choices"][0]["logprobs"] == {
        "content": [{"token": "a"}, {"token": "b"}],
        "refusal": None,
    }
    assert coalesced(stream_of(*frames), 1, 2) == [stamped(frames[1], 2)]


def test_silent_frames_do_not_vanish_altogether() -> None:
    """A span of nothing but empty increments is one of them; beside others they say nothing."""
    empty = chunk('{"content":""}')
    assert coalesced(stream_of(empty, empty)) == [stamped(empty, 2)]
    assert coalesced(stream_of(HEL, empty, LO, empty)) == [stamped(chunk('{"content":"Hello"}'), 4)]


@pytest.mark.parametrize("between", [b": ping\n\n", b"data: oops\n\n", b'data: {"error":{"code":"x"}}\n\n', b"\n\n"])
def test_frame_without_choices_stays_in_its_place(between: bytes) -> None:
    """In every mode nothing is merged across it."""
    stream = stream_of(HEL, LO, between, HEL, LO)
    for frames in (coalesced(stream), states(stream)):
        assert len(frames) == 3
        assert frames[1].startswith(between.rstrip(b"\n"))


def test_state_is_one_frame_for_a_span() -> None:
    """With role, every channel and the finish reason, of the choices that changed; usage and [DONE] follow."""
    usage = b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n'
    stream = stream_of(
        ROLE, chunk('{"content":null,"reasoning_content":"r"}'), HEL, chunk('{"content":"b"}', 1), LO, STOP, usage, DONE
    )
    state, *rest = states(stream)
    assert rest == [stamped(usage, 7), stamped(DONE, 8)]
    [one, other] = json.loads(messages(state)[0].data)["choices"]
    assert one["delta"] == {"content": "Hello", "reasoning_content": "r", "role": "assistant"}
    assert (one["finish_reason"], other["delta"]) == ("stop", {"content": "b"})
    assert state.endswith(b"id: gen234-6\n\n")
    [later] = states(stream, 4, 5)
    assert latest(later) == {(0, "content", -1): "Hello", (0, "reasoning_content", -1): "r"}


def test_earlier_span_does_not_tell_of_later_frames() -> None:
    """However much the transcript has heard: who replays is sent what those were who were there."""
    frames = [ROLE, HEL, LO, STOP, DONE]
    ahead = stream_of(*frames)
    ahead.transcript(5)
    for end in range(1, 6):
        live = stream_of(*frames[:end])
        assert coalesced(live) == coalesced(ahead, 0, end)
        assert states(live) == states(ahead, 0, end)
