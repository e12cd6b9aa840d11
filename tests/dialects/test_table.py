"""The table of APIs: what follows from its rows."""

import re

import pytest

from proxy.dialects import table
from proxy.dialects.chat import CHAT

OPENAI = ("/v1/", "/compatible-mode/v1/")


@pytest.mark.parametrize("base", ["/compatible-mode/v1", "/v1", "/a/b"])
def test_prefixes_stand_for_paths_of_the_upstream(base: str) -> None:
    """Of two that fit, the longer comes first; the base of the OpenAI routes is configured."""
    seen: list[str] = []
    for route, _ in table.routes(base):
        assert not any(route.prefix.startswith(before) for before in seen if before != route.prefix)
        seen.append(route.prefix)
        assert route.upstream_prefix == (f"{base}/" if route.prefix in OPENAI else route.prefix)
    assert sorted(set(seen)) == [
        "/api-ws/", "/api/v1/", "/compatible-api/", "/compatible-mode/", "/compatible-mode/v1/", "/v1/",
    ]  # fmt: skip


def test_served_are_the_prefixes_below_no_other() -> None:
    """In the table's order, which error messages have, too."""
    assert table.served() == ("/v1/", "/compatible-mode/", "/compatible-api/", "/api/v1/", "/api-ws/")


def test_path_is_spelt_below_each_prefix_that_stands_for_its_own() -> None:
    """Any other path is spelt in one way."""
    assert table.spellings("/v1/models") == ["/v1/models", "/compatible-mode/v1/models"]
    assert table.spellings("/compatible-mode/v1/models") == ["/compatible-mode/v1/models"]
    assert table.spellings("/elsewhere") == ["/elsewhere"]


def test_models_are_listed_at_each_prefix_of_an_api_that_lists_them() -> None:
    """In the format that all of these share."""
    assert [path for path, _ in table.model_lists()] == ["/v1/models", "/compatible-mode/v1/models"]


def test_rows_have_names_of_their_own() -> None:
    """They are the labels of metrics."""
    names = [row.name for row in table.ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", table.ROWS, ids=lambda row: row.name)
def test_every_row_can_be_served(row: table.Row) -> None:
    """Prefixes are folders, with no other row's generations at its own paths; patterns are some."""
    assert all(prefix.startswith("/") and prefix.endswith("/") for prefix in row.prefixes)
    others = [prefix + path for other in table.ROWS if other is not row for prefix in other.prefixes
              for path in other.generations]  # fmt: skip
    assert not {prefix + path for prefix in row.prefixes for path in row.generations} & set(others)
    assert not [path for path in (*row.generations, *row.lent, *row.lent_to_read) if path.startswith("/")]
    re.compile(row.steering)
    re.compile(row.headers)


@pytest.mark.parametrize(
    ("name", "sent", "steers"),
    [
        ("authorization", False, False),
        ("x-dashscope-sse", True, True),
        ("x-dashscope-sdk-session", True, False),
        ("x-stainless-lang", True, False),
        ("openai-beta", True, False),
    ],
)
def test_headers_of_an_api_are_known(name: str, sent: bool, steers: bool) -> None:
    """Those that its clients send, and of them those that steer the answer."""
    route = next(route for route, _ in table.routes() if route.dialect is CHAT)
    assert bool(re.fullmatch(table.request_headers(), name)) is sent
    assert bool(route.steered_by([(name.encode(), b"x")])) is steers
