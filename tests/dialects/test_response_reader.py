"""The reader of the Responses API's events: what they say of a response, and how its failure is told."""

import json
from typing import Any

import pytest

from proxy.dialects.dialect import TextKind
from proxy.dialects.responses import RESPONSES
from proxy.dialects.usage import Usage
from proxy.wire.sse import payload
from tests.cuts import messages
from tests.dialects.response_events import (
    ID,
    USAGE,
    bare,
    call,
    dashscope,
    message,
    numbered,
    reasoning,
    response,
    snapshot,
)
from tests.noted import noted

CREATED = bare("response.created", sequence_number=0, response=snapshot("queued"))
COMPLETED = bare("response.completed", sequence_number=9, response=snapshot("completed", usage=USAGE))
DELTA = {"output_index": 0, "delta": "x"}


def kinds(*frames: bytes) -> list[TextKind | None]:
    """Return what kind of text a reader finds in each frame of one stream."""
    reader = RESPONSES.frames.reader()
    return [reader.note(frame) for frame in frames]


def told(frame: bytes) -> Any:
    return json.loads(payload(frame) or b"")


def failed(*frames: bytes, code: str = "upstream_reset") -> dict[str, Any]:
    """Return the event with which a stream of these frames fails."""
    frame = noted(RESPONSES, *frames).error_frame("broke off", code, b"gen234-7")
    [said] = messages(frame)
    assert (said.type, said.id) == (b"response.failed", b"gen234-7")
    event: dict[str, Any] = json.loads(said.data)
    assert event["type"] == "response.failed"
    return event


@pytest.mark.parametrize("by_dashscope", [True, False])
def test_response_says_model_usage_and_how_it_finished(by_dashscope: bool) -> None:
    """In either spelling; the model has no name until the last event."""
    frames = numbered(response(reasoning(0, ["a"]), message(1, ["b", "c"])), by_dashscope=by_dashscope)
    early, late = noted(RESPONSES, *frames[:-1]), noted(RESPONSES, *frames)
    assert (early.model, early.usage, early.finish_reason, early.has_content) == (None, None, None, True)
    assert (early.ended, early.finished, early.failure) == (False, False, None)
    assert (late.model, late.usage, late.finish_reason) == ("qwen3.7-plus", Usage(57, 30, 20, 5, tool_calls=1), "stop")
    assert (late.ended, late.finished, late.failure) == (True, True, None)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("response.reasoning_text.delta", TextKind.REASONING),
        ("response.reasoning_summary_text.delta", TextKind.REASONING),
        ("response.output_text.delta", TextKind.CONTENT),
        ("response.refusal.delta", TextKind.CONTENT),
        ("response.function_call_arguments.delta", TextKind.TOOL_CALL),
        ("response.mcp_call_arguments.delta", TextKind.TOOL_CALL),
        ("response.custom_tool_call_input.delta", TextKind.TOOL_CALL),
        ("response.code_interpreter_call_code.delta", TextKind.TOOL_CALL),
    ],
)
def test_delta_is_text_of_its_kind(name: str, kind: TextKind) -> None:
    """Unless it is empty; its type is in the data or in the field."""
    assert kinds(bare(name, **DELTA)) == [kind]
    assert kinds(dashscope(name, 7, **DELTA)) == [kind]
    assert kinds(f'event:{name}\ndata:{{"delta":"x"}}\n\n'.encode()) == [kind]
    assert kinds(bare(name, output_index=0, delta="")) == [None]


def test_what_begins_and_ends_is_no_text() -> None:
    """Neither the response, nor items and parts, nor what says again what deltas said."""
    frames = numbered(response(reasoning(0, ["a"]), message(1, ["b", "c"]), call(2, ["{", "}"])))
    names = [told(frame)["type"] for frame in frames]
    found = {name for name, kind in zip(names, kinds(*frames), strict=True) if kind is not None}
    assert found == {
        "response.reasoning_summary_text.delta",
        "response.output_text.delta",
        "response.function_call_arguments.delta",
        "response.output_item.added",  # of the call: its name
    }
    search = bare("response.output_item.added", output_index=0, item={"type": "web_search_call", "id": "ws_1"})
    assert kinds(search, bare("response.web_search_call.searching", output_index=0)) == [None, None]


@pytest.mark.parametrize("type", ["function_call", "custom_tool_call", "mcp_call"])
def test_call_that_comes_whole_is_text_once(type: str) -> None:
    """When its item begins, or ends, whichever says it first."""
    item = {"type": type, "name": "look", "arguments": "{}"}
    added = bare("response.output_item.added", output_index=1, item=item)
    done = bare("response.output_item.done", output_index=1, item=item)
    assert kinds(added, done) == [TextKind.TOOL_CALL, None]
    assert kinds(done) == [TextKind.TOOL_CALL]
    early = bare("response.mcp_call_arguments.delta", output_index=1, delta="{}")
    assert kinds(early, added, done) == [TextKind.TOOL_CALL, None, None]


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ({"type": "message", "content": [{"type": "output_text", "text": "x"}]}, TextKind.CONTENT),
        ({"type": "message", "content": [{"type": "output_text", "text": ""}]}, None),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}, TextKind.REASONING),
        (
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "x"}], "summary": []},
            TextKind.REASONING,
        ),
        ({"type": "reasoning", "encrypted_content": "x"}, None),
    ],
)
def test_item_without_deltas_is_text_when_it_ends(item: dict[str, Any], kind: TextKind | None) -> None:
    """Codex needs no more than that of a stream."""
    assert kinds(bare("response.output_item.done", output_index=0, item=item)) == [kind]


@pytest.mark.parametrize(
    ("details", "reason"),
    [({"reason": "max_output_tokens"}, "length"), (None, "length"), ({"reason": "content_filter"}, "content_filter")],
)
def test_incomplete_response_is_complete_and_says_why_it_stopped(details: Any, reason: str) -> None:
    """With its usage."""
    last = {"last": "response.incomplete", "incomplete_details": details}
    said = noted(RESPONSES, *numbered(response(message(0, ["a"]), **last)))
    assert (said.ended, said.finished, said.failure, said.finish_reason) == (True, True, None, reason)
    assert said.usage is not None


def test_call_for_the_client_is_the_finish_reason() -> None:
    """Whether the item told of it, or only the last event; a server's own call is none."""
    assert noted(RESPONSES, *numbered(response(call(0, ["{}"])))).finish_reason == "tool_calls"
    last = bare("response.completed", response=snapshot("completed", output=[{"type": "function_call"}]))
    assert noted(RESPONSES, CREATED, last).finish_reason == "tool_calls"
    own = bare("response.completed", response=snapshot("completed", output=[{"type": "mcp_call"}]))
    assert noted(RESPONSES, CREATED, own).finish_reason == "stop"


def test_failed_response_is_a_failure_that_clients_recognise() -> None:
    """With the upstream's code, message and usage."""
    error = {"code": "server_error", "message": "The model failed."}
    said = noted(RESPONSES, *numbered(response(message(0, ["a"]), last="response.failed", error=error)))
    assert said.failure is not None
    assert (said.failure.code, said.failure.message, said.failure.recognised) == (*error.values(), True)
    assert said.ended
    assert said.usage is not None
    said = noted(RESPONSES, CREATED, bare("response.failed", response=snapshot("failed")))
    assert said.failure is not None


@pytest.mark.parametrize(
    "frame",
    [
        bare("error", code="server_error", message="broke", param=None, sequence_number=4),
        b'id:1\nevent:error\n:HTTP_STATUS/400\ndata:{"code":"InvalidParameter","message":"broke","request_id":"r"}\n\n',
        b'data: {"error":{"code":"x","message":"broke"}}\n\n',
        b'{"error":{"code":"x","message":"broke"}}\n\n',
        bare("response.error", sequence_number=4, error={"code": "x", "message": "broke"}),
    ],
)
def test_error_in_another_form_is_a_failure_that_not_all_clients_recognise(frame: bytes) -> None:
    """Codex looks for a failed response only."""
    said = noted(RESPONSES, CREATED, frame)
    assert said.failure is not None
    assert said.failure.message == "broke"
    assert (said.failure.recognised, said.ended) == (False, False)
    after = noted(RESPONSES, CREATED, frame, bare("response.failed", response=snapshot("failed")))
    assert after.failure is not None
    assert (after.failure.message, after.failure.recognised, after.ended) == ("broke", True, True)


@pytest.mark.parametrize(
    "frame",
    [
        b"data: [DONE]\n\n",
        b": ping\n\n",
        bare("keepalive", sequence_number=3),
        b"event: response.completed\ndata: {\n\n",
        b"event: response.completed\n\n",
    ],
)
def test_last_event_is_missed_whatever_else_comes(frame: bytes) -> None:
    """[DONE] is none, and neither is one that can't be read."""
    said = noted(RESPONSES, CREATED, frame)
    assert (said.ended, said.finished, said.failure) == (False, False, None)


def test_what_follows_the_last_event_changes_nothing() -> None:
    """[DONE], another last event, an error."""
    done = bare("response.done", response=snapshot("failed"))
    said = noted(RESPONSES, CREATED, COMPLETED, b"data: [DONE]\n\n", done, bare("error", message="late"))
    assert (said.ended, said.failure, said.finish_reason) == (True, None, "stop")


@pytest.mark.parametrize(("status", "fails"), [("completed", False), ("incomplete", False), ("failed", True)])
def test_done_ends_as_its_response_says(status: str, fails: bool) -> None:
    """OpenRouter's last event; and OpenAI's of one that was cancelled."""
    said = noted(RESPONSES, CREATED, bare("response.done", response=snapshot(status)))
    assert (said.ended, said.failure is not None) == (True, fails)
    said = noted(RESPONSES, CREATED, bare("response.cancelled", response=snapshot("cancelled")))
    assert said.failure is not None
    assert (said.failure.code, said.failure.recognised) == ("cancelled", False)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
@pytest.mark.parametrize("name", ["response.completed", "response.incomplete"])
def test_response_that_says_it_failed_is_no_complete_one(name: str, status: str) -> None:
    """Whatever the name of its last event says."""
    said = noted(RESPONSES, CREATED, bare(name, response=snapshot(status)))
    assert (said.ended, said.finish_reason) == (True, None)
    assert said.failure is not None
    assert not said.failure.recognised


@pytest.mark.parametrize("by_dashscope", [True, False])
def test_ordinary_deltas_are_recognised_without_parsing(by_dashscope: bool) -> None:
    """Though each has a number of its own; and the last number is known all the same."""
    frames = numbered(response(message(0, [f"t{number}" for number in range(40)])), by_dashscope=by_dashscope)
    quick = RESPONSES.frames.reader()
    looked = 0
    for frame in frames[:-4]:
        if not quick.ordinary(frame):
            looked += 1
            quick.note(frame)
    assert looked < 14
    event = told(quick.error_frame("m", "upstream_reset", b"x-1"))
    assert event["sequence_number"] == told(frames[-4])["sequence_number"]


def test_delta_of_another_item_is_not_ordinary() -> None:
    """Where nothing but its index says so: else its end would count as a second text."""
    name = "response.output_text.delta"
    reader = noted(RESPONSES, *[dashscope(name, at, sequence_number=at, output_index=0, delta="x") for at in (1, 2, 3)])
    assert reader.ordinary(dashscope(name, 4, sequence_number=4, output_index=0, delta="x"))
    assert not reader.ordinary(dashscope(name, 5, sequence_number=5, output_index=1, delta="x"))


@pytest.mark.parametrize("odd", [[], {}, 7, None, [{}], {"type": []}, [{"type": {}}]])
@pytest.mark.parametrize("member", ["type", "item", "response", "delta", "output_index", "sequence_number"])
def test_value_of_another_type_does_no_harm(member: str, odd: Any) -> None:
    """Wherever it stands."""
    whole = {"output_index": 0, "delta": "x", "sequence_number": 1, "item": {"type": odd, "content": odd, "name": odd}}
    response = {"status": odd, "output": odd, "usage": odd, "model": odd, "error": odd, "incomplete_details": odd}
    for name in ("output_item.added", "output_item.done", "output_text.delta", "completed", "failed", "done"):
        event = {**whole, "response": response, "type": f"response.{name}", member: odd}
        said = noted(RESPONSES, f"event: response.{name}\ndata: {json.dumps(event)}\n\n".encode())
        json.loads(messages(said.error_frame("m", "upstream_reset", b"x-1"))[0].data)


def test_failure_is_the_last_snapshot_as_a_failed_one() -> None:
    """The same response, with the next number."""
    event = failed(*numbered(response(message(0, ["a", "b"])))[:5])
    assert event["sequence_number"] == 5
    error = {"code": "upstream_reset", "message": "broke off"}
    assert event["response"] == snapshot("in_progress") | {"status": "failed", "error": error}


@pytest.mark.parametrize(("last", "number"), [(1, 1), (4, 4), (None, -1)])
def test_failure_of_one_follower_has_the_number_of_what_it_was_sent(last: int | None, number: int) -> None:
    """It may resume after that, and the stream goes on: nothing is skipped, and at worst all is sent again."""
    frames = numbered(response(message(0, ["a", "b"])), by_dashscope=True)
    sent = b"" if last is None else frames[last]
    frame = noted(RESPONSES, *frames[:7]).error_frame("m", "too_slow", b"x-1", sent)
    assert told(frame)["sequence_number"] == number


def test_failure_has_the_number_that_it_is_given() -> None:
    """Where the next one may be that of an event which is lost."""
    frames = numbered(response(message(0, ["a", "b"])))[:5]
    frame = noted(RESPONSES, *frames).error_frame("m", "producer_lost", b"x-1", None, 2**53 - 1)
    assert told(frame)["sequence_number"] == 2**53 - 1


@pytest.mark.parametrize(
    "frames", [[], [b"data: {}\n\n"], [bare("response.created", response={"id": ID, "output": 0})]]
)
def test_failure_has_what_clients_need_whatever_came_before(frames: list[bytes]) -> None:
    """An output and a number."""
    event = failed(*frames)
    assert (event["response"]["output"], event["sequence_number"]) == ([], 0)
    assert isinstance(event["response"]["id"], str)


@pytest.mark.parametrize(
    ("stated", "code", "told_code", "status"),
    [
        (None, "upstream_reset", "upstream_reset", "failed"),
        (None, "cancelled", "invalid_prompt", "cancelled"),
        ("InternalError", "upstream_error", "upstream_error", "failed"),
        ("data_inspection_failed", "upstream_error", "invalid_prompt", "failed"),
        ("context_length_exceeded", "upstream_error", "context_length_exceeded", "failed"),
    ],
)
def test_code_of_a_failure_says_whether_to_ask_again(
    stated: str | None, code: str, told_code: str, status: str
) -> None:
    """Codex asks again what was cancelled, or is wrong, unless the code is one of a few."""
    frames = [CREATED] if stated is None else [CREATED, bare("error", code=stated, message="m")]
    event = failed(*frames, code=code)
    assert (event["response"]["error"]["code"], event["response"]["status"]) == (told_code, status)
