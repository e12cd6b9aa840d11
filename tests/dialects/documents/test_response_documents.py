"""A response in every mode: deltas merged within their channel, all other events where they were, its own last word."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.responses import RESPONSES
from proxy.stream.modes.projection import View
from proxy.stream.modes.projections import Json
from proxy.wire.errors import BadRequest, Garbled
from proxy.wire.sse import Splitter, payload
from tests.cuts import messages
from tests.dialects.response_events import bare, call, message, numbered, reasoning, response, snapshot
from tests.fakes import FakeSink
from tests.resumption import in_drawn_spans, resumed_after_each, stream_of
from tests.streams import EPOCH, follow, new_stream

Item = tuple[str, list[str]]
MAKE = {"message": message, "reasoning": reasoning, "call": call}
ITEMS = st.lists(st.tuples(st.sampled_from(list(MAKE)), st.lists(st.text(max_size=4), max_size=6)), max_size=4)
BEAT = b": ping\n\n"
MERGED = "response.output_text.delta"


def frames_of(told: list[Item], *, by_dashscope: bool = True, beats: bool = False) -> list[bytes]:
    """Return the stream of a response with these items, each in these pieces."""
    items = [MAKE[kind](index, pieces) for index, (kind, pieces) in enumerate(told)]
    frames = numbered(response(*items), by_dashscope=by_dashscope)
    return [one for frame in frames for one in ((frame, BEAT) if beats else (frame,))]


def events_of(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(said.data) for said in messages(body)]


def is_delta(event: dict[str, Any]) -> bool:
    return bool(event["type"].endswith(".delta"))


def said(body: bytes) -> dict[int, str]:
    """Return what the deltas of a body say of each item."""
    whole: dict[int, str] = {}
    for event in filter(is_delta, events_of(body)):
        whole[event["output_index"]] = whole.get(event["output_index"], "") + event["delta"]
    return {item: text for item, text in whole.items() if text}


def answer(told: list[Item]) -> dict[int, str]:
    return {index: "".join(pieces) for index, (_, pieces) in enumerate(told) if any(pieces)}


@given(ITEMS, st.booleans(), st.booleans(), st.data())
def test_law_5_every_mode_says_the_answer_in_any_spans(
    told: list[Item], by_dashscope: bool, beats: bool, data: st.DataObject
) -> None:
    """Deltas add up to it, all other events stay as they came, and what is rendered later is what was rendered live."""
    frames = frames_of(told, by_dashscope=by_dashscope, beats=beats)
    had, text = in_drawn_spans(RESPONSES, frames, data)
    assert said(had) == answer(told)
    came = events_of(b"".join(frames))
    assert [event for event in events_of(had) if not is_delta(event)] == [one for one in came if not is_delta(one)]
    numbers = [event["sequence_number"] for event in events_of(had)]
    assert numbers == sorted(set(numbers))
    assert text.decode() == "".join("".join(pieces) for kind, pieces in told if kind == "message")


@given(ITEMS)
def test_law_8_resume_at_any_id(told: list[Item]) -> None:
    """What was received up to an id, and what comes after it, say the whole once."""
    frames = frames_of(told)
    for body in resumed_after_each(RESPONSES, frames):
        assert said(body) == answer(told)


def merged(*frames: bytes) -> list[tuple[Any, Any]]:
    """Return the number and the delta of each event of mode coalesced."""
    rendered = stream_of(RESPONSES, list(frames)).projection(View("coalesced")).render(0, len(frames))
    return [(event.get("sequence_number"), event.get("delta")) for event in events_of(rendered)]


def delta(number: int, text: str, name: str = MERGED, **members: Any) -> bytes:
    return bare(name, sequence_number=number, delta=text, **members)


def test_neighbours_of_a_channel_are_merged_under_the_last_number() -> None:
    """Also where neither the item nor the part is named; and whatever pads them."""
    first, second = {"output_index": 0, "content_index": 0}, {"output_index": 0, "content_index": 1}
    assert merged(delta(1, "a", **first), delta(3, "b", **first), delta(4, "c", **second)) == [(3, "ab"), (4, "c")]
    assert merged(delta(1, "a", output_index=5), delta(2, "b", output_index=5)) == [(2, "ab")]
    assert merged(delta(1, "a", output_index=0), delta(2, "b", output_index=1)) == [(1, "a"), (2, "b")]
    assert merged(delta(1, "a", obfuscation="xy"), delta(2, "b", obfuscation="z")) == [(2, "ab")]
    refusal = "response.refusal.delta"
    assert merged(delta(1, "a"), delta(2, "b", refusal), delta(3, "c")) == [(1, "a"), (2, "b"), (3, "c")]


@pytest.mark.parametrize(
    "members", [{"logprobs": [{"token": "a", "logprob": -0.25}]}, {"n": 12345678901234567890123}, {"deep": [[[0]]]}]
)
def test_delta_with_more_in_it_stays_as_it_came(members: dict[str, Any]) -> None:
    """Its neighbours are merged."""
    frames = [delta(1, "a"), delta(2, "b"), delta(3, "c", **members), delta(4, "d"), delta(5, "e")]
    rendered = stream_of(RESPONSES, frames).projection(View("coalesced")).render(0, 5)
    assert [event["delta"] for event in events_of(rendered)] == ["ab", "c", "de"]
    assert frames[2][:-1] in rendered


def test_sounds_are_not_joined() -> None:
    """Each piece of base64 is decoded by itself."""
    frames = [delta(number, "AA==", "response.audio.delta") for number in (1, 2)]
    assert merged(*frames) == [(1, "AA=="), (2, "AA==")]


def test_halves_of_a_character_are_joined() -> None:
    """Each is said with the second of them, in every mode."""
    frames = [b'data: {"type":"%b","delta":"%b"}\n\n' % (MERGED.encode(), text) for text in (rb"a\ud83d", rb"\ude00b")]
    stream = stream_of(RESPONSES, frames)
    assert stream.projection(View("text")).render(0, 2).decode() == "a😀b"
    assert [event["delta"] for event in events_of(stream.projection(View("coalesced")).render(0, 2))] == ["a😀b"]


def test_message_without_deltas_is_text_when_it_ends() -> None:
    """And its event stays as it came; of one that had deltas, the end says nothing more."""
    item = {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}
    whole = [bare("response.output_item.done", output_index=index, item=item) for index in (0, 1)]
    frames = [delta(1, "Hello", output_index=0), *whole]
    stream = stream_of(RESPONSES, frames)
    assert stream.projection(View("text")).render(0, 3) == b"HelloHello"
    rendered = stream.projection(View("coalesced")).render(0, 3)
    assert [payload(frame) for frame in Splitter(1 << 20).feed(rendered)] == [payload(frame) for frame in frames]


HELLO = {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}
LOOK = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
THOUGHT = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]}


@pytest.mark.parametrize(
    "stated",
    [
        [bare("response.output_text.done", output_index=0, text="Hello")],
        [delta(1, "", output_index=0), bare("response.output_item.done", output_index=0, item=HELLO)],
        [],
    ],
)
def test_text_that_comes_only_whole_is_said_once(stated: list[bytes]) -> None:
    """As by gateways that have the whole answer when they begin to stream."""
    frames = [*stated, bare("response.completed", response=snapshot("completed", output=[HELLO]))]
    stream = stream_of(RESPONSES, frames)
    assert stream.projection(View("text")).render(0, len(frames)) == b"Hello"
    assert stream.projection(View("chat")).render(0, len(frames)).count(b"Hello") == 1
    in_coalesced = stream.projection(View("coalesced")).render(0, len(frames))
    assert in_coalesced.count(b"Hello") == b"".join(frames).count(b"Hello")


def test_what_only_the_last_event_has_is_told_in_chat() -> None:
    """Reasoning, the text, and a call."""
    done = bare("response.completed", response=snapshot("completed", output=[THOUGHT, HELLO, LOOK]))
    stream = stream_of(RESPONSES, [done])
    told = stream.projection(View("chat")).render(0, 1)
    for said in (b'"reasoning_content":"Hm"', b'"content":"Hello"', b'"id":"c"', b'"name":"look"', b'"arguments":"{}"'):
        assert said in told
    assert stream.projection(View("text")).render(0, 1) == b"Hello"


def so_far(*frames: bytes) -> bytes:
    found = stream_of(RESPONSES, list(frames)).projection(View("json"))
    assert isinstance(found, Json)
    return found.so_far()


def test_document_is_the_last_response_as_it_came() -> None:
    """Byte for byte: numbers of any size, spaces, the order of keys."""
    response = b'{"status" : "completed","id":"x", "n":1e400,"big":12345678901234567890123,"output":[]}'
    frames = frames_of([("message", ["Hel", "lo"])])
    data = b'{"sequence_number":9,"response": %b ,"type":"response.completed"}' % response
    assert so_far(*frames[:-1], b"id:9\nevent:response.completed\n:HTTP_STATUS/200\ndata:%b\n\n" % data) == response


@pytest.mark.parametrize(("end", "status"), [(1, "queued"), (2, "in_progress"), (6, "in_progress")])
def test_document_of_a_running_response_is_its_last_snapshot(end: int, status: str) -> None:
    """Deltas do not change it."""
    frames = frames_of([("message", ["Hel", "lo"])])
    document = json.loads(so_far(*frames[:end]))
    assert (document["status"], document["output"]) == (status, [])
    assert json.loads(so_far()) == {"object": "response", "status": "queued", "output": []}


def test_document_is_json_where_the_last_response_is_no_utf8() -> None:
    """As clients of the stream read it; by the paths of its API, too."""
    stream = stream_of(
        RESPONSES, [b'data: {"type":"response.created","response":{"id":"a","model":"\xff\xe4\xbd"}}\n\n']
    )
    assert RESPONSES.objects is not None
    reader = RESPONSES.frames.reader()
    reader.note(stream.log.frames[0])
    for told in (so_far(*stream.log.frames), RESPONSES.objects.seen(reader)):
        assert json.loads(told or b"") == {"id": "a", "model": "\ufffd\ufffd"}


def test_document_that_lacks_something_is_none() -> None:
    """Of a stream with an event that can't be read."""
    frames = frames_of([("message", ["Hel", "lo"])])
    with pytest.raises(Garbled, match="event 2"):
        so_far(frames[0], b"data: {broken\n\n", *frames[1:])
    assert json.loads(so_far(*frames, b"data: [DONE]\n\n", b"data: no json\n\n"))["status"] == "completed"


@pytest.mark.parametrize("mode", ["incremental", "cumulative"])
def test_mode_without_meaning_is_refused(mode: str) -> None:
    """The refusal names the modes there are."""
    with pytest.raises(BadRequest, match="coalesced"):
        stream_of(RESPONSES, []).projection(View(mode))


@pytest.mark.parametrize("mode", ["events", "coalesced"])
def test_ids_of_the_upstream_stay_readable(mode: str) -> None:
    """Before ours, which count."""
    stream, sink = new_stream(RESPONSES), FakeSink()
    follow(stream, sink, mode)
    stream.extend(frames_of([("message", ["a"])])[:1])
    assert sink.received.startswith(b"id:1\nevent:response.created\n:HTTP_STATUS/200\ndata:{")
    assert messages(sink.received)[0].id == EPOCH + b"-1"
