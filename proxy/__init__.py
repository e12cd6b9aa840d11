"""streamtee: tee(1) for LLM streams. This page is the map of the house; each room has its own in its `__init__.py`.

* A **stream** is one answer of an upstream: an append-only log of SSE blocks (frames), sealed once with an ending.
* A **subscription** is a follower of a stream: an offset in its log, a mode, and a sink. There is no queue.
* A **mode** is a pure function of a span of the log to bytes.
* The **pump** is the one writer of a stream: it cuts what it is sent from upstream into frames and appends them.
* A **dialect** is all that is known of one API; nothing above the room `dialects` names an API.

An event's way: `upstream` reads it, `stream` appends it and renders it once for each mode, `downstream` writes it to
the clients. It never touches `server`, which begins streams, attaches followers, and answers everything else.

Rooms stand on floors, and a room imports only what stands below it. tests/test_floors.py holds this.

    7  tools        the command line, the fake Qwen        console     pages and scripts for browsers
    6  server       the HTTP surface: a file a row of the table of routes; app.py makes the parts and connects them
    5  access       who may do what                        telemetry   metrics, log lines, spans, the live feed
    4  upstream     from a request to an answer's bytes, and from these into a log
       downstream   from bytes to a client's socket        store       (reserved: logs that several processes share)
    3  stream       the log, its cursors, its modes; no sockets, no clock
    2  dialects     the APIs: a file each
    1  wire         bytes of HTTP, SSE and WebSocket; no API, no I/O

Begin with stream/stream.py, then upstream/pump.py and server/generate.py.
"""

__version__ = "0.1.0"
