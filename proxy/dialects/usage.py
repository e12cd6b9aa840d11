"""Token counts: what each is called in the usage of the APIs, and how they are read."""

from typing import Any, Final, NamedTuple

from proxy.wire.json_members import members

_MOST_TOKENS: Final = 1 << 53
_PROMPT: Final[tuple[str, ...]] = ("prompt_tokens", "input_tokens", "promptTokens", "inputTokens")
_COMPLETION: Final[tuple[str, ...]] = ("completion_tokens", "output_tokens", "completionTokens", "outputTokens")
_REASONING: Final[tuple[str, ...]] = ("reasoning_tokens", "thinking_tokens")
_CACHED: Final[tuple[str, ...]] = ("cached_tokens",)
_CACHE_WRITTEN: Final[tuple[str, ...]] = ("cache_creation_input_tokens",)
_AUDIO: Final[tuple[str, ...]] = ("audio_tokens",)
_IMAGE: Final[tuple[str, ...]] = ("image_tokens",)
_PARTS: Final[tuple[str, ...]] = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")


class Usage(NamedTuple):
    """Token counts, and a count of calls, as the upstream states them."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    cached: int = 0
    cache_written: int = 0
    audio: int = 0  # of the prompt and of the completion
    image: int = 0  # likewise
    tool_calls: int = 0  # calls of tools that the upstream itself runs, such as web search; these are no tokens


TOKEN_KINDS: Final = Usage._fields[:-1]
"""The fields of Usage that count tokens."""


def read_usage(stated: Any) -> Usage | None:
    """Return the token counts of a usage object in any of the known spellings; None if it is not a usage object."""
    if not stated or not isinstance(stated, dict):
        return None
    models = stated.get("models")
    if isinstance(models, list):  # of an application, which may use several models
        counts = [usage for usage in map(read_usage, models) if usage is not None]
        if counts:
            return Usage(*map(sum, zip(*counts, strict=True)))
    read = stated.get("prompt_tokens_details") or stated.get("input_tokens_details")
    made = stated.get("completion_tokens_details") or stated.get("output_tokens_details")
    of_read: dict[str, Any] = read if isinstance(read, dict) else {}
    of_made: dict[str, Any] = made if isinstance(made, dict) else {}
    return Usage(
        _first_count(stated, _PROMPT),
        _first_count(stated, _COMPLETION),
        _first_count(of_made, _REASONING) if of_made else 0,
        _first_count(of_read, _CACHED) or _first_count(stated, _CACHED),
        _first_count(of_read, _CACHE_WRITTEN) or _first_count(stated, _CACHE_WRITTEN),
        _first_count(of_read, _AUDIO) + _first_count(of_made, _AUDIO) or _first_count(stated, _AUDIO),
        _first_count(of_read, _IMAGE) + _first_count(of_made, _IMAGE) or _first_count(stated, _IMAGE),
        calls_of(stated.get("plugins")),
    )


def calls_of(tools: Any) -> int:
    """Return the number of calls in an object that has one for each tool: {"web_search": {"count": 1}}."""
    if not isinstance(tools, dict):
        return 0
    return sum([counted(tool, "count") for tool in tools.values() if isinstance(tool, dict)])


def counted(usage: dict[str, Any], name: str) -> int:
    """Return a number of a usage object; 0 if it has none, or what is no count of tokens."""
    return _first_count(usage, (name,))


def _first_count(usage: dict[str, Any], names: tuple[str, ...]) -> int:
    """Return the first of these numbers of a usage object that is not 0; 0 if there is none."""
    for name in names:
        stated = usage.get(name)
        if stated is not None:
            number = stated if type(stated) is int else _number(stated)
            if 0 < number < _MOST_TOKENS:
                return number
    return 0


def _number(stated: Any) -> int:
    """Return a number that is stated as a float or as text, too; 0 for anything else."""
    if isinstance(stated, str):
        digits = stated.partition(".0")[0]
        return int(digits) if digits.isdecimal() and len(stated) < 19 else 0
    if isinstance(stated, float) and stated.is_integer():  # False for infinity
        return int(stated)
    return int(stated) if isinstance(stated, int) else 0


def tokens_of_document(document: bytes) -> int:
    """Return the tokens that a response states which is not a stream, of request and answer; 0 if it states none."""
    stated = members(document) if b'"usage"' in document else None
    usage = None if stated is None else stated.get("usage")
    if not isinstance(usage, dict):
        return 0
    return counted(usage, "total_tokens") or sum([counted(usage, name) for name in _PARTS])
