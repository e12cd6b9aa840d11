"""Token counts: each API's spellings of them, and those of responses that are no streams."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.usage import TOKEN_KINDS, Usage, read_usage, tokens_of_document


def test_usage_is_read_in_any_spelling() -> None:
    """Nothing of what is none."""
    assert read_usage({"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}}) == Usage(1, 0, 0, 2)
    assert read_usage({"input_tokens": 1, "input_tokens_details": {"cached_tokens": 2}}) == Usage(1, 0, 0, 2)
    assert read_usage({"output_tokens": 3, "cached_tokens": 4}) == Usage(0, 3, 0, 4)
    assert read_usage({"cached_tokens": 4, "cache_creation_input_tokens": 5}) == Usage(0, 0, 0, 4, 5)
    both = {"prompt_tokens_details": {"audio_tokens": 1, "image_tokens": 2, "cache_creation_input_tokens": 9}}
    assert read_usage({**both, "completion_tokens_details": {"audio_tokens": 3}}) == Usage(0, 0, 0, 0, 9, 4, 2)
    assert read_usage({"image_tokens": 3, "audio_tokens": 4}) == Usage(0, 0, 0, 0, 0, 4, 3)
    tools = {"search": {"count": 2, "strategy": "standard"}, "code_interpreter": {"count": 1}, "other": None}
    assert read_usage({"plugins": tools}) == Usage(0, 0, 0, 0, 0, 0, 0, 3)
    for nothing in (None, {}, [], 7, "x"):
        assert read_usage(nothing) is None


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (3, 3), ("3", 3), (3.0, 3), ((1 << 53) - 1, (1 << 53) - 1), (None, 0), ("three", 0), ("9" * 20, 0), (3.5, 0),
        (-1, 0), (1 << 53, 0), (float("inf"), 0), (float("nan"), 0), ([], 0), ({}, 0),
    ],
)  # fmt: skip
def test_count_of_tokens_is_a_whole_number_however_it_is_written(stated: Any, expected: int) -> None:
    """0 where it is no such number, or one that no answer has; in details as in the usage itself."""
    usage = read_usage({"prompt_tokens": stated, "completion_tokens_details": {"reasoning_tokens": stated}})
    assert usage is not None
    assert (usage.prompt, usage.reasoning) == (expected, expected)


COUNTS = st.sampled_from([None, 0, 1, 2, 3, "4", 5.0, -1, "x", {}])
SPELLINGS = (
    ("prompt", ("prompt_tokens", "input_tokens", "promptTokens", "inputTokens")),
    ("completion", ("completion_tokens", "output_tokens", "completionTokens", "outputTokens")),
)
DETAILS = ("reasoning_tokens", "thinking_tokens", "cached_tokens", "cache_creation_input_tokens", "audio_tokens")

STATED = [*SPELLINGS[0][1], *SPELLINGS[1][1], *DETAILS]


def first(stated: dict[str, Any], *names: str) -> int:
    """Return the first count under these names that is not 0."""
    usages = [read_usage({"prompt_tokens": stated[name]}) for name in names if name in stated]
    return next((usage.prompt for usage in usages if usage is not None and usage.prompt), 0)


@given(
    st.dictionaries(
        st.sampled_from([name for _, names in SPELLINGS for name in names] + [*DETAILS]), COUNTS, min_size=1
    ),
    st.dictionaries(st.sampled_from(DETAILS), COUNTS),
    st.dictionaries(st.sampled_from(DETAILS), COUNTS),
)
def test_of_several_spellings_the_first_that_counts_is_taken(
    stated: dict[str, Any], read: dict[str, Any], made: dict[str, Any]
) -> None:
    """In whatever order they come; and details before what is beside them."""
    usage = read_usage({"prompt_tokens_details": read, "completion_tokens_details": made, **stated})
    assert usage is not None
    assert [getattr(usage, field) for field, _ in SPELLINGS] == [first(stated, *names) for _, names in SPELLINGS]
    assert usage.reasoning == first(made, "reasoning_tokens", "thinking_tokens")
    assert usage.cached == (first(read, "cached_tokens") or first(stated, "cached_tokens"))
    written = "cache_creation_input_tokens"
    assert usage.cache_written == (first(read, written) or first(stated, written))
    audio = first(read, "audio_tokens") + first(made, "audio_tokens")
    assert usage.audio == (audio or first(stated, "audio_tokens"))


@pytest.mark.parametrize("stated", [None, [], "x", 3, {}])
def test_details_that_are_no_object_count_nothing(stated: Any) -> None:
    """The counts beside them do."""
    usage = read_usage({"prompt_tokens": 3, "prompt_tokens_details": stated, "completion_tokens_details": stated})
    assert usage == Usage(3, 0, 0, 0, 0, 0, 0, 0)


def test_calls_of_tools_are_no_tokens() -> None:
    """Every other field of a usage is a kind of token."""
    assert {*Usage._fields} - {*TOKEN_KINDS} == {"tool_calls"}


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, 7),
        ({"prompt_tokens": 3, "completion_tokens": 4}, 7),
        ({"input_tokens": 3, "output_tokens": 4, "total_tokens": 0}, 7),
        ({"prompt_tokens": 3, "total_tokens": 3}, 3),
        ({"total_tokens": "12"}, 12),
        ({"total_tokens": -1}, 0),
        ({}, 0),
        (None, 0),
        ([7], 0),
        ("7", 0),
    ],
)
def test_tokens_of_a_document_are_all_that_it_states(usage: Any, tokens: int) -> None:
    """The total if there is one, else the sum of what was read and written."""
    assert tokens_of_document(json.dumps({"id": "x", "usage": usage}).encode()) == tokens


@pytest.mark.parametrize(
    "document", [b"", b"[]", b'{"id": "x"}', b'"usage"', b'{"usage": {"total_tokens": 7}', b"\xff"]
)
def test_document_that_states_no_usage_has_no_tokens(document: bytes) -> None:
    """One that can't be read states none either."""
    assert tokens_of_document(document) == 0


def test_usage_deep_in_a_document_is_not_the_documents() -> None:
    """A caller does not pay for what an answer quotes."""
    assert tokens_of_document(b'{"choices": [{"usage": {"total_tokens": 7}}]}') == 0
