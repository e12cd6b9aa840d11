"""The proxy as `streamtee` runs it, with a meter of how long its event loop is held: `python -m tests.bench.turns`.

A timer is due every 5 ms. What CPU time the loop's thread takes from one to the next, beyond those 5 ms, is what one
turn took, or two at most. CPU time, not the clock: what else runs on the machine is no fault of the proxy. For each
byte that it reads from its standard input, a thread writes the greatest since the last one to the descriptor TURNS_FD,
in milliseconds.
"""

import asyncio
import os
import threading
import time

import uvloop

from proxy.tools.cli import main

_EVERY_S = 0.005


class Meter:
    """Measures the event loop of the main thread."""

    def __init__(self) -> None:
        self._clock = time.pthread_getcpuclockid(threading.main_thread().ident or 0)
        self._at_s = 0.0
        self.held_s = 0.0

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Measure from now on."""
        self._at_s = time.clock_gettime(self._clock)
        loop.call_soon(self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = time.clock_gettime(self._clock)
        self.held_s = max(self.held_s, now_s - self._at_s - _EVERY_S)
        self._at_s = time.clock_gettime(self._clock)
        loop.call_later(_EVERY_S, self._tick, loop)

    def tell(self, descriptor: int) -> None:
        """Answer each byte of standard input, until its end."""
        while os.read(0, 1):
            held_s, self.held_s = self.held_s, 0.0
            os.write(descriptor, b"%.1f\n" % (held_s * 1e3))


def measured(meter: Meter) -> None:
    """Have each loop that uvloop makes from now on be measured."""
    make = uvloop.new_event_loop

    def new_event_loop() -> uvloop.Loop:
        loop = make()
        meter.begin(loop)
        return loop

    uvloop.new_event_loop = new_event_loop


if __name__ == "__main__":
    one = Meter()
    measured(one)
    threading.Thread(target=one.tell, args=(int(os.environ["TURNS_FD"]),), daemon=True).start()
    main()
