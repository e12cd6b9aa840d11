"""streamtee: tee(1) for LLM streams. This page describes the packages; each describes its own modules in `__init__.py`.

* A **stream** is one response of an upstream: an append-only log of SSE blocks (frames), sealed once with an ending.
* A **subscription** is a follower of a stream: an offset in its log, a mode, and a sink. There is no queue.
* A **mode** is a pure function of a span of the log to bytes.
* The **pump** is the one writer of a stream: it splits the upstream's bytes into frames and appends them.
* A **dialect** is all that is known of one API; nothing above the package `dialects` names an API.

The path of an event: `upstream` reads it, `stream` appends it and renders it once for each mode, `downstream` writes it
to the clients. It never passes through `server`, which begins streams, attaches followers, and serves everything else.

Packages (we call them rooms) are arranged in numbered layers (floors). A package imports only from lower floors;
tests/test_floors.py checks this. `settings` beside them has the base class of the configuration's tables, `objections`
what is wrong with a value of a file, in words, `timers` the timers for what does not come in time, `pem` what TLS reads
from files on either side.

    8  tools        the command line, the fake Qwen        console     pages and scripts for browsers
    7  workers      several processes on one machine: which of them a request belongs to, and their supervisor
    6  server       the HTTP surface: handlers of the README's routes; app.py makes all parts and connects them
    5  access       who may do what                        telemetry   metrics, log lines, spans, the live feed
    4  upstream     sends requests upstream, and puts the bytes of the response into a log
       downstream   writes bytes to a client's socket      store       (reserved: logs that several processes share)
    3  stream       the log, its cursors, its modes; no sockets, no clock
    2  dialects     the APIs: a file each
    1  wire         bytes of HTTP, SSE and WebSocket; no API, no I/O
    0  machine      what every event and request passes, in C where that could be compiled

Begin with stream/stream.py, then upstream/pump.py and server/generations/generate.py.
"""

__version__ = "0.1.0"
