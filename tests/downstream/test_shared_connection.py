"""One connection for several streams: whatever happens to it, each stream's events come once, in order, and its end."""

import json
from collections import deque
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.downstream.shared_connection import SharedConnection
from proxy.stream.endings import CANCELLED, COMPLETE, DRAINED, UPSTREAM_RESET
from proxy.stream.modes.projection import View
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.wire.sse import COMMENT, dispatched
from tests.fakes import FakeSink
from tests.streams import new_stream

EPOCHS = ("aaaaaa", "bbbbbb", "cccccc")
VIEW = View("events", labelled=True)
ENDINGS = (COMPLETE, CANCELLED, UPSTREAM_RESET.saying("it broke"))


class Sink(FakeSink):
    """A sink of a connection, that what ends a stream is written to whether or not it takes more."""

    def write_data(self, data: bytes) -> None:
        self.received += data


class Page:
    """A client that follows all streams, and comes again after the last event that it has seen."""

    def __init__(self, streams: list[Stream]) -> None:
        self.streams = streams
        self.seen: list[dict[str, str]] = []
        self.last_event_id = ""
        self.sink = Sink()
        self.come()

    def come(self) -> None:
        """Follow from where the page is."""
        parts = [part.partition("-") for part in self.last_event_id.split(",") if part]
        cursors = {epoch: int(seq) for epoch, _, seq in parts}
        self.sink = Sink()
        connection = SharedConnection(self.sink, cursors, bytes)
        left = [one for one in self.streams if not one.sealed or cursors.get(one.epoch, 0) <= one.log.end]
        lanes = [(one, connection.open_lane(one.epoch)) for one in left]
        self.subscriptions = []
        for one, lane in lanes:
            self.subscriptions.append(Subscription(one, VIEW, lane, cursors.get(one.epoch, 0)))
            one.attach(self.subscriptions[-1])

    def cut(self, keep: int) -> None:
        """Lose the connection, of which so many events arrived, and come again."""
        for event in dispatched(self.sink.received)[:keep]:
            self.seen.append(json.loads(event.data or b""))
            self.last_event_id = (event.id or b"").decode()
        for subscription in self.subscriptions:
            subscription.leave("left")
        self.come()


STEPS = st.one_of(
    st.tuples(st.just("say"), st.integers(0, 2), st.integers(1, 3)),
    st.tuples(st.just("comment"), st.integers(0, 2)),
    st.tuples(st.just("end"), st.integers(0, 2), st.sampled_from(ENDINGS)),
    st.tuples(st.just("cut"), st.integers(0, 12)),
    st.tuples(st.just("clog")),
    st.tuples(st.just("drain")),
)


@example([("clog",), ("say", 0, 1), ("end", 1, COMPLETE), ("cut", 9)])
@settings(max_examples=200)
@given(st.lists(STEPS, min_size=4, max_size=25))
def test_no_event_is_lost_or_repeated_whatever_happens(steps: list[Any]) -> None:
    """Reads, endings, clogs, and cuts after any number of events: what a page has seen is what was said."""
    streams = [new_stream(ident=f"st_{epoch}") for epoch in EPOCHS]
    said: list[list[tuple[str, str | None]]] = [[] for _ in streams]
    page, number = Page(streams), 0
    for step in [*steps, *(("end", which, COMPLETE) for which in range(3)), ("drain",), ("cut", 10**6)]:
        match step:
            case ("say", which, count) if not streams[which].sealed:
                words = [str(number + more) for more in range(count)]
                number += count
                said[which] += [(word, None) for word in words]
                streams[which].extend([f"data: {word}\n\n".encode() for word in words])
            case ("comment", which) if not streams[which].sealed:
                streams[which].extend([b": nothing\n\n"])
            case ("end", which, ending) if not streams[which].sealed:
                said[which].append((ending.message, ending.reason))
                streams[which].seal(ending)
            case ("cut", keep):
                page.cut(keep)
            case ("clog",):
                page.sink.clogged = True
            case ("drain",):
                page.sink.drain()
    for stream, words in zip(streams, said, strict=True):
        of_it = [event for event in page.seen if event["stream"] == stream.id]
        assert [(event["data"], event.get("ending")) for event in of_it] == words
        assert len({event["id"] for event in of_it}) == len(of_it)
    assert page.sink.ended is None, "all had been said: nobody is left to be sent anything"


def test_connection_ends_with_its_last_stream() -> None:
    """Not with the first; each of them is told how it ended."""
    streams = [new_stream(ident=f"st_{epoch}") for epoch in EPOCHS]
    page = Page(streams)
    for stream, ending in zip(streams, (UPSTREAM_RESET.saying("it broke"), DRAINED, COMPLETE), strict=True):
        assert page.sink.ended is None
        stream.seal(ending)
    assert page.sink.ended == "closed"
    ends = [json.loads(event.data or b"") for event in dispatched(page.sink.received)]
    assert [(end["stream"][3:], end["event"], end["ending"], end["data"]) for end in ends] == [
        ("aaaaaa", "end", "upstream_reset", "it broke"),
        ("bbbbbb", "end", "drained", DRAINED.message),
        ("cccccc", "end", "complete", ""),
    ]


def test_lanes_have_turns_when_the_connection_drains() -> None:
    """One that has much to say does not keep the others from it."""
    streams = [new_stream(ident=f"st_{epoch}") for epoch in EPOCHS]
    page = Page(streams)
    page.sink.clogged = True
    for stream in streams:
        stream.extend([b"data: " + b"x" * 40_000 + b"\n\n" for _ in range(4)])
    heard: deque[str] = deque()
    for _ in range(40):
        before = len(page.sink.received)
        page.sink.room = 1
        page.sink.clogged = False
        resume, page.sink.resume = page.sink.resume, None
        if resume is None:
            break
        resume()
        new = dispatched(page.sink.received[before:])
        heard += [json.loads(event.data or b"")["stream"][3] for event in new]
    assert {letter: heard.count(letter) for letter in "abc"} == {"a": 4, "b": 4, "c": 4}
    assert set(list(heard)[:6]) == set("abc")


def test_one_heartbeat_is_sent_for_all_lanes() -> None:
    """That of the first that has not ended."""
    streams = [new_stream(ident=f"st_{epoch}") for epoch in EPOCHS]
    page = Page(streams)
    for subscription in page.subscriptions:
        subscription.beat()
    assert page.sink.received == COMMENT
    streams[0].seal(COMPLETE)
    page.sink.received = b""
    for subscription in page.subscriptions[1:]:
        subscription.beat()
    assert page.sink.received == COMMENT
