"""Which followers are advanced when: in slices, and at a pace, with one timer for all."""

import logging

import pytest

from proxy.stream.cohort import SLICE, Cohort, PacedCohort, Pacer
from proxy.stream.endings import COMPLETE
from proxy.stream.rank import Ranks
from tests.fakes import FakeLoop, FakeSink
from tests.streams import follow, new_stream

A, B, C, D = (b"data: %c\n\n" % letter for letter in b"abcd")
TOKEN = b'data: {"choices":[{"delta":{"content":"a"},"index":0}]}\n\n'


class Counted:
    """A member that counts."""

    def __init__(self) -> None:
        self.parked = False
        self.advanced = 0

    size = 1

    def advance(self) -> None:
        self.advanced += 1

    def regroup(self, ranks: Ranks) -> "Counted":
        return self


@pytest.mark.parametrize("many", [0, 1, SLICE])
def test_few_members_are_advanced_at_once(many: int) -> None:
    """In this turn of the loop."""
    loop = FakeLoop()
    cohort, members = Cohort(loop.call_soon), [Counted() for _ in range(many)]
    cohort.live = list(members)
    cohort.advance()
    assert [one.advanced for one in members] == [1] * many
    assert not loop.turn()


def test_many_members_are_advanced_in_slices() -> None:
    """So that other streams come between; who parks meanwhile is passed over; growth meanwhile is one sweep more."""
    loop = FakeLoop()
    cohort, members = Cohort(loop.call_soon), [Counted() for _ in range(3 * SLICE)]
    cohort.live = list(members)
    cohort.advance()
    assert sum(one.advanced for one in members) == SLICE
    members[-1].parked = cohort.has_parked = True
    cohort.advance()
    cohort.advance()
    loop.settle()
    assert [one.advanced for one in members] == [2] * (3 * SLICE - 1) + [0]


def test_sweep_that_fails_is_not_the_last_one() -> None:
    """Whoever came after the member that failed is visited by the next one."""
    loop = FakeLoop()
    cohort, members = Cohort(loop.call_soon), [Counted() for _ in range(2)]

    def fail() -> None:
        del members[0].advance  # type: ignore[method-assign]
        raise ValueError("broken")

    members[0].advance = fail  # type: ignore[method-assign]
    cohort.live = list(members)
    with pytest.raises(ValueError, match="broken"):
        cohort.advance()
    cohort.advance()
    assert [one.advanced for one in members] == [1, 1]


def test_concluded_cohort_lets_go_of_its_members() -> None:
    """After it has advanced every one, also those that a sweep is still to come to."""
    loop = FakeLoop()
    cohort, members = Cohort(loop.call_soon), [Counted() for _ in range(2 * SLICE)]
    cohort.live = list(members)
    cohort.advance()
    cohort.conclude()
    loop.settle()
    assert [one.advanced for one in members] == [2] * (2 * SLICE)
    assert cohort.live == []


def test_paced_cohort_waits_for_its_time() -> None:
    """From the first frame that it holds back."""
    loop = FakeLoop()
    cohort, member = PacedCohort(loop.call_soon, Pacer(loop.call_later, loop.time), 50, 4096), Counted()
    cohort.live = [member]
    cohort.hold(100)
    loop.elapse(0.03)
    cohort.hold(100)
    loop.elapse(0.019)
    assert member.advanced == 0
    loop.elapse(0.001)
    assert member.advanced == 1
    loop.elapse(10)
    assert member.advanced == 1


def test_paced_cohort_does_not_wait_with_many_bytes() -> None:
    """`flush_bytes` of frames are enough."""
    loop = FakeLoop()
    cohort, member = PacedCohort(loop.call_soon, Pacer(loop.call_later, loop.time), 50, 4096), Counted()
    cohort.live = [member]
    cohort.hold(4095)
    cohort.hold(1)
    assert member.advanced == 1
    loop.elapse(1)
    assert member.advanced == 1


def test_pacer_has_one_timer_for_all() -> None:
    """However many cohorts wait."""
    loop = FakeLoop()
    pacer = Pacer(loop.call_later, loop.time)
    cohorts = [PacedCohort(loop.call_soon, pacer, 100 + n, 4096) for n in range(20)]
    members = [Counted() for _ in cohorts]
    for cohort, member in zip(cohorts, members, strict=True):
        cohort.live = [member]
        cohort.hold(1)
    assert len(loop.timers) == 1
    loop.elapse(0.1095)
    assert [one.advanced for one in members] == [1] * 10 + [0] * 10
    assert len(loop.timers) == 1
    loop.elapse(1)
    assert [one.advanced for one in members] == [1] * 20
    assert not loop.timers


def test_cohort_that_raises_holds_up_no_other(background_log: list[logging.LogRecord]) -> None:
    """Neither those that are due with it nor those after it."""
    loop = FakeLoop()
    pacer = Pacer(loop.call_later, loop.time)
    cohorts = [PacedCohort(loop.call_soon, pacer, flush_ms, 4096) for flush_ms in (50, 50, 50, 80)]
    members = [Counted() for _ in cohorts]
    members[1].advance = _raise  # type: ignore[method-assign]
    for cohort, member in zip(cohorts, members, strict=True):
        cohort.live = [member]
        cohort.hold(1)
    loop.elapse(0.1)
    assert [member.advanced for member in members] == [1, 0, 1, 1]
    cohorts[0].hold(1)
    loop.elapse(0.1)
    assert members[0].advanced == 2
    assert (pacer.background.failures, len(background_log)) == (1, 1)


def _raise() -> None:
    raise ZeroDivisionError


def test_shorter_wait_is_not_held_up_by_a_longer_one() -> None:
    """The timer is for whoever is due first."""
    loop = FakeLoop()
    pacer = Pacer(loop.call_later, loop.time)
    slow, quick = (PacedCohort(loop.call_soon, pacer, flush_ms, 4096) for flush_ms in (1000, 10))
    members = slow.live, quick.live = [Counted()], [Counted()]
    slow.hold(1)
    quick.hold(1)
    loop.elapse(0.01)
    assert [one.advanced for [one] in members] == [0, 1]
    loop.elapse(1)
    assert [one.advanced for [one] in members] == [1, 1]


def test_first_token_never_waits() -> None:
    """What comes before it neither; what comes after it is joined."""
    loop, sink = FakeLoop(), FakeSink()
    stream = new_stream(loop=loop)
    follow(stream, sink, flush_ms=50, flush_bytes=4096)
    stream.extend([A])
    stream.extend([TOKEN])
    assert sink.writes == [A, TOKEN]
    stream.vitals.note([TOKEN], 1.0, [])
    stream.extend([B])
    stream.extend([C])
    assert sink.writes == [A, TOKEN]
    loop.elapse(0.05)
    assert sink.writes == [A, TOKEN, B + C]


def test_paced_follower_gets_the_past_at_once_and_the_end_at_once() -> None:
    """Only what grows while it is there is held back, and nothing after the seal."""
    loop, sink, prompt = FakeLoop(), FakeSink(), FakeSink()
    stream = new_stream(loop=loop)
    stream.vitals.note([TOKEN], 1.0, [])
    stream.extend([A, B])
    follow(stream, sink, flush_ms=50, flush_bytes=4096)
    follow(stream, prompt)
    stream.extend([C])
    assert (sink.writes, prompt.writes) == ([A + B], [A + B, C])
    stream.seal(COMPLETE, [D])
    assert (sink.received, sink.ended) == (A + B + C + D, "closed")
    loop.elapse(1)
    assert sink.received == A + B + C + D


def test_paced_follower_that_clogs_goes_on_when_it_drains() -> None:
    """At once: it has waited long enough."""
    loop, sink = FakeLoop(), FakeSink(clogged=True)
    stream = new_stream(loop=loop)
    stream.vitals.note([TOKEN], 1.0, [])
    follow(stream, sink, flush_ms=50, flush_bytes=4096)
    stream.extend([A])
    loop.elapse(0.05)
    stream.extend([B])
    sink.drain()
    assert sink.received == A + B
