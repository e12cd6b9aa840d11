"""What of a generation is asked for upstream in another way."""

import functools
import json
from typing import Any

import pytest

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.server.configuration.settings import GenerationsConfig
from proxy.server.document import JSON
from proxy.server.generations.options import GenerationOptions
from proxy.server.generations.reader import rewrite
from proxy.server.generations.request import GenerationRequest
from proxy.server.pass_through import Route
from proxy.stream.modes.projection import View
from proxy.upstream.on_disconnect import OnDisconnect

RAW = View("raw")
HEADERS = [(b"Content-Type", b"application/json")]
SSE = (b"X-DashScope-SSE", b"enable")


@functools.cache
def route_of(dialect: Dialect) -> Route:
    """Return the one route of a dialect: routes are equal to themselves alone."""
    return Route("r", "/", "/", dialect)


def asked(
    body: dict[str, Any] | bytes, dialect: Dialect | None = None, *headers: tuple[bytes, bytes]
) -> GenerationRequest:
    dialect = dialect or CHAT
    options = GenerationOptions(RAW, None, 0, OnDisconnect(0), None, None, respond_async=False)
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return GenerationRequest(route_of(dialect), b"me", options, b"/", [*HEADERS, *headers], sent, 0.0)


def rewritten(generation: GenerationRequest, **generations: Any) -> GenerationRequest:
    """Return a request, rewritten as configured."""
    rewrite(generation, GenerationsConfig(**generations))
    return generation


@pytest.mark.parametrize("body", [{"stream": True}, b"", b"[]", b"{", b'"stream"'])
@pytest.mark.parametrize("upgrade", ["never", "always", "auto"])
def test_what_needs_no_upgrade_is_left_as_it_is(body: dict[str, Any] | bytes, upgrade: str) -> None:
    """Streams, and what is no JSON object: the upstream shall say so."""
    assert rewritten(asked(body), upgrade=upgrade) == asked(body)


def test_upgrade_asks_for_a_stream_with_usage() -> None:
    """All else of the body stays, unknown fields too; the answer is a document."""
    before = asked({"model": "m", "stream": False, "stream_options": {"x": 1}, "enable_thinking": True})
    after = rewritten(before, upgrade="always")
    assert json.loads(after.body) == {
        "model": "m",
        "stream": True,
        "stream_options": {"x": 1, "include_usage": True},
        "enable_thinking": True,
    }
    assert (after.options.view, after.streamed) == (JSON, None)


def test_auto_keeps_the_stream_in_reserve() -> None:
    """The request goes up as it came; what to ask with, if that is refused, is at hand."""
    before, after = asked({"model": "m"}), rewritten(asked({"model": "m"}), upgrade="auto")
    assert (after.body, after.headers, after.options.view) == (before.body, before.headers, JSON)
    assert after.streamed is not None
    assert json.loads(after.streamed[1])["stream"] is True


@pytest.mark.parametrize("given", [None, True, False])
def test_native_upgrade_asks_by_header_and_for_increments(given: bool | None) -> None:
    """Unless the client has said otherwise: its model may know only one of the two."""
    parameters = {} if given is None else {"incremental_output": given}
    before = asked({"model": "m", "parameters": parameters}, DASHSCOPE, (b"Accept", b"application/json"))
    after = rewritten(before, upgrade="always")
    assert json.loads(after.body)["parameters"]["incremental_output"] is (given is not False)
    assert after.headers == [*HEADERS, (b"Accept", b"text/event-stream"), SSE]


@pytest.mark.parametrize("header", [SSE, (b"accept", b"text/event-stream")])
def test_native_stream_is_known_by_its_headers(header: tuple[bytes, bytes]) -> None:
    """Either of them; `stream` in the body means nothing there."""
    asking = {"model": "m"}
    assert rewritten(asked(asking, DASHSCOPE, header), upgrade="always") == asked(asking, DASHSCOPE, header)


@pytest.mark.parametrize(
    ("body", "counted"),
    [
        ({"stream": True}, True),
        ({"stream": True, "stream_options": {"include_usage": False}}, True),
        ({"stream": True, "stream_options": {"include_usage": True}}, False),
        ({"stream": False}, False),
    ],
)
def test_usage_is_asked_for_where_it_is_not(body: dict[str, Any], counted: bool) -> None:
    """And kept back from the client then."""
    after = rewritten(asked(body), include_usage=True)
    assert after.hides_usage is counted
    if counted:
        assert json.loads(after.body)["stream_options"]["include_usage"] is True


def test_native_streams_have_their_usage_anyway() -> None:
    """In every event."""
    assert rewritten(asked({"model": "m"}, DASHSCOPE, SSE), include_usage=True) == asked({"model": "m"}, DASHSCOPE, SSE)
