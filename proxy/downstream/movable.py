"""Connections that can be handed to another process: with the bytes read of the request in progress, and after it.

The other process is to read the same bytes: so those of a request are kept until it is known to be served here, and
those after it are not given to aiohttp's parser, which would not give them back, before the response has ended.
Only where several workers serve one machine; a connection that stays where it was accepted has none of this.
"""

import asyncio
from typing import Any, NamedTuple

from aiohttp import web

from proxy.downstream.client_protocol import Switched
from proxy.downstream.connection import Connection, Port
from proxy.downstream.response import Written
from proxy.machine import lost
from proxy.wire.request_end import RequestEnd

_BEYOND_BYTES = 64 * 1024  # no more is read when so much has come after the request in progress
HANDED_OVER = Written(0, keep_alive=False)
"""The response to a request that another process answers: nothing is written, and the connection is let go."""


class Relayed(NamedTuple):
    """Who a client is whose TLS ends in another process, which carries the bytes between it and this one."""

    address: str
    subject: str  # of its certificate; "": it has none


class MovableConnection(Connection):
    """One connection of a client, which another process can go on with from the request in progress on."""

    __slots__ = (
        "_adopted", "_beyond", "_end", "_is_answered", "_is_left", "_is_switched", "_raw", "is_placed", "relayed",
    )  # fmt: skip

    def __init__(self, port: Port) -> None:
        super().__init__(port)
        self._adopted = b""  # what another process had read of it
        self._begin_anew()
        self._beyond = b""  # what came after the request in progress
        self._is_switched = False  # it is a WebSocket
        self._is_left = False  # its transport has another protocol
        self.is_placed = False  # the request in progress is served here, whatever it says
        self.relayed: Relayed | None = None  # None: its socket is the client's

    def _begin_anew(self) -> None:
        self._raw: list[bytes] | None = []  # what came of the request in progress; None: it is served here
        self._end = RequestEnd()
        self._is_answered = False

    def adopt(self, read: bytes, *, is_placed: bool, relayed: Relayed | None = None) -> None:
        """Take over what another process has read, and has `relayed`. Call it before the connection is made.

        The bytes are parsed within `connection_made`: later, the transport would have read what comes after them.
        """
        self._adopted = read
        self.is_placed = is_placed
        self.relayed = relayed

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.relayed is not None:
            self.remote = self.relayed.address
        if self._adopted:
            adopted, self._adopted = self._adopted, b""
            self.data_received(adopted)

    # What is read

    def data_received(self, data: bytes) -> None:
        if not data or self._is_switched or self._close:  # b"": aiohttp has the parser go on
            super().data_received(data)
        elif self._beyond or (self._end.ended and not self._is_answered):  # in order: nothing overtakes what waits
            self._keep_for_later(data)
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        if self._end.ended:
            self._begin_anew()
        size = self._end.feed(data)
        mine = data if size == len(data) else data[:size]
        if self._raw is not None and self._end.has_begun:
            self._raw.append(mine)
        super().data_received(mine)
        if size < len(data):
            self.data_received(data[size:])

    def _keep_for_later(self, data: bytes) -> None:
        """Keep what comes after the request in progress, and read on: the client may end its side, or leave."""
        self._beyond += data
        transport = self.transport
        if len(self._beyond) >= _BEYOND_BYTES and transport is not None and transport.is_reading():
            transport.pause_reading()

    def set_parser(self, switched: Switched) -> None:
        super().set_parser(switched)
        self._is_switched = True
        self._raw = None
        self._read_beyond()

    def answered(self, request: web.BaseRequest) -> None:
        super().answered(request)
        self._is_answered, self._raw, self.is_placed = True, None, False
        if self._is_left:
            self.connection_lost(None)
            return
        if self._beyond:  # in another turn: aiohttp has not finished with this request
            self.loop.call_soon(self._read_beyond)

    def _read_beyond(self) -> None:
        beyond, self._beyond = self._beyond, b""
        transport = self.transport
        if not beyond or transport is None:
            return
        if not (transport.is_closing() or transport.is_reading() or self._reading_paused or self._buffer_paused):
            transport.resume_reading()
        self.data_received(beyond)
        self._end_if_over()

    @property
    def holds_bytes(self) -> bool:
        """Return whether bytes of a next request were read, and not given to the parser yet."""
        return bool(self._held or self._beyond)

    # Where it is served

    def settle(self) -> None:
        """Serve the request in progress here: the bytes that were read of it need not be kept any longer."""
        self._raw = None

    @property
    def peername(self) -> Any:
        """The address of the client, as aiohttp's requests have it."""
        if self.relayed is not None:
            return self.relayed.address, 0
        return None if self.transport is None else self.transport.get_extra_info("peername")

    @property
    def is_between_requests(self) -> bool:
        """Return whether no request is in progress, and none that was read waits to begin."""
        return self.current is None and not (self._messages or self._held or self._closing)

    @property
    def is_unused(self) -> bool:
        """Return whether no request has been answered on it yet."""
        return not self._answered

    @property
    def descriptor(self) -> int:
        """The descriptor of the connection's socket."""
        number: int = self.peer.get_extra_info("socket").fileno()
        return number

    async def wait_sent(self) -> None:
        """Wait until all that was written has been sent. Raises: ConnectionError, if the client disconnects."""
        if self.peer.get_write_buffer_size():
            self.peer.set_write_buffer_limits(0)
            await self._drain_helper()
            self.peer.set_write_buffer_limits()

    def let_go(self) -> bytes | None:
        """Read no more; return all that was read since the beginning of the request in progress; None: it stays here.

        What was written must have been sent.
        """
        raw, transport = self._raw, self.transport
        if transport is None or transport.is_closing() or self._is_switched:
            return None
        if raw is None:
            if not (self._is_answered and self._end.ended):
                return None
            raw = []
        if transport.is_reading():
            transport.pause_reading()
        return b"".join(raw) + self._beyond

    def forget(self) -> None:
        """Close this process's descriptor of the connection, which another process has taken."""
        self._beyond = b""
        self._closing = True
        self.close()
        if self.current is None:
            self.peer.abort()  # else the connection's task closes it

    @property
    def is_encrypted(self) -> bool:
        """Return whether TLS ends here, so that the connection can't be served by another process."""
        return self.peer.get_extra_info("sslcontext") is not None

    def leave_to(self, protocol: asyncio.Protocol) -> None:
        """Leave the transport, whose reading is paused, to another protocol: while a request is in progress."""
        self._beyond = b""
        self._is_left = self._force_close = True
        self._task = None  # nobody is to cancel it, or to close the transport, when this connection is lost
        self.transport = None
        lost(self.writer)
        self.peer.set_protocol(protocol)
        protocol.connection_made(self.peer)

    def take_back(self) -> None:
        """Go on with the connection, which nobody has taken."""
        self.settle()
        transport = self.transport
        paused = len(self._beyond) >= _BEYOND_BYTES or self._reading_paused or self._buffer_paused
        if transport is not None and not transport.is_closing() and not paused:
            transport.resume_reading()
