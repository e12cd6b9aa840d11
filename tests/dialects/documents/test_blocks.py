"""Messages that consist of content blocks: what their events add up to, and which of them modes may merge."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.messages import MESSAGES
from proxy.stream.modes.projection import View
from proxy.stream.modes.projections import Json
from proxy.wire.errors import BadRequest, Garbled
from tests.cuts import messages
from tests.message_events import (
    MESSAGE,
    PING,
    STOP,
    UNTYPED,
    Block,
    block_start,
    blocks,
    delta,
    event,
    finish,
    message,
    start,
    told_by_sdk,
    without_nulls,
)
from tests.resumption import in_drawn_spans, resumed_after_each, stream_of


def folded(frames: list[bytes]) -> Any:
    found = stream_of(MESSAGES, frames).projection(View("json"))
    assert isinstance(found, Json)
    return json.loads(found.so_far())


@given(blocks, st.data())
def test_folded_message_is_the_one_that_the_sdk_adds_up(told: list[Block], data: st.DataObject) -> None:
    """Field by field; at the end, and of what there is so far, in which an input is what is whole of it."""
    frames = message(told)
    for end in (len(frames), data.draw(st.integers(1, len(frames)))):
        assert without_nulls(folded(frames[:end])) == told_by_sdk(frames[:end])


def test_folded_message_has_what_deltas_bring_besides_text() -> None:
    """Citations, signatures, whole results of tools, text in the start of a block; and what message_delta brings."""
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [
        {"type": "web_search_result", "url": "https://a.test", "title": "A", "encrypted_content": "x"}]}  # fmt: skip
    citation = {"type": "char_location", "cited_text": "x", "document_index": 0, "document_title": None,
                "start_char_index": 0, "end_char_index": 1, "file_id": None}  # fmt: skip
    frames = [
        start(input_tokens=56, output_tokens=1),
        block_start(type="text", text="Hel", citations=None),
        event("content_block_delta", index=0, delta={"type": "citations_delta", "citation": citation}),
        delta("lo"),
        event("content_block_delta", index=0, delta={"type": "citations_delta", "citation": citation}),
        event("content_block_start", index=1, content_block=found),
        finish("stop_sequence", output_tokens=4, server_tool_use={"web_search_requests": 1, "web_fetch_requests": 0}),
        STOP,
    ]
    document = folded(frames)
    assert without_nulls(document) == told_by_sdk(frames)
    assert document["content"][0]["text"] == "Hello"
    assert document["content"][0]["citations"] == [citation, citation]
    assert document["usage"]["input_tokens"] == 56
    assert stream_of(MESSAGES, frames).projection(View("text")).render(0, len(frames)) == b"Hello"


def test_null_in_a_later_event_replaces_nothing() -> None:
    """Some servers repeat the usage with null for what they do not count again."""
    frames = [start(input_tokens=56, output_tokens=1), finish(output_tokens=4, input_tokens=None), STOP]
    assert folded(frames)["usage"] == {"input_tokens": 56, "output_tokens": 4}


def test_message_that_begins_with_content_has_it() -> None:
    """A gateway that has the whole answer sends it so; blocks that follow are added."""
    content = [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hel"}]
    begun = event("message_start", message={**MESSAGE, "content": content, "usage": {"output_tokens": 1}})
    block = event("content_block_start", index=2, content_block={"type": "text", "text": ""})
    frames = [begun, block, delta("lo", 2), event("content_block_stop", index=2), finish(output_tokens=5), STOP]
    assert without_nulls(folded(frames)) == told_by_sdk(frames)
    assert [block.get("text") for block in folded(frames)["content"]] == [None, "Hel", "lo"]
    assert stream_of(MESSAGES, frames).projection(View("text")).render(0, len(frames)) == b"Hello"


def test_document_before_the_message_began_is_an_empty_one() -> None:
    """A client that polls is told at once."""
    assert folded([PING]) == {"type": "message", "role": "assistant", "content": []}


@pytest.mark.parametrize(
    "frame",
    [
        b"event: content_block_delta\ndata: {no JSON\n\n",
        UNTYPED.replace(b'"index":0', b'"type":"content_block_delta"'),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": None}),
        event("content_block_start", index=0),
        event("message_start"),
        delta("}{", kind="tool_use"),
    ],
)
def test_what_can_not_be_read_is_no_message_silently_without_it(frame: bytes) -> None:
    """Mode json fails; the event itself is passed on as it came."""
    frames = [start(), block_start(type="tool_use", id="t", name="n", input={}), frame, STOP]
    with pytest.raises(Garbled):
        folded(frames)
    had = stream_of(MESSAGES, frames).projection(View("coalesced")).render(0, len(frames))
    assert frame.rpartition(b"data: ")[2].strip() in had


@pytest.mark.parametrize("levels", [40, 300, 1100, 100_000])
def test_event_of_any_depth_is_no_other(levels: int) -> None:
    """Its text is said, and what is deep in it is passed on as it came."""
    deep = b'"deep":%b,' % (b"[" * levels + b"]" * levels)
    frames = [start(), block_start(), delta("x").replace(b'"index"', deep + b'"index"'), STOP]
    assert folded(frames)["content"][0]["text"] == "x"
    assert deep in stream_of(MESSAGES, frames).projection(View("coalesced")).render(0, len(frames))


@pytest.mark.parametrize("index", [b'"0"', b"0.0"])
def test_index_in_another_type_is_the_same(index: bytes) -> None:
    """As some servers write it."""
    frames = [one.replace(b'"index":0', b'"index":' + index) for one in (start(), block_start(), delta("x"), STOP)]
    assert folded(frames)["content"][0]["text"] == "x"


def said_in(body: bytes) -> list[Any]:
    return [json.loads(one.data) for one in messages(body)]


def joined(events: list[Any]) -> dict[tuple[int, str], str]:
    """Return what the deltas of a body say in each field of each block."""
    whole: dict[tuple[int, str], str] = {}
    for one in events:
        if one["type"] == "content_block_delta":
            for key, text in one["delta"].items():
                if key != "type":
                    whole[one["index"], key] = whole.get((one["index"], key), "") + text
    return {where: text for where, text in whole.items() if text}


@given(blocks, st.booleans(), st.data())
def test_law_5_coalesced_says_the_same_in_any_spans(told: list[Block], pings: bool, data: st.DataObject) -> None:
    """Deltas add up to the same, every other event stays; what is rendered later is what was rendered live."""
    frames = [one for frame in message(told) for one in ((frame, PING) if pings else (frame,))]
    had, text = in_drawn_spans(MESSAGES, frames, data)
    before = said_in(b"".join(frames))
    assert joined(said_in(had)) == joined(before)
    skeleton = [one for one in before if one["type"] != "content_block_delta"]
    assert [one for one in said_in(had) if one["type"] != "content_block_delta"] == skeleton
    assert text.decode() == "".join("".join(block.pieces) for block in told if block.kind == "text")


@given(blocks)
def test_law_8_resume_at_any_id(told: list[Block]) -> None:
    """What was received up to an id, and what comes after it, say the whole once."""
    frames = message(told)
    for body in resumed_after_each(MESSAGES, frames):
        assert joined(said_in(body)) == joined(said_in(b"".join(frames)))


def test_deltas_of_one_block_and_type_are_merged_and_nothing_else_is() -> None:
    """Neither across blocks, nor across a signature, nor with what an event has besides its text."""
    frames = message([Block("thinking", ("a", "b")), Block("text", ("c", "d")), Block("text", ("e",))])
    frames[-2:-2] = [delta("f", 2), delta("g", 2).replace(b'"index"', b'"p":"xyz","index"'), delta("h", 2)]
    merged = said_in(stream_of(MESSAGES, frames).projection(View("coalesced")).render(0, len(frames)))
    found = [(one["index"], one["delta"]) for one in merged if one["type"] == "content_block_delta"]
    assert found == [
        (0, {"type": "thinking_delta", "thinking": "ab"}),
        (0, {"type": "signature_delta", "signature": "signed 0"}),
        (1, {"type": "text_delta", "text": "cd"}),
        (2, {"type": "text_delta", "text": "e"}),
        (2, {"type": "text_delta", "text": "f"}),
        (2, {"type": "text_delta", "text": "g"}),
        (2, {"type": "text_delta", "text": "h"}),
    ]


@pytest.mark.parametrize("mode", ["incremental", "cumulative"])
def test_mode_without_meaning_is_refused(mode: str) -> None:
    """The refusal names the modes there are."""
    with pytest.raises(BadRequest, match="coalesced"):
        stream_of(MESSAGES, []).projection(View(mode))
