"""Chunks that are known from earlier streams: a reader that knows them says what one says that parses them all."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.chat import ChatFrames
from proxy.dialects.chunks.known import KnownChunks
from proxy.dialects.chunks.reader import ChatReader
from proxy.dialects.dialect import Reader, TextKind
from proxy.wire.sse import Splitter
from tests.cuts import NOT_RECORDED, recorded

DONE = b"data: [DONE]\n\n"
IDS = ['"chatcmpl-1"', '"chatcmpl-22f0-a_b"', '"5"']
TIMES = ["1763790000", "1763790001"]
ODD_IDS = ['""', '"a\\"b"', '"a\\xb"', '"a\nb"', '"a\rb"', '"x,y"', '"溪"', '"a\tb"', "5", "null", '"a']
ODD_TIMES = ["999", "0", "0763790000", "17637900001", "1763790000.5", '"1763790000"', "12 34 5678", "1763790000x", "-1"]
TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from('"\\\n/}0é溪'), max_size=8)
ROLE: dict[str, Any] = {"content": "", "role": "assistant"}
DELTAS = (
    st.just(ROLE)
    | st.just({"content": None})
    | st.builds(lambda text: {"content": text}, TEXTS)
    | st.builds(lambda text: {"content": None, "reasoning_content": text}, TEXTS)
    | st.builds(lambda text: {"tool_calls": [{"index": 0, "id": "", "function": {"arguments": text}}]}, TEXTS)
)
CHOICES = st.builds(
    lambda delta, reason, index, more: {"delta": delta, "finish_reason": reason, "index": index, **more},
    DELTAS,
    st.sampled_from([None, None, None, None, "stop", "length", "tool_calls", "error", "", 7]),
    st.sampled_from([0, 0, 0, 0, 1, "1", None]),
    st.sampled_from([{}, {}, {}, {"usage": {"prompt_tokens": 5}}, {"error": {"message": "no"}}, {"error": None}]),
)
CHUNKS = st.builds(
    lambda choices, more: {"choices": choices, **more},
    st.lists(CHOICES, min_size=1, max_size=1) | st.lists(CHOICES, max_size=2) | st.sampled_from([None, ["x"], {}]),
    st.sampled_from(
        [
            {},
            {},
            {},
            {"usage": None},
            {"usage": {"completion_tokens": 3}},
            {"error": None},
            {"error": {"message": "no"}},
        ]
    ),
)
SPELLINGS = st.sampled_from(
    [
        "%(chunk)s,'created':%(made)s,'model':%(model)s,'id':%(id)s}",
        "'id':%(id)s,'object':'chat.completion.chunk','created':%(made)s,'model':%(model)s,%(chunk)s}",
        "'id':%(id)s,%(chunk)s,'created':%(made)s,'model':%(model)s}",
        "'created':%(made)s,'id':%(id)s,%(chunk)s}",
        "%(chunk)s,'index':%(made)s,'system':null,'id':%(id)s}",
        "'id': %(id)s, 'created': %(made)s, %(chunk)s}",
    ]
)


def framed(spelling: str, chunk: dict[str, Any], ident: str, made: str, model: Any = "qwen-plus") -> bytes:
    """Return a frame with a chunk, and its id and time of creation, both in JSON, where the spelling has them."""
    stated = {"chunk": json.dumps(chunk, separators=(",", ":"), ensure_ascii=False)[1:-1]}
    more = {"id": ident, "made": made, "model": json.dumps(model)}
    return f"data: {{{spelling.replace(chr(39), chr(34)) % (stated | more)}\n\n".encode()


ID_FIRST = "'id':%(id)s,'object':'chat.completion.chunk','created':%(made)s,'model':%(model)s,%(chunk)s}"
QWEN = "%(chunk)s,'created':%(made)s,'model':%(model)s,'id':%(id)s}"


def streams() -> st.SearchStrategy[list[list[bytes]]]:
    """Return some streams whose chunks are drawn from the same few, with ids and times of their own."""

    @st.composite
    def drawn(draw: st.DrawFn) -> list[list[bytes]]:
        spelling, chunks = draw(SPELLINGS), draw(st.lists(CHUNKS, min_size=1, max_size=4))
        found = []
        for _ in range(draw(st.integers(2, 4))):
            ident, made = draw(st.sampled_from(IDS)), draw(st.sampled_from(TIMES))
            model = draw(st.sampled_from(["qwen-plus", "qwen-plus", "qwen-max", None]))
            picked = draw(st.lists(st.sampled_from(chunks), min_size=1, max_size=5))
            frames = [framed(spelling, chunk, ident, made, model) for chunk in picked]
            if draw(st.integers(0, 4)) == 0:
                at = draw(st.integers(0, len(frames)))
                frames.insert(at, draw(st.sampled_from([DONE, b": ping\n\n", b"event: error\n" + frames[0]])))
            found.append(frames)
        return found

    return drawn()


def state(reader: Reader) -> tuple[Any, ...]:
    ended = reader.finish_reason, reader.failure, reader.ended, reader.finished, reader.has_content
    return *ended, reader.model, reader.usage, reader.enough_after_s


def readings(reader: Reader, frames: list[bytes]) -> list[Any]:
    """Return what a reader says of each frame, with its state after it."""
    return [(reader.note(frame), state(reader)) for frame in frames]


@given(streams())
def test_known_chunks_say_what_parsed_ones_do(played: list[list[bytes]]) -> None:
    """However alike streams are: kinds of text and all that a reader knows, after each frame."""
    frames = ChatFrames()
    for one in played:
        assert readings(frames.reader(), one) == readings(ChatFrames().reader(), one)


CHOICE: dict[str, Any] = {"delta": {"content": ""}, "index": 0}
ODD_CHUNKS: list[dict[str, Any]] = [
    {"choices": [CHOICE, {**CHOICE, "index": 1, "finish_reason": "stop"}]},
    {"choices": [{**CHOICE, "finish_reason": "stop"}, {**CHOICE, "index": 1}]},
    {"choices": [{**CHOICE, "finish_reason": "error"}]},
    {"choices": [{**CHOICE, "finish_reason": ["stop"]}]},
    {"choices": [{**CHOICE, "index": "1", "finish_reason": "stop"}]},
    {"choices": [{**CHOICE, "error": {"code": "no"}}]},
    {"choices": [{**CHOICE, "usage": {"prompt_tokens": 5}}]},
    {"choices": [CHOICE], "usage": {"prompt_tokens": 5}},
    {"choices": [CHOICE], "x_groq": {"usage": {"prompt_tokens": 5}}},
    {"choices": [CHOICE], "error": {"code": "no"}},
    {"choices": ["x"]},
    {"choices": []},
    {"error": {"code": "no"}},
]


@pytest.mark.parametrize("spelling", [QWEN, ID_FIRST])
def test_odd_chunks_teach_nothing_that_is_not_so(spelling: str) -> None:
    """Whatever is odd, in the stream that is learnt from or in the next one, is read as if nothing were known."""
    usual = stream(IDS[0], TIMES[0], spelling)
    idents, times = [*IDS, *ODD_IDS], [*TIMES, *ODD_TIMES]
    odd = [stream(ident, made, spelling) for ident in idents for made in times]
    odd += [[*usual[:2], framed(spelling, chunk, IDS[0], TIMES[0])] for chunk in ODD_CHUNKS]
    odd += [[framed(spelling, chunk, IDS[0], TIMES[0]), *usual] for chunk in ODD_CHUNKS]
    odd += [[usual[0], usual[1].replace(b"Hi", text)] for text in ODD_TEXTS]
    odd += [[b"event: error\n" + usual[0]], [b"id: 1\n" + usual[0]], [usual[0].replace(b"\n", b"\r\n")], usual[2:]]
    for one in odd:
        for played in ([usual, one, usual], [one, usual, one], [one, one]):
            frames = ChatFrames()
            for frames_of_one in played:
                assert readings(frames.reader(), frames_of_one) == readings(ChatFrames().reader(), frames_of_one)


ODD_TEXTS = [b"a\\", b'a\\"', b'a\\"b', b'"', b"", b"H\ni", b"H\ri", b"\\n", b"\0", b"\xff", b"a\\\\"]


def stream(ident: str, made: str, spelling: str = QWEN, text: str = "Hi", model: str = "qwen-plus") -> list[bytes]:
    """Return a stream as Qwen sends it: a role, texts, a finish reason, usage, and the end."""

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"choices": [{"delta": delta, "finish_reason": reason, "index": 0}], "usage": None}

    chunks = [chunk(ROLE), chunk({"content": text}), chunk({"content": "!"}), chunk({"content": ""}, "stop")]
    chunks.append({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    return [*(framed(spelling, one, ident, made, model) for one in chunks), DONE]


def known(chunks: KnownChunks, frames: list[bytes]) -> list[bool]:
    """Return which frames of a stream are known, besides those with text."""
    found = chunks.find(frames[0])
    assert found is not None
    mark, alike = found
    return [alike.said(frame, mark) is not None for frame in frames]


@pytest.mark.parametrize("spelling", [QWEN, ID_FIRST])
def test_of_a_second_stream_only_the_usage_is_not_known(spelling: str) -> None:
    """Its id, its time and its text are others; so it has other surroundings, which are known with its first text."""
    chunks = KnownChunks()
    first, second = stream(IDS[0], TIMES[0], spelling), stream(IDS[1], TIMES[1], spelling, "Good day")
    assert known(chunks, second) == [False] * 6
    readings(ChatReader(chunks), first)
    assert known(chunks, second) == [True, False, False, True, False, False]
    found = chunks.find(second[0])
    assert found is not None
    mark, alike = found
    said = alike.of_text
    assert said is not None
    assert (said.model, said.index, said.reason, said.kind) == ("qwen-plus", 0, None, TextKind.CONTENT)
    learnt = ChatReader(KnownChunks())
    readings(learnt, second[:2])
    assert alike.surroundings(mark) == learnt.surroundings
    reader = ChatReader(chunks)
    assert [reader.note(frame) for frame in second[:2]] == [None, TextKind.CONTENT]
    assert reader.surroundings == learnt.surroundings
    assert reader.ordinary(second[2])


def test_error_is_not_hidden_by_what_came_before() -> None:
    """A frame that reports an error after [DONE] is not recorded, and is one in the next stream."""
    frames = ChatFrames()
    failing = framed(QWEN, {"choices": [{"delta": {}, "index": 0, "error": {"message": "no"}}]}, IDS[0], 1763790000)
    role = stream(IDS[0], TIMES[0])[0]
    readings(frames.reader(), [role, DONE, failing])
    reader = frames.reader()
    readings(reader, [role, failing])
    assert reader.failure is not None


def test_few_streams_and_chunks_are_kept() -> None:
    """Whatever models and frames upstreams invent, and however long they are."""
    chunks = KnownChunks()
    for number in range(500):
        frames = stream(f'"chatcmpl-{number}"', TIMES[0], model=f"model-{number // 100}-{number}")
        more = [framed(QWEN, {"choices": [{"delta": {"role": f"{n}"}}]}, IDS[0], TIMES[0]) for n in range(50)]
        long = framed(QWEN, {"choices": [{"delta": {"role": "x" * 9000}}]}, IDS[0], TIMES[0])
        readings(ChatReader(chunks), frames)
        readings(ChatReader(chunks), [*more, long])
    kept = chunks._alike.values()
    assert len(kept) <= 64
    assert all(len(one._chunks) <= 16 for one in kept)
    assert all(len(frame) < 3000 for one in kept for frame in one._chunks)


def test_text_of_an_answer_is_not_kept() -> None:
    """Only what surrounds it: a reader's memory outlives the stream."""
    chunks = KnownChunks()
    secret = "".join(map(str, range(20)))
    for text in (secret, "x"):
        readings(ChatReader(chunks), stream(IDS[0], TIMES[0], text=text))
    kept = [(one._head, one._tail, one.unmarked, *one._chunks) for one in chunks._alike.values()]
    assert len(kept) == 1
    assert secret.encode() not in b"".join(b"".join(one) for one in kept)


@pytest.mark.skipif(not recorded("compat"), reason=NOT_RECORDED)
@pytest.mark.parametrize("path", recorded("compat"), ids=lambda path: path.stem)
def test_recorded_stream_says_the_same_when_it_comes_again(path: Path) -> None:
    """As another stream, of another time."""
    frames, body = ChatFrames(), path.read_bytes()
    again = re.sub(
        rb'"created":[0-9]+', b'"created":1800000000', re.sub(rb'"id":"chatcmpl-[^"]*', b'"id":"other-5', body)
    )
    for played in (body, again, body):
        cut = Splitter(len(body)).feed(played)
        assert readings(frames.reader(), cut) == readings(ChatFrames().reader(), cut)
