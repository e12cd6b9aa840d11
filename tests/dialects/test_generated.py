"""Where generated text stands in a message or a delta of any server that writes chat completions, and of which kind."""

from typing import Any

import pytest

from proxy.dialects.dialect import TextKind
from proxy.dialects.generated import Generated, generated

CONTENT, REASONING, CALL = TextKind.CONTENT, TextKind.REASONING, TextKind.TOOL_CALL


def call(**function: Any) -> dict[str, Any]:
    return {"tool_calls": [{"function": function}]}


@pytest.mark.parametrize(
    ("message", "kind", "key", "text"),
    [
        ({"content": "a", "role": "assistant"}, CONTENT, "content", "a"),
        ({"text": "a"}, CONTENT, "text", "a"),
        ({"refusal": "a"}, CONTENT, "refusal", "a"),
        ({"reasoning_content": "a", "content": ""}, REASONING, "reasoning_content", "a"),
        ({"reasoning": "a"}, REASONING, "reasoning", "a"),
        ({"thinking": "a", "content": None}, REASONING, "thinking", "a"),
        ({"content": [{"type": "text", "text": "a"}]}, CONTENT, "text", "a"),
        (call(arguments='{"a'), CALL, "arguments", '{"a'),
        ({"tool_calls": {"function": {"arguments": "a"}}}, CALL, "arguments", "a"),
        ({"tool_calls": [{"custom": {"input": "a"}}]}, CALL, "input", "a"),
        ({"function_call": {"arguments": "a"}}, CALL, "arguments", "a"),
    ],
)
def test_single_text_is_found_with_the_key_it_stands_under(
    message: dict[str, Any], kind: TextKind, key: str, text: str
) -> None:
    """So that frames which differ in nothing else need not be parsed."""
    assert generated(message) == Generated(kind, key, text)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ({"audio": {"data": "UklG"}}, CONTENT),
        ({"audio": {"transcript": "a"}}, CONTENT),
        ({"images": [{"image_url": {"url": "data:"}}]}, CONTENT),
        ({"content": [{"text": "a"}, {"text": "b"}]}, CONTENT),
        ({"content": ["a"]}, CONTENT),
        ({"content": [{"text": ""}, {"image": "https://a.test"}]}, CONTENT),
        ({"content": [{"type": "thinking", "thinking": "a"}]}, REASONING),
        ({"reasoning_details": [{"text": ""}, {"data": "a"}]}, REASONING),
        ({"thoughts": [{"thought": "a"}, {}]}, REASONING),
        (call(name="get_weather"), CALL),
        (call(name="get_weather", arguments="{"), CALL),
        (call(arguments={"place": "a"}), CALL),
        ({"tool_calls": [{"function": {"arguments": "a"}}, {"function": {"arguments": "b"}}]}, CALL),
    ],
)
def test_text_that_is_no_single_string_is_found_without_a_key(message: dict[str, Any], kind: TextKind) -> None:
    """Sounds, pictures, several parts, a name: its frame is parsed each time."""
    assert generated(message) == Generated(kind)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"role": "assistant"},
        {"content": "", "reasoning_content": None},
        {"content": []},
        {"content": [{"type": "text", "text": ""}, 5, None]},
        {"audio": {"id": "a", "expires_at": 1}},
        {"unknown": "a"},
        {"tool_calls": []},
        {"tool_calls": [None, {"function": "a"}, {}]},
        {"tool_calls": "a"},
        call(name=None, arguments=""),
        {"function_call": {}},
    ],
)
def test_what_only_frames_a_text_is_none(message: dict[str, Any]) -> None:
    """The time to the first token does not end with it, whatever a server writes there."""
    assert generated(message) is None


def test_content_comes_before_reasoning_and_text_before_calls() -> None:
    """A frame that has several is of the first kind."""
    assert generated({"reasoning": "b", "content": [{"text": "a"}]}) == Generated(CONTENT, "text", "a")
    assert generated({"reasoning": "b", **call(arguments="a")}) == Generated(REASONING, "reasoning", "b")
    assert generated({"content": [{}], "reasoning": "b"}) == Generated(REASONING, "reasoning", "b")
