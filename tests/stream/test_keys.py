"""Streams are found by the keys of callers, and who waits for one is notified. The clock is a number handed in."""

import pytest

from proxy.stream.hub import Hub
from proxy.stream.keys import Waiter
from proxy.stream.stream import Stream
from proxy.wire.errors import Overloaded
from tests.fakes import FakeSink
from tests.streams import hub_stream as new_stream
from tests.streams import new_hub

ME, OTHER = b"me", b"other"


def test_stream_may_have_several_keys() -> None:
    """Each finds it until a newer stream has it; a key it had is not given back to it."""
    hub = new_hub()
    older = new_stream(hub, key="a")
    hub.keys.add("b", older)
    assert (older.info.keys, older.info.key) == (("a", "b"), "b")
    newer = new_stream(hub, key="b")
    hub.keys.add("b", older)
    assert (hub.keys.find("a", ME), hub.keys.find("b", ME)) == (older, newer)
    hub.keys.remove(older)
    assert (hub.keys.find("a", ME), hub.keys.find("b", ME)) == (None, newer)
    assert hub.find(older.id, ME) is older


def test_key_finds_the_newest_stream_of_a_caller() -> None:
    """Each caller has keys of their own."""
    hub = new_hub()
    older, newer = new_stream(hub, key="k"), new_stream(hub, key="k")
    others = new_stream(hub, key="k", caller=OTHER)
    assert hub.keys.find("k", ME) is newer
    assert hub.keys.find("k", OTHER) is others
    assert hub.keys.find("none", ME) is None
    hub.forget(older)
    assert hub.keys.find("k", ME) is newer
    hub.forget(newer)
    assert hub.keys.find("k", ME) is None


class FakePromise:
    """A promise that lets what it was told be read, and holds who tells it to telling once."""

    def __init__(self) -> None:
        self.results: list[Stream | None] = []

    def done(self) -> bool:
        return bool(self.results)

    def set_result(self, result: Stream | None, /) -> None:
        assert not self.results
        self.results.append(result)


def wait(
    hub: Hub, key: str = "k", caller: bytes = ME, *, now: float = 0, wait_s: float = 60, heartbeat_s: float = 0
) -> tuple[Waiter, FakePromise, FakeSink]:
    promise, sink = FakePromise(), FakeSink()
    waiter = Waiter(caller, key, promise, sink, now=now, wait_s=wait_s, heartbeat_s=heartbeat_s)
    hub.wait(waiter)
    return waiter, promise, sink


def test_who_waits_for_a_key_is_told_of_the_next_stream_once() -> None:
    """Each of those who wait; not of another caller's or another key's, nor of a later one."""
    hub = new_hub()
    promises = [wait(hub)[1] for _ in range(2)]
    new_stream(hub, key="k", caller=OTHER)
    new_stream(hub, key="other")
    new_stream(hub)
    hub.tick(59.9)
    assert [promise.results for promise in promises] == [[], []]
    stream = new_stream(hub, key="k")
    new_stream(hub, key="k")
    hub.tick(100)
    assert [promise.results for promise in promises] == [[stream], [stream]]


def test_who_waited_in_vain_is_told_so_once() -> None:
    """When its time is up, each its own."""
    hub = new_hub()
    short, long = wait(hub, wait_s=10, now=5)[1], wait(hub, wait_s=20, now=5)[1]
    told = []
    for now in (14.9, 15, 16, 25):
        hub.tick(now)
        told.append((short.results.copy(), long.results.copy()))
    assert told == [([], []), ([None], []), ([None], []), ([None], [None])]


def test_stream_is_found_by_its_key_when_waiters_are_told() -> None:
    """Whoever is told may attach in the same breath."""
    hub, found = new_hub(), []
    _, promise, _ = wait(hub)
    promise.set_result = lambda stream, /: found.append(  # type: ignore[method-assign]
        stream and (hub.keys.find("k", ME), hub.find(stream.id, ME))
    )
    stream = new_stream(hub, key="k")
    assert found == [(stream, stream)]


def test_who_gave_up_waiting_is_not_told() -> None:
    """The others are; giving up after having been told takes nothing from those who wait anew."""
    hub = new_hub()
    (first, told, _), (second, not_told, _), (third, told_too, _) = (wait(hub) for _ in range(3))
    hub.give_up(second)
    stream = new_stream(hub, key="k")
    hub.tick(1000)
    assert [promise.results for promise in (told, not_told, told_too)] == [[stream], [], [stream]]
    fourth, told_later, _ = wait(hub)
    hub.give_up(first)
    hub.give_up(third)
    later = new_stream(hub, key="k")
    assert told_later.results == [later]
    hub.give_up(fourth)
    assert hub.followers == 0


def test_who_waits_counts_as_a_follower() -> None:
    """Until it is told or gives up: it holds a connection too."""
    hub = new_hub(max_followers=1)
    waiter, _, _ = wait(hub)
    with pytest.raises(Overloaded, match="1 followers are connected, 1 are allowed"):
        hub.check_room_to_follow()
    hub.give_up(waiter)
    hub.check_room_to_follow()


def test_who_waits_has_heartbeats() -> None:
    """As often as it wants, or none; and none once it is told."""
    hub = new_hub()
    _, _, sink = wait(hub, heartbeat_s=15, now=5)
    _, _, without = wait(hub)
    beats = []
    for now in (19.9, 20, 25, 35, 49.9):
        hub.tick(now)
        beats.append(len(sink.writes))
    assert beats == [0, 1, 1, 2, 2]
    assert set(sink.writes) == {b":\n"}
    new_stream(hub, key="k")
    hub.tick(52)
    assert (len(sink.writes), without.writes) == (2, [])
