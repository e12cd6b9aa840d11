"""The account of one caller: what its limits admit and refuse, by a clock that the test sets, and its places."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.access.account import Account, Place
from proxy.access.limits import CallerLimits
from proxy.wire.errors import LimitReached, NotAllowedForKey
from tests.access.clock import Clock
from tests.streams import new_stream


def account(clock: Clock, **limits: Any) -> Account:
    return Account("alice", b"a", CallerLimits(**limits), clock)


def spent(one: Account, requests: int) -> None:
    for _ in range(requests):
        one.take().give_back()


@pytest.mark.parametrize(("name", "period_s"), [("requests_per_minute", 60), ("requests_per_day", 86400)])
def test_window_that_is_used_up_admits_nothing_until_the_next_begins(name: str, period_s: int) -> None:
    """Then as much as before; the error says when that is."""
    clock = Clock()
    one = account(clock, **{name: 2})
    clock.unix_s += 10
    spent(one, 2)
    with pytest.raises(LimitReached) as raised:
        one.take()
    left = period_s - int(clock.unix_s) % period_s
    assert (raised.value.retry_after_s, raised.value.retried) == (left, left > 60)
    assert name in raised.value.message
    clock.unix_s += left - 1
    with pytest.raises(LimitReached):
        one.take()
    clock.unix_s += 1
    spent(one, 2)
    assert one.refusals == {name: 2}


def test_request_that_is_refused_uses_nothing() -> None:
    """One limit that is reached leaves the others as they are."""
    clock = Clock()
    one = account(clock, requests_per_minute=1, requests_per_day=3)
    spent(one, 1)
    for _ in range(5):
        with pytest.raises(LimitReached):
            one.take()
    assert [window.used for window in one.requests] == [1, 1]
    assert one.streams == 0


def test_tokens_close_their_window_once_they_are_known() -> None:
    """The last response may use more than was left; the next minute is as full as ever, the day is not."""
    clock = Clock()
    one = account(clock, tokens_per_minute=100, tokens_per_day=1000)
    place = one.take()
    one.spend(150)
    place.give_back()
    with pytest.raises(LimitReached, match="tokens_per_minute"):
        one.take()
    clock.unix_s += 60
    spent(one, 1)
    one.spend(900)
    clock.unix_s += 60
    with pytest.raises(LimitReached, match="tokens_per_day"):
        one.take()


@pytest.mark.parametrize("jump_s", [-86400, -60, 60, 10 * 365 * 86400])
@pytest.mark.fault("clock", "connect")
def test_clock_that_is_set_begins_other_windows(jump_s: int) -> None:
    """A clock that was wrong locks nobody out for longer than the window that it says."""
    clock = Clock()
    one = account(clock, requests_per_minute=1)
    spent(one, 1)
    clock.unix_s += jump_s
    spent(one, 1)
    with pytest.raises(LimitReached) as raised:
        one.take()
    assert raised.value.retry_after_s is not None
    assert raised.value.retry_after_s <= 60


def test_limits_that_change_hold_at_once() -> None:
    """What was used stays used."""
    one = account(Clock(), requests_per_minute=5)
    spent(one, 3)
    one.limit(CallerLimits(requests_per_minute=3))
    with pytest.raises(LimitReached):
        one.take()
    one.limit(CallerLimits())
    spent(one, 10)


def test_place_is_given_back_once() -> None:
    """However often it is tried."""
    one = account(Clock(), streams=1)
    place = one.take()
    with pytest.raises(LimitReached, match="streams"):
        one.take()
    place.give_back()
    place.give_back()
    assert one.streams == 0


@pytest.mark.parametrize(
    ("body", "allowed"),
    [
        (b'{"model": "qwen-plus"}', True),
        (b'{"model": "qwen3-coder-plus"}', True),
        (b'{"model": "qwen-plus-latest"}', False),
        (b'{"messages": [{"content": "\\"model\\": \\"qwen-plus\\""}], "model": "qwen-max"}', False),
        (b'{"metadata": {"model": "qwen-plus"}, "model": "qwen-max"}', False),
        (b'{"model": "qwen-plus", "model": "qwen-max"}', False),
        (b'{"model": "qwen-max", "model": "qwen-plus"}', False),
        (b'{"model": "qwen-plus", "MODEL": "qwen-max"}', False),
        (b'{"mod\\u0065l": "qwen-max"}', False),
        (b'{"model": ["qwen-plus"]}', False),
        (b"{}", False),
        (b"", False),
        (b"[" * 10_000, False),
        ('{"model": "qwen-plus"}'.encode("utf-16"), False),
    ],
)
def test_model_is_allowed_only_if_every_reader_would_take_an_allowed_one(body: bytes, allowed: bool) -> None:
    """Doubled, renamed, nested, escaped or unreadable: in doubt it is refused."""
    one = account(Clock(), models=("qwen-plus", "qwen3-coder-*"))
    if allowed:
        one.check_body(body)
        return
    with pytest.raises(NotAllowedForKey):
        one.check_body(body)


steps = st.one_of(
    st.tuples(st.just("take"), st.booleans()),
    st.tuples(st.just("give"), st.integers(0, 5)),
    st.tuples(st.just("spend"), st.integers(0, 40)),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 59.0, 60.0, 3600.0, 86400.0])),
)


@given(st.lists(steps, max_size=40), st.integers(0, 4), st.integers(0, 4), st.integers(0, 60))
def test_no_window_admits_more_than_its_limit(
    done: list[tuple[str, Any]], a_minute: int, streams: int, tokens: int
) -> None:
    """Whatever is asked, given back and spent, and however time passes: counted by another who remembers everything."""
    clock = Clock()
    one = account(clock, requests_per_minute=a_minute, streams=streams, tokens_per_day=tokens)
    taken, places, spendings = list[float](), list[Place](), list[tuple[float, int]]()
    for what, value in done:
        now = clock.unix_s
        if what == "take":
            minute = sum(at // 60 == now // 60 for at in taken)
            day = sum(count for at, count in spendings if at // 86400 == now // 86400)
            full = bool(streams) and len(places) >= streams and not value
            refused = (0 < a_minute <= minute) or (0 < tokens <= day) or full
            try:
                places.append(one.take(looks_up=value))
                taken.append(now)
                assert not refused
            except LimitReached:
                assert refused
        elif what == "give" and places:
            places.pop(value % len(places)).give_back()
        elif what == "spend":
            one.spend(value)
            spendings.append((now, value))
        elif what == "wait":
            clock.unix_s += value
        assert one.streams == len(places)


def test_place_that_a_stream_has_taken_over_is_the_streams() -> None:
    """Its request gives nothing back any more; the stream's end does, once."""
    one, stream = account(Clock(), streams=1), new_stream()
    place = one.take()
    assert place.become(stream)
    place.give_back()
    assert (one.streams, place.become(new_stream())) == (1, False)
    for _ in range(2):
        one.ended(stream)
        assert one.streams == 0


def test_lookup_is_served_while_all_places_are_taken() -> None:
    """It counts as a request all the same."""
    one = account(Clock(), streams=1, requests_per_minute=2)
    one.take()
    one.take(looks_up=True)
    with pytest.raises(LimitReached, match="requests_per_minute"):
        one.take(looks_up=True)


@pytest.mark.parametrize(("limits", "reads"), [({}, False), ({"models": ("m",)}, True), ({"tokens_per_day": 1}, True)])
def test_bodies_are_read_whole_only_where_a_limit_needs_it(limits: dict[str, Any], reads: bool) -> None:
    """To check the model, or to ask for the usage."""
    assert account(Clock(), **limits).reads_bodies is reads


def test_idle_account_has_nothing_that_runs_and_nothing_that_counts() -> None:
    """What was used in a window that is over does not count."""
    clock = Clock()
    one = account(clock)
    assert one.is_idle
    place = one.take()
    assert not one.is_idle
    place.give_back()
    assert not one.is_idle
    clock.unix_s += 86400
    one.roll()
    assert one.is_idle


@pytest.mark.parametrize(
    ("limits", "check", "allowed"),
    [
        ({"routes": ("chat",)}, "check_route", "chat"),
        ({"modes": ("raw", "text")}, "check_mode", "text"),
        ({"models": ("qwen-*",)}, "check_model", "qwen-max"),
    ],
)
def test_refusal_names_what_is_allowed(limits: dict[str, Any], check: str, allowed: str) -> None:
    """And what was asked for, cut to a length that fits into a log."""
    one = account(Clock(), **limits)
    getattr(one, check)(allowed)
    getattr(account(Clock()), check)("anything")
    with pytest.raises(NotAllowedForKey) as raised:
        getattr(one, check)("x" * 500)
    (listed,) = limits.values()
    assert all(name in raised.value.message for name in listed)
    assert 100 <= raised.value.message.count("x") < 110


@pytest.mark.parametrize(("own", "everybodys", "expected"), [(0, 100, 100), (50, 100, 50), (200, 100, 100)])
def test_body_may_be_as_large_as_both_limits_allow(own: int, everybodys: int, expected: int) -> None:
    """A caller's own limit can only lower what holds for everybody."""
    assert account(Clock(), body_bytes=own).body_bytes(everybodys) == expected
