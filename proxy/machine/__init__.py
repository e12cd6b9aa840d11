"""What every event and every request passes, as machine code: in C where it could be compiled, else in Python.

* compiled.c: in C; what it writes goes to sockets past uvloop's transports, while nothing waits in them
* `plain`: the same in Python, through transports

Both do the same, and pass the same tests. The former is in wheels that have compiled modules (docs/installing.md). C is
for what mypyc does not make quick: calls of the system, and work on single bytes.
"""

from typing import Any

import uvloop.loop

from proxy.machine.plain import CHUNKED, LONG_READ, MOST_FRAMES, Transport

_PAST = {getattr(uvloop.loop, name, None) for name in ("TCPTransport", "UnixTransport")}
try:
    from proxy.machine.compiled import (
        DirectWriter,
        Forward,
        chunked_body,
        data_frames,
        events,
        head,
        lost,
        response_head,
        write_all,
    )

    is_compiled = True
except ImportError:
    from proxy.machine.plain import Forward, chunked_body, data_frames, events, head, lost, response_head, write_all

    is_compiled = False

__all__ = [
    "CHUNKED",
    "LONG_READ",
    "MOST_FRAMES",
    "Forward",
    "Transport",
    "chunked_body",
    "data_frames",
    "direct",
    "events",
    "head",
    "is_compiled",
    "lost",
    "response_head",
    "write_all",
]


def direct(transport: Any) -> Transport:
    """Return what to write to instead of a transport: itself, or what sends at once while nothing waits in it.

    The latter for uvloop's transports of plain sockets: with TLS the bytes are made by the transport, and asyncio's own
    transports are for those who do not need speed. From then on nothing else may write to the transport, since bytes
    that wait in it unknown would be overtaken; and `lost` is to be called in time.
    """
    made: Transport = DirectWriter(transport) if is_compiled and type(transport) in _PAST else transport
    return made
