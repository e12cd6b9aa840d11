"""Finds the place in a log where a follower begins; what its client was sent at another process may not be here yet.

The owner of a stream sends events to its clients before it writes them to the store, and a client may go on at another
node at once. To that node, a cursor beyond the end of the log says only that it is to read on.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from proxy.store.replica import Replica
from proxy.store.store import StoreError
from proxy.stream.stream import Stream
from proxy.wire.errors import NumberBeyond, OffsetBeyond, StoreUnavailable

WAIT_S = 1.5
"""How long to wait for what the owner has yet to write: it does so within some flushes once it knows of a follower."""
_Place = TypeVar("_Place")


async def find_place(stream: Stream, find: Callable[[], _Place]) -> _Place:
    """Return what `find` finds in the log of a stream, once what others have said of it is here.

    Raises: OffsetBeyond, NumberBeyond, if the place is beyond all that was said; StoreUnavailable, if the store has
    more than could be read.
    """
    until = time.monotonic() + WAIT_S
    while True:
        try:
            return find()
        except (OffsetBeyond, NumberBeyond):
            replica = stream.writer
            if not isinstance(replica, Replica):  # all is here; or the stream has ended
                raise
        left_s = until - time.monotonic()
        if left_s <= 0:
            await _read_up(replica)
            return find()
        await replica.wait_more(left_s)


async def _read_up(replica: Replica) -> None:
    """Wait until all that is stored of a stream is here. Raises: StoreUnavailable."""
    try:
        await replica.read_up(WAIT_S)
    except StoreError:
        raise StoreUnavailable("what comes after the cursor could not be read from the store yet") from None
