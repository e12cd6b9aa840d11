"""One connection to one client on which several streams are delivered, as SSE or as messages of a WebSocket.

Each stream has a Lane of the connection as its sink, as if it were a connection of its own. When the connection takes
no more, all streams are parked, and go on in the order in which they were parked. The id of each event holds the
cursors of all streams, so that the last id that a client has received is all it needs to resume.
Keeps laws 5 (prefix) and 7 (one ending: the connection ends when all streams have, each with an event that says how).
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from proxy.downstream.websocket import WebSocket
from proxy.stream.interfaces import Sink
from proxy.stream.modes.envelopes import labelled_events
from proxy.stream.modes.projection import Heartbeat, Span
from proxy.wire.event_id import prefix
from proxy.wire.sse import COMMENT
from proxy.wire.websocket import TEXT, frame


class SharedSink(Sink, Protocol):
    """The response or the WebSocket that several streams are written to."""

    def write_data(self, data: bytes) -> None:
        """Send bytes, whether or not the client takes more."""


class SharedConnection:
    """One connection to one client on which several streams are delivered."""

    __slots__ = ("_closing", "_cursors", "_is_full", "_lanes", "_properly", "_waiting", "_waits_for_sink", "sink")

    def __init__(self, sink: SharedSink, cursors: Mapping[str, int], closing: Callable[[], bytes]) -> None:
        """`cursors`: the last seq that the client has received of each stream, by epoch.

        `closing` returns the last bytes of the connection: the close frame of a WebSocket. All lanes must be open
        before the first write.
        """
        self.sink = sink
        self._cursors = {prefix(epoch): seq for epoch, seq in cursors.items()}
        self._closing = closing
        self._lanes: dict[Lane, None] = {}  # those that have not ended, in order
        self._waiting: deque[Callable[[], None]] = deque()  # how the parked lanes go on, in order
        self._is_full = False  # a write was refused, and the sink has not drained since
        self._waits_for_sink = False  # the sink will call `_go_on` when it takes writes again
        self._properly = True  # no lane was aborted

    @property
    def unsent_bytes(self) -> int:
        """Return the bytes that wait to be sent, divided by the number of lanes."""
        return self.sink.unsent_bytes // max(1, len(self._lanes))

    def open_lane(self, epoch: str) -> "Lane":
        """Return the sink of another stream."""
        lane = Lane(self, prefix(epoch))
        self._lanes[lane] = None
        return lane

    def write(self, lane: "Lane", lines: bytes) -> bool:
        """Send labelled events of a stream and return True; or send nothing and return False, if it takes no more."""
        if self._is_full:
            return False
        data, seq = self._written(lane, lines)
        if not self.sink.write(Span(0, 0, data)):
            self._is_full = True
            return False
        self._note(lane, seq)
        return True

    def beat(self, lane: "Lane") -> bool:
        """Send a heartbeat for the first lane, and none for the others. It is a comment, whatever the dialect's is."""
        return lane is not next(iter(self._lanes), None) or self.sink.write(Heartbeat(COMMENT))

    def wait(self, resume: Callable[[], None]) -> None:
        """Call `resume` when it is the turn of its lane to write again."""
        self._is_full = True
        self._waiting.append(resume)
        self._await()

    def end(self, lane: "Lane", lines: bytes, *, properly: bool) -> None:
        """Send the last events of a stream, and end the connection with its last stream."""
        data, seq = self._written(lane, lines)
        self._note(lane, seq)
        self._lanes.pop(lane, None)
        self._properly = self._properly and properly
        if self._lanes:
            self.sink.write_data(data)
        elif not self._properly:
            self.sink.abort(data)
        else:
            self.sink.close(data + self._closing())

    def _go_on(self) -> None:
        self._is_full = self._waits_for_sink = False
        waiting = self._waiting
        while waiting and not self._is_full:
            waiting.popleft()()
        if waiting:
            self._await()

    def _await(self) -> None:
        if not self._waits_for_sink:
            self._waits_for_sink = True
            self.sink.on_writable(self._go_on)

    def _written(self, lane: "Lane", lines: bytes) -> tuple[bytes, int | None]:
        """Return labelled events as they are sent, and the last seq among them."""
        own, cursors = lane.prefix, self._cursors
        others = b"".join([b",%b%d" % (epoch, seq) for epoch, seq in cursors.items() if epoch != own])
        last = cursors.get(own)
        written = []
        for seq, json in labelled_events(lines):
            last = last if seq is None else seq
            ident = others[1:] if last is None else b"%b%d%b" % (own, last, others)
            written.append(self._event(json, ident))
        return b"".join(written), last

    def _event(self, json: bytes, ident: bytes) -> bytes:
        if isinstance(self.sink, WebSocket):
            return frame(TEXT, b'%b,"last_event_id":"%b"}' % (json[:-1], ident))
        return b"data: %b\nid: %b\n\n" % (json, ident)

    def _note(self, lane: "Lane", seq: int | None) -> None:
        if seq is not None:
            self._cursors[lane.prefix] = seq


class Lane:
    """The Sink of one stream on a connection that it shares with others."""

    __slots__ = ("_connection", "prefix")

    def __init__(self, connection: SharedConnection, prefix: bytes) -> None:
        """`prefix` is that of the stream's event ids."""
        self._connection = connection
        self.prefix = prefix

    @property
    def unsent_bytes(self) -> int:
        return self._connection.unsent_bytes

    def write(self, span: Span) -> bool:
        if isinstance(span, Heartbeat):
            return self._connection.beat(self)
        return self._connection.write(self, span.plain)

    def transport(self) -> None:
        """Return None: nothing may write to the transport directly, since ids depend on the other lanes."""

    def on_writable(self, resume: Callable[[], None]) -> None:
        self._connection.wait(resume)

    def close(self, last: bytes) -> None:
        self._connection.end(self, last, properly=True)

    def abort(self, last: bytes) -> None:
        self._connection.end(self, last, properly=False)
