"""aiohttp's protocol of a client's connection, made here: it has the values that aiohttp would have given it."""

import asyncio
from collections import deque
from typing import Any

import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.web_protocol import RequestHandler

from proxy.downstream.connection import Connection
from proxy.downstream.light_connection import LightConnection, Pattern
from tests.downstream.ports import Port, port
from tests.event_loops import GUARD_S, on_each_loop
from tests.http_client import request

ATTRIBUTES = (*BaseProtocol.__slots__, *RequestHandler.__slots__)


async def hello(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text=(await request.read()).decode() or "hello")


def values(connection: RequestHandler) -> dict[str, Any]:
    """Return aiohttp's attributes; two deques, or two dictionaries, are equal if what is in them is."""
    return {name: getattr(connection, name) for name in ATTRIBUTES if hasattr(connection, name)}


@pytest.mark.parametrize("options", [{}, {"access_log": None, "lingering_time": 1, "read_bufsize": 100}])
async def test_attributes_have_the_values_that_aiohttp_gives_them(options: dict[str, Any]) -> None:
    """But for the parser, which is made when there is something to parse; none is shared with another connection."""
    server = web.Server(hello)
    pattern = Pattern(server, loop=asyncio.get_running_loop(), max_headers=7, **options)
    assert pattern.is_known
    made, other, aiohttps = (
        LightConnection(pattern),
        LightConnection(pattern),
        RequestHandler(server, **pattern.options),
    )
    expected = {**values(aiohttps), "_parser": None}
    if aiohttps.access_logger is not None:
        expected["access_logger"] = pattern.one.access_logger
    assert values(made) == expected
    assert {name: type(value) for name, value in values(made).items()} == {
        name: type(value) for name, value in expected.items()
    }
    mine = [value for value in values(made).values() if isinstance(value, deque | dict | list | set)]
    assert mine
    assert not {id(value) for value in mine} & {id(value) for value in values(other).values()}


@on_each_loop
async def test_requests_are_served_whatever_aiohttp_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release of it may have an attribute that is not known here: then aiohttp makes each connection itself."""
    added: set[RequestHandler] = set()
    begin = RequestHandler.__init__

    def begin_with_more(self: RequestHandler, *given: Any, **options: Any) -> None:
        begin(self, *given, **options)
        added.add(self)

    def read_added(self: RequestHandler) -> bool:
        if self not in added:
            raise AttributeError("added")
        return True

    monkeypatch.setattr(RequestHandler, "__slots__", (*RequestHandler.__slots__, "added"))
    monkeypatch.setattr(RequestHandler, "__init__", begin_with_more)
    monkeypatch.setattr(RequestHandler, "added", property(read_added), raising=False)
    async with port(hello) as one, asyncio.timeout(GUARD_S):
        client = await one.send(request("POST", "/", body=b"one"))
        assert await (await client.answer()).read() == b"one"
        assert all(connection in added for connection in one.connections.open)
        client.send(request("POST", "/", body=b"two"))
        assert await (await client.answer()).read() == b"two"


@on_each_loop
async def test_parser_is_made_for_what_is_not_known() -> None:
    """A head that came twice before needs none, on whichever connection."""
    async with port(hello) as one, asyncio.timeout(GUARD_S):
        for number, has_parser in enumerate([True, True, False]):
            client = await one.send(request("POST", "/", body=b"body"))
            assert await (await client.answer()).read() == b"body"
            (connection,) = one.connections.open
            assert isinstance(connection, Connection)
            assert (connection._parser is not None, number) == (has_parser, number)
            client.send(request("GET", "/other"))
            assert await (await client.answer()).read() == b"hello"
            await client.leave()


async def test_what_comes_after_the_end_makes_no_parser() -> None:
    """The connection would refer to it, and it to the connection, for ever."""
    connection = Port(hello, Connection, 1).listener()
    connection.force_close()
    connection.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert connection._parser is None
