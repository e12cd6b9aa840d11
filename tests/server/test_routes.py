"""The table of paths: which endpoint a request target finds, and what its path holds."""

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from proxy.access.admission import Needs
from proxy.access.callers import Caller
from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.server.routes import ANY, Routes, origin_form
from proxy.telemetry.metrics import Metrics
from proxy.wire.errors import Unauthorised

OPENAI, NATIVE = CHAT, DASHSCOPE


async def nothing(request: Any, caller: Any, **arguments: str) -> Any:
    raise AssertionError("not called")


def admit(request: web.BaseRequest, needs: Needs) -> Caller:
    """Let everybody in but to /v1/streams."""
    if needs is Needs.IDENTITY:
        raise Unauthorised("not you")
    return Caller(b"somebody")


@pytest.fixture
def routes() -> Routes:
    routes = Routes(admit, Metrics(1), OPENAI)
    routes.add("GET", "/v1/streams", nothing, "listed", OPENAI, Needs.IDENTITY)
    routes.add("GET", "/v1/streams/{ident}", nothing, "stream", OPENAI)
    routes.add("POST", "/v1/streams/{ident}/cancel", nothing, "cancel", OPENAI)
    routes.add("POST", "/api/v1/chat", nothing, "chat", NATIVE)
    routes.add(ANY, "/v1/", nothing, "below", OPENAI)
    routes.add(ANY, "/api/v1/", nothing, "native", NATIVE)
    return routes


@pytest.mark.parametrize(
    ("method", "target", "name", "arguments"),
    [
        ("GET", "/v1/streams", "listed", {}),
        ("GET", "/v1/streams?limit=1", "listed", {}),
        ("GET", "http://elsewhere:1/v1/streams?a", "listed", {}),
        ("GET", "/v1/streams/st_x", "stream", {"ident": "st_x"}),
        ("GET", "/v1/streams/a%2Fb?mode=raw", "stream", {"ident": "a/b"}),
        ("POST", "/v1/streams/st_x/cancel", "cancel", {"ident": "st_x"}),
        ("GET", "/v1/streams/st_x/cancel", "below", {}),
        ("POST", "/v1/streams", "below", {}),
        ("DELETE", "/v1/files/1", "below", {}),
        ("POST", "/api/v1/chat?x=/v1/", "chat", {}),
        ("GET", "/api/v1/chat", "native", {}),
        ("GET", "/v1", "none", {}),
        ("GET", "/", "none", {}),
        ("GET", "*", "none", {}),
        ("CONNECT", "elsewhere:443", "none", {}),
    ],
)
def test_target_finds_its_endpoint(
    routes: Routes, method: str, target: str, name: str, arguments: dict[str, str]
) -> None:
    """Exact paths first, then patterns in their order; what a name stands for is one segment, unquoted."""
    endpoint, found = routes.find(method, target)
    assert (endpoint.name, found) == (name, arguments)


def test_errors_are_told_in_the_dialect_of_the_path(routes: Routes) -> None:
    """Also for what is only passed through."""
    assert routes.find("GET", "/api/v1/tasks/1")[0].dialect is NATIVE
    assert routes.find("GET", "/v1/models")[0].dialect is OPENAI


@pytest.mark.parametrize(
    ("target", "expected"),
    [("/a?b=http://c", "/a?b=http://c"), ("http://evil.test:1/a?b", "/a?b"), ("HTTPS://u@h/a", "/a"), ("*", "*")],
)
def test_origin_form_drops_scheme_and_host_only(target: str, expected: str) -> None:
    """Nothing within a path or a query is taken for a host."""
    assert origin_form(target) == expected


async def test_unknown_path_is_told_without_its_query(routes: Routes) -> None:
    """There may be a token in it."""
    answer = await routes(make_mocked_request("GET", "/nowhere?t=token"))
    assert isinstance(answer, web.Response)
    assert answer.status == 404
    assert b"nothing is served at GET /nowhere" in bytes(answer.body or b"")
    assert b"token" not in bytes(answer.body or b"")


async def test_handler_is_given_the_caller_that_was_admitted(routes: Routes) -> None:
    """With what its path holds."""
    given: list[Any] = []

    async def handler(request: web.BaseRequest, caller: Caller, ident: str) -> web.Response:
        given.extend((caller, ident))
        return web.Response()

    routes.add("GET", "/things/{ident}", handler, "things", OPENAI)
    await routes(make_mocked_request("GET", "/things/x"))
    assert given == [Caller(b"somebody"), "x"]


async def test_request_that_is_not_admitted_reaches_no_handler(routes: Routes) -> None:
    """Its refusal is told in the dialect of its path."""
    answer = await routes(make_mocked_request("GET", "/v1/streams"))
    assert isinstance(answer, web.Response)
    assert answer.status == 401
    assert b"not you" in bytes(answer.body or b"")
