"""What a caller has at once, of which several processes keep the sum: limits while it is known, and while it is not."""

from proxy.access.gauges import Gauge


def gauge(here: int = 0, limit: int = 0) -> Gauge:
    """Return a gauge of a caller with so much here."""
    one = Gauge("streams", lambda: here)
    one.limit = limit
    return one


def test_no_limit_is_never_exceeded_and_nobody_is_told() -> None:
    """The others need not know of what nobody limits."""
    one = gauge(here=1000)
    assert not one.exceeds(10**9)
    assert (one.own, one.everywhere, one.is_told, one.is_held) == (0, 1000, True, False)


def test_others_take_from_what_may_be_here() -> None:
    """As far as they have told."""
    one = gauge(here=2, limit=10)
    assert (one.exceeds(10), one.exceeds(11)) == (False, True)
    one.learn("streams", own=2, total=9)
    assert (one.exceeds(3), one.exceeds(4)) == (False, True)
    assert one.everywhere == 9
    assert one.reached(3) == ("streams", "there are 10, 10 are allowed", 1)


def test_sum_that_lacks_this_process_takes_nothing_away() -> None:
    """It may be older than what was told."""
    one = gauge(here=2, limit=10)
    one.learn("streams", own=2, total=0)
    assert one.everywhere == 2


def test_equal_share_is_allowed_while_the_sum_is_not_known() -> None:
    """One at least; the message says why it is less than the limit."""
    one = gauge(limit=10)
    one.divide(4)
    assert (one.exceeds(2), one.exceeds(3)) == (False, True)
    assert one.reached(2).used == "there are 2 here, 2 of 10 are allowed while the others' are not known"
    one.divide(100)
    assert (one.exceeds(1), one.exceeds(2)) == (False, True)


def test_share_is_no_more_than_the_others_leave() -> None:
    """Some have told, and some not yet; once the sum is known again it alone counts."""
    one = gauge(limit=10)
    one.learn("streams", own=0, total=9)
    one.share(2)
    assert (one.exceeds(1), one.exceeds(2)) == (False, True)
    one.learn("streams", own=0, total=3)
    assert (one.exceeds(7), one.exceeds(8)) == (False, True)


def test_what_is_here_is_held_until_the_others_know_it_is_gone() -> None:
    """Nor is it known what they know, before they have answered."""
    here = [1]
    one = Gauge("followers", lambda: here[0])
    one.limit = 5
    assert (one.is_told, one.is_held) == (False, True)
    one.learn("followers", own=1, total=1)
    assert one.is_told
    here[0] = 0
    assert (one.is_told, one.is_held) == (False, True)
    one.learn("followers", own=0, total=0)
    assert (one.is_told, one.is_held) == (True, False)
    one.doubt()
    assert (one.is_told, one.is_held) == (False, True)
