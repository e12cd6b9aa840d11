"""Reads the body of a client's request, up to a limit."""

from aiohttp import web

from proxy.wire.errors import TooLarge


async def read_body(request: web.BaseRequest, allowed_bytes: int) -> bytes:
    """Return the complete body of a request. Raises: TooLarge."""
    content = request.content
    if content.is_eof():  # the usual case: the body came with the head
        body = content.read_nowait()
        if len(body) > allowed_bytes:
            raise TooLarge(f"the request body has {len(body)} bytes, {allowed_bytes} are allowed")
        return body
    invite(request)
    length = request.content_length
    if length is not None and length > allowed_bytes:
        raise TooLarge(f"the request body has {length} bytes, {allowed_bytes} are allowed")
    pieces: list[bytes] = []
    size = 0
    while size <= allowed_bytes and (piece := await content.readany()):
        pieces.append(piece)
        size += len(piece)
    if size > allowed_bytes:
        raise TooLarge(f"the request body has more than the {allowed_bytes} bytes allowed, {size} came so far")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def invite(request: web.BaseRequest) -> None:
    """Send the interim response that a client may wait for before it sends its body (RFC 9110 section 10.1.1)."""
    if not request.content.is_eof() and request.headers.get("Expect", "").lower() == "100-continue":
        transport = request.transport
        if transport is not None:
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
