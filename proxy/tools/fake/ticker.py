"""An event stream without an end, at GET or POST /events: prices, each tick with an id of its own.

The number of a tick follows from the time, so a client that resumes with Last-Event-ID is sent the ticks it missed.
It has nothing to do with Qwen: it stands for an event server of a user of the proxy.
"""

from time import time
from urllib.parse import parse_qs, urlsplit

import orjson

from proxy.tools.fake.steps import Case, Head, Part, Steps, Wait

PATH = "/events"
_EVERY_MS = 1000
_MISSED = 1000  # ticks that are sent again at most
_HEADERS = (("content-type", "text/event-stream"), ("cache-control", "no-cache"))


def every_s(target: str) -> float:
    """Return the time between two ticks that a request target asks for by `every_ms`."""
    stated = parse_qs(urlsplit(target).query).get("every_ms", [""])[0]
    return max(1, int(stated) if stated.isdecimal() else _EVERY_MS) / 1000


def ticks(case: Case, target: str, last_event_id: str) -> Steps:
    """Yield the ticks after that id, or from now on, for ever."""
    gap_s = every_s(target)
    number = int(case.arrived / gap_s)
    if last_event_id.isdecimal() and number - _MISSED <= int(last_event_id) <= number:
        number = int(last_event_id)
    yield Head(200, _HEADERS, "chunked")
    yield Part(b"retry: 1000\n\n")
    while True:
        number += 1
        yield Wait(max(0.0, number * gap_s - time()))
        yield Part(tick(number))


def tick(number: int) -> bytes:
    """Return the tick of that number: the same for everyone."""
    cents = 10_000 + number * 7919 % 501 - 250
    return b"id: %d\nevent: tick\ndata: %b\n\n" % (number, orjson.dumps({"symbol": "TEE", "price": cents / 100}))
