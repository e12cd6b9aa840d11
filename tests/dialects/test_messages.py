"""Anthropic's words as Qwen's hosts write them: the tables of what counts as what, and the message they add up to."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.dialect import TextKind, Usage
from proxy.dialects.messages import MESSAGES
from proxy.stream.projections import Json, View
from proxy.stream.stream import Stream
from proxy.wire.errors import (
    BadRequest,
    Garbled,
    MissingRight,
    Overloaded,
    ProxyError,
    RateLimited,
    TooLarge,
    Truncated,
    Unauthorised,
    UnknownStream,
    UpstreamTimeout,
)
from proxy.wire.sse import COMMENT, Splitter
from tests.cuts import messages
from tests.message_events import (
    MESSAGE,
    PING,
    STOP,
    Block,
    blocks,
    delta,
    event,
    finish,
    message,
    start,
    told_by_sdk,
    without_nulls,
)
from tests.noted import kind, noted
from tests.streams import EPOCH, new_stream

UNTYPED = b'data: {"index":0,"delta":{"type":"text_delta","text":"x"}}\n\n'
ERROR = {"type": "overloaded_error", "message": "Overloaded"}


def block_start(**block: Any) -> bytes:
    return event("content_block_start", index=0, content_block=block)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (start(), None),
        (PING, None),
        (event("ping", cost="0"), None),
        (block_start(type="text", text=""), None),
        (block_start(type="text", text="Hel"), TextKind.CONTENT),
        (block_start(type="thinking", thinking="", signature=""), None),
        (block_start(type="tool_use", id="toolu_1", name="get_weather", input={}), TextKind.TOOL_CALL),
        (block_start(type="server_tool_use", id="srvtoolu_1", name="web_search", input={}), TextKind.TOOL_CALL),
        (block_start(type="web_search_tool_result", tool_use_id="srvtoolu_1", content=[{"text": "x"}]), None),
        (delta("Hel"), TextKind.CONTENT),
        (delta(" ", spaced=True), TextKind.CONTENT),
        (delta("We", kind="thinking"), TextKind.REASONING),
        (delta('{"', kind="tool_use"), TextKind.TOOL_CALL),
        (delta(""), None),
        (delta("", kind="thinking"), None),
        (delta("", kind="tool_use"), None),
        (event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "EqQB"}), None),
        (event("content_block_delta", index=0, delta={"type": "citations_delta", "citation": {"text": "x"}}), None),
        (event("content_block_delta", index=0, delta={"type": "of_tomorrow", "text": "x"}), None),
        (event("content_block_delta", index=0, delta=None), None),
        (event("content_block_stop", index=0), None),
        (finish(output_tokens=1), None),
        (STOP, None),
        (b": a comment\n\n", None),
        (b"data: [DONE]\n\n", None),
        (b"event: content_block_delta\n" + UNTYPED, TextKind.CONTENT),
        (delta("x").partition(b"\n")[2], TextKind.CONTENT),
    ],
)
def test_generated_text_is_told_from_what_only_frames_it(frame: bytes, expected: TextKind | None) -> None:
    """The first token is the first frame with text, thinking, input or the name of a tool; in either framing."""
    assert kind(MESSAGES, frame) is expected


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("of", ["text", "thinking", "tool_use"])
def test_deltas_alike_are_ordinary_once_two_were_read(spaced: bool, of: str) -> None:
    """In both framings; and nothing else of a message is."""
    reader = noted(MESSAGES, delta("one", kind=of, spaced=spaced), delta('"', kind=of, spaced=spaced))
    assert reader.ordinary(delta("three\n", kind=of, spaced=spaced))
    others = [delta("", kind=of), STOP, PING, start(), finish(), block_start(type="text", text="x")]
    assert not any(map(reader.ordinary, others))
    assert not reader.ordinary(delta("x", kind="text" if of == "thinking" else "thinking", spaced=spaced))


def test_usage_is_the_last_that_is_stated_of_each_field() -> None:
    """What message_start says is an estimate; message_delta may repeat a part of it, or all of it and better."""
    begun = start(input_tokens=56, cache_creation_input_tokens=7, output_tokens=1)
    assert noted(MESSAGES, begun).usage == Usage(prompt=56, completion=1, cache_written=7)
    assert noted(MESSAGES, begun, finish(output_tokens=20, input_tokens=None)).usage == Usage(56, 20, cache_written=7)
    said = finish(
        input_tokens=291,
        output_tokens=20,
        cache_read_input_tokens=5,
        cache_creation_input_tokens=0,
        server_tool_use={"web_search_requests": 2},
        output_tokens_details={"thinking_tokens": 4},
    )
    assert noted(MESSAGES, begun, said).usage == Usage(291, 20, reasoning=4, cached=5, tool_calls=2)


def test_reader_knows_model_reason_and_end() -> None:
    """Only message_stop ends a message; pings before its start and after its end change nothing."""
    frames = [PING, *message([Block("text", ("Hel", "lo"))], "max_tokens"), PING]
    reader = MESSAGES.frames.reader()
    for frame in frames[:-2]:
        reader.note(frame)
        assert (reader.ended, reader.finished) == (False, False)
    for frame in frames[-2:]:
        reader.note(frame)
        assert (reader.ended, reader.finished, reader.has_content, reader.failure) == (True, True, True, None)
    assert (reader.model, reader.finish_reason) == ("qwen3-max", "max_tokens")
    assert not noted(MESSAGES, PING, STOP).has_content


@pytest.mark.parametrize(
    ("frame", "recognised", "status", "reason"),
    [
        (event("error", error=ERROR), True, 529, "overloaded_error: Overloaded"),
        (event("error", error=ERROR).partition(b"\n")[2], False, 529, "overloaded_error: Overloaded"),
        (b'event:error\ndata:{"code":"InternalError","message":"x"}\n\n', True, None, "InternalError: x"),
        (b"event: error\ndata: no JSON\n\n", True, None, "no JSON"),
        (b'data: {"error":{"message":"x","code":"limit_requests"}}\n\n', False, None, "limit_requests: x"),
        (b"<html><title>502</title></html>\n\n", False, None, "the upstream sent HTML in place of events: 502"),
    ],
)
def test_error_is_recognised_by_clients_by_its_event_field_alone(
    frame: bytes, recognised: bool, status: int | None, reason: str
) -> None:
    """Its type says which status it would have had; what comes after message_stop is no error any more."""
    found = noted(MESSAGES, start(), frame).failure
    assert found is not None
    assert (found.recognised, found.status, found.reason) == (recognised, status, reason)
    assert noted(MESSAGES, start(), STOP, frame).failure is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BadRequest("x"), "invalid_request_error"),
        (Unauthorised("x"), "authentication_error"),
        (MissingRight("x"), "permission_error"),
        (UnknownStream("x"), "not_found_error"),
        (TooLarge("x"), "request_too_large"),
        (RateLimited("x"), "rate_limit_error"),
        (Overloaded("x"), "overloaded_error"),
        (Truncated("x"), "api_error"),
        (UpstreamTimeout("x"), "timeout_error"),
    ],
)
def test_error_has_the_type_of_its_status(error: ProxyError, expected: str) -> None:
    """In Anthropic's shape, and the proxy's own code beside it."""
    body = MESSAGES.frames.error_body(error)
    assert body == {
        "type": "error",
        "error": {"type": expected, "message": "x", "code": error.code},
        "request_id": None,
    }


def test_error_frame_has_the_event_field_that_clients_look_for() -> None:
    """Without it they skip it."""
    (said,) = messages(MESSAGES.frames.reader().error_frame("cut", "upstream_reset", b"e-7"))
    assert (said.type, said.id) == (b"error", b"e-7")
    assert json.loads(said.data)["error"] == {"type": "api_error", "message": "cut", "code": "upstream_reset"}


def test_heartbeat_is_a_ping_while_the_message_is_open() -> None:
    """Some clients count events, and not comments; before and after it, a ping is none of the message's."""
    assert noted(MESSAGES, PING).heartbeat == b":\n"
    assert noted(MESSAGES, start(), delta("x")).heartbeat == PING
    assert noted(MESSAGES, start(), finish(), STOP).heartbeat == b""


def stream_of(frames: list[bytes]) -> Stream:
    stream = new_stream(MESSAGES)
    stream.extend(frames)
    return stream


def folded(frames: list[bytes]) -> Any:
    found = stream_of(frames).projection(View("json"))
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
    assert stream_of(frames).projection(View("text")).render(0, len(frames)) == b"Hello"


def test_message_that_begins_with_content_has_it() -> None:
    """A gateway that has the whole answer sends it so; blocks that follow are added."""
    content = [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hel"}]
    begun = event("message_start", message={**MESSAGE, "content": content, "usage": {"output_tokens": 1}})
    block = event("content_block_start", index=2, content_block={"type": "text", "text": ""})
    frames = [begun, block, delta("lo", 2), event("content_block_stop", index=2), finish(output_tokens=5), STOP]
    assert without_nulls(folded(frames)) == told_by_sdk(frames)
    assert [block.get("text") for block in folded(frames)["content"]] == [None, "Hel", "lo"]
    assert stream_of(frames).projection(View("text")).render(0, len(frames)) == b"Hello"


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
    had = stream_of(frames).projection(View("coalesced")).render(0, len(frames))
    assert frame.rpartition(b"data: ")[2].strip() in had


def test_empty_event_is_a_delta_of_the_open_block_and_else_a_ping() -> None:
    """Claude Code counts no pings; after a block has stopped, a delta of it would be an error."""
    kinds = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking"),
             "tool_use": ("input_json_delta", "partial_json")}  # fmt: skip
    reader = MESSAGES.frames.reader()
    assert reader.empty_event == COMMENT
    for frame in (start(), PING):
        reader.note(frame)
        assert reader.empty_event == PING
    for index, (block, (name, key)) in enumerate(kinds.items()):
        reader.note(event("content_block_start", index=index, content_block={"type": block}))
        [said] = messages(reader.empty_event)
        assert said.type == b"content_block_delta"
        assert json.loads(said.data) == {
            "type": "content_block_delta", "index": index, "delta": {"type": name, key: ""}
        }  # fmt: skip
        reader.note(event("content_block_stop", index=index))
        assert reader.empty_event == PING
    reader.note(block_start(type="server_tool_use"))
    assert reader.empty_event == PING
    reader.note(STOP)
    assert reader.empty_event == b""


@pytest.mark.parametrize("levels", [40, 300, 1100, 100_000])
def test_event_of_any_depth_is_no_other(levels: int) -> None:
    """Its text is said, and what is deep in it is passed on as it came."""
    deep = b'"deep":%b,' % (b"[" * levels + b"]" * levels)
    frames = [start(), block_start(), delta("x").replace(b'"index"', deep + b'"index"'), STOP]
    assert folded(frames)["content"][0]["text"] == "x"
    assert deep in stream_of(frames).projection(View("coalesced")).render(0, len(frames))


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
    places = data.draw(st.lists(st.integers(0, len(frames)), max_size=6).map(lambda drawn: {0, *drawn, len(frames)}))
    spans, complete, live, had = list(pairwise(sorted(places))), stream_of(frames), new_stream(MESSAGES), b""
    for first, last in spans:
        live.extend(frames[first:last])
        had += live.projection(View("coalesced")).render(first, last)
    assert had == b"".join(complete.projection(View("coalesced")).render(first, last) for first, last in spans)
    before = said_in(b"".join(frames))
    assert joined(said_in(had)) == joined(before)
    skeleton = [one for one in before if one["type"] != "content_block_delta"]
    assert [one for one in said_in(had) if one["type"] != "content_block_delta"] == skeleton
    text = b"".join(complete.projection(View("text")).render(first, last) for first, last in spans)
    assert text.decode() == "".join("".join(block.pieces) for block in told if block.kind == "text")


@given(blocks)
def test_law_8_resume_at_any_id(told: list[Block]) -> None:
    """What was received up to an id, and what comes after it, say the whole once."""
    frames = message(told)
    coalesced = stream_of(frames).projection(View("coalesced"))
    got = Splitter(1 << 20).feed(coalesced.render(0, len(frames)))
    for place, frame in enumerate(got, 1):
        seq = int(messages(frame)[0].id.removeprefix(EPOCH + b"-"))  # type: ignore[union-attr]
        rest = coalesced.render(seq, len(frames)) if seq < len(frames) else b""
        assert joined(said_in(b"".join(got[:place]) + rest)) == joined(said_in(b"".join(frames)))


def test_deltas_of_one_block_and_type_are_merged_and_nothing_else_is() -> None:
    """Neither across blocks, nor across a signature, nor with what an event has besides its text."""
    frames = message([Block("thinking", ("a", "b")), Block("text", ("c", "d")), Block("text", ("e",))])
    frames[-2:-2] = [delta("f", 2), delta("g", 2).replace(b'"index"', b'"p":"xyz","index"'), delta("h", 2)]
    merged = said_in(stream_of(frames).projection(View("coalesced")).render(0, len(frames)))
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
        stream_of([]).projection(View(mode))
