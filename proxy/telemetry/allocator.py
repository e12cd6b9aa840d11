"""Returns memory that was freed to the operating system when the process is idle.

glibc keeps freed memory between pieces still in use, so that the process stays as large as it was with the most streams
(docs/memory.md). `malloc_trim` returns this memory. It locks the allocator meanwhile: so it runs in a thread, and only
while the process does almost nothing.
"""

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

TRIM_BYTES = 8 * 1024 * 1024  # a trim is worth it if there is so much more than after the last one
_EVERY_S = 1.0
_IDLE = 0.1  # an idle process takes less than this share of one core


def resident_bytes() -> int:
    """Return the resident memory of this process. On Linux only."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def malloc_trim() -> Callable[[], object] | None:
    """Return a function that has the allocator return unused memory; None where the C library is not glibc."""
    if not os.path.exists("/proc/self/statm"):
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda: trim(0)


class IdleTrim:
    """Trims when the process is idle and has much more memory than it had after the last trim, held bytes aside."""

    def __init__(
        self,
        held_bytes: Callable[[], int],
        *,
        trim: Callable[[], object] | None,
        resident_bytes: Callable[[], int] = resident_bytes,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        """`held_bytes` returns what is in use, as far as it is counted; `trim` is called in a thread."""
        self._held_bytes = held_bytes
        self._trim = trim
        self._resident_bytes = resident_bytes
        self._cpu_s = cpu_s
        self._least_bytes: int | None = None  # that was resident and not held
        self._looked_at = (0.0, 0.0)  # the time, and the CPU time then
        self.trimming: asyncio.Future[object] | None = None  # while a thread trims

    def tick(self, now: float) -> None:
        """Trim if that is due; `now` is in monotonic seconds. Call it now and then, within a running loop."""
        looked_at, cpu_s = self._looked_at
        if self._trim is None or self.trimming is not None or now - looked_at < _EVERY_S:
            return
        self._looked_at = now, self._cpu_s()
        if (self._looked_at[1] - cpu_s) / (now - looked_at) > _IDLE:
            return
        kept = self._resident_bytes() - self._held_bytes()
        if self._least_bytes is None or kept < self._least_bytes:
            self._least_bytes = kept
        elif kept - self._least_bytes >= TRIM_BYTES:
            self.trimming = asyncio.get_running_loop().run_in_executor(None, self._trim)
            self.trimming.add_done_callback(self._trimmed)

    def _trimmed(self, trimming: asyncio.Future[object]) -> None:
        self.trimming = None
        self._least_bytes = self._resident_bytes() - self._held_bytes()  # what is still there is in use
