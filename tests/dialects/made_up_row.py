"""How the API that nobody has is asked, and its row: with its dialect, all that it takes to serve it.

    POST /made-up/v2/answers    {"engine": "m-1", "live": true}    X-Made-Up-Tone: dry

It is asked for a stream with `live`. Nothing else of the proxy is touched to add it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from proxy.dialects import table
from proxy.dialects.dialect import Dialect
from proxy.dialects.plain import PLAIN
from proxy.wire.errors import ProxyError
from proxy.wire.http import RawHeaders
from proxy.wire.json_members import members


class MadeUpRequests:
    """How it is asked."""

    names_model = False
    reads_body = True

    def model(self, body: bytes) -> str | None:
        asked = members(body)
        engine = asked and asked.get("engine")
        return engine if isinstance(engine, str) else None

    def asks_stream(self, headers: RawHeaders) -> bool:
        return False

    def as_stream(self, headers: RawHeaders, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        asked = members(body)
        live = None if asked is None or asked.get("live") else asked.put({"live": b"true"})
        return None if live is None else (list(headers), live)

    def with_usage(self, body: bytes) -> bytes | None:
        return None

    def asks_cumulative(self, body: bytes) -> bool | None:
        return None


class MadeUpFrames:
    """Errors of its own; no frame means anything, as with streams of no API."""

    def __getattr__(self, name: str) -> Any:
        return getattr(PLAIN.frames, name)

    def error_body(self, error: ProxyError) -> dict[str, Any]:
        return {"reason": error.code, "message": error.message}


FRAMES: Any = MadeUpFrames()
MADE_UP = Dialect("made up", MadeUpRequests(), FRAMES, PLAIN.documents)
ROW = table.Row(
    "made_up",
    ("/made-up/v2/",),
    MADE_UP,
    "/inner/made-up/",
    generations=("answers", "agents/{agent}/answers"),
    lent=("counts",),
    lent_to_read=("engines/{}",),
    steering="x-made-up-.*",
    headers="x-made-up-[a-z]+",
)


@contextmanager
def registered() -> Iterator[None]:
    """Serve the API: every proxy that is made meanwhile does."""
    table.ROWS.append(ROW)
    try:
        yield
    finally:
        table.ROWS.remove(ROW)
