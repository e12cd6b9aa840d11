"""Where the texts of a choice's increment stand, and how others are put there."""

from typing import Any

import pytest

from proxy.dialects.documents.delta import Delta, channel, joined_base64, record, records, says_anything
from proxy.dialects.documents.increment import Kind

CONTENT, REASONING, REFUSAL = channel(0), channel(0, "reasoning_content"), channel(0, "refusal")


def delta(message: dict[str, Any], content: str = "content", **choice: Any) -> Delta:
    found = Delta(0, {**choice, "delta": message}, message, content)
    found.find()
    return found


def call(index: int | None = 0, arguments: Any = "", **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": more.pop("name")} if "name" in more else {})
    return ({} if index is None else {"index": index}) | {"id": "", "type": "function", "function": function} | more


def of_call(number: int, field: str = "arguments") -> Any:
    return channel(0, "tool_calls", number, field)


@pytest.mark.parametrize(
    ("message", "texts"),
    [
        ({"content": "a"}, [(CONTENT, "a")]),
        ({"content": None, "reasoning_content": "b"}, [(REASONING, "b")]),
        ({"content": "", "refusal": "no"}, [(CONTENT, ""), (REFUSAL, "no")]),
        ({"content": [{"text": "a"}, {"text": "b"}]}, [(CONTENT, "ab")]),
        ({"content": [{"type": "text", "text": "a"}]}, [(CONTENT, "a")]),
        ({"content": []}, [(CONTENT, "")]),
        ({"content": [{"image": "x"}]}, []),
        ({"content": [{"text": None}]}, [(CONTENT, "")]),
        ({"content": 7, "tool_calls": "x"}, []),
        (
            {"tool_calls": [call(1, "{"), call(0, None)]},
            [(of_call(1, "id"), ""), (of_call(1), "{"), (of_call(0, "id"), "")],
        ),
        (
            {"tool_calls": [call(0, "{", name="f")]},
            [(of_call(0, "id"), ""), (of_call(0, "name"), "f"), (of_call(0), "{")],
        ),
        ({"tool_calls": [{"function": None}, 3]}, []),
        ({"role": "assistant"}, [(channel(0, "role"), "assistant")]),
        ({}, []),
    ],
)
def test_texts_are_found_by_channel(message: dict[str, Any], texts: list[tuple[Any, str]]) -> None:
    """Strings only; what is null or of another kind is no text."""
    assert delta(message).texts == texts


def test_native_text_stands_under_its_own_key() -> None:
    """result_format text."""
    assert delta({"text": "a", "finish_reason": "null"}, "text").texts == [(CONTENT, "a")]


def test_kind_of_a_channel_is_how_its_texts_add_up() -> None:
    """Ids and names are said once, items of a list always add up, a role is a mark, a finish reason an end."""
    kinds = [one.kind for one in (CONTENT, of_call(0), of_call(0, "id"), of_call(0, "name"), channel(0, "role"))]
    assert kinds == [Kind.TEXT, Kind.TEXT, Kind.LABEL, Kind.LABEL, Kind.MARK]
    assert channel(0, "finish_reason").kind is Kind.END
    assert delta({}, logprobs={"content": [{"a": 1}]}).texts == [
        (channel(0, "content", -1, "logprobs.content"), ',{"a":1}')
    ]


@pytest.mark.parametrize(
    ("before", "channel", "after"),
    [
        ({"role": "assistant", "content": "a"}, CONTENT, {"role": "assistant", "content": "new"}),
        ({"content": None}, REASONING, {"content": None, "reasoning_content": "new"}),
        ({"content": [{"text": "a"}, {"text": "b"}]}, CONTENT, {"content": [{"text": "new"}]}),
        (
            {"content": [{"image": "x"}, {"type": "text", "text": "a"}, {"image": "y"}]},
            CONTENT,
            {"content": [{"image": "x"}, {"type": "text", "text": "new"}, {"image": "y"}]},
        ),
        ({"tool_calls": [call(1, "{", id="x")]}, of_call(1), {"tool_calls": [call(1, "new", id="x")]}),
        ({"tool_calls": [call(1)]}, of_call(0), {"tool_calls": [call(0, "new"), call(1)]}),
        ({}, of_call(0), {"tool_calls": [call(0, "new")]}),
        ({"tool_calls": [call(0, "{"), call(0, "}")]}, of_call(0), {"tool_calls": [call(0, "new")]}),
    ],
)
def test_text_is_put_in_its_place(before: dict[str, Any], channel: Any, after: dict[str, Any]) -> None:
    """Fields beside it stay; a place that is missing is made, calls in the order of their index."""
    delta(before).put(channel, "new")
    assert before == after


def test_call_is_named_as_qwen_does_it() -> None:
    """The name before the arguments; without one an empty id and no name."""
    message = {"tool_calls": [call(0, "{}")]}
    one = delta(message)
    one.put(of_call(0, "id"), "call_1")
    one.put(of_call(0, "name"), "weather")
    assert message["tool_calls"] == [call(0, "{}", id="call_1", name="weather")]
    assert list(message["tool_calls"][0]["function"]) == ["name", "arguments"]
    one.put(of_call(0, "id"), "")
    one.put(of_call(0, "name"), "")
    assert message["tool_calls"] == [call(0, "{}")]


def test_others_are_silenced() -> None:
    """One channel's text is left, and of the calls that one; null stays null."""
    message = {"content": "a", "reasoning_content": None, "refusal": "no", "tool_calls": [call(0, "{"), call(1, "[")]}
    delta(message).silence(of_call(1).group)
    assert message == {"content": "", "reasoning_content": None, "refusal": "", "tool_calls": [call(1, "[")]}
    delta(message).silence(CONTENT.group)
    assert message == {"content": "", "reasoning_content": None, "refusal": ""}


@pytest.mark.parametrize(
    ("message", "choice", "rest"),
    [
        (
            {"role": "assistant", "content": "a", "reasoning_content": None},
            {"index": 0, "finish_reason": "stop"},
            ({}, {}),
        ),
        ({"content": None, "tool_calls": [call(0, "{", name="f")]}, {"logprobs": {"content": []}}, ({}, {})),
        (
            {"video": {"data": "x"}, "content": None},
            {"stop": 3, "other": None},
            ({"video": {"data": "x"}}, {"stop": 3}),
        ),
        ({"content": [{"image": "x"}]}, {}, ({"content": [{"image": "x"}]}, {})),
        ({"content": [{"image": "x"}, {"text": "a"}]}, {}, ({"content": [{"image": "x"}]}, {})),
        ({"tool_calls": "none"}, {}, ({"tool_calls": "none"}, {})),
    ],
)
def test_rest_is_what_is_not_known_by_name(message: dict[str, Any], choice: dict[str, Any], rest: Any) -> None:
    """Nothing as a rule."""
    found = delta(message, **choice)
    assert (found.rest, found.beside) == rest


def test_rest_of_a_call_is_told_with_its_number() -> None:
    """Beside its id, its name and its arguments."""
    assert delta({"tool_calls": [call(2, extra=1)]}).call_rests == [(2, {"extra": 1})]


def test_rest_of_a_choice_that_is_its_message_is_told_once() -> None:
    """Native result_format text."""
    output = {"text": "a", "finish_reason": "null", "session_id": "s"}
    found = Delta(0, output, output, "text", lone=True)
    found.find()
    assert (found.rest, found.beside) == ({"session_id": "s"}, {})


def test_what_is_no_object_is_an_empty_one() -> None:
    """An upstream may send what it likes."""
    assert (record(None), record([]), record({"a": 1})) == ({}, {}, {"a": 1})
    assert (records(None), records([1, {}, None]), records({})) == ([], [{}], [])


@pytest.mark.parametrize("value", [None, "", "null", [], {}, {"a": None, "b": [], "c": {"d": ""}}])
def test_value_that_tells_nothing(value: Any) -> None:
    """What an upstream writes where it has nothing to say."""
    assert not says_anything(value)


@pytest.mark.parametrize("value", [0, False, "stop", [None], {"a": None, "b": {"c": 0}}])
def test_value_that_tells_something(value: Any) -> None:
    """Zero and false do."""
    assert says_anything(value)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [("UklG", "UklG"), ("UklGAA==", "UklGAA=="), ("AA==AAA=", "AAAA"), ("AA==?", "AA==?"), ("A=A=", "A=A="), ("", "")],
)
def test_base64_in_pieces_can_be_decoded_as_one(pieces: str, expected: str) -> None:
    """Where each was encoded by itself; anything else stays as it came."""
    assert joined_base64(pieces) == expected
