"""Reads the body of a client's request, up to a limit."""

from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from aiohttp import web

from proxy.machine import Transport
from proxy.wire.errors import TooLarge


class Holder(Protocol):
    """A client's connection, which counts the bytes of its request's body that are kept in memory."""

    writer: Transport

    def hold_body(self, size_bytes: int) -> None:
        """Count bytes of a body that are kept in memory, until the response ends. Raises: RateLimited."""

    def release_body(self) -> None:
        """Count the bytes of the body no longer as held."""


def release_body(request: web.BaseRequest) -> None:
    """Count the body of a request no longer as held: it was released, or is counted elsewhere from now on."""
    holder: Holder = request.protocol  # type: ignore[assignment]  # it is a Connection
    holder.release_body()


def arrived_body(request: web.BaseRequest, allowed_bytes: int) -> bytes | None:
    """Return the complete body of a request if it has arrived, usually with the head; None if it has not.

    Its connection counts it. Raises: TooLarge, RateLimited.
    """
    content = request.content
    return take_arrived(request, content, allowed_bytes) if content.is_eof() else None


def take_arrived(request: web.BaseRequest, content: Any, allowed_bytes: int) -> bytes:
    """Return the body of a request from its `content`, all of which has arrived. Raises: TooLarge, RateLimited."""
    body: bytes = content.read_nowait()
    if len(body) > allowed_bytes:
        raise TooLarge(f"the request body has {len(body)} bytes, {allowed_bytes} are allowed")
    if body:
        holder: Holder = request.protocol  # type: ignore[assignment]  # it is a Connection
        holder.hold_body(len(body))
    return body


async def read_body(request: web.BaseRequest, allowed_bytes: int) -> bytes:
    """Return the complete body of a request, which its connection counts.

    Raises: TooLarge, RateLimited, RequestTimeout.
    """
    body = arrived_body(request, allowed_bytes)
    if body is not None:
        return body
    content = request.content
    holder: Holder = request.protocol  # type: ignore[assignment]  # it is a Connection
    invite(request)
    length = request.content_length
    if length is not None and length > allowed_bytes:
        raise TooLarge(f"the request body has {length} bytes, {allowed_bytes} are allowed")
    pieces: list[bytes] = []
    size = 0
    while size <= allowed_bytes and (piece := await content.readany()):
        holder.hold_body(len(piece))
        pieces.append(piece)
        size += len(piece)
    if size > allowed_bytes:
        raise TooLarge(f"the request body has more than the {allowed_bytes} bytes allowed, {size} came so far")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class LargeBody:
    """A body that is forwarded while it arrives, once: its beginning, which has arrived, and then the rest."""

    def __init__(self, request: web.BaseRequest, beginning: bytes, allowed_bytes: int) -> None:
        self.size_bytes = request.content_length  # None: it comes in chunks
        self.check: Callable[[bytes], object] | None = None  # called with each piece
        self.ended_at = 0.0  # monotonic seconds at which the last byte arrived; 0 until then
        self.beginning = beginning  # empty once it has been sent
        self._came_bytes = 0
        self._content = request.content
        self._allowed_bytes = allowed_bytes

    def __aiter__(self) -> "LargeBody":
        return self

    async def __anext__(self) -> bytes:  # mypyc has no asynchronous generators
        """Raises: TooLarge, RequestTimeout, and what `check` raises."""
        piece, self.beginning = self.beginning, b""
        if not piece:
            piece = await self._content.readany()
        if not piece:
            self.ended_at = monotonic()
            raise StopAsyncIteration
        self._came_bytes += len(piece)
        if self._came_bytes > self._allowed_bytes:
            allowed = self._allowed_bytes
            raise TooLarge(f"the request body has more than {allowed} bytes, {self._came_bytes} came so far")
        if self.check is not None:
            self.check(piece)
        return piece


async def read_body_or_beginning(request: web.BaseRequest, held_bytes: int, allowed_bytes: int) -> bytes | LargeBody:
    """Return the whole body of a request; of one larger than `held_bytes` the beginning, and a way to the rest.

    Raises: TooLarge, RateLimited, RequestTimeout.
    """
    length, content = request.content_length, request.content
    if content.is_eof() or (length is not None and not held_bytes < length <= allowed_bytes):
        return await read_body(request, allowed_bytes)
    invite(request)
    pieces: list[bytes] = []
    size = 0
    while size <= (held_bytes if length is None else 0) and (piece := await content.readany()):
        pieces.append(piece)
        size += len(piece)
    whole = b"".join(pieces)
    if length is not None or size > held_bytes:
        return LargeBody(request, whole, allowed_bytes)
    holder: Holder = request.protocol  # type: ignore[assignment]  # it is a Connection
    holder.hold_body(size)
    return whole


def invite(request: web.BaseRequest) -> None:
    """Send the interim response that a client may wait for before it sends its body (RFC 9110 section 10.1.1)."""
    if not request.content.is_eof() and request.headers.get("Expect", "").lower() == "100-continue":
        holder: Holder = request.protocol  # type: ignore[assignment]  # it is a Connection
        if request.transport is not None:
            holder.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
