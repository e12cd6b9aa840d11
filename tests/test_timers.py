"""Timers that fire only after the sockets have been read, on both event loops.

A loop that is held up stands for a process that was stopped: what it finds then is the same.
"""

import asyncio
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE
from time import monotonic

import pytest

from proxy.timers import Limit, Timer, Within, sleep, wait
from tests.event_loops import GUARD_S, on_each_loop

SHORT_S, HELD_UP_S = 0.05, 0.3


def hold_up() -> None:
    """Let no turn of the loop begin, for longer than the timers of these tests."""
    time.sleep(HELD_UP_S)


async def pair() -> tuple[asyncio.StreamReader, socket.socket, asyncio.StreamWriter]:
    """Return the reader of a connection, and its other end."""
    mine, other = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=mine)
    return reader, other, writer


@on_each_loop
async def test_what_came_while_the_loop_was_held_up_is_in_time() -> None:
    """It is read before the time-out that was due, too, cancels whoever waits for it."""
    reader, other, writer = await pair()
    with other, Within(SHORT_S):
        hold_up()
        other.send(b"x")
        assert await reader.read(1) == b"x"
    writer.close()


@on_each_loop
async def test_late_timer_can_be_cancelled_by_what_is_read() -> None:
    """As a grace period is, when a client comes back."""
    reader, other, writer = await pair()
    fired: list[float] = []
    timer = Timer(SHORT_S, lambda: fired.append(monotonic()))
    with other:
        hold_up()
        other.send(b"x")
        await reader.read(1)
        timer.cancel()
        await asyncio.sleep(2 * SHORT_S)
    assert not fired
    writer.close()


@on_each_loop
async def test_late_timer_fires_when_nothing_came() -> None:
    """After as long as it was late, at most as long as it was set for: not before the sockets are read, not never."""
    fired = asyncio.get_running_loop().create_future()
    Timer(SHORT_S, lambda: fired.set_result(monotonic()))
    hold_up()
    held_up_until = monotonic()
    async with asyncio.timeout(GUARD_S):
        assert await fired - held_up_until >= SHORT_S * 0.9


@on_each_loop
async def test_timer_that_is_not_late_fires_in_time() -> None:
    """Once; and what it limits raises TimeoutError, as asyncio.timeout does."""
    began_at = monotonic()
    with pytest.raises(TimeoutError), Within(SHORT_S):
        await asyncio.wait_for(asyncio.get_running_loop().create_future(), GUARD_S)
    assert monotonic() - began_at >= SHORT_S * 0.9


@on_each_loop
async def test_cancelling_from_without_is_no_time_out() -> None:
    """It goes on outwards."""

    async def waits() -> None:
        with Within(GUARD_S):
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@on_each_loop
async def test_waiting_leaves_the_future_as_it_is() -> None:
    """It can be set afterwards; and 0 seconds are no limit."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    await wait(future, 0.001)
    assert not future.done()
    asyncio.get_running_loop().call_later(0.001, future.set_result, 3)
    await wait(future, 0)
    assert future.result() == 3


@on_each_loop
async def test_background_loop_that_was_held_up_sleeps_twice() -> None:
    """So that the sockets are read between."""
    asyncio.get_running_loop().call_soon(hold_up)
    began_at = monotonic()
    await sleep(SHORT_S)
    assert monotonic() - began_at >= HELD_UP_S + SHORT_S * 0.9


WAITS = """
import asyncio, sys
from proxy.timers import Within, sleep
from proxy.tools.event_loop import run

async def waits():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    coming = asyncio.create_task(reader.read(1))
    print("waits", flush=True)
    if sys.argv[2] == "sleep":
        await sleep(0.5)
    else:
        with Within(0.5):
            await coming
    print(coming.done())

run(waits(), sys.argv[1])
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_process_that_is_stopped_twice_reads_before_anything_is_late(loop: str) -> None:
    """The second time in the second wait of a timer that was late: one more reason to look at the sockets first."""
    said = await asyncio.gather(*(stopped_twice(loop, how) for how in ("sleep", "Within")))  # the pauses are the same
    assert said == [b"True\n"] * 2


async def stopped_twice(loop: str, how: str) -> bytes:
    """Stop a process twice while it waits; return whether it has read what came meanwhile, as it prints that."""
    waits = await asyncio.create_subprocess_exec(sys.executable, "-c", WAITS, loop, how, stdin=PIPE, stdout=PIPE)
    assert waits.stdin is not None
    assert waits.stdout is not None
    await waits.stdout.readline()
    for sent in (b"", b"x"):
        waits.send_signal(signal.SIGSTOP)
        await asyncio.sleep(1.1)
        waits.stdin.write(sent)
        waits.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.05)
    said = await waits.stdout.read()
    await waits.wait()
    return said


@pytest.mark.parametrize("is_cancelled", [False, True])
@on_each_loop
async def test_cancelling_from_without_wins_over_a_time_out(is_cancelled: bool) -> None:
    """In the same turn, too; a task whose time-out has been raised does not count as cancelled any more."""
    limits: list[Limit] = []

    async def waits() -> int:
        limits.append(Limit())
        try:
            with limits[0]:
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            task = asyncio.current_task()
            assert task is not None
            return task.cancelling()
        return -1

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    limits[0].expire()
    limits[0].expire()
    if is_cancelled:
        task.cancel()
    (said,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(said, asyncio.CancelledError) if is_cancelled else said == 0
