"""A real client of WebSockets that follows a stream, and what it is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.event_loops import GUARD_S
from tests.http_client import KEY
from tests.proxy_under_test import Tee

MINE = {"Authorization": f"Bearer {KEY}"}


def path_of(ident: str, query: str = "") -> str:
    path = f"/v1/{ident}/stream" if ident.startswith("keys/") else f"/v1/streams/{ident}"
    return f"{path}?{query}" if query else path


@asynccontextmanager
async def opened(tee: Tee, ident: str, query: str = "", **headers: str) -> AsyncIterator[ClientConnection]:
    """Follow with the `websockets` library, as it comes: it offers compression, and pings."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = tee.proxy.url.replace("http", "ws", 1) + path_of(ident, query)
    async with asyncio.timeout(GUARD_S), connect(url, additional_headers={**MINE, **named}) as socket:
        yield socket


async def rest(socket: ClientConnection) -> tuple[list[dict[str, str]], tuple[int, str]]:
    """Return all messages to come, and how the connection was closed."""
    found = []
    try:
        while True:
            found.append(json.loads(await socket.recv()))
    except ConnectionClosed:
        assert socket.close_code is not None
        return found, (socket.close_code, socket.close_reason or "")
