"""DashScope's own words; the literal frames are recorded ones."""

import json
from typing import Any

import pytest

from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import TextKind
from proxy.dialects.usage import Usage
from proxy.wire.errors import BadRequest
from tests.cuts import NOT_RECORDED, messages, recorded
from tests.noted import kind, noted

NATIVE = DASHSCOPE


def frame(data: str, *, event: str = "result", status: int = 200) -> bytes:
    """Return a frame as DashScope writes it: LF, no space after a colon, the status in a comment."""
    return f"id:1\nevent:{event}\n:HTTP_STATUS/{status}\ndata:{data}\n\n".encode()


def message(fields: dict[str, Any], finish: str | None = "null", **usage: Any) -> bytes:
    """Return a frame of result_format=message."""
    output = {"choices": [{"message": {"role": "assistant", **fields}, "finish_reason": finish}]}
    result = {"output": output, "usage": usage, "request_id": "5b441aa7"}
    return frame(json.dumps(result, ensure_ascii=False, separators=(",", ":")))


def tool_call(**function: Any) -> dict[str, Any]:
    return {"content": "", "tool_calls": [{"index": 0, "id": "", "type": "function", "function": function}]}


TEXT = frame(
    '{"output":{"finish_reason":"null","text":"1+"},"usage":{"total_tokens":18,"input_tokens":16,"output_tokens":2},'
    '"request_id":"5b441aa7-0b9c-9fbc-ae0a-e2b212b71eac"}'
)
TEXT_STOP = frame(
    '{"output":{"finish_reason":"stop","text":""},"usage":{"total_tokens":21,"input_tokens":16,"output_tokens":5},'
    '"request_id":"5b441aa7-0b9c-9fbc-ae0a-e2b212b71eac"}'
)
APPLICATION = frame(
    '{"output":{"session_id":"069db8","finish_reason":"null","text":"x"},"usage":{"models":[{"input_tokens":2304,'
    '"output_tokens":1,"model_id":"qwen-max-latest"}]},"request_id":"44862941"}'
)
MESSAGE = message({"content": "1"}, total_tokens=9, input_tokens=8, output_tokens=1)
PICTURE = message({"content": [{"text": "这是一个"}]}, input_tokens=1283, output_tokens=1, image_tokens=1247)
THINKING = message({"content": "", "reasoning_content": "嗯"}, output_tokens=3)
FAILED = frame(
    '{"code":"InvalidParameter","message":"Preprocessor error","request_id":"0cbe6006"}', event="error", status=400
)
SEARCHED = frame(
    '{"output":{"choices":[{"message":{"content":"","role":"assistant"},"finish_reason":"null"}],"search_info":'
    '{"search_results":[{"title":"x"}]}},"usage":{},"request_id":"1"}'
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (TEXT, TextKind.CONTENT),
        (TEXT_STOP, None),
        (APPLICATION, TextKind.CONTENT),
        (MESSAGE, TextKind.CONTENT),
        (PICTURE, TextKind.CONTENT),
        (THINKING, TextKind.REASONING),
        (FAILED, None),
        (SEARCHED, None),
        (message({"content": "", "reasoning_content": ""}, "stop"), None),
        (message({"content": "x", "reasoning_content": ""}), TextKind.CONTENT),
        (message({"content": []}), None),
        (message({"content": [], "reasoning_content": "x"}), TextKind.REASONING),
        (message({"content": [{"text": ""}]}), None),
        (message({"content": [{"text": ""}], "reasoning_content": "x"}), TextKind.REASONING),
        (message(tool_call(name="get_current_weather", arguments="")), TextKind.TOOL_CALL),
        (message(tool_call(arguments='{"location": "')), TextKind.TOOL_CALL),
        (message({"content": "的请尊重环境"}, "stop"), TextKind.CONTENT),
        (frame('{"output":{"message":{"phase":"answer","status":"typing","content":"x"}}}'), TextKind.CONTENT),
        (frame('{"output":{"message":{"phase":"KeepAlive","status":"typing","content":""}}}'), None),
        (frame('{"output":{"workflow_message":{"message":{"content":"x"}},"finish_reason":"null"}}'), TextKind.CONTENT),
        (frame('{"output":{"finish_reason":"null","audio":{"id":"a","data":"UklG"}}}'), TextKind.CONTENT),
        (frame('{"output":{"finish_reason":"null","audio":{"id":"a","data":""}}}'), None),
        (frame("{}"), None),
        (frame("[DONE]"), None),
    ],
)
def test_generated_text_is_told_from_what_only_frames_it(given: bytes, expected: TextKind | None) -> None:
    """In both result formats, with and without pictures, reasoning, search and tools."""
    assert kind(NATIVE, given) is expected


def test_text_of_the_last_frame_counts() -> None:
    """DashScope sends text in the frame that has the finish reason too."""
    last = message({"content": "和其他访客。"}, "stop", output_tokens=85)
    assert kind(NATIVE, last) is TextKind.CONTENT


def test_nothing_is_a_last_word() -> None:
    """The native dialect has none: its stream ends with its body."""
    assert not noted(NATIVE, TEXT_STOP, frame("[DONE]"), b"data: [DONE]\n\n").ended


def test_finish_usage_and_request_id_are_known_when_they_are_said() -> None:
    """Usage is in every frame and cumulative, so the last one counts."""
    said = noted(NATIVE, TEXT, TEXT_STOP)
    assert (said.finish_reason, said.usage, said.finished) == ("stop", Usage(16, 5), True)
    assert said.request_id == "5b441aa7-0b9c-9fbc-ae0a-e2b212b71eac"
    details = {"output_tokens_details": {"reasoning_tokens": 7}, "prompt_tokens_details": {"cached_tokens": 4}}
    last = message({"content": ""}, "stop", input_tokens=16, output_tokens=9, **details)
    assert noted(NATIVE, MESSAGE, last).usage == Usage(16, 9, 7, 4)
    said = noted(NATIVE, TEXT)
    assert (said.finish_reason, said.usage, said.finished) == (None, Usage(16, 2), False)
    said = noted(NATIVE, frame('{"request_id":7}'))
    assert (said.request_id, said.has_content, said.finished) == (None, False, False)


def test_usage_of_several_models_is_their_sum() -> None:
    """As applications state it."""
    assert noted(NATIVE, APPLICATION).usage == Usage(2304, 1)
    entry = {"input_tokens": 3, "output_tokens": 4, "model_id": "m"}
    assert noted(NATIVE, message({"content": "x"}, models=[entry, entry])).usage == Usage(6, 8)


@pytest.mark.parametrize("unfinished", ["null", "", None])
def test_finish_that_is_null_takes_nothing_back(unfinished: str | None) -> None:
    """A frame without a reason after the one with it leaves it standing."""
    said = noted(NATIVE, message({}, "stop"), message({}, unfinished))
    assert (said.finish_reason, said.finished) == ("stop", True)


def test_deep_research_has_finished_when_its_message_has() -> None:
    """It has no finish reasons; each of its phases ends so."""
    typing, over = (
        frame(json.dumps({"output": {"message": {"phase": "answer", "status": status, "content": "x"}}}))
        for status in ("typing", "finished")
    )
    assert noted(NATIVE, typing, over).finished
    assert not noted(NATIVE, over, typing).finished


def test_error_event_is_told() -> None:
    """Errors come as events of a response with status 200; their status stands beside the data."""
    said = noted(NATIVE, TEXT, FAILED, TEXT)
    assert said.failure is not None
    assert said.failure[:3] == ("Preprocessor error", "InvalidParameter", 400)
    assert said.failure.recognised
    assert noted(NATIVE, TEXT, TEXT_STOP).failure is None


def test_model_is_named_by_applications_only() -> None:
    """In each usage entry; the other answers name none."""
    assert noted(NATIVE, APPLICATION).model == "qwen-max-latest"
    assert noted(NATIVE, TEXT, SEARCHED, FAILED).model is None


def test_error_body_is_flat() -> None:
    """DashScope's shape."""
    assert NATIVE.frames.error_body(BadRequest("no")) == {"code": "bad_request", "message": "no", "request_id": ""}


def test_error_frame_is_what_the_sdk_can_read() -> None:
    """No space after `event:`, which crashes the SDK; the status is a line before the data; no [DONE]."""
    error = NATIVE.frames.reader().error_frame("broke off", "upstream_reset", b"gen234-7")
    assert error.startswith(b"event:error\nstatus:502\ndata:{")
    [said] = messages(error)
    assert (said.type, said.id) == (b"error", b"gen234-7")
    assert json.loads(said.data) == {"code": "upstream_reset", "message": "broke off", "request_id": ""}


@pytest.mark.skipif(not recorded("native"), reason=NOT_RECORDED)
@pytest.mark.parametrize("path", recorded("native"), ids=lambda path: path.stem)
def test_recorded_frames_are_classified_as_json_says(path: Any) -> None:
    """Each recorded frame against a plain reading of its JSON; editors have lost blank lines, so by `data:` line."""
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.startswith(b"data:"):
            continue
        output = json.loads(line[5:]).get("output", {})
        parts = [choice["message"] for choice in output.get("choices", [])] or [output]
        expected = None
        for part in parts:
            content = part.get("content") or part.get("text") or ""
            if isinstance(content, list):
                content = "".join(piece["text"] for piece in content)
            if content:
                expected = TextKind.CONTENT
            elif part.get("reasoning_content"):
                expected = TextKind.REASONING
            elif part.get("tool_calls"):
                expected = TextKind.TOOL_CALL
        assert kind(NATIVE, line + b"\n") is expected, line


@pytest.mark.parametrize(
    ("data", "deltas"),
    [
        (b'{"output":{"choices":[{"message":{"content":"a"},"finish_reason":"null"}]}}', [(0, "a")]),
        (b'{"output":{"choices":[{"message":{"content":"a"},"index":2},{"message":null},3]}}', [(2, "a")]),
        (b'{"output":{"text":"a","finish_reason":"null"}}', [(0, "a")]),
        (b'{"output":{"message":{"phase":"KeepAlive","content":""}}}', [(0, "")]),
        (b'{"output":{"workflow_message":{"node_id":"a","message":{"content":"x"}}}}', [(0, "x")]),
        (b'{"code":"InvalidParameter","message":"m","request_id":"r"}', []),
        (b"[1]", []),
        (b"[DONE]", []),
    ],
)
def test_choices_are_found_in_a_result(data: bytes, deltas: list[tuple[int, str]]) -> None:
    """In messages, or in the output itself (result_format text); errors have none."""
    found = DASHSCOPE.documents.assembler().take(b"id:1\nevent:result\ndata:%b\n\n" % data, 1)
    assert (
        [(where.part, text) for where, text in found.texts if where.name == "content"] == deltas
        if found
        else not deltas
    )
