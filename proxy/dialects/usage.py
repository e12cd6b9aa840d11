"""Token counts: what each is called in the usage of the APIs, and how they are read."""

from typing import Any, Final, NamedTuple

from proxy.wire.json_members import members

_MOST_TOKENS: Final = 1 << 53
_PROMPT: Final[tuple[str, ...]] = ("prompt_tokens", "input_tokens", "promptTokens", "inputTokens")
_COMPLETION: Final[tuple[str, ...]] = ("completion_tokens", "output_tokens", "completionTokens", "outputTokens")
_ORDINARY: Final = frozenset(["prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens"])
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
        of_models = [usage for usage in map(read_usage, models) if usage is not None]
        if of_models:
            return Usage(*map(sum, zip(*of_models, strict=True)))
    read = stated.get("prompt_tokens_details") or stated.get("input_tokens_details")
    made = stated.get("completion_tokens_details") or stated.get("output_tokens_details")
    counts = _counts(stated)
    of_read = _counts(read) if isinstance(read, dict) else {}
    of_made = _counts(made) if isinstance(made, dict) else {}
    prompt, completion = _first(counts, _PROMPT), _first(counts, _COMPLETION)
    # Not by `Usage(...)`, which is a Python function.
    if not (of_read or of_made) and _ORDINARY.issuperset(counts) and "plugins" not in stated:  # as a rule
        return tuple.__new__(Usage, (prompt, completion, 0, 0, 0, 0, 0, 0))
    fields = (
        prompt,
        completion,
        of_made.get("reasoning_tokens") or of_made.get("thinking_tokens") or 0,
        of_read.get("cached_tokens") or counts.get("cached_tokens", 0),
        of_read.get("cache_creation_input_tokens") or counts.get("cache_creation_input_tokens", 0),
        of_read.get("audio_tokens", 0) + of_made.get("audio_tokens", 0) or counts.get("audio_tokens", 0),
        of_read.get("image_tokens", 0) + of_made.get("image_tokens", 0) or counts.get("image_tokens", 0),
        calls_of(stated["plugins"]) if "plugins" in stated else 0,
    )
    return tuple.__new__(Usage, fields)


def calls_of(tools: Any) -> int:
    """Return the number of calls in an object that has one for each tool: {"web_search": {"count": 1}}."""
    if not isinstance(tools, dict):
        return 0
    return sum([counted(tool, "count") for tool in tools.values() if isinstance(tool, dict)])


def counted(usage: dict[str, Any], name: str) -> int:
    """Return a number of a usage object; 0 if it has none, or what is no count of tokens."""
    return _count(usage.get(name))


def _counts(usage: dict[str, Any]) -> dict[str, int]:
    """Return the members of a usage object that are counts other than 0."""
    counts = {}
    for name, stated in usage.items():
        if not stated or type(stated) is dict:
            continue
        number = stated if type(stated) is int else _number(stated)
        if 0 < number < _MOST_TOKENS:
            counts[name] = number
    return counts


def _first(counts: dict[str, int], names: tuple[str, ...]) -> int:
    """Return the first of these counts that there is; 0 if there is none."""
    for name in names:
        if name in counts:
            return counts[name]
    return 0


def _count(stated: Any) -> int:
    """Return a number; 0 for what is no count of tokens."""
    number = stated if type(stated) is int else _number(stated)
    return number if 0 < number < _MOST_TOKENS else 0


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
    stated = members(document) if document.find(b'"usage"') >= 0 else None
    usage = None if stated is None else stated.get("usage")
    if not isinstance(usage, dict):
        return 0
    return counted(usage, "total_tokens") or sum([counted(usage, name) for name in _PARTS])
