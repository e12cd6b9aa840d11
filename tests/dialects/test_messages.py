"""Anthropic's words as Qwen's hosts write them: the tables of what counts as what."""

import json

import pytest

from proxy.dialects.dialect import TextKind
from proxy.dialects.messages import MESSAGES
from proxy.dialects.usage import Usage
from proxy.wire.errors import (
    BadRequest,
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
from proxy.wire.sse import COMMENT
from tests.cuts import messages
from tests.message_events import (
    PING,
    STOP,
    UNTYPED,
    Block,
    block_start,
    delta,
    event,
    finish,
    message,
    start,
)
from tests.noted import kind, noted

ERROR = {"type": "overloaded_error", "message": "Overloaded"}


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
