"""The row of the API that nobody has: with its dialect, all that it takes to serve it.

    POST /made-up/v2/answers    {"engine": "m-1", "live": true}    X-Made-Up-Tone: dry

Nothing else of the proxy is touched to add it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from proxy.dialects import table
from tests.dialects.made_up import MADE_UP

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
def registered(row: table.Row = ROW) -> Iterator[None]:
    """Serve the API: every proxy that is made meanwhile does."""
    table.ROWS.append(row)
    try:
        yield
    finally:
        table.ROWS.remove(row)
