"""`streamtee record`: sends a request, and writes what comes, as it comes, into a recording.

With the proxy's own connections to upstreams, which keep reads and their times apart, and lose no byte of a response
that breaks off.
"""

import asyncio
import sys
from datetime import UTC, datetime
from time import monotonic
from typing import Any, BinaryIO, NamedTuple

import click
from yarl import URL

from proxy.tools.recording import Piece, encoded, end_line, head_line, piece_line
from proxy.upstream.exchange import Timeouts
from proxy.upstream.pool import ConnectionPool
from proxy.wire.errors import Overloaded, UpstreamError
from proxy.wire.http import Headers

COMPLETE, BROKEN, USAGE, LOST, INTERRUPTED = 0, 1, 2, 3, 130  # exit statuses, as those of `streamtee tail`
_TIMEOUTS = Timeouts(connect_s=10, first_byte_s=0, idle_s=0, total_s=0)


class Asked(NamedTuple):
    """A request to record the response of."""

    url: URL
    headers: Headers
    body: bytes | None  # None: a GET

    @property
    def method(self) -> bytes:
        return b"GET" if self.body is None else b"POST"

    @property
    def shown(self) -> dict[str, Any]:
        """The request as a recording has it, if it is asked for; never its headers."""
        return {"method": self.method.decode(), **encoded(self.body or b"")}


class Recorder:
    """A Receiver that writes what it receives, and when."""

    def __init__(self, out: BinaryIO, began_at: float) -> None:
        self._out = out
        self._began_at = began_at
        self.received_bytes = 0
        self.over: asyncio.Future[UpstreamError | None] = asyncio.get_running_loop().create_future()

    def since(self, at: float) -> float:
        """Return the seconds from the request to a time."""
        return round(max(0.0, at - self._began_at), 6)

    def received(self, data: bytes, at: float) -> None:
        self.received_bytes += len(data)
        self._out.write(piece_line(Piece(self.since(at), data)))
        self._out.flush()

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        if data:
            self.received(data, at)
        self._out.write(end_line(self.since(at), complete=error is None))
        self._out.flush()
        self.over.set_result(error)

    def failed(self, fault: Exception) -> None:
        if not self.over.done():
            self.over.set_exception(fault)


async def recorded(asked: Asked, out: BinaryIO, *, with_request: bool = False) -> Recorder:
    """Send a request and write its response. Raises: UpstreamError, Overloaded, if there is none."""
    url = asked.url
    pool = ConnectionPool(str(url.origin()), _TIMEOUTS)
    try:
        headers = list(asked.headers)
        if asked.body is not None:
            headers.append((b"Content-Length", b"%d" % len(asked.body)))
        recorder = Recorder(out, monotonic())
        exchange = await pool.open(asked.method, url.raw_path_qs.encode(), headers, asked.body or b"")
        line = head_line(
            recorded_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            url=f"{url.origin()}{url.raw_path}",
            status=exchange.status,
            reason=exchange.reason,
            headers=exchange.headers,
            at_s=recorder.since(monotonic()),
            request=asked.shown if with_request else None,
        )
        out.write(line)
        exchange.attach(recorder)
        await recorder.over
    finally:
        await pool.close()
    return recorder


def headers_of(given: tuple[str, ...], key: str | None, *, has_body: bool) -> Headers:
    """Return the headers to send. Raises: ValueError, for one that is none."""
    headers: Headers = [(b"Accept", b"*/*"), (b"Accept-Encoding", b"identity")]
    if has_body:
        headers.append((b"Content-Type", b"application/json"))
    if key:
        headers.append((b"Authorization", b"Bearer " + key.encode()))
    for line in given:
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or set("\r\n") & set(line):
            raise ValueError("a header is written NAME: VALUE")
        lower = name.strip().lower().encode()
        headers = [header for header in headers if header[0].lower() != lower]
        headers.append((name.strip().encode(), value.strip().encode()))
    return headers


_EXAMPLES = """\b
Examples:
  streamtee record https://host/v1/chat/completions --data body.json --output stream.jsonl
  streamtee record 'http://127.0.0.1:8080/v1/streams/ID?mode=raw' > stream.jsonl
"""


@click.command(epilog=_EXAMPLES)
@click.argument("url")
@click.option("--data", type=click.File("rb"), help="File with the body of a POST; - is stdin. Without it: a GET.")
@click.option("--header", "given", multiple=True, metavar="'NAME: VALUE'", help="Another header to send; repeatable.")
@click.option("--key", envvar="OPENAI_API_KEY", help="Sent as a Bearer token, and not written.")
@click.option("--output", "out", type=click.File("wb"), default="-", help="File to write; stdout by default.")
@click.option("--with-request", is_flag=True, help="Write the body of the request, too: it may hold a prompt.")
def record(
    url: str, data: BinaryIO | None, given: tuple[str, ...], key: str | None, out: BinaryIO, with_request: bool
) -> None:
    """Send a request, and record the exact bytes of its response and their times, for `streamtee replay`.

    The key is also taken from OPENAI_API_KEY. A stream of a running proxy is recorded as it is followed: GET
    /v1/streams/ID?mode=raw.

    \b
    Exit status: 0 the response was complete, 1 it broke off (which is recorded), 2 the command line is malformed,
    3 there was no response, 130 interrupted.
    """
    try:
        aim = URL(url, encoded=True)
        if aim.scheme not in ("http", "https") or not aim.host or aim.user is not None:
            raise ValueError("the URL is no http:// or https:// URL without credentials")
        asked = Asked(aim, headers_of(given, key, has_body=data is not None), data.read() if data else None)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    sys.exit(_run(asked, out, with_request=with_request))


def _run(asked: Asked, out: BinaryIO, *, with_request: bool) -> int:
    """Record; return the exit status."""
    try:
        recorder = asyncio.run(recorded(asked, out, with_request=with_request))
    except (UpstreamError, Overloaded) as error:
        click.echo(f"streamtee: nothing was recorded: {error.message}", err=True)
        return LOST
    except KeyboardInterrupt:
        return INTERRUPTED
    broke = recorder.over.result()
    how = "complete" if broke is None else f"broken off: {broke.message}"
    click.echo(f"streamtee: recorded {recorder.received_bytes} bytes, {how}", err=True)
    return COMPLETE if broke is None else BROKEN
