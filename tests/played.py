"""A stream from an upstream's connection to its followers' sinks, without sockets, and what holds when it is over."""

from collections.abc import Callable

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.dialects.messages import MESSAGES
from proxy.dialects.plain import PLAIN
from proxy.dialects.responses import RESPONSES
from proxy.stream.endings import COMPLETE
from proxy.stream.hub import Hub
from proxy.stream.info import StreamInfo
from proxy.stream.modes.projection import View
from proxy.stream.modes.projections import MODES
from proxy.stream.observer import Observers
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.stream.vitals import Vitals
from proxy.upstream.connection import Connection
from proxy.upstream.exchange import Exchange
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.pump import Pump
from proxy.wire.http import chunk
from tests.fakes import FakeLoop, FakeSink
from tests.pumped import HEAD, Reading
from tests.streams import new_hub

OF_INCREMENTS = [name for name, mode in MODES.items() if not mode.restates]
MODES_OF = {
    CHAT: list(MODES),
    DASHSCOPE: list(MODES),
    RESPONSES: OF_INCREMENTS,
    MESSAGES: OF_INCREMENTS,
    PLAIN: ["raw", "events", "spaced", "coalesced"],
}


class Play:
    """A stream of a hub's, its writer, and what an upstream sends; call within a running loop."""

    name = "default"

    def __init__(
        self,
        dialect: Dialect,
        observers: Observers | None = None,
        hides_usage: bool = False,
        cumulative: bool | None = None,
    ) -> None:
        self.loop = FakeLoop()
        self.ended: list[str | None] = []
        self.hub: Hub = new_hub(
            self.loop, observers=observers, on_subscription_ended=lambda one: self.ended.append(one.ended)
        )
        vitals = Vitals(dialect, 0.0)
        info = StreamInfo(self.hub.new_id(), dialect.name, b"me", 0, 60.0, 1 << 20, cumulative=cumulative)
        self.stream: Stream = self.hub.begin(info, vitals)
        self.pump = Pump(self.stream, OnDisconnect(None), 1 << 20, lambda s: None, hides_usage)
        self.connection = Connection()
        self.connection.connection_made(Reading())
        self.exchange = Exchange(self, self.connection, b"POST")
        self.connection.data_received(HEAD)
        self.followers: list[Subscription] = []
        self.sinks: list[FakeSink] = []

    def released(self, exchange: Exchange, connection: Connection, keep: bool) -> None:
        connection.close()

    def follow(self, mode: str, sink: FakeSink) -> None:
        follower = Subscription(self.stream, View(mode), sink, 0)
        self.followers.append(follower)
        self.sinks.append(sink)
        self.hub.attach(follower, 0.0)

    def play(self, reads: list[bytes], after_each: Callable[[int], object] = lambda came: None) -> None:
        """Have the upstream send these reads, each of them a chunk, and its end.

        `after_each` is told how many bytes have come.
        """
        came = 0
        self.pump.start(self.exchange)
        for read in filter(None, reads):
            self.connection.data_received(chunk(read))
            self.loop.settle()
            came += len(read)
            after_each(came)
        self.connection.data_received(b"0\r\n\r\n")
        self.loop.settle()
        for sink in self.sinks:
            if sink.ended is None and sink.resume is not None:
                sink.drain()
        self.loop.settle()

    def assert_over(self, body: list[bytes]) -> None:
        """Assert what holds whatever has failed."""
        ending = self.stream.log.ending
        assert ending is not None, "not sealed"
        assert self.hub.followers == 0 == len(self.stream.subscriptions), "a gauge stays up"
        assert self.hub.running == 0
        assert [follower.ended for follower in self.followers].count(None) == 0, "waits for ever"
        assert len(self.ended) == len(self.followers)
        for follower, sink in zip(self.followers, self.sinks, strict=True):
            if follower.mode == "raw":
                assert b"".join(body).startswith(sink.received)
                if sink.ended == "closed":
                    assert sink.received == b"".join(body)
            if follower.mode in ("text", "json") and sink.ended == "closed":
                assert ending.reason == COMPLETE.reason, "what has failed looks complete"
