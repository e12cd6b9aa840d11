"""Odd answers with choices, as servers really send them: what every mode says of them."""

import json
from base64 import b64decode
from typing import Any

import pytest

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.stream.endings import COMPLETE
from proxy.stream.modes.projection import View
from proxy.stream.modes.projections import Json
from proxy.stream.stream import Stream
from proxy.wire import json_text
from proxy.wire.errors import Garbled
from tests.answers import documents
from tests.streams import new_stream

DONE = b"data: [DONE]\n\n"
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def sse(value: Any) -> bytes:
    return b"data: %b\n\n" % (value if isinstance(value, bytes) else json.dumps(value).encode())


def chunk(delta: Any, **choice: Any) -> bytes:
    return sse({"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, **choice}]})


def stream_of(*frames: bytes, dialect: Any = CHAT) -> Stream:
    stream = new_stream(dialect)
    stream.extend(list(frames))
    return stream


def rendered(stream: Stream, mode: str) -> bytes:
    """Return what a mode says, a frame at a time."""
    projection = stream.projection(View(mode))
    return b"".join(projection.render(at, at + 1) for at in range(stream.log.end))


def document(stream: Stream) -> Any:
    projection = stream.projection(View("json"))
    assert isinstance(projection, Json)
    return json.loads(projection.so_far())


def message(stream: Stream) -> Any:
    return document(stream)["choices"][0]["message"]


def content(stream: Stream) -> set[str]:
    """Return the answer text as each mode that tells it has it: one and the same."""
    added = [
        "".join((one["choices"][0]["delta"].get("content") or "") for one in documents(body) if one.get("choices"))
        for body in (rendered(stream, "incremental"), stream.projection(View("coalesced")).render(0, stream.log.end))
    ]
    states = [one["choices"][0].get("delta", {}) for one in documents(rendered(stream, "cumulative"))]
    last = [state["content"] for state in states if "content" in state][-1]
    return {*added, last, rendered(stream, "text").decode(), message(stream)["content"]}


NAN = b'{"choices":[{"index":0,"delta":{"content":"%b"},"logprobs":{"content":[{"logprob":%b}]},"finish_reason":null}]}'


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1" * 30, b"-" + b"9" * 1000, b"1e999"])
def test_frame_with_a_number_that_json_lacks_is_no_other(number: bytes) -> None:
    """Its text is said, and the number stands in every document as it came."""
    stream = stream_of(sse(NAN % (b"Hel", b"-0.5")), sse(NAN % (b"lo", number)), sse(STOP))
    assert content(stream) == {"Hello"}
    if number != b"1e999":
        assert number in stream.projection(View("coalesced")).render(0, 2)


@pytest.mark.parametrize("levels", [200, 300, 600, 800])
def test_frame_of_many_levels_is_no_other(levels: int) -> None:
    """orjson writes 254 of them."""
    deep = b"[" * levels + b"]" * levels
    frames = [b'{"choices":[{"index":0,"delta":{"content":"%c"}}],"extra":%b}' % (letter, deep) for letter in b"abc"]
    stream = stream_of(*map(sse, frames), sse(STOP))
    assert content(stream) == {"abc"}
    assert deep in stream.projection(View("coalesced")).render(0, 3)


@pytest.mark.parametrize("levels", [900, 990, 1000, 1020, 1024, 1100, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("where", [b'"extra":%b', b'"usage":%b', b'"choices":[{"delta":{"content":"b","extra":%b}}]'])
def test_frame_beyond_all_levels_raises_nothing(levels: int, opening: bytes, closing: bytes, where: bytes) -> None:
    """It is said, or json says that it was not."""
    deep = opening * levels + b"0" + closing * levels
    body = b'{"choices":[{"delta":{"content":"b"}}],%b}' % (where % deep)
    stream = stream_of(chunk({"content": "a"}), sse(body), sse(body), sse(STOP))
    for mode in ("incremental", "coalesced", "cumulative", "text"):
        assert rendered(stream, mode)
    projection = stream.projection(View("json"))
    assert isinstance(projection, Json)
    try:
        assert json_text.read(projection.so_far())["choices"][0]["message"]["content"] == "abb"
    except Garbled:
        assert projection.ending(COMPLETE, 4) == (b"", False)


def test_halves_of_a_character_are_one() -> None:
    """Some servers cut text anywhere; a half that never gets its other half is the replacement character in text."""
    halves = [rb'{"choices":[{"index":0,"delta":{"content":"%b"}}]}' % half for half in (rb"a\ud83d", rb"\ude00b")]
    stream = stream_of(*map(sse, halves), sse(STOP))
    assert content(stream) == {"a😀b"}
    alone = stream_of(sse(halves[0]), sse(STOP))
    assert rendered(alone, "text") == "a\ufffd".encode()
    assert message(alone)["content"] == "a\ud83d"


@pytest.mark.parametrize(
    "odd", [b'{"choices":[{"delta":{"content":"Hel', b"{]", b"{" * 3, b'{"a":1}{"b":2}', b'{"a":' + b"[" * 2000]
)
def test_frame_that_can_not_be_read_is_passed_on_and_told_of(odd: bytes) -> None:
    """As it came, in modes of events; text breaks off, and json says why there is none."""
    stream = stream_of(chunk({"content": "a"}), sse(odd), sse(STOP), DONE)
    for mode in ("incremental", "coalesced", "cumulative"):
        assert odd in rendered(stream, mode)
    assert stream.projection(View("text")).ending(COMPLETE, 4) == (b"", False)
    projection = stream.projection(View("json"))
    assert isinstance(projection, Json)
    with pytest.raises(Garbled, match="event 2 of the stream can't be read"):
        projection.so_far()
    assert projection.ending(COMPLETE, 4) == (b"", False)


@pytest.mark.parametrize("other", [b"ping", b"[1]", b": x", b"keep-alive", b"7", b""])
def test_frame_that_is_meant_for_nobody_fails_nothing(other: bytes) -> None:
    """Clients pass over it, too, or no client would get to the end."""
    stream = stream_of(chunk({"content": "a"}), sse(other), sse(STOP), DONE)
    assert stream.projection(View("text")).ending(COMPLETE, 4) == (b"", True)
    assert message(stream)["content"] == "a"


@pytest.mark.parametrize(
    ("deltas", "text"),
    [
        ([{"content": [{"type": "text", "text": "Hel"}]}, {"content": [{"type": "text", "text": "lo"}]}], "Hello"),
        ([{"content": "Hel"}, {"content": [{"text": "lo"}]}], "Hello"),
        ([{"content": None, "audio": {"transcript": "Hel"}}, {"audio": {"transcript": "lo"}}], None),
    ],
)
def test_text_is_found_in_every_form(deltas: list[Any], text: str | None) -> None:
    """In parts, or beside sound."""
    stream = stream_of(*map(chunk, deltas), sse(STOP))
    assert rendered(stream, "text") == b"Hello"
    assert message(stream)["content"] == text


@pytest.mark.parametrize("before", [[], ["Hel"], ["Hel", "lo"]])
def test_whole_message_adds_what_is_missing(before: list[str]) -> None:
    """A chat.completion in place of chunks, or after them."""
    said = {"role": "assistant", "content": "Hello"}
    choice = {"index": 0, "message": said, "finish_reason": "stop"}
    whole = {"id": "c", "object": "chat.completion", "usage": {"total_tokens": 3}, "choices": [choice]}
    stream = stream_of(*(chunk({"content": text}) for text in before), sse(whole), DONE)
    assert rendered(stream, "text") == b"Hello"
    found = document(stream)
    assert (found["usage"], found["choices"]) == (
        {"total_tokens": 3},
        [choice | {"logprobs": None}],
    )


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_is_merged_and_told_whatever_its_name(field: str) -> None:
    """vLLM, Ollama and OpenRouter have another one than Qwen."""
    stream = stream_of(*(chunk({field: word}) for word in ("We", " need", " to")), chunk({"content": "4"}), sse(STOP))
    merged = documents(stream.projection(View("coalesced")).render(0, 5))
    assert merged[0]["choices"][0]["delta"][field] == "We need to"
    assert message(stream)[field] == "We need to"


def test_sound_is_not_added_up_but_for_its_data() -> None:
    """Ids and times come with each piece; pieces stay apart, as each is decoded alone, and are one in the end."""
    frames = [chunk({"audio": {"id": "a", "data": data, "expires_at": 7}}) for data in ("UklG", "AAA=", "BBBB")]
    stream = stream_of(*frames, chunk({"audio": {"id": "a", "transcript": "Hi", "expires_at": 7}}), sse(STOP))
    audio = message(stream)["audio"]
    assert audio == {"id": "a", "data": "UklGAAAEEEE=", "transcript": "Hi", "expires_at": 7}
    assert b64decode(audio["data"]) == b64decode("UklG") + b64decode("AAA=") + b64decode("BBBB")
    assert stream.projection(View("text")).render(0, 5) == b"Hi"
    merged = documents(stream.projection(View("coalesced")).render(0, 3))
    assert [one["choices"][0]["delta"]["audio"]["data"] for one in merged] == ["UklG", "AAA=", "BBBB"]


def call(ident: str | None, name: str | None, arguments: Any, **more: Any) -> dict[str, Any]:
    named = {} if name is None else {"name": name}
    function = named | ({} if arguments is None else {"arguments": arguments})
    return {**more, **({} if ident is None else {"id": ident}), "type": "function", "function": function}


A, B = ("call_a", "get_weather", '{"city":"Paris"}'), ("call_b", "get_time", '{"tz":"JST"}')


@pytest.mark.parametrize(
    "chunks",
    [
        [[call(*A, index=0)], [call(*B, index=1)]],
        [[call(*A)], [call(*B)]],
        [[call(*A, index=0)], [call(*B, index=0)]],
        [[call(*A, index=None)], [call(*B, index=None)]],
        [[call(*A, index="0")], [call(*B, index="1")]],
        [[call(*A, index=-1)], [call(*B, index=-1)]],
        [[call(*A, index=0), call(*B, index=0)]],
        [[call(*A), call(*B)]],
        [[call(*A[:2], '{"city":')], [call(None, None, '"Paris"}')], [call(*B)]],
        [[call(*A[:2], '{"city":', index=0)], [call("", None, '"Paris"}', index=0)], [call(*B, index=0)]],
        [[call(*A[:2], "")], [call(A[0], None, '{"city":')], [call(A[0], None, '"Paris"}')], [call(*B)]],
        [[call(A[0], "get_", None, index=0)], [call(None, "weather", A[2], index=0)], [call(*B, index=1)]],
        [[call(*A[:2], {"city": "Paris"}, index=0)], [call(*B[:2], {"tz": "JST"}, index=1)]],
        [[call(*A[:2], None, index=0), call(*B[:2], None, index=1)], [call(None, None, A[2], index=0)],
         [call(None, None, B[2], index=1)]],
        [[call(*A, index=3)], [call(*B, index=5)]],
    ],
)  # fmt: skip
def test_calls_are_told_apart_as_a_careful_client_does(chunks: list[Any]) -> None:
    """By their index and their id; names come in pieces, arguments as objects."""
    stream = stream_of(*(chunk({"tool_calls": calls}) for calls in chunks), sse(STOP))
    state = documents(rendered(stream, "cumulative"))[-1]["choices"][0]["delta"]["tool_calls"]
    for calls in (message(stream)["tool_calls"], state):
        told = [(one["id"], one["function"]["name"], one["function"]["arguments"]) for one in calls]
        assert told == [A, B]
    for body in (rendered(stream, "incremental"), stream.projection(View("coalesced")).render(0, stream.log.end)):
        assert added_up(body) == [A, B]


def added_up(body: bytes) -> list[tuple[str, str, str]]:
    """Add fragments up by their index, as OpenAI's clients do."""
    whole: dict[int, list[str]] = {}
    for told in documents(body):
        for place, one in enumerate(told["choices"][0]["delta"].get("tool_calls") or []):
            known = whole.setdefault(one.get("index", place), ["", "", ""])
            known[0] += one.get("id") or ""
            known[1] += one["function"].get("name") or ""
            arguments = one["function"].get("arguments") or ""
            known[2] += arguments if isinstance(arguments, str) else json.dumps(arguments, separators=(",", ":"))
    return [(ident, name, arguments) for ident, name, arguments in whole.values()]


def test_calls_under_their_numbers_are_those_of_a_list() -> None:
    """Some servers send an object in place of the list."""
    begun = {"tool_calls": {"0": {"id": "a", "function": {"name": "look", "arguments": "{"}}, "1": {"id": "b"}}}
    ended = {
        "tool_calls": {"0": {"function": {"arguments": "}"}}, "1": {"function": {"name": "go", "arguments": "{}"}}}
    }
    calls = message(stream_of(chunk(begun), chunk(ended), sse(STOP)))["tool_calls"]
    assert [(call["id"], call["function"]) for call in calls] == [
        ("a", {"name": "look", "arguments": "{}"}),
        ("b", {"name": "go", "arguments": "{}"}),
    ]


def test_custom_call_has_its_input() -> None:
    """Another type of tool, with text of its own."""
    first = {"index": 0, "id": "x", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
    stream = stream_of(
        chunk({"tool_calls": [first]}), chunk({"tool_calls": [{"index": 0, "custom": {"input": " -l"}}]}), sse(STOP)
    )
    [told] = documents(rendered(stream, "cumulative"))[-1]["choices"][0]["delta"]["tool_calls"]
    assert told["custom"] == {"name": "sh", "input": "ls -l"}
    [told] = message(stream)["tool_calls"]
    assert (told["type"], told["custom"]) == ("custom", {"name": "sh", "input": "ls -l"})
    assert "function" not in told


@pytest.mark.parametrize("role", [{}, {"role": ""}, {"role": None}])
def test_answer_without_a_role_is_the_assistants(role: dict[str, Any]) -> None:
    """LangChain refuses null."""
    assert message(stream_of(chunk({**role, "content": "a"}), sse(STOP)))["role"] == "assistant"


@pytest.mark.parametrize(
    "other",
    [{"type": "ping", "id": "p"}, {"object": "billing", "id": "b", "choices": []}, {"id": "x", "model": "y"},
     {"id": "z", "choices": None, "object": "chat.completion.chunk"}, {"usage": {"a": 1}, "object": "list"}],
)  # fmt: skip
def test_other_object_changes_nothing_in_the_document(other: dict[str, Any]) -> None:
    """Only what the dialect defines is taken over."""
    alone, beside = (stream_of(chunk({"content": "a"}), *more, sse(STOP)) for more in ((), (sse(other),)))
    assert document(alone) == document(beside)


def test_unknown_field_of_a_chunk_is_none_of_the_document() -> None:
    """It stays in the frames that have it."""
    first = {"id": "c", "provider": "x", "choices": [{"index": 0, "delta": {"content": "a"}}]}
    stream = stream_of(sse(first), sse(STOP))
    assert "provider" not in document(stream)
    assert b'"provider": "x"' in rendered(stream, "incremental")


def test_big_id_in_each_delta_is_not_added_up() -> None:
    """Nor changed."""
    ident = 1849372918237462528000001
    frames = [chunk({"content": "a", "seq_id": ident}) for _ in range(12)]
    stream = stream_of(*frames, sse(STOP))
    assert message(stream) == {"role": "assistant", "content": "a" * 12, "seq_id": ident}
    assert str(ident).encode() in stream.projection(View("coalesced")).render(0, 12)


def native(**output: Any) -> bytes:
    return (
        b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:%b\n\n"
        % json.dumps({"output": output, "usage": {"output_tokens": 1}, "request_id": "r"}).encode()
    )


@pytest.mark.parametrize("cumulative", [False, True])
def test_message_of_deep_research_is_text(cumulative: bool) -> None:
    """DashScope's output.message, in increments or all so far."""
    pieces = ["The ", "report ", "says so."]
    told = ["".join(pieces[: place + 1]) if cumulative else piece for place, piece in enumerate(pieces)]
    frames = [native(message={"role": "assistant", "phase": "answer", "content": text}) for text in told]
    stream = stream_of(*frames, dialect=DASHSCOPE)
    assert rendered(stream, "text") == b"The report says so."
    assert document(stream)["output"]["message"] == {"role": "assistant", "phase": "answer", "content": "".join(pieces)}
    [merged] = documents(stream.projection(View("coalesced")).render(0, 3))
    assert merged["output"]["message"]["content"] == "".join(pieces)


def test_message_of_a_workflow_is_text() -> None:
    """And what is said beside it is the last."""

    def frame(text: str, done: bool) -> bytes:
        node = {"node_id": "End", "node_is_completed": done, "message": {"role": "assistant", "content": text}}
        return native(workflow_message=node, session_id="s", finish_reason="stop" if done else "null")

    stream = stream_of(frame("Hel", False), frame("lo", False), frame("", True), dialect=DASHSCOPE)
    assert rendered(stream, "text") == b"Hello"
    assert document(stream)["output"] == {
        "workflow_message": {
            "node_id": "End", "node_is_completed": True, "message": {"role": "assistant", "content": "Hello"}
        },
        "session_id": "s",
        "finish_reason": "stop",
    }  # fmt: skip
