"""All connections of clients: who makes room when descriptors or memory run short, and the timer that checks them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from proxy.downstream import client_connections
from proxy.downstream.client_connections import ClientConnections, ClientTimeouts
from proxy.downstream.descriptors import Descriptors
from proxy.wire.errors import Drained, ProxyError, RateLimited
from tests.event_loops import on_each_loop, until

DESCRIPTORS = 40  # 14 of them for connections of clients: 16 are for the admin port, 10 for upstreams
FOR_CLIENTS = 14
SHORT = ClientTimeouts(head_s=0.1, keepalive_s=0.1, body_s=0.1, write_s=0.1)


class FakeConnection:
    """A connection that notes what is done to it."""

    def __init__(self, *, unsent_bytes: int = 0, taken_at: float = 0.0, is_busy: bool = False) -> None:
        self.unsent_bytes = unsent_bytes
        self.taken_at = taken_at
        self.is_busy = is_busy
        self.checked: list[ClientTimeouts] = []
        self.done: list[str] = []
        self.fault: Exception | None = None

    def check(self, now: float, timeouts: ClientTimeouts) -> None:
        self.checked.append(timeouts)
        if self.fault is not None:
            raise self.fault

    def cut(self, reason: str, *, clean: bool) -> None:
        self.done.append(f"{reason} {'closed' if clean else 'reset'}")

    def end_request(self, error: ProxyError) -> None:
        if error.code not in self.done:
            self.done.append(error.code)

    def reject(self) -> None:
        self.done.append("rejected")


def connections(limit: int = 1 << 20, *, body_bytes: int = 100, pending_bytes: int = 100) -> ClientConnections:
    return ClientConnections(SHORT, Descriptors(limit), max_body_bytes=body_bytes, max_pending_bytes=pending_bytes)


def arrived(all_of_them: ClientConnections, count: int, *, admin: bool = False) -> list[FakeConnection]:
    """Have so many connections arrive, which wait for their first requests."""
    found = [FakeConnection() for _ in range(count)]
    for one in found:
        all_of_them.arrived(one, admin=admin)
    return found


def test_connection_that_is_idle_for_the_longest_makes_room_when_descriptors_run_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One for each that arrives; the log says so once, and how many there may be."""
    all_of_them = connections(DESCRIPTORS)
    assert all_of_them.room == FOR_CLIENTS
    first = arrived(all_of_them, FOR_CLIENTS)
    assert (all_of_them.room, [one.done for one in first]) == (0, [[]] * FOR_CLIENTS)
    with caplog.at_level(logging.WARNING):
        more = arrived(all_of_them, 3)
    assert [one.done for one in first] == [["descriptors closed"]] * 3 + [[]] * (FOR_CLIENTS - 3)
    assert [one.done for one in more] == [[]] * 3
    (line,) = caplog.messages
    assert f"{DESCRIPTORS} are allowed" in line


def test_connection_is_rejected_if_no_other_is_idle() -> None:
    """A client that has its answer keeps it; when one is gone there is room again."""
    all_of_them = connections(DESCRIPTORS)
    first = arrived(all_of_them, FOR_CLIENTS)
    all_of_them.idle.clear()
    (late,) = arrived(all_of_them, 1)
    assert (late.done, late in all_of_them.idle) == (["rejected"], False)
    for gone in (late, first[0]):
        all_of_them.gone(gone)
    assert arrived(all_of_them, 1)[0].done == []
    assert not any(one.done for one in first)


def test_operator_is_let_in_when_clients_are_not() -> None:
    """Some descriptors are reserved for the admin port; it takes nobody's connection, and none of its own is idle."""
    all_of_them = connections(DESCRIPTORS)
    clients = arrived(all_of_them, FOR_CLIENTS + 1)
    operators = arrived(all_of_them, 5, admin=True)
    assert not any(one.done for one in operators)
    assert sum(len(one.done) for one in clients) == 1
    assert not set(operators) & set(all_of_them.idle)


def test_bodies_are_held_up_to_a_limit_in_sum() -> None:
    """What is refused does not count, and the error names the limit."""
    all_of_them = connections(body_bytes=100)
    all_of_them.hold_body(60)
    all_of_them.hold_body(40)
    with pytest.raises(RateLimited, match=r"101 bytes, 100 are allowed \(limits\.total_body_bytes\)"):
        all_of_them.hold_body(1)
    assert all_of_them.body_bytes == 100


@asynccontextmanager
async def watched(all_of_them: ClientConnections) -> AsyncIterator[None]:
    watching = asyncio.create_task(all_of_them.watch())
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


@on_each_loop
async def test_every_connection_is_checked_again_and_again_by_the_time_outs_that_hold_now() -> None:
    """They may change while everything runs on; those that have gone are checked no more."""
    all_of_them = connections()
    first, second = arrived(all_of_them, 2)
    async with watched(all_of_them):
        await until(lambda: len(first.checked) > 1 and len(second.checked) > 1)
        assert {*first.checked, *second.checked} == {SHORT}
        all_of_them.gone(first)
        all_of_them.timeouts = changed = SHORT._replace(write_s=0.3)
        had = len(first.checked)
        await until(lambda: second.checked[-1] is changed)
        assert len(first.checked) == had


@on_each_loop
async def test_fault_of_one_connection_prevents_no_check_of_the_others(
    background_log: list[logging.LogRecord],
) -> None:
    """It is logged and counted, and the timer goes on."""
    all_of_them = connections()
    found = arrived(all_of_them, 5)
    found[2].fault = ValueError("x")
    async with watched(all_of_them):
        await until(lambda: all(len(one.checked) > 1 for one in found))
    assert all_of_them.background.failures >= 2
    assert not all_of_them.background.alive
    assert len(background_log) == 1


@on_each_loop
async def test_check_of_many_leaves_others_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice of them in each turn of the event loop."""
    monkeypatch.setattr(client_connections, "_SLICE", 10)
    all_of_them = connections()
    found = arrived(all_of_them, 100)
    seen: set[int] = set()
    async with watched(all_of_them), asyncio.timeout(10):
        while not all(one.checked for one in found):
            seen.add(sum(bool(one.checked) for one in found))
            await asyncio.sleep(0)
    assert seen <= set(range(0, 100, 10))
    assert len(seen) > 5


@on_each_loop
async def test_clients_that_have_read_nothing_for_the_longest_are_cut_when_too_much_waits() -> None:
    """By a reset, and no more of them than need be; whoever waits for nothing is not among them."""
    all_of_them = connections(pending_bytes=100)
    fast, slow = FakeConnection(unsent_bytes=60, taken_at=9.0), FakeConnection(unsent_bytes=30, taken_at=1.0)
    slower, waits_for_none = FakeConnection(unsent_bytes=40, taken_at=0.5), FakeConnection(taken_at=0.0)
    for one in (fast, slow, slower, waits_for_none):
        all_of_them.arrived(one, admin=False)
    async with watched(all_of_them):
        await until(lambda: bool(slower.done))
    assert slower.done[0] == "pending reset"
    assert (fast.done, slow.done, waits_for_none.done) == ([], [], [])


@on_each_loop
async def test_bytes_that_wait_within_the_limit_cut_nobody() -> None:
    """To the last one."""
    all_of_them = connections(pending_bytes=100)
    one = FakeConnection(unsent_bytes=100)
    all_of_them.arrived(one, admin=False)
    async with watched(all_of_them):
        await until(lambda: len(one.checked) > 1)
    assert (one.done, all_of_them.pending_bytes) == ([], 100)


@on_each_loop
async def test_requests_are_ended_and_clients_that_do_not_read_the_end_are_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a time; one that has read it is let go at once."""
    monkeypatch.setattr(client_connections, "_SHUTDOWN_S", 0.05)
    all_of_them = connections()
    reads, does_not, idle = FakeConnection(is_busy=True), FakeConnection(is_busy=True), FakeConnection()
    for one in (reads, does_not, idle):
        all_of_them.arrived(one, admin=False)
    assert all_of_them.busy
    ending = asyncio.create_task(all_of_them.end_requests(Drained("over")))
    await until(lambda: bool(reads.done))
    reads.is_busy = False
    await ending
    assert (reads.done, idle.done) == (["drained"], ["drained"])
    assert does_not.done == ["drained", "shutdown reset"]
    does_not.is_busy = False
    assert not all_of_them.busy
