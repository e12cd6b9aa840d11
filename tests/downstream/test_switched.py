"""What all connections that have switched to WebSocket do: answer pings, and wait for the client's last frame."""

import asyncio
from typing import Any
from unittest import mock

import pytest

from proxy.downstream import switched
from proxy.downstream.switched import PONG_ROOM_BYTES, Switched
from proxy.wire.websocket import PONG, frame


class Written:
    """The response below, whose client takes everything, or has left."""

    def __init__(self, *, ends: bool = True) -> None:
        self.ends = ends
        self.started: tuple[Any, ...] = ()
        self.data: list[bytes] = []

    def start(self, reason: bytes, headers: Any, *, framed: bool = False) -> None:
        self.started = reason, headers, framed

    def write_data(self, data: bytes) -> None:
        self.data.append(data)

    async def finished(self) -> bool:
        return self.ends


def switching(response: Any, unsent_bytes: int | None = 0) -> Switched:
    """Return a connection with so many bytes in its transport's buffer; None: it is closed."""
    request = mock.Mock()
    if unsent_bytes is None:
        request.transport = None
    else:
        request.transport.get_write_buffer_size.return_value = unsent_bytes
    return Switched(request, response)


async def test_head_switches_protocols() -> None:
    """With the answer to the client's key, and what else is to be said."""
    response = Written()
    switching(response).switch(b"accepted", [(b"Stream-Id", b"st_a")])
    reason, headers, framed = response.started
    assert (reason, framed) == (b"Switching Protocols", True)
    upgrade = {b"Upgrade": b"websocket", b"Connection": b"Upgrade"}
    assert dict(headers) == {**upgrade, b"Sec-WebSocket-Accept": b"accepted", b"Stream-Id": b"st_a"}


@pytest.mark.parametrize(
    ("unsent_bytes", "sent"),
    [(0, [frame(PONG, b"p")]), (PONG_ROOM_BYTES - 1, [frame(PONG, b"p")]), (PONG_ROOM_BYTES, []), (None, [])],
)
async def test_ping_is_answered_while_there_is_room(unsent_bytes: int | None, sent: list[bytes]) -> None:
    """A client that sends pings and reads nothing would fill memory with pongs."""
    response = Written()
    switching(response, unsent_bytes).pong(b"p")
    assert response.data == sent


async def test_end_waits_for_the_last_frame_of_the_client() -> None:
    """It may be noted more than once."""
    connection = switching(Written())
    finishing = asyncio.create_task(connection.finished())
    for _ in range(3):
        await asyncio.sleep(0)
    assert not finishing.done()
    connection.note_answered()
    connection.note_answered()
    assert await finishing


async def test_end_waits_no_longer_than_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client has been sent everything: that it does not answer is no failure."""
    monkeypatch.setattr(switched, "CLOSING_S", 0.01)
    assert await switching(Written()).finished()


async def test_end_does_not_wait_for_a_client_that_left() -> None:
    """And is no proper end."""
    assert not await switching(Written(ends=False)).finished()
