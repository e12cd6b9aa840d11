"""Where the texts of a choice's increment stand, and how others are put there."""

from typing import Any

import pytest

from proxy.dialects.delta import CONTENT, Delta, record, records

REASONING = ("reasoning_content", -1)


def delta(message: dict[str, Any], content: str = "content", **choice: Any) -> Delta:
    return Delta(0, {**choice, "delta": message}, message, content)


def call(index: int | None = 0, arguments: Any = "", **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": more.pop("name")} if "name" in more else {})
    return ({} if index is None else {"index": index}) | {"id": "", "type": "function", "function": function} | more


@pytest.mark.parametrize(
    ("message", "texts"),
    [
        ({"content": "a"}, [(CONTENT, "a")]),
        ({"content": None, "reasoning_content": "b"}, [(REASONING, "b")]),
        ({"content": "", "refusal": "no"}, [(("refusal", -1), "no"), (CONTENT, "")]),
        ({"content": [{"text": "a"}, {"text": "b"}]}, [(CONTENT, "ab")]),
        ({"content": []}, [(CONTENT, "")]),
        ({"content": [{"image": "x"}]}, []),
        ({"content": [{"text": None}]}, [(CONTENT, "")]),
        ({"content": 7, "tool_calls": "x"}, []),
        ({"tool_calls": [call(1, "{"), call(0, None)]}, [(("arguments", 1), "{"), (("arguments", 0), "")]),
        ({"tool_calls": [{"function": None}, 3]}, [(("arguments", 0), "")]),
        ({}, []),
    ],
)
def test_texts_are_found_by_channel(message: dict[str, Any], texts: list[tuple[Any, str]]) -> None:
    """Strings only; what is null or of another kind is no text."""
    assert delta(message).texts() == texts


def test_native_text_stands_under_its_own_key() -> None:
    """result_format text."""
    assert delta({"text": "a", "finish_reason": "null"}, "text").texts() == [(CONTENT, "a")]


@pytest.mark.parametrize(
    ("before", "channel", "after"),
    [
        ({"role": "assistant", "content": "a"}, CONTENT, {"role": "assistant", "content": "new"}),
        ({"content": None}, REASONING, {"content": None, "reasoning_content": "new"}),
        ({"content": [{"text": "a"}, {"text": "b"}]}, CONTENT, {"content": [{"text": "new"}]}),
        ({"tool_calls": [call(1, "{", id="x")]}, ("arguments", 1), {"tool_calls": [call(1, "new", id="x")]}),
        ({"tool_calls": [call(1)]}, ("arguments", 0), {"tool_calls": [call(0, "new"), call(1)]}),
        ({}, ("arguments", 0), {"tool_calls": [call(0, "new")]}),
        ({"tool_calls": [call(0, "{"), call(0, "}")]}, ("arguments", 0), {"tool_calls": [call(0, "new")]}),
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
    assert one.named() == []
    one.name(("arguments", 0), "call_1", "weather")
    assert message["tool_calls"] == [call(0, "{}", id="call_1", name="weather")]
    assert list(message["tool_calls"][0]["function"]) == ["name", "arguments"]
    assert one.named() == [(("arguments", 0), "id", "call_1"), (("arguments", 0), "name", "weather")]
    one.name(("arguments", 0), None, None)
    assert message["tool_calls"] == [call(0, "{}")]


def test_others_are_silenced() -> None:
    """One channel's text is left, and of the calls that one; null stays null."""
    message = {"content": "a", "reasoning_content": None, "refusal": "no", "tool_calls": [call(0, "{"), call(1, "[")]}
    delta(message).silence(("arguments", 1))
    assert message == {"content": "", "reasoning_content": None, "refusal": "", "tool_calls": [call(1, "[")]}
    delta(message).silence(CONTENT)
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
            {"audio": {"data": "x"}, "content": None},
            {"stop": 3, "other": None},
            ({"audio": {"data": "x"}}, {"stop": 3}),
        ),
        ({"content": [{"image": "x"}]}, {}, ({"content": [{"image": "x"}]}, {})),
        ({"tool_calls": [call(2, extra=1)]}, {}, ({"tool_calls": [(("arguments", 2), {"extra": 1})]}, {})),
    ],
)
def test_rest_is_what_is_not_known_by_name(message: dict[str, Any], choice: dict[str, Any], rest: Any) -> None:
    """Nothing as a rule."""
    assert delta(message, **choice).rest() == rest


def test_rest_of_a_choice_that_is_its_message_is_told_once() -> None:
    """Native result_format text."""
    output = {"text": "a", "finish_reason": "null", "session_id": "s"}
    assert Delta(0, output, output, "text").rest() == ({"session_id": "s"}, {})


def test_what_is_no_object_is_an_empty_one() -> None:
    """An upstream may send what it likes."""
    assert (record(None), record([]), record({"a": 1})) == ({}, {}, {"a": 1})
    assert (records(None), records([1, {}, None]), records({})) == ([], [{}], [])
