"""aiohttp's protocol of a client's connection, made without what it does not need yet: options, timer, parser, task.

Made by aiohttp, half of what a new connection takes is this protocol. Here its attributes get the values that aiohttp
has given to one; the parser is made when there is something to parse, as heads that are known are not (`known_heads`),
and the task begins with the first request. What requests are is not known here.
"""

from collections import deque
from typing import Any

from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.web_protocol import RequestHandler

from proxy.downstream.request_pieces import new_parser


class Pattern:
    """What all connections of a listener are made like: one that aiohttp has made."""

    __slots__ = ("is_known", "one", "options", "server")

    def __init__(self, server: web.Server, **options: Any) -> None:
        """`options`: of aiohttp's RequestHandler."""
        self.server = server
        self.options = options
        self.one = RequestHandler(server, **options)
        self.is_known = True  # whether all attributes of aiohttp's are set here: those of another release may not be
        light, attributes = LightConnection(self), (*BaseProtocol.__slots__, *RequestHandler.__slots__)
        self.is_known = all(hasattr(light, name) for name in attributes if hasattr(self.one, name))


class FirstWaiter:
    """What waits for the first request of a connection, as a future does for each of the later ones."""

    __slots__ = ("_connection",)

    def __init__(self, connection: "LightConnection") -> None:
        self._connection: LightConnection | None = connection

    def done(self) -> bool:
        """Return whether nothing is waited for."""
        return self._connection is None

    def set_result(self, result: None) -> None:
        """Note that the request has come: its connection's task begins."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.begin_task()

    def cancel(self) -> None:
        """Wait no longer."""
        self._connection = None


class LightConnection(RequestHandler):
    """One connection of a client, as aiohttp knows it."""

    __slots__ = ()

    def __init__(self, pattern: Pattern) -> None:
        if not pattern.is_known:
            super().__init__(pattern.server, **pattern.options)
            return
        one, server = pattern.one, pattern.server
        self._loop, self._manager = one._loop, server
        self._request_handler, self._request_factory = server.request_handler, server.request_factory
        self._parser, self._messages, self._cache = None, deque(), {}
        self._message_tail, self._request_count, self._keepalive = b"", 0, True
        self._paused = self._reading_paused = self._buffer_paused = self._upgraded = False
        self._close = self._force_close = self._request_in_progress = False
        self.transport = self._drain_waiter = self._waiter = self._handler_waiter = self._task_handler = None
        self._current_request = self._payload_parser = self._data_received_cb = self._keepalive_handle = None
        self.max_line_size, self.max_field_size, self.max_headers = (
            one.max_line_size,
            one.max_field_size,
            one.max_headers,
        )
        self._max_msg_queue_size, self._msg_queue_resume_size = one._max_msg_queue_size, one._msg_queue_resume_size
        self._read_bufsize, self._lingering_time = one._read_bufsize, one._lingering_time
        self._tcp_keepalive, self._timeout_ceil_threshold = one._tcp_keepalive, one._timeout_ceil_threshold
        self._keepalive_timeout, self._next_keepalive_close_time = (
            one._keepalive_timeout,
            one._next_keepalive_close_time,
        )
        self.logger, self.debug, self.access_log = one.logger, one.debug, one.access_log
        self.access_logger, self._logging_enabled = one.access_logger, one._logging_enabled

    def connection_made(self, transport: Any) -> None:
        """Note the transport; a task begins with the first request.

        aiohttp's own method would set options of the socket, which it has from the one that listens (`site`) and from
        the event loop, and a timer, where `client_connections` has one for all connections, and begin the task.
        """
        self.transport = transport
        manager = self._manager
        assert manager is not None
        manager.connection_made(self, transport)
        self._waiter = FirstWaiter(self)  # type: ignore[assignment]

    def begin_task(self) -> None:
        """Begin to respond to requests: the first has come."""
        self._waiter = None
        self._task_handler = self._loop.create_task(self.start())

    def data_received(self, data: bytes) -> None:
        """Parse what was read."""
        if self._parser is None and not (self._force_close or self._close):
            self._parser = new_parser(self)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note that the connection has ended.

        A task that waits for a request is woken, and ends by itself: to cancel it, as aiohttp does, takes longer.
        """
        waiter = self._waiter
        if waiter is not None and self._task_handler is not None and not waiter.done():
            self._task_handler, self._force_close = None, True
            waiter.set_result(None)
        super().connection_lost(exc)
