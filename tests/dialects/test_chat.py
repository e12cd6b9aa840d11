"""OpenAI's words as Qwen's compatible mode writes them; the literal frames are recorded ones."""

import json
from typing import Any

import pytest

from proxy.dialects.chat import CHAT, ChatDocuments
from proxy.dialects.dialect import TextKind
from proxy.dialects.documents.delta import channel
from proxy.dialects.usage import Usage
from proxy.wire.errors import BadRequest, Truncated
from tests.cuts import NOT_RECORDED, messages, recorded
from tests.noted import kind, noted

_REST = (
    '"object":"chat.completion.chunk","usage":null,"created":1770764906,"system_fingerprint":null,'
    '"model":"qwen3-max","id":"chatcmpl-d2d6aab7-cbca-970f-8aa6-7d58c9724733"}\n\n'
)
DONE = b"data: [DONE]\n\n"
DOCUMENTS = ChatDocuments()


def recorded_chunk(choice: str) -> bytes:
    return ('data: {"choices":[' + choice + "]," + _REST).encode()


def chunk(*deltas: dict[str, Any], **more: Any) -> bytes:
    """Return a frame of one choice a delta."""
    choices = [{"index": index, "delta": delta} for index, delta in enumerate(deltas)]
    return f"data: {json.dumps({'choices': choices, **more}, ensure_ascii=False)}\n\n".encode()


def call(**function: Any) -> dict[str, Any]:
    """Return a delta with one fragment of a tool call."""
    return {"tool_calls": [{"index": 0, "id": "", "type": "function", "function": function}]}


ROLE = recorded_chunk('{"delta":{"content":"","role":"assistant"},"index":0,"logprobs":null,"finish_reason":null}')
TEXT = recorded_chunk('{"delta":{"content":" The Festival"},"finish_reason":null,"index":0,"logprobs":null}')
THINKING_ROLE = recorded_chunk(
    '{"delta":{"content":null,"role":"assistant","reasoning_content":""},"index":0,"logprobs":null,"finish_reason":null}'
)
THINKING = recorded_chunk(
    '{"finish_reason":null,"logprobs":null,"delta":{"content":null,"reasoning_content":"We"},"index":0}'
)
ANSWER = recorded_chunk(
    '{"finish_reason":null,"logprobs":null,"delta":{"content":"The word **","reasoning_content":null},"index":0}'
)
CALL_BEGINS = recorded_chunk(
    '{"delta":{"content":null,"tool_calls":[{"index":0,"id":"call_eee11723464a4b9eb8cee71d","type":"function",'
    '"function":{"name":"weather","arguments":""}}],"role":"assistant"},"finish_reason":null,"index":0,"logprobs":null}'
)
CALL_GOES_ON = recorded_chunk(
    '{"delta":{"content":null,"tool_calls":[{"index":0,"id":"","type":"function","function":{"arguments":'
    '"{\\"location\\": \\"San Francisco"}}]},"finish_reason":null,"index":0,"logprobs":null}'
)
CALL_IS_EMPTY = recorded_chunk(
    '{"delta":{"tool_calls":[{"function":{"arguments":""},"index":0,"id":"","type":"function"}]},"index":0}'
)
STOP = recorded_chunk('{"finish_reason":"stop","delta":{"content":""},"index":0,"logprobs":null}')
CALLED = recorded_chunk('{"finish_reason":"tool_calls","delta":{},"index":0,"logprobs":null}')
USAGE = (
    b'data: {"choices":[],"object":"chat.completion.chunk","usage":{"prompt_tokens":18,"completion_tokens":779,'
    b'"total_tokens":797,"completion_tokens_details":{"reasoning_tokens":84},"prompt_tokens_details":{"cached_tokens":5}},'
    b'"created":1770764906,"system_fingerprint":null,"model":"qwen3-max","id":"chatcmpl-d2d6aab7"}\n\n'
)
REFUSED = (
    b'data: {"error":{"code":"invalid_parameter_error","param":null,"message":"Range of top_logprobs should be [0, 5]",'
    b'"type":"invalid_request_error"},"id":"chatcmpl-54036480-037a-9e3e-b1fe-50453ba831a1"}\n\n'
)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (ROLE, None),
        (TEXT, TextKind.CONTENT),
        (THINKING_ROLE, None),
        (THINKING, TextKind.REASONING),
        (ANSWER, TextKind.CONTENT),
        (CALL_BEGINS, TextKind.TOOL_CALL),
        (CALL_GOES_ON, TextKind.TOOL_CALL),
        (CALL_IS_EMPTY, None),
        (STOP, None),
        (CALLED, None),
        (USAGE, None),
        (DONE, None),
        (REFUSED, None),
        (chunk(call(name=None, arguments=None)), None),
        (chunk(call(arguments=None)), None),
        (chunk(call(name="weather", arguments=None)), TextKind.TOOL_CALL),
        (chunk({"content": "x", "reasoning_content": "y"}), TextKind.CONTENT),
        (chunk({"content": "x"} | call(arguments="{")), TextKind.CONTENT),
        (chunk({}, {"content": "x"}), TextKind.CONTENT),
        (chunk({}, {}, {"reasoning_content": "x"}), TextKind.REASONING),
        (chunk({"role": "assistant"}), None),
        (chunk({"content": " "}), TextKind.CONTENT),
        (chunk({"reasoning_content": "x"}, {"content": "x"}), TextKind.CONTENT),
        (chunk({"content": "", "reasoning": "x"}), TextKind.REASONING),
        (chunk({"content": [{"type": "text", "text": "x"}]}), TextKind.CONTENT),
        (chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "x"}]}]}), TextKind.REASONING),
        (chunk({"content": [{"type": "text", "text": ""}]}), None),
        (chunk({"content": None, "audio": {"id": "a", "data": "UklG"}}), TextKind.CONTENT),
        (chunk({"content": "", "audio": {"id": "a", "transcript": "x"}}), TextKind.CONTENT),
        (chunk({"content": "", "audio": {"id": "a", "expires_at": 1}}), None),
        (chunk({"refusal": "I won't"}), TextKind.CONTENT),
        (chunk({"function_call": {"name": "weather", "arguments": ""}}), TextKind.TOOL_CALL),
        (chunk(call(arguments={"place": "x"})), TextKind.TOOL_CALL),
        (b'data: {"choices":[{"index":0,"message":{"role":"assistant","content":"x"}}]}\n\n', TextKind.CONTENT),
        (b'data: {"choices":[{"index":0,"text":"x"}]}\n\n', TextKind.CONTENT),
        (chunk(), None),
    ],
)
def test_generated_text_is_told_from_what_only_frames_it(frame: bytes, expected: TextKind | None) -> None:
    """The first token is the first frame with reasoning, content or arguments: not the role, not an empty delta."""
    assert kind(CHAT, frame) is expected


@pytest.mark.parametrize("written", [
    b'data:{"choices":[{"delta":{"content":"x"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"x"}}]}\r\n\r\n',
    b'id: 1\nevent: result\ndata: {"choices":[{"delta":{"content":"x"}}]}\n\n',
    b'data: {"choices":\ndata: [{"delta":{"content":"x"}}]}\n\n',
    b': hi\ndata: {"choices":[{"delta":{"content":"x"}}]}\n\n',
])  # fmt: skip
def test_chunk_is_read_however_its_frame_is_written(written: bytes) -> None:
    """Line endings, more fields and several data lines are the frame's business."""
    assert kind(CHAT, written) is TextKind.CONTENT


@pytest.mark.parametrize(
    "frame",
    [
        DONE,
        b"data:[DONE]\n\n",
        b"data: [DONE]\r\n\r\n",
        b"data: [DONE]\r\r",
        b"data: [DONE]\n",
        b"data: [DONE]",
        b"\ndata: [DONE]\n\n",
        b"event: done\ndata: [DONE]\n\n",
        b"data: [DONE]\nid: gen234-1234567\n\n",
        b"data: [DONE] \n\n",
        b"id: 12345678\nevent: message\ndata: [DONE]\n\n",
    ],
)
def test_done_is_terminal(frame: bytes) -> None:
    """However it is written, and with whatever other fields: SDKs look for no more than how the data begins."""
    assert noted(CHAT, frame).ended


@pytest.mark.parametrize(
    "frame",
    [
        b": [DONE]\n\n",
        b"event: [DONE]\n\n",
        b'data: "[DONE]"\n\n',
        chunk({"content": "[DONE]"}),
        STOP,
        USAGE,
    ],
)
def test_nothing_else_is_terminal(frame: bytes) -> None:
    """Only the word itself says that nothing can be missing."""
    assert not noted(CHAT, frame).ended


def test_finish_and_usage_are_known_when_they_are_said() -> None:
    """In the order Qwen sends them."""
    said = noted(CHAT, TEXT, STOP, USAGE, DONE)
    assert (said.finish_reason, said.usage, said.ended, said.finished) == ("stop", Usage(18, 779, 84, 5), True, True)
    said = noted(CHAT, TEXT, CALLED)
    assert (said.finish_reason, said.usage, said.ended, said.finished) == ("tool_calls", None, False, True)
    assert not noted(CHAT, TEXT).finished
    assert not noted(CHAT).finished


def test_stream_has_finished_when_each_choice_has() -> None:
    """One that nothing was said of yet is none."""
    first, second = (b'data: {"choices":[{"index":%d,"delta":{},"finish_reason":"stop"}]}\n\n' % n for n in (0, 1))
    both = chunk({"content": "a"}, {"content": "b"})
    assert not noted(CHAT, both, first).finished
    assert noted(CHAT, both, second, first).finished
    assert noted(CHAT, first).finished


def test_what_brings_nothing_is_told() -> None:
    """Comments, the last word, and what is no chunk; a role is something."""
    nothing = (b": ping\n\n", b"\n\n", DONE, b"data: {}\n\n", b'data: {"type":"ping"}\n\n', b"data: {not json\n\n")
    assert not noted(CHAT, *nothing).has_content
    assert noted(CHAT, ROLE).has_content
    assert noted(CHAT, USAGE).has_content


def test_usage_is_the_last_one_stated() -> None:
    """Some upstreams count up in every chunk, the one with the finish reason included; null states nothing."""
    counted = [chunk({"content": "x"}, usage={"prompt_tokens": 1, "completion_tokens": n}) for n in (1, 2)]
    finish = '{"choices":[{"index":0,"delta":{},"finish_reason":"length"}],"usage":{"completion_tokens":3}}'
    last = f"data: {finish}\n\n".encode()
    assert noted(CHAT, *counted, last, DONE).usage == Usage(0, 3, 0, 0)
    assert noted(CHAT, *counted).usage == Usage(1, 2, 0, 0)
    assert noted(CHAT, *counted, STOP, chunk(usage=None), chunk(usage={"prompt_tokens": 0}), DONE).usage == Usage(1, 2)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 7.0, "completion_tokens": 5.0},
        {"input_tokens": 7, "output_tokens": 5},
        {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": None, "completion_tokens_details": None},
    ],
)
def test_usage_is_read_however_it_is_spelled(usage: dict[str, Any]) -> None:
    """Floats, other names, null where an object is due; beside choices, or within one."""
    assert noted(CHAT, chunk(usage=usage)).usage == Usage(7, 5)
    within = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}]})
    assert noted(CHAT, f"data: {within}\n\n".encode()).usage == Usage(7, 5)


def test_error_is_told_and_the_first_one_counts() -> None:
    """An error in mid-stream fails it, also when [DONE] follows; `"error":null` is none; after [DONE] none counts."""
    said = noted(CHAT, TEXT, REFUSED, DONE, b'data: {"error":{"message":"later"}}\n\n')
    assert said.failure is not None
    assert (said.failure.code, said.failure.recognised) == ("invalid_parameter_error", True)
    assert said.failure.message == "Range of top_logprobs should be [0, 5]"
    assert noted(CHAT, chunk({"content": "x"}, error=None)).failure is None
    assert noted(CHAT, TEXT, DONE, REFUSED).failure is None


def test_model_is_the_chunks() -> None:
    """As the answer names it; a chunk need not."""
    assert noted(CHAT, TEXT).model == "qwen3-max"
    assert noted(CHAT, REFUSED, DONE, chunk(model=7)).model is None


def test_error_body_says_whose_fault_it_is() -> None:
    """OpenAI's shape: SDKs read message, type, param and code."""
    assert CHAT.frames.error_body(BadRequest("no")) == {
        "error": {"message": "no", "type": "invalid_request_error", "param": None, "code": "bad_request"}
    }
    assert CHAT.frames.error_body(Truncated("cut"))["error"]["type"] == "server_error"


def test_error_frame_has_a_top_level_error() -> None:
    """Both OpenAI SDKs read a flat {code, message} as success; a client without ids passes over the id line."""
    frame = CHAT.frames.reader().error_frame("broke off", "upstream_reset", b"gen234-7")
    [said] = messages(frame)
    assert (said.type, said.id) == (b"", b"gen234-7")
    assert json.loads(said.data) == {
        "error": {"message": "broke off", "type": "stream_error", "code": "upstream_reset"}
    }


@pytest.mark.skipif(not recorded("compat"), reason=NOT_RECORDED)
@pytest.mark.parametrize("path", recorded("compat"), ids=lambda path: path.stem)
def test_recorded_chunks_are_classified_as_json_says(path: Any) -> None:
    """Each recorded chunk against a plain reading of its JSON."""
    for block in path.read_bytes().split(b"\n\n"):
        data = block.removeprefix(b"data: ")
        value = json.loads(data) if data not in (b"", b"[DONE]") else {}
        expected = None
        for choice in value.get("choices", []):
            delta = choice["delta"]
            calls = [one["function"] for one in delta.get("tool_calls", [])]
            if delta.get("content"):
                expected = TextKind.CONTENT
            elif delta.get("reasoning_content"):
                expected = TextKind.REASONING
            elif any(one.get("name") or one.get("arguments") for one in calls):
                expected = TextKind.TOOL_CALL
        assert kind(CHAT, block + b"\n\n") is expected, block


@pytest.mark.parametrize(
    ("frame", "has_document", "deltas"),
    [
        (TEXT, True, [(0, " The Festival")]),
        (USAGE, True, []),
        (chunk({"content": "a"}, {"content": "b"}), True, [(0, "a"), (1, "b")]),
        (b'data: {"choices":[{"delta":{"content":"c"},"index":7},{"index":8},3]}\n\n', True, [(7, "c")]),
        (b'data: {"choices":[{"delta":{"content":"c"}}]}\n\n', True, [(0, "c")]),
        (b'data: {"choices":[{"index":2,"delta":null,"finish_reason":"stop"}]}\n\n', True, [(2, None)]),
        (b'data: {"choices":"none"}\n\n', False, []),
        (b'data: {"type":"ping"}\n\n', False, []),
        (b'data: {"object":"billing","choices":[]}\n\n', False, []),
        (b'data: {"choices":[{"index":0,"message":{"content":"whole"}}]}\n\n', True, [(0, "whole")]),
        (REFUSED, False, []),
        (DONE, False, []),
        (b": ping\n\n", False, []),
        (b"data: [1]\n\n", False, []),
    ],
)
def test_choices_are_found_in_a_chunk(frame: bytes, has_document: bool, deltas: list[tuple[int, str]]) -> None:
    """Errors, [DONE] and what is no JSON object tell nothing; usage tells of no choice."""
    found = CHAT.documents.assembler().take(frame, 1)
    assert (found is not None) == has_document
    if found is not None:
        assert found.parts == tuple(index for index, _ in deltas)
        assert [(where.part, text) for where, text in found.texts if where.name == "content"] == [
            one for one in deltas if one[1] is not None
        ]


def test_text_that_is_put_is_written() -> None:
    """With the choices that are to be kept."""
    found = CHAT.documents.assembler().take(chunk({"content": "a"}, {"content": "b"}), 1)
    assert found is not None
    found.keep_only(channel(1).group)
    found.put(channel(1), "new")
    assert json.loads(found.data()) == {"choices": [{"index": 1, "delta": {"content": "new"}}]}


@pytest.mark.parametrize(
    ("values", "whole"),
    [
        (["a", None, "b"], "ab"),
        ([None, "a"], "a"),
        ([1, 2.5], 2.5),
        ([True, False], False),
        ([[1], [2]], [1, 2]),
        ([{"id": "x", "type": "t"}, {"id": "x", "type": "t", "n": 1}], {"id": "x", "type": "t", "n": 1}),
        (["a", {"b": 1}], {"b": 1}),
    ],
)
def test_unknown_fields_add_up_but_for_names_and_numbers(values: list[Any], whole: Any) -> None:
    """Texts are added, lists grow, objects gain field by field; ids and times are said again, not in pieces."""
    message: dict[str, Any] = {}
    for value in values:
        DOCUMENTS.accumulate(message, "video", value)
    assert message == {"video": whole}
