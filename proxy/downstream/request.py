"""The request of a client: aiohttp's, but quicker to make and to read.

aiohttp computes each property of a request when it is read first, and keeps it for a second time; a proxy reads most of
them once. Here they are attributes, set when the request is made.
"""

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter


class Request(web.BaseRequest):
    """A client's request, as aiohttp's parser and a known head make it."""

    # These stand in place of aiohttp's properties.
    content: Any = None
    headers: Any = None
    keep_alive: Any = True
    method: Any = ""
    protocol: Any = None
    raw_path: Any = ""
    remote: Any = None
    # And these of attributes that are the same for every request.
    _client_max_size = 1024**2
    _client_max_fields = 1000
    _writer: AbstractStreamWriter | None = None

    def __init__(
        self, message: Any, payload: Any, protocol: Any, task: "asyncio.Task[None]", loop: asyncio.AbstractEventLoop
    ) -> None:
        """Make a request without aiohttp's own `__init__`, which takes twice as long."""
        self._message = message
        self._protocol = self.protocol = protocol
        self._payload = self.content = payload
        self._headers = self.headers = message.headers
        self._method = self.method = message.method
        self._version = message.version
        self._rel_url = message.url
        self._cache = {}
        self._state = {}
        self._task = task
        self._loop = loop
        self.raw_path = message.path
        self.keep_alive = not message.should_close
        self.remote = protocol.remote
        if not message.path.startswith("/") and message.url.absolute:
            self._note_absolute_form()

    def _note_absolute_form(self) -> None:
        """Take the host from the target, which has one (RFC 9112 section 3.2.2); whether TLS is used is known here."""
        url = self._rel_url
        if url.scheme:
            self._cache["scheme"] = "https" if self.protocol.ssl_context else "http"
            url = url.with_scheme(self._cache["scheme"])
        self._cache["url"], self._cache["host"] = url, url.host
        self._rel_url = url.relative()

    def get(self, key: Any, default: Any = None) -> Any:
        """Return what is stored on the request: without the two calls of a Mapping's own."""
        return self._state.get(key, default)

    def clone(self, **changes: Any) -> web.BaseRequest:
        """Return a copy with changes, which is one of aiohttp's own requests."""
        whole = web.BaseRequest(
            self._message, self._payload, self._protocol, self._payload_writer, self._task, self._loop
        )
        return whole.clone(**changes)

    @property
    def _payload_writer(self) -> AbstractStreamWriter:  # type: ignore[override]
        """What aiohttp's own responses write to: few requests have one."""
        if self._writer is None:
            self._writer = StreamWriter(self.protocol, self._loop)
        return self._writer

    @property
    def _transport_sslcontext(self) -> Any:  # type: ignore[override]
        return self.protocol.ssl_context

    @property
    def _transport_peername(self) -> Any:  # type: ignore[override]
        return self.protocol.peername

    @property
    def _transport_sockname(self) -> Any:  # type: ignore[override]
        return self.protocol.sockname
