"""Finds generated text anywhere in a message or a delta of Qwen's two APIs, for measuring, not for rewriting."""

from dataclasses import dataclass
from typing import Any, Final

from proxy.dialects.dialect import TextKind


@dataclass(init=False)  # its own __init__ would stay interpreted in compiled modules: 1 us
class Generated:
    """Generated text in a message: `text` is the string under `key`; both are "" if it is not a single string."""

    kind: TextKind
    key: str
    text: str

    def __init__(
        self,
        kind: TextKind,
        key: str = "",
        text: str = "",
    ) -> None:
        self.kind = kind
        self.key = key
        self.text = text


_FIELDS: Final = {  # in order of precedence
    "content": TextKind.CONTENT,
    "text": TextKind.CONTENT,  # of native answers without choices, and of legacy completions
    "reasoning_content": TextKind.REASONING,
    "reasoning": TextKind.REASONING,  # of vLLM, Ollama and OpenRouter
    "thinking": TextKind.REASONING,  # of Ollama
    "reasoning_details": TextKind.REASONING,  # of OpenRouter
    "refusal": TextKind.CONTENT,
    "audio": TextKind.CONTENT,  # of models that speak
    "images": TextKind.CONTENT,
    "thoughts": TextKind.REASONING,  # of native applications
}
_PART_FIELDS: Final[tuple[str, ...]] = (
    "text",
    "image",
    "audio",
    "image_url",
    "video",
    "thinking",
    "refusal",
    "data",
    "transcript",
    "thought",
)


def generated(message: dict[str, Any]) -> Generated | None:
    """Return the generated text in a message or a delta; None if it has none: only a role, say, or empty fields."""
    content = message.get("content")
    if content and type(content) is str:  # the common case
        return Generated(TextKind.CONTENT, "content", content)
    keys = [key for key, value in message.items() if value and key in _FIELDS]
    for key in keys if len(keys) < 2 else [key for key in _FIELDS if key in keys]:
        found = _in_value(key, message[key], _FIELDS[key])
        if found is not None:
            return found
    if message.get("tool_calls") or message.get("function_call"):
        return _in_calls(message)
    return None


def _in_value(key: str, value: Any, kind: TextKind) -> Generated | None:
    if type(value) is str:
        return Generated(kind, key, value)
    if isinstance(value, list):
        return _in_parts(value, kind)
    return Generated(kind) if not isinstance(value, dict) or _in_part(value) else None


def _in_parts(parts: list[Any], kind: TextKind) -> Generated | None:
    """Return the generated text in a list of typed content parts, as multimodal models send it."""
    for part in parts:
        if isinstance(part, str) and part:
            return Generated(kind)
        if not isinstance(part, dict) or not _in_part(part):
            continue
        if "thinking" in part:
            kind = TextKind.REASONING
        text = part.get("text")
        return Generated(kind, "text", text) if len(parts) == 1 and isinstance(text, str) else Generated(kind)
    return None


def _in_part(part: dict[str, Any]) -> bool:
    return any(part.get(name) for name in _PART_FIELDS)


def _in_calls(message: dict[str, Any]) -> Generated | None:
    """Return the generated text in tool calls: names or arguments, either of which may be null."""
    calls = message.get("tool_calls") or [{"function": message.get("function_call")}]
    calls = [calls] if isinstance(calls, dict) else calls
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") or call.get("custom") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            continue
        if function.get("name"):
            return Generated(TextKind.TOOL_CALL)
        text = function.get("arguments") or function.get("input")
        if text and len(calls) == 1 and isinstance(text, str):
            return Generated(TextKind.TOOL_CALL, "arguments" if function.get("arguments") else "input", text)
        if text:
            return Generated(TextKind.TOOL_CALL)
    return None
