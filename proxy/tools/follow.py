"""Follow a stream from Python: `follow(url)` yields its events, over every cut, without gap or repeat.

    from proxy.tools.follow import follow

    async for event in follow(url, headers={"Authorization": f"Bearer {key}"}):
        print(event.data)

It does what `proxy/console/follow.js` does in browsers and Node, by aiohttp: a module to import, or to copy. It resumes
by `Last-Event-ID` (WHATWG HTML, 9.2.4), so it follows any server of event streams with ids.
"""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import NamedTuple

import aiohttp

from proxy.wire.sse import Splitter, fields

_MAX_FRAME_BYTES = 64 * 1024 * 1024
_LONGEST_PAUSE_S = 10.0
_RETRY = re.compile(rb"^retry: ?(\d+)\r?$", re.MULTILINE)


class FollowedEvent(NamedTuple):
    """An event of a stream: its id, after which a follower resumes, its type, and its data."""

    id: str
    type: str
    data: str


class FollowError(Exception):
    """A server refuses to send a stream; `status` is its response's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


class _Cursor:
    """Where the next connection resumes, and after what pause."""

    def __init__(self, last_event_id: str, retry_s: float) -> None:
        self.id = last_event_id
        self.retry_s = retry_s


async def follow(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    last_event_id: str = "",
    attempts: int = 8,
    retry_s: float = 0.5,
    silence_s: float = 45.0,
) -> AsyncGenerator[FollowedEvent, None]:
    """Yield the events of a stream until its end: status 204, or [DONE]. A stream that failed has an error event.

    `attempts`: failures in a row, the last of which is raised; `silence_s`: after it a connection counts as lost, since
    heartbeats come more often. Close the iterator (contextlib.aclosing) to stop before the end.
    Raises: FollowError, for a refusal that trying again can't change; aiohttp.ClientError.
    """
    cursor, failures, is_told = _Cursor(last_event_id, retry_s), 0, False
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=silence_s, sock_read=silence_s)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            try:
                resumed = {"Last-Event-ID": cursor.id} if cursor.id else {}
                async with session.get(url, headers={**(headers or {}), **resumed}) as response:
                    if response.status == 204:
                        return
                    await _check(response)
                    async for event in _events(response, cursor):
                        failures, is_told = 0, True
                        yield event
                        if event.data == "[DONE]":
                            return
                raise aiohttp.ClientPayloadError("the connection was closed before the stream's end")
            except aiohttp.ClientError:
                failures += 1
                if failures >= attempts or (is_told and not cursor.id):  # told without an id, it could only be repeated
                    raise
            pause_s = min(cursor.retry_s * 2 ** (failures - 1), _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))


async def _check(response: aiohttp.ClientResponse) -> None:
    """Raises: FollowError for a refusal for good, aiohttp.ClientError for one that may be none later."""
    status = response.status
    if status in (408, 429) or status >= 500:
        response.raise_for_status()
    if status != 200 or response.content_type != "text/event-stream":
        raise FollowError(status, (await response.text())[:1000] if status != 200 else "this is no event stream")


async def _events(response: aiohttp.ClientResponse, cursor: _Cursor) -> AsyncIterator[FollowedEvent]:
    """Yield the events of one response, and keep their ids; one without its blank line is none."""
    splitter = Splitter(_MAX_FRAME_BYTES)
    async for data in response.content.iter_any():
        for frame in splitter.feed(data):
            event, retry = fields(frame), _RETRY.search(frame)
            cursor.retry_s = int(retry[1]) / 1000 if retry else cursor.retry_s
            cursor.id = cursor.id if event.id is None else event.id.decode(errors="replace")
            if event.data is not None:
                kind, text = event.type.decode(errors="replace"), event.data.decode(errors="replace")
                yield FollowedEvent(cursor.id, kind or "message", text)
