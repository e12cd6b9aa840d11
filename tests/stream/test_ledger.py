"""How much memory is held, and what is done when that is too much: whose frames are dropped, and who is paused."""

import pytest

from proxy.stream.ledger import BODIES, LOGS, SPANS, Holder, Ledger, Relief

LIMIT = 1_000_000


class FakeStream:
    """A stream that holds bytes: some that all have been sent, some that only clogged followers lack, and others."""

    def __init__(self, ledger: Ledger, *, sent: int = 0, clogged: int = 0, needed: int = 0, slow: bool = False) -> None:
        self.sent, self.clogged, self.needed = sent, clogged, needed
        self.waits_for_client = slow
        self.throttled = self.sealed = False
        self.dropped: list[bool] = []
        self._ledger = ledger
        ledger.bytes += self.held_bytes

    @property
    def held_bytes(self) -> int:
        return self.sent + self.clogged + self.needed

    def drop_past(self, *, spare_slow: bool) -> None:
        self.dropped.append(spare_slow)
        dropped = self.sent if spare_slow else self.sent + self.clogged
        self.sent, self.clogged = 0, self.clogged if spare_slow else 0
        self._ledger.bytes -= dropped

    def throttle(self, throttled: bool) -> None:
        self.throttled = throttled


def test_kinds_add_up_and_leave_less_room_for_frames() -> None:
    """Frames are added to directly; what else is counted takes its room."""
    ledger = Ledger(LIMIT)
    ledger.bytes += 100
    ledger.count(BODIES, 50)
    ledger.count(SPANS, 30)
    ledger.count(BODIES, -20)
    assert (ledger.total_bytes, ledger.room_bytes) == (160, LIMIT - 60)
    assert {kind: held for kind, held in ledger.by_kind().items() if held} == {LOGS: 100, BODIES: 30, SPANS: 30}


def test_growth_beyond_the_limit_is_told_with_the_stream_that_grew() -> None:
    """To the last byte it is not, and what shrinks is not either."""
    ledger, told = Ledger(100), list[Holder | None]()
    ledger.on_over_limit = told.append
    stream = FakeStream(ledger)
    ledger.count(BODIES, 100, stream)
    assert (told, ledger.over) == ([], False)
    ledger.count(BODIES, 1, stream)
    assert (told, ledger.over) == ([stream], True)
    ledger.count(BODIES, -1, stream)
    assert (told, ledger.over) == ([stream], False)


def test_limit_that_changes_holds_at_once() -> None:
    """What is held stays counted."""
    ledger = Ledger(100)
    ledger.count(BODIES, 30)
    ledger.bytes += 60
    ledger.max_bytes = 80
    assert (ledger.over, ledger.total_bytes) == (True, 90)
    ledger.max_bytes = 200
    assert (ledger.over, ledger.total_bytes) == (False, 90)


def test_uncounted_bytes_of_all_streams_are_an_eighth_of_the_limit() -> None:
    """However many streams there are."""
    ledger = Ledger(800)
    for streams, each in ((0, 100), (1, 100), (4, 25), (1000, 0)):
        ledger.divide(streams)
        assert ledger.ahead_bytes == each


def test_frames_that_all_were_sent_go_first_of_the_largest_streams_and_no_more_than_need_be() -> None:
    """Whoever is slow keeps what it lacks, and nobody is paused."""
    ledger = Ledger(LIMIT)
    large, small = FakeStream(ledger, sent=700_000, clogged=50_000), FakeStream(ledger, sent=300_000)
    Relief(ledger).relieve([small, large], [])
    assert (large.dropped, small.dropped) == ([True], [])
    assert (large.clogged, small.sent, large.throttled, small.throttled) == (50_000, 300_000, False, False)


def test_frames_that_only_clogged_followers_lack_go_next() -> None:
    """As when a single log is full; of ended streams that are followed, too."""
    ledger = Ledger(LIMIT)
    running, ended = FakeStream(ledger, clogged=100_000), FakeStream(ledger, clogged=990_000)
    Relief(ledger).relieve([running], [ended])
    assert (ended.dropped, running.dropped) == ([True, False], [True])
    assert (ended.held_bytes, running.held_bytes) == (0, 100_000)


def test_streams_that_hold_most_are_paused_but_for_one_whose_client_reads() -> None:
    """That one ends and frees its memory; those that hold little are read on."""
    ledger = Ledger(LIMIT)
    slow = FakeStream(ledger, needed=500_000, slow=True)
    quick, another = FakeStream(ledger, needed=300_000), FakeStream(ledger, needed=300_000)
    little = FakeStream(ledger, needed=3000)
    Relief(ledger).relieve([slow, quick, another, little], [])
    assert [one.throttled for one in (slow, quick, another, little)] == [True, False, True, False]


def test_favoured_stream_stays_the_same_until_it_has_ended_or_its_client_is_slow() -> None:
    """Else two streams would take turns and neither would end."""
    ledger = Ledger(LIMIT)
    first, second = FakeStream(ledger, needed=600_000), FakeStream(ledger, needed=600_000)
    relief = Relief(ledger)
    for running in ([first, second], [second, first]):
        relief.relieve(running, [])
        assert (first.throttled, second.throttled) == (False, True)
    first.waits_for_client = True
    relief.relieve([first, second], [])
    assert (first.throttled, second.throttled) == (True, False)


def test_paused_streams_go_on_as_there_is_room_and_one_in_any_case() -> None:
    """A turn of reading may add 256 KiB to each."""
    ledger = Ledger(4 * LIMIT)
    streams = [FakeStream(ledger, needed=900_000) for _ in range(5)]
    relief = Relief(ledger)
    relief.relieve(streams, [])
    assert [one.throttled for one in streams] == [False, True, True, True, True]
    ledger.bytes = 4 * LIMIT - 100
    relief.resume()
    assert [one.throttled for one in streams] == [False, False, True, True, True]
    ledger.bytes = 4 * LIMIT - 2 * 256 * 1024
    relief.resume()
    assert [one.throttled for one in streams] == [False, False, False, False, True]


@pytest.mark.parametrize(("held", "paused"), [(64 * 1024, False), (64 * 1024 + 1, True)])
def test_large_stream_that_exceeds_the_limit_is_paused_at_once(held: int, paused: bool) -> None:
    """Before memory is freed in a later turn; a small one is read on."""
    ledger = Ledger(LIMIT)
    stream = FakeStream(ledger, needed=held)
    relief = Relief(ledger)
    relief.hold(stream)
    assert stream.throttled is paused
    relief.resume()
    assert stream.throttled is False
