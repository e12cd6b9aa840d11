"""OpenAI's words as Qwen's compatible mode writes them; the literal frames are recorded ones."""

import json
from typing import Any

import pytest

from proxy.dialects.chat import CHAT, ChatDocuments
from proxy.dialects.delta import channel
from proxy.dialects.dialect import Summary, TextKind, Usage
from proxy.wire.errors import BadRequest, Truncated
from tests.cuts import NOT_RECORDED, messages, recorded

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
    ("frame", "kind"),
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
        (chunk(), None),
    ],
)
def test_generated_text_is_told_from_what_only_frames_it(frame: bytes, kind: TextKind | None) -> None:
    """The first token is the first frame with reasoning, content or arguments: not the role, not an empty delta."""
    assert CHAT.frames.generated(frame)[1] is kind


@pytest.mark.parametrize("frame", [ROLE, TEXT, THINKING_ROLE, THINKING, ANSWER, CALL_BEGINS, STOP, USAGE, DONE])
def test_kind_is_the_same_when_the_model_is_known(frame: bytes) -> None:
    """Then the frame need not be parsed for it."""
    assert CHAT.frames.generated(frame, "qwen-known") == ("qwen-known", CHAT.frames.generated(frame)[1])


@pytest.mark.parametrize("rest", [b"", b'"', b"\n\n", b"x", b'"}\n\n', b"}\n\n\n"])
def test_kind_is_told_of_what_is_no_whole_chunk(rest: bytes) -> None:
    """With text or without, what only begins like a chunk raises nothing; in doubt it is parsed."""
    frame = b'data: {"choices":[{"delta":{"content":"' + rest
    assert CHAT.frames.generated(frame, "m") == ("m", None)


@pytest.mark.parametrize("written", [
    b'data:{"choices":[{"delta":{"content":"x"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"x"}}]}\r\n\r\n',
    b'id: 1\nevent: result\ndata: {"choices":[{"delta":{"content":"x"}}]}\n\n',
    b'data: {"choices":\ndata: [{"delta":{"content":"x"}}]}\n\n',
    b': hi\ndata: {"choices":[{"delta":{"content":"x"}}]}\n\n',
])  # fmt: skip
def test_chunk_is_read_however_its_frame_is_written(written: bytes) -> None:
    """Line endings, more fields and several data lines are the frame's business."""
    assert CHAT.frames.generated(written)[1] is TextKind.CONTENT


@pytest.mark.parametrize("frame", [ROLE, TEXT, ANSWER, STOP, USAGE, DONE, CALL_IS_EMPTY, CALLED, REFUSED])
def test_thinking_is_denied_when_in_doubt(frame: bytes) -> None:
    """Only what surely has no answer text may be passed over unparsed."""
    assert not CHAT.frames.thinking(frame)


def test_thinking_is_told_without_parsing() -> None:
    """Qwen writes null for the content while it reasons; text that quotes such a chunk is no such chunk."""
    assert CHAT.frames.thinking(THINKING)
    assert CHAT.frames.thinking(THINKING_ROLE)
    assert not CHAT.frames.thinking(chunk({"content": 'then comes "content":null'}))


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
        b"id: 12345678\nevent: message\ndata: [DONE]\n\n",
    ],
)
def test_done_is_terminal(frame: bytes) -> None:
    """However it is written, and with whatever other fields."""
    assert CHAT.frames.terminal(frame)


@pytest.mark.parametrize(
    "frame",
    [
        b": [DONE]\n\n",
        b"data: [DONE] \n\n",
        b"data: [DONE]\ndata: \n\n",
        b"event: [DONE]\n\n",
        b'data: "[DONE]"\n\n',
        chunk({"content": "[DONE]"}),
        STOP,
        USAGE,
    ],
)
def test_nothing_else_is_terminal(frame: bytes) -> None:
    """Only the word itself says that nothing can be missing."""
    assert not CHAT.frames.terminal(frame)


def test_summary_reads_finish_and_usage_from_the_last_frames() -> None:
    """In the order Qwen sends them."""
    assert CHAT.frames.summary([TEXT, STOP, USAGE, DONE]) == Summary("stop", Usage(18, 779, 84, 5), last_text=0)
    assert CHAT.frames.summary([CALLED, DONE]) == Summary("tool_calls", None, failed=False)
    assert CHAT.frames.summary([TEXT, TEXT]) == Summary(last_text=1)
    assert CHAT.frames.summary([]) == Summary()


def test_summary_tells_the_last_frame_with_text() -> None:
    """Of any kind, also behind the finish, and in it; no frame after it is a token."""
    assert CHAT.frames.summary([TEXT, TEXT, STOP, b": ping\n\n", DONE]).last_text == 1
    assert CHAT.frames.summary([THINKING, THINKING_ROLE]).last_text == 0
    assert CHAT.frames.summary([CALL_GOES_ON, CALL_IS_EMPTY, CALLED]).last_text == 0
    assert CHAT.frames.summary([STOP, TEXT, DONE]).last_text == 1
    finish = b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
    assert CHAT.frames.summary([TEXT, finish, DONE]).last_text == 1
    assert CHAT.frames.summary([ROLE, STOP, USAGE, DONE]).last_text == -1


def test_summary_takes_the_last_usage_that_is_stated() -> None:
    """Some upstreams count up in every chunk, the one with the finish reason included; null states nothing."""
    counted = [chunk({"content": "x"}, usage={"prompt_tokens": 1, "completion_tokens": n}) for n in (1, 2)]
    finish = '{"choices":[{"index":0,"delta":{},"finish_reason":"length"}],"usage":{"completion_tokens":3}}'
    last = f"data: {finish}\n\n".encode()
    assert CHAT.frames.summary([*counted, last, DONE]) == Summary("length", Usage(0, 3, 0, 0), last_text=1)
    assert CHAT.frames.summary(counted).usage == Usage(1, 2, 0, 0)
    assert CHAT.frames.summary([STOP, chunk(usage=None), DONE]) == Summary("stop", None, failed=False)


def test_summary_tells_an_error_event() -> None:
    """An error in mid-stream fails it, also when [DONE] follows; `"error":null` is none."""
    assert CHAT.frames.summary([TEXT, REFUSED]).failed
    assert CHAT.frames.summary([TEXT, REFUSED, DONE]).failed
    assert not CHAT.frames.summary([chunk({"content": "x"}, error=None)]).failed


def test_summary_tells_a_flat_error_event() -> None:
    """As some gateways write it: only the event's name says that it is one."""
    assert CHAT.frames.summary([TEXT, b'event: error\ndata: {"code":"c","message":"m"}\n\n', DONE]).failed
    assert CHAT.frames.summary([TEXT, b"event:error\ndata: not json\n\n"]).failed
    assert not CHAT.frames.summary([b'event: result\ndata: {"choices":[]}\n\n']).failed


def test_flat_error_is_none_to_clients() -> None:
    """They look for the field, and at no event's name."""
    assert CHAT.frames.reports(REFUSED)
    assert not CHAT.frames.reports(b'event: error\ndata: {"code":"c","message":"m"}\n\n')
    assert not CHAT.frames.reports(TEXT)


def test_model_is_the_chunks() -> None:
    """As the answer names it; a chunk need not."""
    assert CHAT.frames.generated(TEXT)[0] == "qwen3-max"
    assert CHAT.frames.generated(REFUSED)[0] is None
    assert CHAT.frames.generated(DONE)[0] is None


@pytest.mark.parametrize(
    ("rest", "model"),
    [
        ('"},"index":0}],"model":"qwen3-max"}', "qwen3-max"),
        ('"},"index":0}],"model" : "qwen3-max"}', "qwen3-max"),
        ('"},"index":0}],"model":"qwen\\u002dmax"}', "qwen-max"),
        ('"},"index":0}],"model":"qwen-größer"}', "qwen-größer"),
        ('"},"index":0}],"model":"inner"}'.replace("]", ',{"model":"x"}]'), "inner"),
        ('"},"index":0}],"model":"outer","by":{"model":"inner"}}', "outer"),
        ('\\",\\"model\\":\\"x"},"index":0}],"model":"qwen3-max"}', "qwen3-max"),
        ('"},"index":0}],"model":""}', ""),
        ('"},"index":0}],"model":null}', None),
        ('"},"index":0}]}', None),
        ('"},"index":0}],"model":"qwen3-max","rest":"' + "x" * 2000 + '"}', "qwen3-max"),
    ],
)
def test_model_of_a_chunk_with_text_is_what_json_says(rest: str, model: str | None) -> None:
    """Also where it is told without parsing."""
    frame = ('data: {"choices":[{"delta":{"content":"x' + rest + "\n\n").encode()
    assert CHAT.frames.generated(frame) == (model, TextKind.CONTENT)


def test_error_body_says_whose_fault_it_is() -> None:
    """OpenAI's shape: SDKs read message, type, param and code."""
    assert CHAT.frames.error_body(BadRequest("no")) == {
        "error": {"message": "no", "type": "invalid_request_error", "param": None, "code": "bad_request"}
    }
    assert CHAT.frames.error_body(Truncated("cut"))["error"]["type"] == "server_error"


def test_error_frame_has_a_top_level_error() -> None:
    """Both OpenAI SDKs read a flat {code, message} as success; a client without ids passes over the id line."""
    frame = CHAT.frames.error_frame("broke off", "upstream_reset", b"gen234-7")
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
        assert CHAT.frames.generated(block + b"\n\n")[1] is expected, block


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
