"""The request queue: its limits, its fairness, and that no place is lost."""

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.request_queue import RequestQueue, Ticket

A, B, C = b"a", b"b", b"c"


class Door:
    """A queue with the order in which its places were let in, by a clock that is moved by hand."""

    def __init__(self, *, max_concurrent: int = 0, per_minute: int = 0, size: int = 100) -> None:
        self.queue = RequestQueue(max_concurrent=max_concurrent, per_minute=per_minute, size=size)
        self.now = 1000.0
        self.went: list[tuple[bytes, int]] = []
        self.went_at: list[float] = []
        self.numbers = Counter[bytes]()

    def enter(self, caller: bytes) -> Ticket | None:
        number = self.numbers[caller]
        ticket = self.queue.enter(caller, self.now, lambda: self._note(caller, number))
        if ticket is not None:
            self.numbers[caller] += 1
            if ticket.admitted:
                self._note(caller, number)
        return ticket

    def release(self) -> None:
        self.queue.release()
        self.queue.advance(self.now)

    def _note(self, caller: bytes, number: int) -> None:
        self.went.append((caller, number))
        self.went_at.append(self.now)


def test_queue_without_limits_lets_everybody_in() -> None:
    """At once, however many."""
    door = Door(size=0)
    assert all((ticket := door.enter(A)) and ticket.admitted for _ in range(1000))


def test_request_above_the_limit_waits_for_a_release() -> None:
    """And then goes by itself."""
    door = Door(max_concurrent=1)
    door.enter(A)
    second = door.enter(A)
    assert second is not None
    assert not second.admitted
    door.release()
    assert second.admitted
    assert door.went == [(A, 0), (A, 1)]


def test_callers_take_turns_whoever_came_with_many() -> None:
    """One with a hundred requests holds one with one back by one."""
    door = Door(max_concurrent=1)
    for caller in (A, A, A, A, B, C, C):
        door.enter(caller)
    for _ in range(6):
        door.release()
    assert [caller for caller, _ in door.went] == [A, A, B, C, A, C, A]


def test_full_queue_takes_nobody() -> None:
    """Until one has left."""
    door = Door(max_concurrent=1, size=1)
    door.enter(A)
    waiting = door.enter(B)
    assert waiting is not None
    assert door.enter(C) is None
    door.queue.leave(waiting)
    assert door.enter(C) is not None


def test_who_left_is_not_let_in() -> None:
    """The next one is."""
    door = Door(max_concurrent=1)
    door.enter(A)
    gone, next_one = door.enter(B), door.enter(B)
    assert gone is not None
    assert next_one is not None
    door.queue.leave(gone)
    door.release()
    assert next_one.admitted
    assert not gone.admitted
    assert door.queue.waiting == 0


def test_rate_is_told_when_it_allows_the_next() -> None:
    """One a second at sixty a minute."""
    door = Door(per_minute=60)
    assert (first := door.enter(A)) is not None
    assert first.admitted
    assert (second := door.enter(A)) is not None
    assert not second.admitted
    assert door.queue.advance(door.now) == door.now + 1
    assert door.queue.expected_wait_s(door.now) == pytest.approx(2.0)
    door.now += 1
    assert door.queue.advance(door.now) is None
    assert second.admitted


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.sampled_from([A, B, C])),
        st.tuples(st.just("leave"), st.integers(0, 30)),
        st.tuples(st.just("release"), st.none()),
        st.tuples(st.just("elapse"), st.sampled_from([0.1, 0.5, 1.0, 7.0, 60.0])),
    ),
    max_size=120,
)


@given(steps=STEPS, most=st.integers(0, 3), rate=st.sampled_from([0, 3, 60, 100]), size=st.integers(0, 8))
def test_limits_order_and_places_hold_whatever_happens(
    steps: list[tuple[str, object]], most: int, rate: int, size: int
) -> None:
    """Never more than the limits, first come first served within a caller, and everybody is in, out, or waits."""
    door = Door(max_concurrent=most, per_minute=rate, size=size)
    given_out: list[Ticket] = []
    left = 0
    for word, value in steps:
        if word == "enter" and isinstance(value, bytes):
            ticket = door.enter(value)
            if ticket is not None:
                given_out.append(ticket)
        elif word == "leave" and isinstance(value, int) and value < len(given_out):
            ticket = given_out[value]
            before = door.queue.waiting
            door.queue.leave(ticket)
            left += before - door.queue.waiting
        elif word == "release" and door.queue.running:
            door.release()
        elif isinstance(value, float):
            door.now += value
            door.queue.advance(door.now)
        assert not most or door.queue.running <= most
        assert door.queue.waiting <= size
        admitted = sum(ticket.admitted for ticket in given_out)
        assert admitted + left + door.queue.waiting == len(given_out)
        assert len(door.went) == admitted
    for caller in (A, B, C):
        numbers = [number for who, number in door.went if who == caller]
        assert numbers == sorted(numbers)
    for span_s, limit in ((60.0, rate), (1.0, -(-rate // 60))) if rate else ():
        recent: deque[float] = deque()
        for at in door.went_at:
            recent.append(at)
            while recent[0] <= at - span_s:
                recent.popleft()
            assert len(recent) <= limit


@given(counts=st.lists(st.integers(1, 20), min_size=2, max_size=6))
def test_no_caller_goes_twice_while_another_waits_since(counts: list[int]) -> None:
    """While k callers wait, each of them is among the next k."""
    door = Door(max_concurrent=1, size=1000)
    door.enter(b"first")
    callers = [b"%d" % number for number in range(len(counts))]
    left = dict(zip(callers, counts, strict=True))
    for caller, count in left.items():
        for _ in range(count):
            door.enter(caller)
    while door.queue.waiting:
        due = [caller for caller, count in left.items() if count]
        done = len(door.went)
        for _ in due:
            door.release()
        served = [caller for caller, _ in door.went[done:]]
        assert sorted(served) == due
        for caller in served:
            left[caller] -= 1


@given(steps=STEPS, rate=st.sampled_from([3, 60]))
def test_who_stays_is_let_in_at_last(steps: list[tuple[str, object]], rate: int) -> None:
    """By following what `advance` says, everybody who waits goes, and not before it may."""
    door = Door(per_minute=rate)
    tickets = [ticket for word, who in steps if isinstance(who, bytes) and (ticket := door.enter(who))]
    while (at := door.queue.advance(door.now)) is not None:
        assert at > door.now
        door.now = at
    assert all(ticket.admitted for ticket in tickets)
