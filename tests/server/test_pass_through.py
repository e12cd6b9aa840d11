"""Requests that pass through: where a target leads, and that the options of generations are not theirs."""

import pytest

from proxy.dialects.chat import CHAT
from proxy.server.pass_through import Route
from proxy.tools.fake.qwen import FakeQwen
from proxy.wire.errors import BadRequest
from tests.proxy_under_test import Tee

ROUTE = Route("chat", "/v1/", "/compatible-mode/v1/", CHAT)


# Targets.


@pytest.mark.parametrize(
    ("target", "upstream"),
    [
        ("/v1/models", b"/compatible-mode/v1/models"),
        ("/v1/", b"/compatible-mode/v1/"),
        ("/v1/a%2Fb%20c?d=%2F&e=/../f#g", b"/compatible-mode/v1/a%2Fb%20c?d=%2F&e=/../f#g"),
        ("/v1/models?", b"/compatible-mode/v1/models?"),
        ("/v1//x//", b"/compatible-mode/v1//x//"),
        ("/v1/...", b"/compatible-mode/v1/..."),
        ("/v1/.hidden/..double/trailing.", b"/compatible-mode/v1/.hidden/..double/trailing."),
        ("/v1/x..%2f..y%5c...", b"/compatible-mode/v1/x..%2f..y%5c..."),
        ("/v1/\udce9", b"/compatible-mode/v1/\xe9"),
        ("http://elsewhere.test/v1/models", b"/compatible-mode/v1/models"),
        ("HTTPS://a:b@elsewhere.test:1/v1/models?x", b"/compatible-mode/v1/models?x"),
    ],
)
def test_target_keeps_its_bytes_below_the_prefix(target: str, upstream: bytes) -> None:
    """Escapes, queries and bytes that are not UTF-8 are the upstream's to read; a host is dropped."""
    assert ROUTE.target(target) == upstream


@pytest.mark.parametrize(
    "target",
    [
        "/v1/..",
        "/v1/.",
        "/v1/../x",
        "/v1/./x",
        "/v1/x/../y",
        "/v1/x/..?q",
        "/v1/%2e%2E/x",
        "/v1/.%2e/x",
        "/v1/%2E./x",
        "/v1/%2e",
        "/v1/%2e%2e%2fx",
        "/v1/x%2F..",
        "/v1/x%2f%2E./y",
        "/v1/..\\x",
        "/v1/x%5c..%5Cy",
        "/v1/..;a/x",
        "/v1/..%3bx",
        "/v1/..#x",
        "/v1/..%3fx",
        "/v1/..%00/x",
        "ftp://host.test/v1/models",
        "http://elsewhere.test/v1/../x",
        "/v2/models",
        "/v1",
        "//elsewhere.test/v1/models",
        "http://elsewhere.test",
        "http:///v1/../x",
        "*",
        "",
    ],
)
def test_target_that_would_lead_elsewhere_is_refused(target: str) -> None:
    """Dot segments however escaped, and what is not below the prefix at all."""
    with pytest.raises(BadRequest):
        ROUTE.target(target)


# Headers.


async def test_options_are_not_those_of_what_passes_through(tee: Tee, fake: FakeQwen) -> None:
    """They neither matter nor cross there."""
    answer = await tee.ask("GET", "/v1/models", "Stream-Mode: cooked", "Stream-Key: two words")
    assert answer.status == 200
    assert [name for name, _ in fake.requests[0].headers if name.lower().startswith(b"stream-")] == []
