"""What an upstream sends on a connection without a socket, and the stream that a pump makes of it."""

from typing import Any

from proxy.dialects.chat import CHAT
from proxy.dialects.dialect import Dialect
from proxy.stream.ledger import Ledger
from proxy.upstream.connection import Connection
from proxy.upstream.exchange import Exchange
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.pump import Pump
from proxy.wire.http import chunk
from tests.event_streams import chunk_frame
from tests.fakes import FakeLoop, FakeSink, FakeTransport, dechunked
from tests.streams import follow, new_stream

FRAME = chunk_frame("word")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Connected(FakeSink):
    """A sink whose transport takes chunks, as those of HTTP/1.1 do."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_on = 0  # reads

    def transport(self) -> Any:
        return Chunked(self), True


class Chunked(FakeTransport):
    """What reads them."""

    sink: Connected

    def write(self, data: bytes) -> None:
        super().write(dechunked(data))
        self.sink.sent_on += 1


class Reading:
    """The transport of an upstream's connection."""

    def __init__(self) -> None:
        self.aborted = False

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        """Nothing: whoever speaks for the upstream may go on."""

    def resume_reading(self) -> None:
        """Nothing."""

    def abort(self) -> None:
        self.aborted = True


class Upstream:
    """What an upstream sends on a connection, and the stream that comes of it; call within a running loop."""

    name = "default"

    def __init__(
        self,
        sink: FakeSink,
        *,
        max_log_bytes: int = 1 << 30,
        allowed_bytes: int = 1 << 40,
        loop: FakeLoop | None = None,
        dialect: Dialect = CHAT,
    ) -> None:
        self.ledger = Ledger(allowed_bytes)
        self.reports: list[str | None] = []  # how followers ended
        self.stream = new_stream(
            dialect,
            max_log_bytes=max_log_bytes,
            ledger=self.ledger,
            loop=loop,
            on_subscription_ended=lambda follower: self.reports.append(follower.ended),
        )
        self.overheads: list[float] = []
        self.pump = Pump(
            self.stream,
            OnDisconnect(None),
            max_frame_bytes=1 << 20,
            overhead=self.overheads.append,
        )
        self.transport = Reading()
        self.connection = Connection()
        self.connection.connection_made(self.transport)
        exchange = Exchange(self, self.connection, b"POST")
        self.connection.data_received(HEAD)
        self.pump.start(exchange)
        self.sink = sink
        self.follower = follow(self.stream, sink)
        self.stream.originator = self.follower
        self.now = 0.0

    def released(self, exchange: Exchange, connection: Connection, keep: bool) -> None:
        """Close the connection."""
        connection.close()

    def send(self, *frames: bytes) -> None:
        """Send a read of events, each a chunk of its own."""
        self.now += 1
        read = b"".join(map(chunk, frames))
        take_event, take_events = self.connection.take_event, self.connection.take_events
        if take_event and take_event(read, self.now):
            return
        if not (take_events and take_events(list(frames), read, self.now)):
            self.pump.received(b"".join(frames), self.now)

    def send_piece(self, piece: bytes) -> None:
        """Send a read that is something else."""
        self.now += 1
        self.pump.received(piece, self.now)
