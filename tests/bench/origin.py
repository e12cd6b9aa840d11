"""A paced SSE origin: each request's body says how many events, how large and how often. A process of its own.

It answers as Qwen does (chunked, one event a write), keeps a checksum of every body it sent under the name that the
request gave, and tells them at `GET /sent`, so that what clients received can be compared. It must cost little: it
shares its core with the clients, and what it spends is not the proxy's. Knows nothing of the proxy.

Run by tests/bench/processes.py: python -m tests.bench.origin PORT
"""

import asyncio
import sys
import time
from typing import Any, NamedTuple
from zlib import crc32

import httptools
import orjson
import uvloop

STAMP = slice(13, 31)
"""Where an event has the time it was sent at: 18 digits, monotonic nanoseconds."""
SMALLEST = 50
"""Bytes of the smallest event."""
DONE = b"data: [DONE]\n\n"
BURST = 64
"""Events of a burst that leave in one write."""

_HEAD = b'data: {"id":"%018d","choices":['
_TEXT = b'{"index":0,"delta":{"content":"%b"},"finish_reason":null}'
_FOOT = b'],"object":"chat.completion.chunk","usage":null,"created":1770764906,"model":"qwen-plus"}\n\n'
_FULL = len(_HEAD % 0 + _TEXT % b"x" + _FOOT)
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n\r\n"
_STREAM = _OK % (b"text/event-stream;charset=UTF-8", b"transfer-encoding: chunked")


class Ask(NamedTuple):
    """What a request wants: `burst` events at once, then `events` paced ones. All of `size_bytes` but the first."""

    name: str
    events: int
    interval_s: float
    size_bytes: int = 300
    burst: int = 0
    stream: bool = True

    def body(self) -> bytes:
        """Return the request's body: a chat completion, with the wishes in its metadata."""
        wishes = {"name": self.name, "events": self.events, "interval_s": self.interval_s}
        wishes |= {"size_bytes": self.size_bytes, "burst": self.burst}
        question = [{"role": "user", "content": "Write me a poem of some length."}]
        chat = {"model": "qwen-plus", "stream": self.stream, "messages": question, "metadata": wishes}
        return orjson.dumps(chat)

    @classmethod
    def of(cls, body: bytes) -> "Ask":
        """Read a request's body."""
        chat: dict[str, Any] = orjson.loads(body)
        return cls(**chat["metadata"], stream=chat["stream"])


def halves(size_bytes: int) -> tuple[bytes, bytes]:
    """Return an event of that size without its stamp: what stands before the 18 digits, and after them.

    From 190 bytes on it is a chunk of a chat completion with text; a smaller one is padded.
    """
    if size_bytes < SMALLEST:
        raise ValueError(f"an event of {size_bytes} bytes; the smallest has {SMALLEST}")
    if size_bytes >= _FULL:
        whole = _HEAD % 0 + _TEXT % (b"x" * (size_bytes - _FULL + 1)) + _FOOT
    else:
        whole = b'data: {"id":"%018d","x":"%b"}\n\n' % (0, b"x" * (size_bytes - 42))
    return whole[: STAMP.start], whole[STAMP.stop :]


class Answer:
    """One streamed answer: writes events at their times, waits while the connection is full."""

    __slots__ = ("_ask", "_crc", "_due", "_first", "_loop", "_origin", "_other", "_sent", "_size", "paused")

    def __init__(self, origin: "Connection", ask: Ask) -> None:
        self._origin = origin
        self._ask = ask
        self._first = halves(max(ask.size_bytes, _FULL))  # has text, so that a proxy's clock of the first token stops
        self._other = halves(ask.size_bytes)
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._sent = 0
        self._crc = 0
        self._size = 0
        self.paused = False

    def begin(self) -> None:
        self._origin.write(_STREAM)
        self.go_on()

    def go_on(self) -> None:
        """Write what is due, and come back when the next is."""
        ask = self._ask
        if self.paused or self._origin.lost:
            return
        if self._sent < ask.burst:
            self._origin.write(b"".join(self._chunk() for _ in range(min(BURST, ask.burst - self._sent))))
            self._due = self._loop.time()
        elif self._sent < ask.burst + ask.events:
            self._origin.write(self._chunk())
            self._due += ask.interval_s
        else:
            self._end()
            return
        if ask.interval_s and self._sent >= ask.burst:
            self._loop.call_at(self._due, self.go_on)
        else:
            self._loop.call_soon(self.go_on)

    def _chunk(self) -> bytes:
        before, after = self._other if self._sent else self._first
        frame = b"%b%018d%b" % (before, time.monotonic_ns(), after)
        self._sent += 1
        self._crc = crc32(frame, self._crc)
        self._size += len(frame)
        return b"%x\r\n%b\r\n" % (len(frame), frame)

    def _end(self) -> None:
        self._crc = crc32(DONE, self._crc)
        self._size += len(DONE)
        self._origin.note(self._ask.name, self._crc, self._size, self._sent + 1)
        self._origin.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE))
        self._origin.answer = None


class Connection(asyncio.Protocol):
    """A connection of the origin, kept alive from request to request."""

    __slots__ = ("_body", "_parser", "_sent", "_url", "answer", "lost", "write")

    def __init__(self, sent: dict[str, tuple[int, int, int]]) -> None:
        self._sent = sent
        self.answer: Answer | None = None
        self.lost = False
        self._url = b""
        self._body = b""
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: Any) -> None:  # uvloop's are not asyncio.Transport's heirs
        self.write = transport.write

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def pause_writing(self) -> None:
        if self.answer is not None:
            self.answer.paused = True

    def resume_writing(self) -> None:
        if self.answer is not None:
            self.answer.paused = False
            self.answer.go_on()

    # httptools' callbacks

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._url == b"/sent":
            sent = orjson.dumps(self._sent)
            self._sent.clear()
            self._whole(sent)
            return
        ask = Ask.of(self._body)
        if ask.stream:
            self.answer = Answer(self, ask)
            self.answer.begin()
            return
        message = {"role": "assistant", "content": "x" * ask.size_bytes}
        body = orjson.dumps(
            {"id": ask.name, "object": "chat.completion", "choices": [{"index": 0, "message": message}]}
        )
        self.note(ask.name, crc32(body), len(body), 0)
        self._whole(body)

    def note(self, name: str, crc: int, size: int, events: int) -> None:
        """Keep what was sent under a name."""
        self._sent[name] = crc, size, events

    def _whole(self, body: bytes) -> None:
        self.write(_OK % (b"application/json", b"content-length: %d" % len(body)) + body)


async def serve(port: int) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    sent: dict[str, tuple[int, int, int]] = {}
    await loop.create_server(lambda: Connection(sent), "127.0.0.1", port, backlog=8192)
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    await over.wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
