"""Whole responses to a chat completion, head included: numbers 13, 15 and 16 of what is reported."""

from typing import NamedTuple

from tests.corpus.entry import END, chunk

BODY = chunk({"role": "assistant", "content": "Hel"}) + chunk({"content": "lo"}) + END
SAID = chunk({"role": "assistant", "content": "Hel"}) + chunk({"content": "lo"})
FINISHED = SAID + chunk({}, "stop")
TYPE = b"Content-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
JSON = b'{"error":{"message":"boom","type":"invalid_request_error","code":"c"}}'


class Response(NamedTuple):
    """What an upstream sends on a connection, and what is right."""

    said: bytes
    text: str | None = "Hello"
    """What mode text sends; None: it is no stream, and passes as it is in every mode."""
    body: bytes = BODY
    """What mode raw sends."""
    status: int = 200
    code: str = ""
    """Of the proxy's own error, which every mode has then."""
    closes: bool = False
    """The upstream closes the connection, which ends the body."""
    header: tuple[str, str] | None = None
    """One that mode raw must have."""


def chunks(body: bytes = BODY, size: bytes = b"%x") -> bytes:
    """Return a body in chunks of a frame each."""
    return b"".join((size + b"\r\n%b\n\n\r\n") % (len(one) + 2, one) for one in body.split(b"\n\n")[:-1]) + b"0\r\n\r\n"


def streamed(head: bytes = TYPE, line: bytes = b"HTTP/1.1 200 OK", size: bytes = b"%x", **more: object) -> Response:
    """Return a response that is this stream, in chunks."""
    return Response(line + b"\r\n" + head + CHUNKED + b"\r\n" + chunks(size=size), **more)  # type: ignore[arg-type]


def measured(head: bytes, body: bytes = BODY, line: bytes = b"HTTP/1.1 200 OK", **more: object) -> Response:
    """Return a response of known length."""
    said = line + b"\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    return Response(said, body=body, **more)  # type: ignore[arg-type]


def refused(head: bytes, body: bytes, status: bytes, **more: object) -> Response:
    """Return a response that is no stream."""
    return measured(head, body, b"HTTP/1.1 " + status, text=None, status=int(status[:3]), **more)


RESPONSES = {
    # What is a stream
    "usual": streamed(),
    "other case": streamed(b"content-TYPE: Text/Event-Stream; Charset=utf-8\r\n"),
    "charset without a space": streamed(b"Content-Type: text/event-stream;charset=UTF-8\r\n"),
    "white space": streamed(b"Content-Type:   text/event-stream  \r\n"),
    "no space": streamed(b"Content-Type:text/event-stream\r\n"),
    "type twice": streamed(TYPE + TYPE),
    "application/json": streamed(b"Content-Type: application/json\r\n"),
    "text/plain": streamed(b"Content-Type: text/plain; charset=utf-8\r\n"),
    "application/octet-stream": streamed(b"Content-Type: application/octet-stream\r\n"),
    "application/stream+json": streamed(b"Content-Type: application/stream+json\r\n"),
    "text/html": streamed(b"Content-Type: text/html\r\n"),
    "no type": streamed(b""),
    "empty type": streamed(b"Content-Type:\r\n"),
    "201": streamed(line=b"HTTP/1.1 201 Created", status=201),
    "202": streamed(line=b"HTTP/1.1 202 Accepted", status=202),
    "no reason": streamed(line=b"HTTP/1.1 200"),
    # Encodings
    "encoding identity": streamed(TYPE + b"Content-Encoding: identity\r\n"),
    "encoding none": streamed(TYPE + b"Content-Encoding: none\r\n"),
    "encoding None": streamed(TYPE + b"Content-Encoding: None\r\n"),
    "encoding empty": streamed(TYPE + b"Content-Encoding:\r\n"),
    "encoding utf-8": streamed(TYPE + b"Content-Encoding: utf-8\r\n"),
    "encoding identity twice": streamed(TYPE + b"Content-Encoding: identity, identity\r\n"),
    "encoding identity with a weight": streamed(TYPE + b"Content-Encoding: identity;q=1\r\n"),
    "encoding null": streamed(TYPE + b"Content-Encoding: null\r\n"),
    "encoding chunked": streamed(TYPE + b"Content-Encoding: chunked\r\n"),
    "encoding undefined": streamed(TYPE + b"Content-Encoding: undefined\r\n"),
    "encoding UTF-8 in quotes": streamed(TYPE + b'Content-Encoding: "UTF-8"\r\n'),
    "encoding twice": streamed(TYPE + b"Content-Encoding: identity\r\nContent-Encoding: none\r\n"),
    "encoding of commas": streamed(TYPE + b"Content-Encoding: , ,\r\n"),
    "encoding without an end": streamed(TYPE + b"Content-Encoding: identity;\r\n"),
    "encoding aws-chunked": streamed(TYPE + b"Content-Encoding: aws-chunked\r\n"),
    # Framing
    "length": measured(TYPE),
    "length twice": measured(TYPE + b"Content-Length: %d\r\n" % len(BODY)),
    "length and chunks": streamed(TYPE + b"Content-Length: 7\r\n"),
    "capital sizes": streamed(size=b"%X"),
    "zeros before sizes": streamed(size=b"%08x"),
    "extensions": streamed(size=b"%x;a=b"),
    "spaces behind sizes": streamed(size=b"%x  "),
    "space before extensions": streamed(size=b"%x ;a=b"),
    "chunked, capitals": Response(b"HTTP/1.1 200 OK\r\n" + TYPE + b"Transfer-Encoding: Chunked\r\n\r\n" + chunks()),
    "trailers": Response(b"HTTP/1.1 200 OK\r\n" + TYPE + CHUNKED + b"\r\n" + chunks()[:-2] + b"X-T: 1\r\n\r\n"),
    "to the end of the connection": Response(b"HTTP/1.1 200 OK\r\n" + TYPE + b"\r\n" + BODY, closes=True),
    "to be closed": streamed(TYPE + b"Connection: close\r\n"),
    "HTTP/1.0": Response(b"HTTP/1.0 200 OK\r\n" + TYPE + b"\r\n" + BODY, closes=True),
    "interim responses": Response(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + streamed().said
    ),
    "one chunk": Response(b"HTTP/1.1 200 OK\r\n" + TYPE + CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunks of 7 bytes": Response(
        b"HTTP/1.1 200 OK\r\n"
        + TYPE
        + CHUNKED
        + b"\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(BODY[n : n + 7]), BODY[n : n + 7]) for n in range(0, len(BODY), 7))
        + b"0\r\n\r\n"
    ),
    "chunks of one byte": Response(
        b"HTTP/1.1 200 OK\r\n"
        + TYPE
        + CHUNKED
        + b"\r\n"
        + b"".join(b"1\r\n%c\r\n" % byte for byte in BODY)
        + b"0\r\n\r\n"
    ),
    "chunk of the head's read": Response(b"HTTP/1.1 200 OK\r\n" + TYPE + CHUNKED + b"\r\n" + chunks(BODY)),
    "extension with quotes": streamed(size=b'%x;a="b"'),
    "many trailers": Response(
        b"HTTP/1.1 200 OK\r\n"
        + TYPE
        + CHUNKED
        + b"\r\n"
        + chunks()[:-2]
        + b"".join(b"X-%d: y\r\n" % n for n in range(20))
        + b"\r\n"
    ),
    "length of zeros before": Response(
        b"HTTP/1.1 200 OK\r\n" + TYPE + b"Content-Length: %020d\r\n\r\n" % len(BODY) + BODY
    ),
    "chunked twice": Response(
        b"HTTP/1.1 200 OK\r\n" + TYPE + b"Transfer-Encoding: identity, chunked\r\n\r\n" + chunks()
    ),
    "keep-alive and to the end": Response(
        b"HTTP/1.1 200 OK\r\n" + TYPE + b"Connection: keep-alive\r\n\r\n" + BODY, closes=True
    ),
    "HTTP/1.0 with a length": Response(
        b"HTTP/1.0 200 OK\r\n" + TYPE + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY, closes=True
    ),
    # The last word
    "finish reason, and no more": measured(TYPE, FINISHED),
    "no blank line at the end": measured(TYPE, BODY[:-1]),
    "no line end at the end": measured(TYPE, BODY[:-2]),
    "no last word": measured(TYPE, SAID, code="upstream_reset"),
    "no last word, to the end of the connection": Response(
        b"HTTP/1.1 200 OK\r\n" + TYPE + b"\r\n" + FINISHED, body=FINISHED, closes=True
    ),
    # Heads
    "header of 20 KB": streamed(TYPE + b"X-Long: " + b"y" * 20_000 + b"\r\n"),
    "100 headers": streamed(TYPE + b"".join(b"X-%d: y\r\n" % n for n in range(100))),
    "header that is no ASCII": streamed(TYPE + b"X-A: caf\xe9 \xe4\xbd\xa0\r\n"),
    "header without a value": streamed(TYPE + b"X-A:\r\n", header=("x-a", "")),
    "cookies": streamed(TYPE + b"Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n"),
    "hop-by-hop": streamed(TYPE + b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"),
    # What is none
    "nothing": measured(TYPE, b"", text="", code="upstream_reset"),
    "refusal": refused(b"Content-Type: application/json\r\n", JSON, b"400 Bad Request"),
    "refusal as an event stream": refused(TYPE, b"data: " + JSON + b"\n\n", b"400 Bad Request"),
    "refusal of HTML": refused(b"Content-Type: text/html\r\n", b"<html></html>", b"502 Bad Gateway"),
    "refusal without a body": refused(b"", b"", b"503 Service Unavailable"),
    "refusal, to ask again": refused(
        b"Retry-After: 7\r\n", JSON, b"429 Too Many Requests", header=("retry-after", "7")
    ),
    "JSON in place of a stream": refused(b"Content-Type: application/json\r\n", JSON, b"200 OK"),
    "refusal of 418": refused(b"Content-Type: text/plain\r\n", b"teapot", b"418 I'm a teapot"),
    "refusal of 599": refused(b"Content-Type: application/json\r\n", JSON, b"599 Odd"),
    "refusal in chunks": Response(
        b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\n"
        + CHUNKED
        + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(JSON), JSON),
        None,
        JSON,
        401,
    ),
    "no content": Response(b"HTTP/1.1 204 No Content\r\n\r\n", None, b"", 204),
    "redirect of 308": refused(b"Location: https://x/y\r\n", b"", b"308 P", header=("location", "https://x/y")),
    "redirect": refused(b"Location: /x\r\n", b"", b"307 Temporary Redirect", header=("location", "/x")),
    "lengths that conflict": Response(
        b"HTTP/1.1 200 OK\r\n" + TYPE + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        None,
        code="garbled",
        status=502,
    ),
    "no HTTP": Response(b"SSH-2.0-OpenSSH_9.6\r\n", None, code="garbled", status=502),
    "status of two digits": Response(b"HTTP/1.1 20 OK\r\n\r\n", None, code="garbled", status=502, closes=True),
    "connection that is closed": Response(b"", None, code="upstream_unreachable", status=502, closes=True),
}
