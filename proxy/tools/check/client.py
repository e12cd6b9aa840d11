"""A client of a check: sends one request, and keeps what comes, when, and how it ends."""

import asyncio
from types import TracebackType
from typing import Self

from proxy.dialects.question import Question
from proxy.tools.endpoint import Endpoint
from proxy.upstream.exchange import Exchange
from proxy.wire.errors import UpstreamError
from proxy.wire.http import Headers

_PROMPT = "Say something about rivers. ({mark})"


class Heard:
    """A Receiver: the body of one response, with the times of its reads.

    To be used in an `async with` block, which ends with the client's leaving.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.data = bytearray()
        self.reads: list[tuple[float, int]] = []
        """When how many bytes were here, in monotonic seconds."""
        self.error: UpstreamError | None = None
        """Why the body is not whole, as HTTP tells; None: it is, or is not over."""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._came = asyncio.Event()

    @property
    def status(self) -> int:
        """The status of the response."""
        return self.exchange.status

    def header(self, name: str) -> str:
        """Return the value of a header, named in lower case; "" without it."""
        return (self.exchange.header(name.encode()) or b"").decode("latin-1")

    def received(self, data: bytes, at: float) -> None:
        self.data += data
        self.reads.append((at, len(self.data)))
        self._came.set()

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        if data:
            self.received(data, at)
        self.error = error
        self._finish()

    def failed(self, fault: Exception) -> None:
        if not self.over.done():
            self.over.set_exception(fault)
        self._came.set()

    def _finish(self) -> None:
        if not self.over.done():
            self.over.set_result(None)
        self._came.set()

    async def wait_bytes(self, size_bytes: int) -> None:
        """Wait until so many bytes are here, or the response has ended."""
        while len(self.data) < size_bytes and not self.over.done():
            self._came.clear()
            await self._came.wait()

    async def whole(self) -> bytes:
        """Wait for the end; return the body."""
        await self.over
        return bytes(self.data)

    async def __aenter__(self) -> Self:
        self.exchange.attach(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.exchange.close()


async def ask(endpoint: Endpoint, model: str, mark: str) -> Heard:
    """Send a request for a stream whose prompt has the mark. Raises: UpstreamError, Overloaded."""
    question = Question(model, _PROMPT.format(mark=mark))
    return Heard(await endpoint.ask(endpoint.body(question)))


async def follow(endpoint: Endpoint, target: str, headers: Headers) -> Heard:
    """Request another resource of the server. Raises: UpstreamError, Overloaded."""
    return Heard(await endpoint.get(target.encode(), [(b"Accept", b"text/event-stream"), *headers]))
