"""The protocol of a client's connection: what the event loop calls, and aiohttp's parser, readers and writers.

aiohttp's own RequestHandler has the same parts, and others that are not needed here: options, a timer and a task for
each connection. This one is made of few attributes, can be compiled, and has neither parser nor task before there is
something to parse. Whatever parses heads, reads bodies, and writes the responses that are aiohttp's is still aiohttp's.
What requests are is not known here.
"""

import asyncio
from collections import deque
from typing import Any, Final, Protocol

from aiohttp import EMPTY_PAYLOAD
from aiohttp.http_exceptions import HttpProcessingError

from proxy.downstream.request_pieces import QUEUED, new_parser

RESUMES_AT: Final = QUEUED // 2  # requests that still wait when reading goes on after it was paused for them
_TAIL_BYTES: Final = 256 * 1024  # that may wait after a request to switch to another protocol
NOTHING: Final[deque[tuple[Any, Any]]] = deque(maxlen=0)


class Switched(Protocol):
    """What a client's bytes go to after it was switched to another protocol."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take bytes; return whether no more are wanted, and those that are left over."""

    def feed_eof(self) -> None:
        """Note that the connection has ended."""


class Malformed:
    """What stands among requests for one that could not be parsed."""

    __slots__ = ("exc",)

    def __init__(self, exc: HttpProcessingError) -> None:
        self.exc = exc


class ClientProtocol:
    """One connection of a client, up to the requests that are parsed from it.

    It implements asyncio.Protocol without inheriting from it: a compiled class can't have an interpreted base.
    """

    __slots__ = (
        "_buffer_paused",
        "_close",
        "_drain_waiter",
        "_force_close",
        "_message_tail",
        "_messages",
        "_parser",
        "_paused",
        "_payload_parser",
        "_reading_paused",
        "_task",
        "_upgraded",
        "_waiter",
        "loop",
        "max_field_size",
        "max_headers",
        "transport",
    )

    transport: Any  # None once the connection is lost or being closed

    def __init__(self, loop: asyncio.AbstractEventLoop, header_bytes: int, max_headers: int) -> None:
        self.loop = loop
        self.max_field_size = header_bytes  # the names are aiohttp's, of what its other parts use
        self.max_headers = max_headers
        self.transport = None
        self._paused = False  # nothing is to be written
        self._drain_waiter: asyncio.Future[None] | None = None
        self._reading_paused = False  # by the reader of a body
        self._buffer_paused = False  # because too much waits here
        self._parser: Any = None
        self._messages: deque[tuple[Any, Any]] = NOTHING  # the heads of requests that have yet to begin, and bodies
        self._upgraded = False  # a request asks to switch to another protocol: what follows is not HTTP, if it may
        self._message_tail = b""  # what followed
        self._payload_parser: Switched | None = None
        self._close = False  # nothing more is read
        self._force_close = False  # nor written
        self._waiter: asyncio.Future[None] | None = None  # while the task waits for a request
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Respond to requests: the task of the connection."""

    # For the event loop

    def connection_made(self, transport: Any) -> None:
        """Note the transport. Options of its socket are set by whoever listens (`site`)."""
        self.transport = transport

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note that the connection has ended."""
        self._force_close = True
        self.transport = None
        self._parser, self._messages = None, NOTHING  # those that wait refer to this connection
        self._wake()
        self._task = None
        if self._payload_parser is not None:
            self._payload_parser.feed_eof()
            self._payload_parser = None
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            if exc is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(ConnectionError("the client has disconnected"))

    def data_received(self, data: bytes) -> None:
        """Take what was read."""
        self._feed(data)

    def eof_received(self) -> bool:
        """Note that the client sends no more; return whether the connection stays open."""
        return False

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # For aiohttp's readers and writers

    @property
    def connected(self) -> bool:
        """Return whether the connection is open."""
        return self.transport is not None

    @property
    def writing_paused(self) -> bool:
        """Return whether so much waits to be sent that nothing should be added."""
        return self._paused

    async def _drain_helper(self) -> None:
        """Wait until something may be written. Raises: ConnectionResetError."""
        if self.transport is None:
            raise ConnectionResetError("the client has disconnected")
        if self._paused:
            if self._drain_waiter is None or self._drain_waiter.done():
                self._drain_waiter = self.loop.create_future()
            await self._drain_waiter

    def pause_reading(self) -> None:
        """Read no more of the body, which nobody takes."""
        self._reading_paused = True
        if not self._upgraded and self._parser is not None:
            self._parser.pause_reading()
        if self.transport is not None:
            self._pause_transport()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on, if reading was paused; with the parser, too, if it is to.

        aiohttp's readers call this after each read of a body, paused or not.
        """
        if not (self._reading_paused or self._buffer_paused):
            return
        self._reading_paused = False
        if not self._upgraded and resume_parser:
            self.data_received(b"")  # what the parser has kept
        if not (self._reading_paused or self._buffer_paused):
            self._resume_transport()

    @property
    def ssl_context(self) -> Any:
        """The TLS of the connection; None: it has none."""
        return None if self.transport is None else self.transport.get_extra_info("sslcontext")

    @property
    def peername(self) -> Any:
        """The address of the client."""
        return None if self.transport is None else self.transport.get_extra_info("peername")

    @property
    def sockname(self) -> Any:
        """The address that the client has connected to."""
        return None if self.transport is None else self.transport.get_extra_info("sockname")

    # Requests

    def _feed(self, data: bytes) -> None:
        """Parse what was read: b"" has the parser go on with what it has kept."""
        if self._force_close or self._close:
            return
        if self._payload_parser is not None:
            if data:
                ended, _ = self._payload_parser.feed_data(data)
                if ended:
                    self.close()
        elif not self._upgraded:
            self._parse_requests(data)
            self._pause_for_queue()
        elif data:
            self._message_tail += data
            if len(self._message_tail) >= _TAIL_BYTES:
                self._pause_for_buffer()

    def _parse_requests(self, data: bytes) -> None:
        if self._parser is None:
            self._parser = new_parser(self)
        try:
            messages, self._upgraded, tail = self._parser.feed_data(data)
        except HttpProcessingError as exc:
            self._add(Malformed(exc), EMPTY_PAYLOAD)
            self._upgraded = False
            return
        for message, body in messages:
            self._add(message, body)
        if self._upgraded:
            self._message_tail = tail

    def _add(self, message: Any, body: Any) -> None:
        """Have a request begin when those before it have ended. `message`: its head, or what is Malformed."""
        if self._messages is NOTHING:
            self._messages = deque()
        self._messages.append((message, body))
        self._wake()

    def _wake(self) -> None:
        """Have the task go on, if it waits; the first request begins it."""
        waiter = self._waiter
        if waiter is not None:
            if not waiter.done():
                waiter.set_result(None)
        elif self._task is None and self._messages and not self._force_close:
            self._task = self.loop.create_task(self.start())

    def _pause_for_queue(self) -> None:
        """Read no more while so many requests wait: the parser has stopped, too."""
        if len(self._messages) >= QUEUED:
            self._pause_for_buffer()

    def _pause_for_buffer(self) -> None:
        if not self._buffer_paused:
            self._buffer_paused = True
            self._pause_transport()

    def _resume_if_drained(self) -> None:
        if len(self._message_tail) >= _TAIL_BYTES:
            return
        if not self._upgraded:  # while it still counts as paused, so that a full queue does not pause it again
            self.data_received(b"")
            if len(self._messages) >= QUEUED:
                return
        self._buffer_paused = False
        if not self._reading_paused:
            self._resume_transport()

    def _pause_transport(self) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.pause_reading()

    def _resume_transport(self) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.resume_reading()

    # Other protocols

    def set_parser(self, switched: Switched) -> None:
        """Pass what the client sends to another protocol from now on."""
        self._payload_parser = switched
        tail, self._message_tail = self._message_tail, b""
        if tail:
            switched.feed_data(tail)
        if self._buffer_paused:
            self._resume_if_drained()

    def _refuse_switch(self) -> None:
        """Parse what followed a request to switch to another protocol, which was refused."""
        if self._messages or self._payload_parser is not None or self._parser is None:
            return
        self._parser.set_upgraded(False)
        tail, self._message_tail, self._upgraded = self._message_tail, b"", False
        if tail:
            self._parse_requests(tail)
        if len(self._messages) >= QUEUED:
            self._pause_for_buffer()
        elif self._buffer_paused:
            self._resume_if_drained()

    # The end

    def close(self) -> None:
        """Read no more requests. The connection closes after the response in progress, if there is one."""
        self._close = True
        self._wake()

    def force_close(self) -> None:
        """Close the connection when what was written has been sent."""
        self._force_close = True
        self._wake()
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.close()

    async def shutdown(self, timeout_s: float | None) -> None:
        """Close the connection after the response in progress, or after so many seconds."""
        self._force_close = True
        self._wake()
        task = self._task
        if task is not None and not task.done():
            await asyncio.wait((task,), timeout=timeout_s)
            task.cancel()
        self.force_close()
