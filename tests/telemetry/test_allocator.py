"""Memory is given back when the process is idle, once, and by a thread. Memory, CPU time and clock are numbers here."""

import asyncio
import threading

from proxy.telemetry.allocator import TRIM_BYTES, IdleTrim, malloc_trim, resident_bytes

MEGABYTE = 1 << 20


class Process:
    """A process whose figures are set by hand; trimming brings it down to what is in use."""

    def __init__(self) -> None:
        self.resident = self.used = 50 * MEGABYTE
        self.held = 0
        self.cpu_s = 0.0
        self.threads: list[threading.Thread] = []
        self.now = 0.0
        self.trim = IdleTrim(
            lambda: self.held, trim=self._trim, resident_bytes=lambda: self.resident, cpu_s=lambda: self.cpu_s
        )

    def _trim(self) -> None:
        self.threads.append(threading.current_thread())
        self.resident = self.used

    async def second(self, busy_s: float = 0.0) -> None:
        """Let a second pass, of which it is busy for so long."""
        self.now += 1
        self.cpu_s += busy_s
        self.trim.tick(self.now)
        if self.trim.trimming is not None:
            await self.trim.trimming
            await asyncio.sleep(0)


async def test_memory_is_given_back_after_a_flood() -> None:
    """By a thread, once, and again after the next one."""
    process = Process()
    await process.second()
    for floods in (1, 2):
        process.resident = 500 * MEGABYTE
        await process.second(busy_s=0.5)
        assert len(process.threads) == floods - 1
        for _ in range(3):
            await process.second()
        assert len(process.threads) == floods
        assert process.resident == process.used
    assert threading.main_thread() not in process.threads


async def test_what_is_held_is_no_reason_to_trim() -> None:
    """Nor is little, nor what trimming does not bring back."""
    process = Process()
    await process.second()
    process.held, process.resident = 400 * MEGABYTE, 440 * MEGABYTE
    process.used = 440 * MEGABYTE
    await process.second()
    assert process.threads == []
    process.resident = process.used = 440 * MEGABYTE + TRIM_BYTES
    for _ in range(3):
        await process.second()
    assert len(process.threads) == 1


async def test_other_allocators_are_left_alone() -> None:
    """Then nothing is looked at."""
    trim = IdleTrim(lambda: 0, trim=None, resident_bytes=lambda: 1 // 0)
    trim.tick(1.0)
    trim.tick(2.0)
    assert trim.trimming is None


def test_memory_of_this_process_is_known() -> None:
    """On the system that the tests run on."""
    assert resident_bytes() > MEGABYTE
    trim = malloc_trim()
    assert trim is not None
    trim()
