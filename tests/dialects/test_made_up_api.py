"""An API with typed events, in every mode: nothing above the room of dialects knows that it is not Qwen's."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.stream.endings import COMPLETE, Ending
from proxy.stream.modes.projection import View
from proxy.stream.modes.projections import Json
from proxy.upstream.pump import OnDisconnect, Pump
from proxy.wire.errors import BadRequest, Truncated
from tests.cuts import messages
from tests.dialects.made_up import MADE_UP
from tests.fakes import FakeSink
from tests.resumption import in_drawn_spans, resumed_after_each, stream_of
from tests.streams import follow, new_stream

BEATS = b": ping\n\n"
Item = tuple[str, list[str]]
items = st.lists(
    st.tuples(st.sampled_from(["text", "thought", "call"]), st.lists(st.text(max_size=4), max_size=5)), max_size=4
)


def frames_of(told: list[Item], *, between: bytes = b"") -> list[bytes]:
    """Return the stream of an answer with these items, each in these pieces."""
    events: list[dict[str, Any]] = []
    for item, (kind, pieces) in enumerate(told):
        events.append({"type": "item.begun", "item": item, "kind": kind})
        events += [{"type": "item.delta", "item": item, "delta": piece} for piece in pieces]
        events.append({"type": "item.ended", "item": item, "text": "".join(pieces)})
    whole = [{"kind": kind, "text": "".join(pieces)} for kind, pieces in told]
    events.append({"type": "answer.ended", "answer": {"id": "a", "items": whole}})
    frames = [
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps({"seq": seq} | event).encode())
        for seq, event in enumerate(events, 1)
    ]
    return [one for frame in frames for one in ((frame, between) if between else (frame,))]


def events_of(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(message.data) for message in messages(body)]


def said(body: bytes) -> dict[int, str]:
    """Return what the deltas of a body say of each item."""
    whole: dict[int, str] = {}
    for event in events_of(body):
        if event["type"] == "item.delta":
            whole[event["item"]] = whole.get(event["item"], "") + event["delta"]
    return {item: text for item, text in whole.items() if text}


def answer(told: list[Item]) -> dict[int, str]:
    return {item: "".join(pieces) for item, (_, pieces) in enumerate(told) if any(pieces)}


@given(items, st.booleans(), st.data())
def test_law_5_every_mode_says_the_answer_in_any_spans(told: list[Item], beats: bool, data: st.DataObject) -> None:
    """Deltas add up to it, events about it stay as they came, and what is rendered later is what was rendered live."""
    frames = frames_of(told, between=BEATS if beats else b"")
    had, text = in_drawn_spans(MADE_UP, frames, data)
    assert said(had) == answer(told)
    skeleton = [event for event in events_of(b"".join(frames)) if event["type"] != "item.delta"]
    assert [event for event in events_of(had) if event["type"] != "item.delta"] == skeleton
    assert text.decode() == "".join("".join(pieces) for kind, pieces in told if kind == "text")


@given(items)
def test_law_8_resume_at_any_id(told: list[Item]) -> None:
    """What was received up to an id, and what comes after it, say the whole once."""
    frames = frames_of(told)
    for body in resumed_after_each(MADE_UP, frames):
        assert said(body) == answer(told)


def test_deltas_of_one_item_are_merged_under_the_last_number() -> None:
    """And nothing else is."""
    merged = events_of(
        stream_of(MADE_UP, frames_of([("thought", ["a", "b"]), ("text", ["c", "d"])]))
        .projection(View("coalesced"))
        .render(0, 9)
    )
    assert [(event["type"], event["seq"], event.get("delta")) for event in merged] == [
        ("item.begun", 1, None),
        ("item.delta", 3, "ab"),
        ("item.ended", 4, None),
        ("item.begun", 5, None),
        ("item.delta", 7, "cd"),
        ("item.ended", 8, None),
        ("answer.ended", 9, None),
    ]


def test_document_is_what_the_api_says_it_is() -> None:
    """Its last word, or what there is so far."""
    frames = frames_of([("text", ["Hel", "lo"])])
    for end, ident in ((3, None), (5, "a")):
        found = stream_of(MADE_UP, frames[:end]).projection(View("json"))
        assert isinstance(found, Json)
        assert json.loads(found.so_far()) == {"id": ident, "items": [{"kind": "text", "text": "Hello"}]}


@pytest.mark.parametrize("mode", ["incremental", "cumulative"])
def test_mode_without_meaning_is_refused(mode: str) -> None:
    """The refusal names the modes there are."""
    with pytest.raises(BadRequest, match="coalesced"):
        stream_of(MADE_UP, []).projection(View(mode))


@pytest.mark.parametrize("mode", ["raw", "events", "coalesced", "text", "json"])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_law_7_one_ending_in_every_mode(mode: str, size: int) -> None:
    """However its bytes were cut: complete with its last word, and in its own words when it broke off before."""
    body = b"".join(frames_of([("text", ["Hel", "lo"]), ("call", ["{}"])]))
    for sent in (body, body[:-20]):
        stream, sink = new_stream(MADE_UP), FakeSink()
        pump = Pump(stream, OnDisconnect(None), max_frame_bytes=1 << 20,
                    overhead=lambda seconds: None)  # fmt: skip
        follow(stream, sink, mode)
        for at in range(0, len(sent), size):
            pump.received(sent[at : at + size], 1.0)
        pump.ended(b"", 1.0, None if sent is body else Truncated("broke off"))
        ending = stream.log.ending
        assert isinstance(ending, Ending)
        assert (ending is COMPLETE) == (sent is body)
        failed = mode in ("raw", "text", "json") and sent is not body
        assert sink.ended == ("aborted" if failed else "closed")
        if mode in ("events", "coalesced"):
            last = messages(sink.received)[-1]
            assert last.type == (b"answer.ended" if sent is body else b"answer.failed")
