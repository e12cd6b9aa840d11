"""DashScope's own words; the literal frames are recorded ones."""

import json
from typing import Any

import pytest

from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Summary, TextKind, Usage
from proxy.wire.errors import BadRequest
from tests.cuts import NOT_RECORDED, messages, recorded

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
    ("given", "kind"),
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
        (frame("{}"), None),
        (frame("[DONE]"), None),
    ],
)
def test_generated_text_is_told_from_what_only_frames_it(given: bytes, kind: TextKind | None) -> None:
    """In both result formats, with and without pictures, reasoning, search and tools."""
    assert NATIVE.frames.generated(given)[1] is kind


def test_text_of_the_last_frame_counts() -> None:
    """DashScope sends text in the frame that has the finish reason too."""
    last = message({"content": "和其他访客。"}, "stop", output_tokens=85)
    assert NATIVE.frames.generated(last)[1] is TextKind.CONTENT


@pytest.mark.parametrize("given", [TEXT, TEXT_STOP, MESSAGE, PICTURE, APPLICATION, FAILED])
def test_thinking_is_denied_when_in_doubt(given: bytes) -> None:
    """Only what surely has no answer text may be passed over unparsed."""
    assert not NATIVE.frames.thinking(given)


def test_thinking_is_told_without_parsing() -> None:
    """Content is there and empty while the model reasons; text that quotes such a frame is no such frame."""
    assert NATIVE.frames.thinking(THINKING)
    assert NATIVE.frames.thinking(message({"content": [], "reasoning_content": "x"}))
    assert not NATIVE.frames.thinking(message({"content": 'then "content":"" follows'}))


def test_nothing_is_terminal() -> None:
    """The native dialect has no last word: its stream ends with its body."""
    assert not any(map(NATIVE.frames.terminal, [TEXT_STOP, FAILED, frame("[DONE]"), b"data: [DONE]\n\n"]))


def test_summary_reads_finish_usage_and_request_id() -> None:
    """Usage is in every frame and cumulative, so the last one counts."""
    ident = "5b441aa7-0b9c-9fbc-ae0a-e2b212b71eac"
    assert NATIVE.frames.summary([TEXT, TEXT_STOP]) == Summary("stop", Usage(16, 5), request_id=ident, last_text=0)
    details = {"output_tokens_details": {"reasoning_tokens": 7}, "prompt_tokens_details": {"cached_tokens": 4}}
    last = message({"content": ""}, "stop", input_tokens=16, output_tokens=9, **details)
    assert NATIVE.frames.summary([MESSAGE, last]) == Summary("stop", Usage(16, 9, 7, 4), False, "5b441aa7", last_text=0)
    assert NATIVE.frames.summary([TEXT]) == Summary(None, Usage(16, 2), request_id=ident, last_text=0)
    assert NATIVE.frames.summary([frame('{"request_id":7}')]) == Summary()
    assert NATIVE.frames.summary([]) == Summary()


def test_summary_reads_back_as_far_as_it_must() -> None:
    """What the last frames leave out stands in those before."""
    told = [message({"content": "x"}, "stop", input_tokens=1), message({"content": ""}, "null"), frame("{}")]
    assert NATIVE.frames.summary(told) == Summary("stop", Usage(1), False, "5b441aa7", last_text=0)
    assert NATIVE.frames.summary([*told, MESSAGE]).last_text == 3


@pytest.mark.parametrize("unfinished", ["null", "", None])
def test_finish_that_is_null_takes_nothing_back(unfinished: str | None) -> None:
    """A frame without a reason after the one with it leaves it standing."""
    assert NATIVE.frames.summary([message({}, "stop"), message({}, unfinished)]).finish_reason == "stop"


def test_summary_tells_an_error_event() -> None:
    """Errors come as events of a response with status 200."""
    assert NATIVE.frames.reports(FAILED)
    assert not NATIVE.frames.reports(TEXT)
    assert NATIVE.frames.summary([TEXT, FAILED]).failed
    assert NATIVE.frames.summary([FAILED, TEXT]).failed
    assert not NATIVE.frames.summary([TEXT, TEXT_STOP]).failed


def test_model_is_named_by_applications_only() -> None:
    """In each usage entry; the other answers name none."""
    assert NATIVE.frames.generated(APPLICATION)[0] == "qwen-max-latest"
    assert NATIVE.frames.generated(TEXT)[0] is None
    assert NATIVE.frames.generated(SEARCHED)[0] is None
    assert NATIVE.frames.generated(FAILED)[0] is None


def test_error_body_is_flat() -> None:
    """DashScope's shape."""
    assert NATIVE.frames.error_body(BadRequest("no")) == {"code": "bad_request", "message": "no", "request_id": ""}


def test_error_frame_is_what_the_sdk_can_read() -> None:
    """No space after `event:`, which crashes the SDK; the status is a line before the data; no [DONE]."""
    error = NATIVE.frames.error_frame("broke off", "upstream_reset", b"gen234-7")
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
        assert NATIVE.frames.generated(line + b"\n")[1] is expected, line


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
