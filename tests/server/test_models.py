"""Models of the configuration: which row a request's body falls under, and what becomes of the body."""

import pytest

from proxy.server.models import Choice, Models
from proxy.upstream.settings import ModelConfig
from proxy.wire.errors import BadRequest

MODELS = Models(
    [
        ModelConfig(name="qwen3-coder-*", upstream="coding"),
        ModelConfig(name="qwen3-*", upstream="tokens", alias_of="qwen3-max"),
        ModelConfig(name="qwen3-coder-plus", upstream="paid"),
        ModelConfig(name="gpt-4o", alias_of='qwen"plus'),
    ]
)


@pytest.mark.parametrize(
    ("model", "upstream"),
    [
        ("qwen3-coder-plus", "paid"),
        ("qwen3-coder-plus-2", "coding"),
        ("qwen3-coder-", "coding"),
        ("qwen3-vl", "tokens"),
        ("qwen3", ""),
        ("gpt-4o", ""),
        ("QWEN3-vl", ""),
    ],
)
def test_whole_name_counts_before_the_longest_beginning(model: str, upstream: str) -> None:
    """A model of which nothing is configured goes the usual way."""
    assert MODELS.choose(b'{"model":"%b"}' % model.encode()).upstream == upstream


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff", b"{}", b'{"model":null}', b'{"model":["gpt-4o"]}', b'{"input":{"model":"gpt-4o"}}'],
)
def test_body_without_a_model_is_left_as_it_is(body: bytes) -> None:
    """The upstream shall say what is wrong with it."""
    assert MODELS.choose(body) == Choice("", body)


def test_alias_replaces_the_name_and_no_other_byte() -> None:
    """Spaces, numbers of any size, escapes and bytes that are no UTF-8 stay as they came."""
    before, after = b'{"seed" :1e999, "n":"model","model"\t: ', b',"x": "\\ud800\xff", "messages":[ ]}  '
    assert MODELS.choose(before + b'"gpt-4\\u006f"' + after) == Choice("", before + b'"qwen\\"plus"' + after)
    assert MODELS.choose(before + b'"qwen3-x"' + after) == Choice("tokens", before + b'"qwen3-max"' + after)


def test_last_of_several_names_counts() -> None:
    """As in most parsers, so that what is chosen is what the upstream reads."""
    assert MODELS.choose(b'{"model":"gpt-4o","model":"qwen3-x"}') == Choice(
        "tokens", b'{"model":"gpt-4o","model":"qwen3-max"}'
    )


def test_name_whose_place_is_not_found_is_refused() -> None:
    """Rather than sent under the wrong name."""
    deep = b'{"model":"gpt-4o","x":' + b"[" * 900 + b"]" * 900 + b"}"
    assert MODELS.choose(deep.replace(b"gpt-4o", b"qwen3-coder-x")).upstream == "coding"
    try:
        MODELS.choose(deep)
    except BadRequest as error:
        assert "nested too deeply" in error.message  # noqa: PT017  (how deep is too deep depends on the stack)


def test_without_rows_no_body_needs_to_be_read() -> None:
    """So it costs nothing then."""
    assert MODELS
    assert not Models([])
