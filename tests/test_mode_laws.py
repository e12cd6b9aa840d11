"""The laws of the modes that rewrite: one text in many spellings, over made-up and recorded streams.

What the modes must say is computed from nothing but the plain names of JSON fields (tests/answers.py), and by
OpenAI's own accumulator.
"""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.dialects.messages import MESSAGES
from proxy.dialects.responses import RESPONSES
from proxy.stream.endings import COMPLETE
from proxy.stream.modes.projection import Projection, View
from proxy.stream.modes.projections import Json
from proxy.stream.stream import Stream
from proxy.tools.fake.chat import ChatAnswer
from proxy.tools.fake.native import NativeAnswer
from proxy.wire.errors import Garbled, OffsetBeyond
from proxy.wire.sse import Splitter
from tests.answers import (
    Said,
    chats,
    documents,
    ids,
    joined,
    kinds,
    latest,
    made_cumulative,
    messages_of_blocks,
    natives,
    responses,
    texts,
)
from tests.cuts import NOT_RECORDED, messages, recorded
from tests.streams import EPOCH, new_stream

NATIVE = DASHSCOPE
MODES = ["coalesced", "incremental", "cumulative"]
INTRUDERS = [b": keep-alive\n\n", b"data: alive\n\n", b'data: {"choices":"none"}\n\n', b"event: ping\n\n"]
Answer = tuple[Dialect, list[bytes]]


@st.composite
def answers(draw: st.DrawFn, *, as_expected: bool = False) -> Answer:
    """Draw an answer in either dialect, incremental or cumulative, sometimes with other frames in between."""
    native = draw(st.booleans())
    told = list(draw(natives()).frames() if native else draw(chats()).frames())
    if not native and not as_expected and draw(st.booleans()):
        told = made_cumulative(told)
    for place, frame in draw(st.lists(st.tuples(st.integers(0, 60), st.sampled_from(INTRUDERS)), max_size=2)):
        told.insert(min(place, len(told)), frame)
    return (NATIVE if native else CHAT), told


def spans_of(length: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Return consecutive spans that cover a log."""
    places = st.lists(st.integers(0, length), max_size=8) | st.just(list(range(length)))
    return places.map(lambda drawn: list(pairwise(sorted({0, *drawn, length}))))


def streamed(dialect: Dialect, told: list[bytes], *, cumulative: bool | None = None) -> Stream:
    stream = new_stream(dialect)
    stream.info.cumulative = cumulative
    stream.extend(told)
    return stream


def projection(stream: Stream, mode: str) -> Projection:
    return stream.projection(View(mode))


def finished(stream: Stream) -> dict[str, Any]:
    """Return the document of mode json."""
    found = projection(stream, "json")
    assert isinstance(found, Json)
    document = json.loads(found.so_far())
    assert isinstance(document, dict)
    return document


def whole(stream: Stream) -> Said:
    """Return the final text of every channel that says something."""
    return {channel: text for channel, text in texts(finished(stream)).items() if text}


def heard(mode: str, rendered: bytes) -> Said:
    return (latest if mode == "cumulative" else joined)(rendered)


def others(body: bytes) -> list[bytes]:
    """Return the data of the events that tell of no choice."""
    return [m.data for m in messages(body) if not any(map(texts, documents(b"data: %b\n\n" % m.data)))]


def assert_modes_say(dialect: Dialect, told: list[bytes], spans: list[tuple[int, int]], final: Said) -> None:
    """Assert that each mode says this text when it is rendered in these spans, as the log grows."""
    complete, plain = streamed(dialect, told), b""
    for mode in MODES:
        live, had = streamed(dialect, []), b""
        for start, end in spans:
            live.extend(told[start:end])
            had += projection(live, mode).render(start, end)
        assert heard(mode, had) == final
        assert had == b"".join(projection(complete, mode).render(start, end) for start, end in spans), "not pure"
    for start, end in spans:
        plain += projection(complete, "text").render(start, end)
    assert plain.decode() == final.get((0, "content", -1), "")


@given(answers(), st.data())
def test_law_5_every_mode_says_the_same_in_any_spans(answer: Answer, data: st.DataObject) -> None:
    """Increments add up to the final text in every channel, the last cumulative frames equal it."""
    dialect, told = answer
    assert_modes_say(dialect, told, data.draw(spans_of(len(told)), "spans"), whole(streamed(dialect, told)))


@given(answers(), st.data())
def test_law_5_frames_without_choices_stay_in_their_place(answer: Answer, data: st.DataObject) -> None:
    """Errors, usage, [DONE], what is no JSON: unchanged and in order; and comments are not lost."""
    dialect, told = answer
    stream = streamed(dialect, told)
    for mode in MODES:
        spans = data.draw(spans_of(len(told)), "spans")
        had = b"".join(projection(stream, mode).render(start, end) for start, end in spans)
        found = [other for other in others(had) if other in others(b"".join(told))]
        assert [other for other in found if b"choices" not in other or b'"choices":[]' in other] == [
            other for other in others(b"".join(told)) if b"choices" not in other or b'"choices":[]' in other
        ]
        assert had.count(b": keep-alive\n") == told.count(INTRUDERS[0])


@given(answers())
def test_law_8_resume_at_any_id_of_a_rewriting_mode(answer: Answer) -> None:
    """What was received up to an id, and what comes after it, say the whole once."""
    dialect, told = answer
    stream = streamed(dialect, told)
    final = whole(stream)
    for mode in MODES:
        blocks = Splitter(1 << 20).feed(projection(stream, mode).render(0, len(told)))
        for place, block in enumerate(blocks, 1):
            for seq in ids(block, EPOCH):
                rest = projection(stream, mode).render(seq, len(told)) if seq < len(told) else b""
                assert heard(mode, b"".join(blocks[:place]) + rest) == final


@given(answers(), st.data())
def test_law_8_resume_within_text(answer: Answer, data: st.DataObject) -> None:
    """From any byte of the text the rest of it comes, and beyond its end nothing does."""
    dialect, told = answer
    text = projection(streamed(dialect, told), "text")
    plain = text.render(0, len(told))
    at = data.draw(st.integers(0, len(plain)), "byte")
    offset, skip = text.locate(at)
    assert (text.render(offset, len(told))[skip:] if offset < len(told) else b"") == plain[at:]
    with pytest.raises(OffsetBeyond):
        text.locate(len(plain) + 1)


@given(answers(as_expected=True))
def test_late_joiner_has_one_frame_a_channel(answer: Answer) -> None:
    """The past in mode coalesced says each channel once, reasoning before content before calls.

    Of several choices the one that finishes first divides the others'.
    """
    dialect, told = answer
    told = [frame for frame in told if frame not in INTRUDERS]
    had = kinds(projection(streamed(dialect, told), "coalesced").render(0, len(told)))
    choices = {index for index, _, _ in had}
    assert all(had.count(channel) <= len(choices) for channel in had)
    order = ["reasoning_content", "content", "arguments"]
    for choice in choices:
        of_choice = [order.index(field) for index, field, _ in had if index == choice]
        assert of_choice == sorted(of_choice)


@given(chats())
def test_incremental_upstream_is_left_as_it_is(answer: ChatAnswer) -> None:
    """Mode incremental of an upstream that sends increments is mode events, byte by byte."""
    told = list(answer.frames())
    stream = streamed(CHAT, told)
    assert projection(stream, "incremental").render(0, len(told)) == projection(stream, "events").render(0, len(told))


@given(chats())
def test_cumulative_compatible_upstream_reads_as_the_incremental_one(answer: ChatAnswer) -> None:
    """In every mode, where it was asked for: nothing is guessed from texts that a model may well write."""
    told = list(answer.frames())
    final = joined(b"".join(told))
    for sent, cumulative in ((made_cumulative(told), True), (told, None)):
        stream = streamed(CHAT, sent, cumulative=cumulative)
        assert whole(stream) == final
        for mode in MODES:
            assert heard(mode, projection(stream, mode).render(0, len(told))) == final


@given(st.data())
def test_cumulative_native_upstream_reads_as_the_incremental_one(data: st.DataObject) -> None:
    """In every mode: the same request with and without incremental_output."""
    answer = data.draw(natives(incremental=False))
    increments = NativeAnswer(replace(answer.ask, incremental=True), answer.stamp)
    told, final = list(answer.frames()), joined(b"".join(increments.frames()))
    stream = streamed(NATIVE, told)
    assert whole(stream) == final
    for mode in MODES:
        assert heard(mode, projection(stream, mode).render(0, len(told))) == final


# APIs of typed events, whose texts are increments always


@st.composite
def typed(draw: st.DrawFn) -> Answer:
    """Draw a response or a message, sometimes with other frames in between."""
    dialect = draw(st.sampled_from([RESPONSES, MESSAGES]))
    drawn: Any = draw(responses() if dialect is RESPONSES else messages_of_blocks())
    told = list(drawn.frames())
    for place, frame in draw(st.lists(st.tuples(st.integers(0, 60), st.sampled_from(INTRUDERS)), max_size=2)):
        told.insert(min(place, len(told)), frame)
    return dialect, told


def deltas(dialect: Dialect, body: bytes) -> list[tuple[tuple[Any, ...], str]]:
    """Return the texts of a body in order, each with what it belongs to, by the plain names of fields."""
    found: list[tuple[tuple[Any, ...], str]] = []
    for document in documents(body):
        kind = str(document.get("type"))
        delta: Any = document.get("delta")
        if dialect is RESPONSES and kind.endswith(".delta") and isinstance(delta, str):
            place = document.get("content_index") or document.get("summary_index") or 0
            found.append(((kind, document.get("output_index"), place), delta))
        elif dialect is MESSAGES and kind == "content_block_delta":
            found += [
                ((key, document["index"]), delta[key]) for key in ("text", "thinking", "partial_json") if key in delta
            ]
    return found


def summed(dialect: Dialect, body: bytes) -> dict[tuple[Any, ...], str]:
    """Return the texts of a body, each whole."""
    found: dict[tuple[Any, ...], str] = {}
    for where, text in deltas(dialect, body):
        found[where] = found.get(where, "") + text
    return found


def skeleton(dialect: Dialect, body: bytes) -> list[bytes]:
    """Return the data of all events that have no text, in order."""
    return [m.data for m in messages(body) if not deltas(dialect, b"data: %b\n\n" % m.data)]


@given(typed(), st.data())
def test_law_5_typed_events_say_the_same_in_any_spans(answer: Answer, data: st.DataObject) -> None:
    """Each text is whole, what has no text is as it came and where, and mode text is the answer's."""
    dialect, told = answer
    spans, body = data.draw(spans_of(len(told)), "spans"), b"".join(told)
    complete, live = streamed(dialect, told), streamed(dialect, [])
    coalesced = text = b""
    for start, end in spans:
        live.extend(told[start:end])
        coalesced += projection(live, "coalesced").render(start, end)
        text += projection(live, "text").render(start, end)
    assert summed(dialect, coalesced) == summed(dialect, body)
    assert skeleton(dialect, coalesced) == skeleton(dialect, body)
    for mode, had in (("coalesced", coalesced), ("text", text)):
        assert had == b"".join(projection(complete, mode).render(start, end) for start, end in spans), "not pure"
    answers_key = "response.output_text.delta" if dialect is RESPONSES else "text"
    assert text.decode() == "".join(piece for where, piece in deltas(dialect, body) if where[0] == answers_key)
    assert coalesced.count(b": keep-alive\n") == told.count(INTRUDERS[0])


@given(typed())
def test_law_8_typed_events_resume_at_any_id(answer: Answer) -> None:
    """What was received up to an id, and what comes after it, say the whole once."""
    dialect, told = answer
    stream, final = streamed(dialect, told), summed(dialect, b"".join(told))
    blocks = Splitter(1 << 20).feed(projection(stream, "coalesced").render(0, len(told)))
    for place, block in enumerate(blocks, 1):
        for seq in ids(block, EPOCH):
            rest = projection(stream, "coalesced").render(seq, len(told)) if seq < len(told) else b""
            assert summed(dialect, b"".join(blocks[:place]) + rest) == final


@given(typed(), st.data())
def test_law_8_typed_events_resume_within_text(answer: Answer, data: st.DataObject) -> None:
    """From any byte of the text the rest of it comes, and beyond its end nothing does."""
    test_law_8_resume_within_text.hypothesis.inner_test(answer, data)  # type: ignore[attr-defined]


# What upstreams really send

WORDS = [
    "choices", "delta", "message", "content", "reasoning", "tool_calls", "function", "name", "arguments", "usage", "id",
    "error", "finish_reason", "output", "text", "index", "role", "logprobs", "audio", "data", "object", "custom",
    "workflow_message", "type", "input", "refusal",
]  # fmt: skip
LEAVES = st.sampled_from(
    [b"null", b"true", b"0", b"-1", b"1.5", b"NaN", b"-Infinity", b"9" * 40, b"1e400", b'""', b'"null"', b'"a"',
     b'"ab"', rb'"\ud83d"', rb'"\ude00b"', b'"\xe2\x80\xa8"', b'"\xff"', b'"assistant"', b'"stop"', b"[]", b"{}",
     b"[" * 300 + b"]" * 300, b"[" * 1100 + b"]" * 1100, b'"chat.completion"']
)  # fmt: skip


def _objects(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    members = st.dictionaries(st.sampled_from(WORDS), inner, max_size=5)
    return members.map(lambda found: b"{%b}" % b",".join(b'"%b":%b' % (k.encode(), v) for k, v in found.items()))


def _lists(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(inner, max_size=3).map(lambda found: b"[%b]" % b",".join(found))


def _typed(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return deltas and blocks of Anthropic's Messages, with anything in them."""
    kinds = st.sampled_from([b"text", b"thinking", b"tool_use", b"text_delta", b"thinking_delta", b"input_json_delta"])
    keys = st.sampled_from([b"text", b"thinking", b"partial_json"])
    said = st.sampled_from([b'"{\\"a\\": 1}"', b'"}"', b'""', rb'"\ud83d"', rb'"\ude00b"']) | inner
    return st.builds(lambda kind, key, text: b'{"type":"%b","%b":%b}' % (kind, key, text), kinds, keys, said)


anything = st.recursive(LEAVES, lambda inner: _objects(inner) | _lists(inner), max_leaves=12)
messages_of_sorts = _objects(anything)
bodies_of_sorts = st.one_of(
    anything,
    messages_of_sorts.map(lambda delta: b'{"choices":[{"index":0,"delta":%b}]}' % delta),
    messages_of_sorts.map(lambda message: b'{"choices":[{"message":%b,"finish_reason":"stop"}]}' % message),
    _lists(messages_of_sorts).map(lambda calls: b'{"choices":[{"delta":{"tool_calls":%b}}]}' % calls),
    messages_of_sorts.map(lambda choice: b'{"output":{"choices":[%b]}}' % choice),
    messages_of_sorts.map(lambda message: b'{"output":{"message":%b}}' % message),
    messages_of_sorts.map(lambda output: b'{"output":%b}' % output),
    st.builds(
        lambda kind, member, value: b'{"type":"%b","index":0,"%b":%b}' % (kind, member, value),
        st.sampled_from([b"message_start", b"content_block_start", b"content_block_delta", b"message_delta"]),
        st.sampled_from([b"message", b"content_block", b"delta", b"usage"]),
        messages_of_sorts | _typed(messages_of_sorts),
    ),
    st.builds(
        lambda kind, member, value: b'{"type":"response.%b","output_index":0,"%b":%b}' % (kind, member, value),
        st.sampled_from([b"created", b"output_item.done", b"output_text.delta", b"completed", b"failed"]),
        st.sampled_from([b"response", b"item", b"delta", b"sequence_number"]),
        anything | messages_of_sorts,
    ),
    st.binary(max_size=8).filter(lambda data: not set(data) & {10, 13}),
)


@given(st.lists(bodies_of_sorts, max_size=6), st.sampled_from([CHAT, NATIVE, RESPONSES, MESSAGES]), st.data())
def test_no_frame_makes_a_mode_raise(bodies: list[bytes], dialect: Dialect, data: st.DataObject) -> None:
    """Whatever stands in it: modes of events render it, the same in the end as live, text is UTF-8, and json is JSON.

    Or json says that it can't be made, and then text does not end properly.
    """
    told = [b"data: %b\n\n" % body for body in bodies]
    spans = data.draw(spans_of(len(told)), "spans")
    complete = streamed(dialect, told)
    for mode in [*(MODES if dialect.documents.has_cumulative else MODES[:1]), "text"]:
        live, had = streamed(dialect, []), b""
        for start, end in spans:
            live.extend(told[start:end])
            had += projection(live, mode).render(start, end) if start < end else b""
        assert had == b"".join(projection(complete, mode).render(start, end) for start, end in spans if start < end)
    document, text = projection(complete, "json"), projection(complete, "text")
    assert isinstance(document, Json)
    try:
        assert isinstance(json.loads(document.so_far()), dict)
    except Garbled:
        assert document.ending(COMPLETE, len(told)) == (b"", False)
    else:
        assert text.ending(COMPLETE, len(told)) == (b"", True)


# json


def accumulated(told: list[bytes]) -> dict[str, Any]:
    """Return what OpenAI's own accumulator makes of a stream."""
    state = ChatCompletionStreamState()
    for document in documents(b"".join(told)):
        state.handle_chunk(ChatCompletionChunk.construct(**document))
    return state.current_completion_snapshot.to_dict()


def told_of(value: Any) -> Any:
    """Leave out fields that are null, and those that the SDK adds for parsed values."""
    if isinstance(value, dict):
        kept = {k: told_of(v) for k, v in value.items() if not k.startswith("parsed")}
        return {k: v for k, v in kept.items() if v is not None}
    return [told_of(item) for item in value] if isinstance(value, list) else value


@given(chats())
def test_json_is_what_the_sdk_makes_of_the_stream(answer: ChatAnswer) -> None:
    """Field by field; and what the same request without streaming is answered, but for usage it was not asked for."""
    told = list(answer.frames())
    document = finished(streamed(CHAT, told))
    assert told_of(document) == told_of(accumulated(told))
    plain = json.loads(answer.whole())
    if answer.ask.include_usage:
        assert told_of(document) == without_empty_content(told_of(plain))


def without_empty_content(document: dict[str, Any]) -> dict[str, Any]:
    """Qwen says null in the chunks of a tool call where it says "" in the whole."""
    for choice in document["choices"]:
        if choice["message"].get("tool_calls") and not choice["message"]["content"]:
            del choice["message"]["content"]
    return document


@given(natives())
def test_json_of_a_native_stream_is_the_whole_answer(answer: NativeAnswer) -> None:
    """What the same request without streaming is answered."""
    told = list(answer.frames())
    document, plain = finished(streamed(NATIVE, told)), json.loads(answer.whole())
    for found in (document, plain):
        found["output"].get("search_info", {}).pop("extra_tool_info", None)
    assert document == plain


# Recorded streams

needs_recordings = pytest.mark.skipif(not recorded(), reason=NOT_RECORDED)
each_recording = pytest.mark.parametrize("path", recorded(), ids=lambda path: path.stem)


@needs_recordings
@each_recording
def test_recorded_stream_says_the_same_in_every_mode(path: Path) -> None:
    """Frame by frame, in threes, and as a whole."""
    dialect: Dialect = NATIVE if path.name.startswith("native") else CHAT
    told = Splitter(1 << 20).feed(path.read_bytes())
    final = whole(streamed(dialect, told))
    if "cumulative" not in path.name:
        assert final == joined(b"".join(frame + b"\n" for frame in told))  # some lack their blank lines
    for size in (1, 3, len(told)):
        places = [*range(0, len(told), max(1, size)), len(told)]
        assert_modes_say(dialect, told, list(pairwise(places)), final)


@needs_recordings
@pytest.mark.parametrize("path", recorded("compat-vercel"), ids=lambda path: path.stem)
def test_recorded_stream_makes_the_document_that_the_sdk_makes(path: Path) -> None:
    """Reasoning and tool calls too."""
    told = Splitter(1 << 20).feed(path.read_bytes())
    assert told_of(finished(streamed(CHAT, told))) == told_of(accumulated(told))
