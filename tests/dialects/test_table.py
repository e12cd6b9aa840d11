"""The table of APIs: what follows from its rows."""

import re

import pytest

from proxy.dialects import table
from proxy.dialects.chat import CHAT

OPENAI = (
    "/v1/",
    "/compatible-mode/v1/",
    "/v1/responses",
    "/compatible-mode/v1/responses",
    "/api/v2/apps/protocols/compatible-mode/v1/responses",
)
ANTHROPIC = ("/v1/messages", "/apps/anthropic/v1/messages", "/apps/anthropic/")


@pytest.mark.parametrize("base", ["/compatible-mode/v1", "/v1", "/a/b"])
def test_prefixes_stand_for_paths_of_the_upstream(base: str) -> None:
    """Of two that fit, the longer comes first; the base of the OpenAI routes is configured."""
    seen: list[str] = []
    for route, _ in table.routes(table.prefixes_upstream(base)):
        assert not any(route.prefix.startswith(before) for before in seen if before != route.prefix)
        seen.append(route.prefix)
        stands_for = f"{base}/responses" if route.prefix.endswith("/responses") else f"{base}/"
        if route.name == "messages":
            assert route.upstream_prefix == ANTHROPIC[1]
        else:
            assert route.upstream_prefix == (stands_for if route.prefix in OPENAI else route.prefix)
    assert sorted(set(seen)) == sorted([*OPENAI, *ANTHROPIC, "/api/v1/", "/api/v2/", "/compatible-mode/"])


def test_upstream_may_serve_an_api_elsewhere() -> None:
    """Then all of its prefixes stand for that path; an empty one is none."""
    for own, there in (("/elsewhere", b"/elsewhere/x"), ("", b"/b/responses/x")):
        paths = table.prefixes_upstream("/b", {"responses": own})
        routes = [route for route, _ in table.routes(paths) if route.name == "responses"]
        assert {route.target(route.prefix + "/x") for route in routes} == {there}
        assert len(routes) == 3


def test_served_are_the_prefixes_below_no_other() -> None:
    """In the table's order, which error messages have, too."""
    assert table.served() == ("/v1/", "/compatible-mode/", "/api/v1/", "/api/v2/", "/apps/anthropic/")


def test_path_is_spelt_below_each_prefix_that_stands_for_its_own() -> None:
    """Any other path is spelt in one way."""
    assert table.spellings("/v1/models") == ["/v1/models", "/compatible-mode/v1/models"]
    assert table.spellings("/compatible-mode/v1/models") == ["/compatible-mode/v1/models"]
    assert table.spellings("/elsewhere") == ["/elsewhere"]
    below = table.spellings("/v1/responses/{}")
    assert below == [f"{prefix}/{{}}" for prefix in OPENAI if prefix.endswith("responses")]
    assert table.spellings("/v1/responses-of-others")[1:] == ["/compatible-mode/v1/responses-of-others"]


@pytest.mark.parametrize("row", table.ROWS, ids=lambda row: row.name)
def test_every_row_can_be_served(row: table.Row) -> None:
    """Its prefixes are all folders or all paths, with no other row's generations at its own; patterns are some."""
    assert all(prefix.startswith("/") for prefix in row.prefixes)
    assert len({prefix.endswith("/") for prefix in row.prefixes}) == 1
    others = [prefix + path for other in table.ROWS if other is not row for prefix in other.prefixes
              for path in other.generations]  # fmt: skip
    assert not {prefix + path for prefix in row.prefixes for path in row.generations} & set(others)
    paths = (*row.generations, *row.lent, *row.lent_to_read)
    assert not [path for path in paths if path and path.startswith("/") == row.prefixes[0].endswith("/")]
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
