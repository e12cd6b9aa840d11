"""`streamtee tail`: follows a stream in the terminal, resumes by itself after a cut, and exits with how it ended.

The proper end of a response need not be the end of the stream, since a server that drains ends responses in the same
way. So the stream's state is requested then.
"""

import asyncio
import os
import random
import re
import sys
from typing import NamedTuple

import aiohttp
import click
from yarl import URL

from proxy.dialects.documents.delta import record
from proxy.stream.modes.projections import MODES
from proxy.tools.tail_readers import (
    COMPLETE,
    FAILED,
    INTERRUPTED,
    LOST,
    UNREAD,
    USAGE,
    Bytes,
    Events,
    Reader,
    TailError,
    parsed,
    text_of,
)

_OURS = re.compile(r"/v1/(?:streams/[^/]+|keys/[^/]+/stream)$")
_ID = re.compile(r"st_[a-z2-7]+")
_FOLLOWED = [mode for mode in MODES if mode != "json"]  # a document can't be followed
_TEXT_FROM = "coalesced"  # sends increments, whatever the upstream does, and the past in one event
_HEARTBEAT_S = 15
_SILENCE_S = 3 * _HEARTBEAT_S  # after which the connection counts as lost
_CONNECT_S = 10
_LONGEST_PAUSE_S = 5.0


class Aim(NamedTuple):
    """What is followed, and how many failures in a row are tolerated."""

    url: URL
    headers: dict[str, str]
    retries: int

    def state_url(self, ident: str) -> URL:
        """Return the URL of the state of the stream that is followed."""
        prefix = self.url.path.partition("/v1/")[0] if "/v1/" in self.url.path else ""
        token = self.url.query.get("t")
        return self.url.with_path(f"{prefix}/v1/streams/{ident}").with_query({"t": token} if token else None)

    def __str__(self) -> str:
        """Its name without the query, which may hold a token, and without credentials."""
        return f"{self.url.origin()}{self.url.path}"


class Tail:
    """Follows one stream, in as many connections as it takes."""

    def __init__(self, aim: Aim, reader: Reader) -> None:
        self._aim = aim
        self._reader = reader
        self._ident = ""
        self._heard = False  # the response had a body
        self._failures = 0  # in a row

    async def follow(self) -> None:
        """Print the stream to its end. Raises: TailError, for every end but a complete one."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._aim.headers) as session:
            while True:
                try:
                    if await self._connect(session):
                        return
                    if not self._heard:
                        self._fail("nothing came")
                except aiohttp.SocketTimeoutError:
                    continue  # silence is no failure: a mode without heartbeats has it, too
                except aiohttp.ClientError as error:
                    status = getattr(error, "status", None)
                    self._fail(f"it answers with status {status}" if status else "no connection, or it broke off")
                await asyncio.sleep(min(_LONGEST_PAUSE_S, 0.1 * 2**self._failures) * random.uniform(0.5, 1))

    async def _connect(self, session: aiohttp.ClientSession) -> bool:
        """Print the body of one response; return whether the stream is complete.

        Raises: TailError, aiohttp.ClientError.
        """
        query, headers = self._reader.place()
        self._heard = False
        url = self._aim.url.update_query(query)
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            await _check(response, str(self._aim))
            self._ident = response.headers.get("Stream-Id", self._ident)
            self._reader.begin(response.headers)
            properly = await self._print(response)
        if properly and self._reader.finished:
            return True
        if properly and not self._heard and not self._ident:
            raise TailError(f"{self._aim}: no stream has begun", LOST)
        return bool(self._ident) and await self._is_complete(session, properly)

    async def _print(self, response: aiohttp.ClientResponse) -> bool:
        """Print the body; return whether it ended properly."""
        try:
            async for data in response.content.iter_any():
                self._heard, self._failures = True, 0
                self._reader.feed(data)
        except aiohttp.SocketTimeoutError:
            raise
        except aiohttp.ClientError:
            return False
        return True

    async def _is_complete(self, session: aiohttp.ClientSession, properly: bool) -> bool:
        """Request the stream's state; return whether it is complete and received. Raises: TailError, if it failed."""
        url = self._aim.state_url(self._ident)
        async with session.head(url, allow_redirects=False) as response:
            await _check(response, str(self._aim))
            state = response.headers.get("Stream-State", "open")
        if state == "open" or not self._reader.has_all(state, properly=properly, heard=self._heard):
            return False
        if state != "complete":
            raise TailError(f"the stream has ended: {state}", FAILED)
        return True

    def _fail(self, why: str) -> None:
        """Count a failure. Raises: TailError, when there were too many."""
        self._failures += 1
        if self._failures > self._aim.retries:
            raise TailError(f"{self._aim}: {why}; gave up after {self._failures} tries", LOST)
        if self._failures == 1:
            _say(f"{self._aim}: {why}; trying again")


async def _check(response: aiohttp.ClientResponse, name: str) -> None:
    """Raises: TailError for a refusal for good, aiohttp.ClientError for one that may be none later."""
    if response.status == 429 or response.status >= 500:
        response.raise_for_status()
    if response.status >= 300:
        message = record(record(parsed(await response.read())).get("error")).get("message") or response.reason
        raise TailError(f"{name}: {response.status} {message}", USAGE if response.status == 400 else LOST)


def url_of(target: str, server: str) -> URL:
    """Return the URL that is meant by a URL, a path, or a stream's id. Raises: ValueError."""
    if _ID.fullmatch(target):
        target = f"/v1/streams/{target}"
    url = URL(f"{server.rstrip('/')}{target}" if target.startswith("/") else target, encoded=True)
    if url.scheme not in ("http", "https") or not url.host or url.user is not None:
        raise ValueError("it is no http:// or https:// URL without credentials, and no stream's id")
    return url


_EXAMPLES = """\b
Examples:
  streamtee tail st_abc...                                  # of the proxy at http://127.0.0.1:8080
  streamtee tail http://host:8080/v1/keys/chat-42/stream --wait 60
  streamtee tail http://host:8080/v1/streams/ID?t=TOKEN --mode events --after now
"""


@click.command(epilog=_EXAMPLES, short_help="Print a stream as it comes; reconnect if need be.")
@click.argument("target", metavar="URL|ID")
@click.option("--server", default="http://127.0.0.1:8080", show_default=True, help="The server of the ID.")
@click.option("--key", envvar=["STREAMTEE_TAIL_KEY", "OPENAI_API_KEY"], help="Key the stream was requested with.")
@click.option("--mode", type=click.Choice(_FOLLOWED), help="Print the stream in this mode, instead of its text.")
@click.option("--after", help="Begin after this event: its id or number, -1 (the start), now (the end).")
@click.option("--wait", type=click.FloatRange(0), help="Seconds to wait for a stream of a key to begin.")
@click.option("--retries", type=click.IntRange(0), default=8, show_default=True, help="Failures in a row to tolerate.")
def tail(
    target: str, server: str, key: str | None, mode: str | None, after: str | None, wait: float | None, retries: int
) -> None:
    """Follow a stream: print its text as it comes, and reconnect when the connection breaks.

    The key is also taken from STREAMTEE_TAIL_KEY or OPENAI_API_KEY; a URL with a token (?t=) is asked without.

    \b
    Exit status:
      0  the stream is complete, and all of it was printed
      1  it failed or was cancelled
      2  the command line, or what it asks for, is malformed
      3  there is no such stream (any more), or it can't be reached
      130, 141  interrupted; nobody reads what is printed
    """
    try:
        url = url_of(target, server)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="URL|ID") from None
    shown = mode or url.query.get("mode")
    headers = {"Authorization": f"Bearer {key}"} if key and "t" not in url.query else {}
    if after is not None:
        headers["Last-Event-ID"] = after
    if _OURS.search(url.path):
        asked = {"mode": shown or _TEXT_FROM, "wait": wait, "heartbeat": _HEARTBEAT_S}
        url = url.update_query({name: str(value) for name, value in asked.items() if value is not None})
    else:  # a route of the server's own: its query belongs to its upstream
        headers["Stream-Mode"] = shown or "events"
    sys.exit(_run(Aim(url, headers, retries), shown))


def _run(aim: Aim, shown: str | None) -> int:
    """Follow; return the exit status."""
    try:
        asyncio.run(Tail(aim, _reader(shown)).follow())
    except TailError as error:
        _say(error.message)
        return error.status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return UNREAD
    if shown is None and sys.stdout.isatty():
        _write(b"\n")
    return COMPLETE


def _reader(shown: str | None) -> Reader:
    if shown is None:
        return Events(_write, lambda frame, event: text_of(event))
    if shown == "raw" or (shown in MODES and MODES[shown].content_type != MODES["events"].content_type):
        return Bytes(_write)
    return Events(_write, lambda frame, event: frame)


def _say(message: str) -> None:
    click.echo(f"streamtee: {message}", err=True)


def _write(data: bytes) -> None:
    """Print at once, past any buffer: whoever reads a pipe wants to see the text come."""
    left = memoryview(data)
    while left:
        left = left[os.write(sys.stdout.fileno(), left) :]
