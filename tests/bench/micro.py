"""Nanoseconds of the hot path, without sockets: per frame in the splitter, per frame through an exchange, per delivery.

Run: python -m tests.bench.micro  (least of several rounds; compare within one run only)
"""

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from proxy.dialects.chat import CHAT
from proxy.stream.cohort import Pacer
from proxy.stream.hub import Hub
from proxy.stream.info import StreamInfo
from proxy.stream.modes.projection import View
from proxy.stream.modes.transcript import Transcript
from proxy.stream.subscription import Subscription
from proxy.stream.vitals import Vitals
from proxy.upstream.connection import Connection
from proxy.upstream.exchange import Exchange
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.pump import Pump
from proxy.wire.http import chunk
from proxy.wire.sse import Splitter, stamp
from tests.bench.procfs import machine
from tests.bench.report import conditions, grid, write_section

FRAME = (
    b'data: {"choices":[{"delta":{"content":" The Festival of"},"finish_reason":null,"index":0,"logprobs":null}],'
    b'"object":"chat.completion.chunk","usage":null,"created":1770764906,"system_fingerprint":null,'
    b'"model":"qwen-plus","id":"chatcmpl-00000000-cbca-970f-8aa6-7d58c9724733"}\n\n'
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream;charset=UTF-8\r\ntransfer-encoding: chunked\r\n\r\n"


class Null:
    """A transport and sink that takes everything."""

    def write(self, data: Any) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def transport(self) -> tuple["Null", bool]:
        return self, True

    def close(self, last: bytes = b"") -> None: ...

    abort = close

    def is_closing(self) -> bool:
        return False

    def set_protocol(self, protocol: Any) -> None: ...


def least(work: Callable[[], int], rounds: int = 7) -> float:
    """Return the least nanoseconds a unit takes; `work` returns how many units it did."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter_ns()
        units = work()
        best = min(best, (time.perf_counter_ns() - began) / units)
    return best


def exchanges(count: int, followers: int) -> list[Connection]:
    """Return exchanges whose pumps feed streams with so many followers in mode raw each."""
    loop = asyncio.get_running_loop()
    hub = Hub(
        max_streams=10**6, max_followers=10**6, max_followers_per_stream=10**6,
        max_total_log_bytes=1 << 50, call_soon=loop.call_soon,
        pacer=Pacer(loop.call_later, loop.time),
    )  # fmt: skip
    made = []
    for _ in range(count):
        connection = Connection(SimpleNamespace(transport=Null(), protocol=None, close=lambda: None))  # type: ignore[arg-type]
        exchange = Exchange(None, connection, b"POST")  # type: ignore[arg-type]
        stream = hub.begin(StreamInfo(hub.new_id(), "chat", b"", 0, 0.0, 1 << 40), Vitals(CHAT, 0.0))
        pump = Pump(stream, OnDisconnect(None), max_frame_bytes=1 << 20, overhead=lambda s: None)
        connection.data_received(HEAD)
        pump.start(exchange)
        for _ in range(followers):
            hub.attach(Subscription(stream, View("raw"), Null(), 0), 0.0)  # type: ignore[arg-type]
        made.append(connection)
    return made


def through(streams: int, followers: int, reads: int) -> float:
    """Return ns per delivery for reads of one chunk each, the streams taking turns."""
    data = chunk(FRAME)
    made = exchanges(streams, followers)

    def work() -> int:
        for _ in range(reads):
            for connection in made:
                connection.data_received(data)
        return reads * streams * max(1, followers)

    return least(work, 3)


async def main() -> None:
    many = FRAME * 100

    def split_one() -> int:
        feed = Splitter(1 << 20).feed
        for _ in range(20000):
            feed(FRAME)
        return 20000

    def split_many() -> int:
        feed = Splitter(1 << 20).feed
        for _ in range(300):
            feed(many)
        return 30000

    def split_cut() -> int:
        feed = Splitter(1 << 20).feed
        first, second = FRAME[:100], FRAME[100:]
        for _ in range(20000):
            feed(first)
            feed(second)
        return 20000

    def stamp_one() -> int:
        for seq in range(20000):
            stamp(FRAME, b"abcdef-%d" % seq)
        return 20000

    native = b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:" + FRAME[6:]

    def stamp_native() -> int:
        for seq in range(20000):
            stamp(native, b"abcdef-%d" % seq)
        return 20000

    def hear() -> int:
        Transcript(CHAT).feed([FRAME] * 5000)
        return 5000

    rows = [
        ("split, a frame: a read is a frame", least(split_one)),
        ("the same, a read is 100 frames", least(split_many)),
        ("the same, a frame is two reads", least(split_cut)),
        ("stamp an id", least(stamp_one)),
        ("stamp an id into a native frame", least(stamp_native)),
        ("hear what a frame says", least(hear)),
        ("read to sink, a delivery: 1 stream, 1 follower", through(1, 1, 20000)),
        ("the same, 500 streams, 1 follower each", through(500, 1, 100)),
        ("the same, 1 stream, 200 followers", through(1, 200, 200)),
        ("read to log, 1 stream, nobody follows", through(1, 0, 20000)),
    ]
    for name, ns in rows:
        print(f"{name:45} {ns:8.0f} ns")
    table = grid(("without sockets", "ns"), [(name, f"{ns:,.0f}") for name, ns in rows])
    write_section("micro", [conditions(machine()), table])


if __name__ == "__main__":
    asyncio.run(main())
