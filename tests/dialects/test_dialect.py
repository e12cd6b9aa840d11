"""What all dialects owe: the contract of Dialect, against made-up frames, garbage and recorded streams."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect, TextKind
from proxy.dialects.messages import MESSAGES
from proxy.dialects.responses import RESPONSES
from proxy.dialects.usage import Usage
from proxy.wire.errors import BadRequest, OffsetGone, Overloaded, Truncated
from tests.cuts import NOT_RECORDED, messages, recorded
from tests.noted import kind, noted

DIALECTS: list[Dialect] = [CHAT, DASHSCOPE, RESPONSES, MESSAGES]
SAMPLES = [(DIALECTS[path.name.startswith("native")], path) for path in recorded()]
needs_samples = pytest.mark.skipif(not SAMPLES, reason=NOT_RECORDED)
each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
each_sample = pytest.mark.parametrize(("dialect", "path"), SAMPLES, ids=[path.stem for _, path in SAMPLES])

# Words of both dialects, with any value in any place: what a broken or foreign upstream may send.
WORDS = st.sampled_from([
    "choices", "delta", "content", "reasoning_content", "tool_calls", "function", "name", "arguments", "usage", "error",
    "finish_reason", "model", "output", "message", "text", "models", "model_id", "prompt_tokens", "input_tokens",
    "completion_tokens_details", "prompt_tokens_details", "cached_tokens", "index", "type", "response", "item", "delta",
    "status", "incomplete_details", "output_index", "sequence_number",
])  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats(allow_nan=False) | st.sampled_from(["", "null", "x"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12
)
CHUNKS = st.fixed_dictionaries(
    {},
    optional={
        "choices": VALUES | st.lists(st.fixed_dictionaries({}, optional={"delta": VALUES, "finish_reason": VALUES})),
        "output": VALUES | st.fixed_dictionaries({"choices": st.lists(st.fixed_dictionaries({"message": VALUES}))}),
        "usage": VALUES,
        "model": VALUES,
        "error": VALUES,
        "type": VALUES | st.sampled_from(["error", "response.created", "response.completed", "response.failed",
                                          "response.output_text.delta", "response.output_item.done"]),
        "response": VALUES,
        "item": VALUES,
        "delta": VALUES,
    },
)  # fmt: skip


def frame_of(value: Any, *, before: str = "") -> bytes:
    return f"{before}data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def ask_everything(dialect: Dialect, frame: bytes) -> None:
    """Ask all there is to ask of a frame, and hold the answers to their types."""
    said = dialect.frames.reader()
    found = said.note(frame)
    assert found is None or isinstance(found, TextKind)
    for stated in (said.model, said.finish_reason, said.request_id):
        assert stated is None or isinstance(stated, str)
    assert said.usage is None or all(isinstance(number, int) for number in said.usage)
    assert {type(answer) for answer in (said.ended, said.finished, said.has_content, said.ordinary(frame))} == {bool}
    if said.failure is not None:
        assert said.failure.reason
        assert said.failure.status is None or 400 <= said.failure.status < 600


@each_dialect
@pytest.mark.parametrize(
    "frame",
    [
        b": ping\n\n",
        b"\n\n",
        b"data\n\n",
        b"data: \n\n",
        b"data: {",
        b"data: [1]\n\n",
        b"data: null\n\n",
        b'data: "x"\n\n',
        b"data: \xff\xfe\n\n",
        b'data: {"a":"\xff"}\n\n',
        b"data: {}",
        b"retry: 5\n\n",
        b"",
        b"data: " + b"[" * 5000 + b"\n\n",
    ],
)
def test_frame_without_a_chunk_tells_nothing(dialect: Dialect, frame: bytes) -> None:
    """Comments, garbage and JSON that is no object are passed over."""
    ask_everything(dialect, frame)
    said = noted(dialect, frame)
    assert (said.model, said.finish_reason, said.usage, said.failure) == (None, None, None, None)
    assert (said.ended, said.finished, said.has_content, kind(dialect, frame)) == (False, False, False, None)


@each_dialect
@given(CHUNKS | VALUES)
def test_json_of_any_shape_raises_nothing(dialect: Dialect, value: Any) -> None:
    """An upstream that sends known words with foreign values must not break the stream it is read from."""
    ask_everything(dialect, frame_of(value))


@each_dialect
@pytest.mark.parametrize(
    "value",
    [
        {"usage": None},
        {"usage": []},
        {"usage": {"models": None}},
        {"usage": {"models": [None]}},
        {"choices": None},
        {"choices": {}},
        {"choices": [None]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": "x"}]},
        {"choices": [{"delta": ["x"]}]},
        {"choices": [{"delta": {"tool_calls": 1}}]},
        {"choices": [{"delta": {"tool_calls": [None]}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": None}]}}]},
        {"output": None},
        {"output": {"choices": None}},
        {"output": {"choices": [None]}},
        {"output": {"choices": [{"message": None}]}},
        {"output": {"choices": [{"message": "x"}]}},
    ],
    ids=json.dumps,
)
def test_value_of_another_type_is_passed_over(dialect: Dialect, value: Any) -> None:
    """Null, list, string or number where an object is expected is as good as nothing."""
    ask_everything(dialect, frame_of(value))
    assert kind(dialect, frame_of(value)) is None


@each_dialect
@pytest.mark.parametrize("message", ["broke off", 'a "quote"\n\nand two lines\r', "没有了 \u2028\u0085", ""])
def test_error_frame_is_one_message_that_no_client_takes_for_text(dialect: Dialect, message: str) -> None:
    """Whatever the message holds, it is one block with the id given, and read as an error by its own dialect."""
    frame = dialect.frames.reader().error_frame(message, "upstream_reset", b"gen234-7")
    [said] = messages(frame)
    assert said.id == b"gen234-7"
    assert message in list(_strings(json.loads(said.data)))
    assert messages(frame[:-1]) == []
    said = noted(dialect, frame)
    assert said.failure is not None
    assert said.failure.recognised
    assert said.ended is (dialect in (RESPONSES, MESSAGES))  # where it is the last event
    assert b"[DONE]" not in frame


@each_dialect
@pytest.mark.parametrize(
    "error", [BadRequest("m"), OffsetGone("m", 3), Truncated("m"), Overloaded("m")], ids=lambda error: error.code
)
def test_error_body_has_message_and_code(dialect: Dialect, error: Any) -> None:
    """Where each dialect's clients look for them."""
    body = json.loads(json.dumps(dialect.frames.error_body(error)))
    inner = body.get("error", body)
    assert (inner["message"], inner["code"]) == ("m", error.code)


@needs_samples
@each_sample
def test_recorded_frames_answer_without_error(dialect: Dialect, path: Path) -> None:
    """Every frame of every recorded stream, also those an editor has mangled."""
    for frame in _frames(path):
        ask_everything(dialect, frame)


@each_dialect
def test_nothing_is_known_until_it_is_said(dialect: Dialect) -> None:
    """A stream that says nothing has no tokens, no finish reason, did not fail, and is not complete."""
    said = dialect.frames.reader()
    assert not any(Usage())
    assert (said.model, said.finish_reason, said.usage, said.failure, said.request_id) == (None,) * 5
    assert (said.ended, said.finished, said.has_content) == (False, False, False)


def _frames(path: Path) -> list[bytes]:
    """Cut a recording (LF only) into its blocks."""
    return [block for block in re.split(rb"(?<=\n\n)", path.read_bytes()) if block]


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _strings(inner)]
    return [value] if isinstance(value, str) else []
