"""Finds the place in a log where a follower begins; what its client was sent at another process may not be here yet.

The owner of a stream sends events to its clients before it writes them to the store, and a client may go on at another
node at once. To that node, a cursor beyond the end of the log says only that it is to read on.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from proxy.store.replica import Replica
from proxy.store.store import StoreError
from proxy.stream.log import NO_FRAME, FrameLog
from proxy.stream.modes.projection import View
from proxy.stream.stream import Stream
from proxy.wire.errors import NumberBeyond, OffsetBeyond, OffsetGone, StoreUnavailable

WAIT_S = 1.5
"""How long to wait for what the owner has yet to write: it does so within some flushes once it knows of a follower."""
_Place = TypeVar("_Place")


async def find_place(stream: Stream, find: Callable[[], _Place]) -> _Place:
    """Return what `find` finds in the log of a stream, once what others have said of it is here.

    Raises: OffsetBeyond, NumberBeyond, if the place is beyond all that was said; StoreUnavailable, if the store has
    more than could be read.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + WAIT_S
    while True:
        try:
            return find()
        except (OffsetBeyond, NumberBeyond):
            replica = stream.writer
            if not isinstance(replica, Replica):  # all is here; or the stream has ended
                raise
        left_s = until - clock()
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


def offset_after(log: FrameLog, seq: int) -> int:
    """Return the offset of the first frame to send to a client whose last event had the number `seq`.

    One that has had the ending is beyond the log's end. One that may have had frames that are not in the log is at its
    end, and so is told how it ended. Raises: OffsetGone, if some frames after the number have been dropped;
    OffsetBeyond, if no event has it.
    """
    if seq < log.start:
        raise OffsetGone(f"frame {seq + 1} is gone, the earliest held is {log.start + 1}", log.start + 1)
    if seq <= log.end or (log.ending is not None and seq == log.ending_seq):
        return seq
    if log.is_cut_short and seq < NO_FRAME:
        return log.end
    if seq == NO_FRAME:
        raise OffsetBeyond(
            f"the cursor is of an error that was told elsewhere; here the log has {log.end} events, and has not ended "
            "so: begin after the last event before that error"
        )
    raise OffsetBeyond(f"cursor {seq} is beyond the end of the log, which has {log.end} events")


def offset_at(stream: Stream, view: View, offset_bytes: int) -> tuple[int, int]:
    """Return the offset of the frame in which a client begins that has had so many bytes, and how many are of it.

    As above of a client that may have had more than is in the log. Raises: OffsetGone, OffsetBeyond, BadRequest.
    """
    try:
        return stream.projection(view).locate(offset_bytes)
    except OffsetBeyond:
        if not stream.log.is_cut_short:
            raise
        return stream.log.end, 0


def nothing_after(stream: Stream, view: View, offset: int, skip: int = 0) -> bool:
    """Return whether a follower at `offset` of an ended stream has received everything, including the ending."""
    log = stream.log
    assert log.ending is not None
    if offset > log.end:
        return True
    if offset < log.end:
        return False
    last, properly = stream.projection(view._replace(websocket=False)).ending(log.ending, offset)
    return properly and not last[skip:]
