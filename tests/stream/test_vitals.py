"""When the first byte, token and answer text came, and the gaps between tokens: fed with reads, as a stream is.

The times are numbers handed in; the request began at second 100.
"""

from bisect import bisect_left
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.dialects.usage import Usage
from proxy.stream.vitals import GAP_BUCKETS_S, Vitals
from proxy.upstream.pump import OnDisconnect, Pump
from proxy.wire.errors import Truncated, UpstreamError
from tests.cuts import NOT_RECORDED, recorded
from tests.streams import new_stream

Read = tuple[float, bytes]

_TAIL = ',"object":"chat.completion.chunk","usage":null,"model":"qwen3-max"}\n\n'


def delta(fields: str, finish: str = "null") -> bytes:
    return ('data: {"choices":[{"delta":{' + fields + '},"index":0,"finish_reason":' + finish + "}]" + _TAIL).encode()


ROLE = delta('"content":"","role":"assistant"')
THINKING_ROLE = delta('"content":null,"role":"assistant","reasoning_content":""')
TEXT = delta('"content":"x"')
THOUGHT = delta('"content":null,"reasoning_content":"x"')
ANSWER = delta('"content":"x","reasoning_content":null')
CALL = delta('"tool_calls":[{"index":0,"id":"","type":"function","function":{"arguments":"{"}}]')
STOP = delta('"content":""', '"stop"')
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":18,"completion_tokens":7,"total_tokens":25},"model":"qwen3-max"}\n\n'
)
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
FINISH = [STOP, USAGE, DONE]

NATIVE = b'id:1\nevent:result\n:HTTP_STATUS/200\ndata:{"output":{"choices":[{"message":{%b},"finish_reason":"%b"}]},'
NATIVE_END = b'"usage":{"input_tokens":16,"output_tokens":5},"request_id":"r"}\n\n'


def native(message: bytes, finish: bytes = b"null") -> bytes:
    return NATIVE % (message, finish) + NATIVE_END


def measured(
    reads: list[Read],
    dialect: Dialect | None = None,
    *,
    ended_at: float | None = None,
    error: UpstreamError | None = None,
) -> Vitals:
    """Return the vitals of a stream whose response came in these reads and then ended."""
    stream = new_stream(dialect)
    stream.vitals.started_at = 100.0
    pump = Pump(
        stream,
        OnDisconnect(None),
        max_frame_bytes=1 << 20,
        overhead=lambda seconds: None,
    )
    for at, data in reads:
        pump.received(data, at)
    pump.ended(b"", reads[-1][0] if ended_at is None else ended_at, error)
    return stream.vitals


def one_a_read(*frames: bytes, every_s: float = 0.5) -> list[Read]:
    """Return one frame a read, from second 101 on."""
    return [(101 + n * every_s, frame) for n, frame in enumerate(frames)]


def gaps(vitals: Vitals) -> list[tuple[float, int]]:
    """Return how many gaps were counted up to each bound, those without any left out."""
    counts = vitals.gap_counts or []
    bounds = (*GAP_BUCKETS_S, float("inf"))
    return [(bound, count) for bound, count in zip(bounds, counts, strict=False) if count]


def test_times_of_a_plain_answer() -> None:
    """The role chunk is the first byte, not the first token; the finish is no token."""
    vitals = measured(one_a_read(ROLE, TEXT, TEXT, TEXT, *FINISH))
    assert vitals.started_at == 100
    assert vitals.first_byte_at == 101
    assert vitals.first_token_at == vitals.first_content_at == 101.5
    assert vitals.last_token_at == 102.5
    assert gaps(vitals) == [(0.5, 2)]
    assert vitals.gaps_s == pytest.approx(1.0)


def test_times_of_a_thinking_model() -> None:
    """The first thought is the first token, the first answer text comes later."""
    vitals = measured(one_a_read(THINKING_ROLE, THOUGHT, THOUGHT, ANSWER, ANSWER, *FINISH))
    assert (vitals.first_byte_at, vitals.first_token_at, vitals.first_content_at) == (101, 101.5, 102.5)
    assert vitals.last_token_at == 103
    assert gaps(vitals) == [(0.5, 3)]


def test_thinking_that_never_comes_to_an_answer() -> None:
    """Cut off by max_tokens, say: it has tokens and gaps, and no first answer text."""
    vitals = measured(one_a_read(THINKING_ROLE, THOUGHT, THOUGHT, THOUGHT, THOUGHT, *FINISH))
    assert (vitals.first_token_at, vitals.first_content_at, vitals.last_token_at) == (101.5, 0, 103)
    assert gaps(vitals) == [(0.5, 3)]


def test_tool_call_is_a_token_and_no_answer_text() -> None:
    """What the model writes of a call is generated; the first answer text is that which comes after it, if any does."""
    vitals = measured([(101.0, ROLE), (102.0, CALL), (103.0, CALL), (104.0, TEXT), (105.0, b"".join(FINISH))])
    assert (vitals.first_token_at, vitals.first_content_at) == (102.0, 104.0)
    assert measured([(101.0, ROLE), (102.0, CALL)]).first_content_at == 0


def test_native_answer() -> None:
    """The frame with the finish reason has the times of its own dialect."""
    text, thought = b'"content":"x"', b'"content":"","reasoning_content":"x"'
    frames = [native(thought), native(thought), native(text), native(text), native(b'"content":""', b"stop")]
    vitals = measured(one_a_read(*frames), DASHSCOPE)
    assert (vitals.first_token_at, vitals.first_content_at, vitals.last_token_at) == (101, 102, 102.5)
    assert gaps(vitals) == [(0.5, 3)]
    assert vitals.reader.usage == Usage(16, 5)


def test_text_in_the_frame_that_finishes_is_a_token() -> None:
    """DashScope sends the last of a tool call, or of a picture's description, together with the finish reason."""
    text, call = b'"content":[{"text":"x"}]', b'"content":"","tool_calls":[{"function":{"arguments":"}"}}]'
    for last, finish in ((text, b"stop"), (call, b"tool_calls")):
        vitals = measured(one_a_read(native(text), native(text), native(last, finish)), DASHSCOPE)
        assert vitals.last_token_at == 102
        assert gaps(vitals) == [(0.5, 2)]
    vitals = measured(one_a_read(ROLE, TEXT, TEXT, delta('"content":"x"', '"stop"'), USAGE, DONE))
    assert vitals.last_token_at == 102.5
    assert gaps(vitals) == [(0.5, 2)]


@pytest.mark.parametrize("comments", [1, 2])
def test_comments_are_no_tokens(comments: int) -> None:
    """Keep-alives, before, between and after, one or several a read."""
    reads = one_a_read(PING, ROLE, PING, TEXT, PING * comments, TEXT, PING, STOP, PING, USAGE, PING * comments, DONE)
    vitals = measured(reads)
    assert (vitals.first_byte_at, vitals.first_token_at, vitals.last_token_at) == (101, 102.5, 103.5)
    assert gaps(vitals) == [(1, 1)]


def test_stream_without_a_token_has_no_token_times() -> None:
    """Nothing, a role only, or an error: 0 is never."""
    error = b'data: {"error":{"message":"m","code":"c"}}\n\n'
    for frames in ([PING], [ROLE, STOP, DONE], [ROLE, error]):
        vitals = measured(one_a_read(*frames))
        assert (vitals.first_byte_at, vitals.first_token_at, vitals.first_content_at) == (101, 0, 0)
        assert (vitals.last_token_at, vitals.gap_counts, vitals.gaps_s) == (0, None, 0)


def test_single_token_has_no_gap() -> None:
    """A gap needs two."""
    vitals = measured(one_a_read(ROLE, TEXT, *FINISH))
    assert (vitals.first_token_at, vitals.last_token_at) == (101.5, 101.5)
    assert gaps(vitals) == []
    assert vitals.gaps_s == 0


def test_first_byte_counts_before_the_first_frame_is_whole() -> None:
    """Bytes are bytes."""
    half = len(TEXT) // 2
    vitals = measured([(101, TEXT[:half]), (102, TEXT[half:]), (103, DONE)])
    assert (vitals.first_byte_at, vitals.first_token_at) == (101, 102)


def test_body_that_comes_with_its_end_is_measured_too() -> None:
    """All of a short response may be there at once."""
    stream = new_stream()
    pump = Pump(stream, OnDisconnect(None), max_frame_bytes=1 << 20, overhead=lambda s: None)
    pump.ended(b"".join([ROLE, TEXT, TEXT, *FINISH]), 101.0, None)
    vitals = stream.vitals
    assert (vitals.first_byte_at, vitals.first_token_at, vitals.last_token_at) == (101, 101, 101)
    assert gaps(vitals) == [(0.001, 1)]
    assert vitals.reader.usage == Usage(18, 7)


def test_tokens_of_one_read_have_no_time_between_them() -> None:
    """The gap is before the read."""
    vitals = measured([(101, ROLE + TEXT), (103, TEXT * 3), (104, TEXT + STOP + USAGE + DONE)])
    assert gaps(vitals) == [(0.001, 2), (1, 1), (2.5, 1)]
    assert (vitals.gaps_s, vitals.last_token_at) == (3, 104)


def test_gap_is_counted_in_the_bucket_that_holds_it() -> None:
    """A bucket's bound is in it, as Prometheus has it; beyond the last there is one more."""
    seconds = [*GAP_BUCKETS_S, 61.0, 0.0, 0.0011]
    at, reads = 101.0, [(101.0, TEXT)]
    for gap in seconds:
        at = 101.0 if gap == 0.0 else at + gap
        reads.append((at, TEXT))
    counts = [0] * (len(GAP_BUCKETS_S) + 1)
    for (before, _), (after, _) in pairwise(reads):
        counts[bisect_left(GAP_BUCKETS_S, after - before)] += 1
    assert measured([*reads, (at, DONE)]).gap_counts == counts
    assert sorted(GAP_BUCKETS_S) == list(GAP_BUCKETS_S)


@pytest.mark.parametrize("tokens", [1, 2, 3, *range(58, 70), 125, 126, 127, 128, 1000])
def test_no_gap_is_missed_or_made_up_however_long_the_stream(tokens: int) -> None:
    """There is one gap fewer than there are tokens, wherever they were counted on the way."""
    vitals = measured(one_a_read(ROLE, *[TEXT] * tokens, *FINISH, every_s=0.01))
    assert sum(vitals.gap_counts or []) == tokens - 1
    assert vitals.gaps_s == pytest.approx((tokens - 1) * 0.01)
    assert vitals.last_token_at == pytest.approx(101 + tokens * 0.01)


@given(
    thoughts=st.integers(0, 20),
    texts=st.integers(0, 80),
    finish=st.sampled_from([[], [DONE], [STOP, DONE], FINISH]),
    cuts=st.lists(st.integers(1, 12), min_size=1, max_size=30),
    gap_s=st.sampled_from([0.0005, 0.02, 0.6]),
)
@example(thoughts=2, texts=0, finish=[DONE], cuts=[1], gap_s=0.6)
def test_gaps_are_those_between_frames_with_text(
    thoughts: int, texts: int, finish: list[bytes], cuts: list[int], gap_s: float
) -> None:
    """Against a plain list of when each token came, for any shape of answer in any reads."""
    frames = [THINKING_ROLE, *[THOUGHT] * thoughts, *[ANSWER] * texts, *finish]
    reads, tokens, at, first_content = [], [], 101.0, 0.0
    while frames:
        size = cuts[len(reads) % len(cuts)]
        taken, frames = frames[:size], frames[size:]
        at += gap_s
        reads.append((at, b"".join(taken)))
        tokens += [at] * sum(frame in (THOUGHT, ANSWER) for frame in taken)
        if ANSWER in taken and not first_content:
            first_content = at
    vitals = measured(reads)
    counts = [0] * (len(GAP_BUCKETS_S) + 1)
    for before, after in pairwise(tokens):
        counts[bisect_left(GAP_BUCKETS_S, after - before)] += 1
    assert (vitals.gap_counts or [0] * len(counts)) == counts
    assert vitals.first_token_at == (tokens[0] if tokens else 0)
    assert vitals.last_token_at == (tokens[-1] if tokens else 0)
    assert vitals.first_content_at == first_content
    assert vitals.gaps_s == pytest.approx(tokens[-1] - tokens[0] if tokens else 0)


def test_long_gaps_are_remembered_with_their_times() -> None:
    """Of over a second, wherever they are in a stream of many events, and after whatever number of reads."""
    reads, at, long = [(101.0, ROLE), (102.0, TEXT)], 102.0, []
    for number in range(300):
        gap = 5.0 if number in (0, 63, 64, 200, 299) else 1.0
        if gap > 1:
            long.append((at, at + gap))
        at += gap
        reads.append((at, TEXT))
    assert sorted(measured(reads).long_gaps or []) == long
    assert measured(one_a_read(ROLE, TEXT, TEXT, *FINISH)).long_gaps is None


def test_only_gap_of_a_stream_is_remembered_if_it_is_long() -> None:
    """Of over a second, though the stream took little more."""
    assert measured([(102.0, TEXT), (103.5, TEXT)]).long_gaps == [(102.0, 103.5)]
    assert measured([(102.0, TEXT), (103.0, TEXT)]).long_gaps is None


def test_of_many_long_gaps_the_longest_are_remembered() -> None:
    """However many there are, they take little memory."""
    reads, at = [(102.0, TEXT)], 102.0
    for number in range(200):
        at += 2.0 + number % 100
        reads.append((at, TEXT))
    lengths = [end - begin for begin, end in measured(reads).long_gaps or []]
    assert lengths == sorted([2.0 + n for n in range(90, 100)] * 2, reverse=True)


def test_truncated_stream_keeps_what_was_measured() -> None:
    """Its last frames are tokens and count."""
    vitals = measured(one_a_read(ROLE, TEXT, TEXT, TEXT), error=Truncated("broke off"))
    assert vitals.last_token_at == 102.5
    assert gaps(vitals) == [(0.5, 2)]
    assert vitals.reader.usage is None


def test_model_and_summary_are_the_answers() -> None:
    """The model from the first chunk, finish reason and usage from the last ones."""
    vitals = measured(one_a_read(ROLE, TEXT, *FINISH))
    assert vitals.model == "qwen3-max"
    assert (vitals.reader.finish_reason, vitals.reader.usage) == ("stop", Usage(18, 7))


@pytest.mark.skipif(not recorded("compat-vercel"), reason=NOT_RECORDED)
@pytest.mark.parametrize("path", recorded("compat-vercel"), ids=lambda path: path.stem)
def test_recorded_streams_are_measured(path: Path) -> None:
    """First and last token are the first and the last frame with text, as the JSON has it."""
    frames = [block + b"\n\n" for block in path.read_bytes().split(b"\n\n") if block]
    tokens = [n for n, frame in enumerate(frames) if CHAT.frames.reader().note(frame)]
    vitals = measured(one_a_read(*frames, every_s=0.25))
    assert vitals.model == "qwen3-max"
    assert vitals.first_token_at == 101 + tokens[0] * 0.25
    assert vitals.last_token_at == 101 + tokens[-1] * 0.25
    assert sum(vitals.gap_counts or []) == len(tokens) - 1
    assert vitals.reader.finish_reason is not None
    assert vitals.reader.usage is not None
    assert vitals.reader.usage.completion > 20


def test_comments_alone_are_told_from_what_brings_a_stream_on() -> None:
    """A comment may lead a chunk."""
    vitals = Vitals(CHAT, 100.0)
    assert not vitals.note([PING, PING, b"\n\n"], 101.0, [])
    assert vitals.note([PING, ROLE], 102.0, [])
    assert vitals.note([b": ping\n" + TEXT], 103.0, [])
