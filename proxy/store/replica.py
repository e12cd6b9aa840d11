"""A stream that is fed from the store: what a node has of another node's stream.

A replica is a Stream like any other to its followers. Its writer is not a pump, but this: what an entry says is
appended if it follows on what is there. Whatever does not ends the stream here, with an error.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from proxy.store.entries import (
    ANSWERED,
    HEADER,
    SEAL,
    START,
    Entry,
    EntryId,
    GapError,
    Record,
    UnreadableError,
    read_answer,
    read_frames,
    read_seal,
)
from proxy.store.store import StoreError
from proxy.stream.endings import PRODUCER_LOST, Ending
from proxy.stream.faults import log_fault
from proxy.stream.stream import Stream


class Replica:
    """The Writer of a stream that is fed from the store."""

    __slots__ = (
        "_find_end",
        "_has_reader_failed",
        "_more",
        "_on_left",
        "_on_resume",
        "_on_stop",
        "_time",
        "at",
        "cursor",
        "paused",
        "record",
        "stream",
    )

    def __init__(
        self,
        record: Record,
        stream: Stream,
        time: Callable[[], float],
        on_stop: Callable[["Replica", Ending], object],
        on_left: Callable[["Replica"], object],
        on_resume: Callable[["Replica"], object],
        find_end: Callable[["Replica"], Awaitable[EntryId]],
    ) -> None:
        """`on_stop` is called when the stream is to be ended, which its owner does; `on_left` when nobody follows.

        `on_resume` is called when it is to be read again. `find_end` asks the store for the id of its last entry.
        """
        self.record = record
        self.stream = stream
        self.at = START  # the position up to which frames are here
        self.cursor = START  # the id of the last entry that was read
        self.paused = False
        self._has_reader_failed = False
        self._time = time
        self._on_stop = on_stop
        self._on_left = on_left
        self._on_resume = on_resume
        self._find_end = find_end
        self._more: asyncio.Future[None] | None = None  # done when more has been read, if anybody waits for that
        stream.writer = self

    @property
    def is_open(self) -> bool:
        """Whether more is to be read from the store."""
        return not self.stream.sealed

    async def wait_more(self, within_s: float) -> None:
        """Wait until more of the stream is here, or it has ended, for at most so many seconds."""
        if self._more is None:
            self._more = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._more], timeout=within_s)

    async def read_up(self, within_s: float) -> None:
        """Wait until all that the store has now is here. Raises: StoreError, also if that takes longer."""
        end, until = await self._find_end(self), self._time() + within_s
        while self.is_open and self.cursor < end:
            left_s = until - self._time()
            if left_s <= 0:
                raise StoreError("what the store has of the stream could not be read in time")
            await self.wait_more(left_s)

    def take(self, entries: Iterable[Entry]) -> None:
        """Append what entries say that were read after the cursor; what does not fit ends the stream."""
        try:
            for entry in entries:
                if not self.is_open:
                    return
                self._take(entry)
                self.cursor = entry.id
        except GapError as error:
            self.fail(f"the store has lost a part of the stream: {error}")
        except UnreadableError as error:
            self.fail(str(error))
        self._note_more()

    def fail(self, why: str) -> None:
        """End the stream here, although it is not sealed in the store."""
        self.stream.seal(PRODUCER_LOST.saying(why))
        self._note_more()

    def _note_more(self) -> None:
        if self._more is not None:
            self._more.set_result(None)
            self._more = None

    def _take(self, entry: Entry) -> None:
        if entry.id == HEADER:
            return
        if entry.id == ANSWERED:
            answer = read_answer(entry)
            ident = None if answer.request_id is None else answer.request_id.encode("latin-1")
            self.stream.answered(answer.upstream, ident, answer.kept_head)
        elif entry.id == SEAL:
            self._seal(entry)
        else:
            self._extend(entry)

    def _extend(self, entry: Entry) -> None:
        stream, at = self.stream, self._time()
        frames = read_frames(entry).after(self.at)
        self.at = EntryId(*entry.id)
        if b"f" in entry.fields and not stream.vitals.first_token_at:
            stream.vitals.first_token_at = stream.vitals.started_at + float(entry.fields[b"f"])
        if not frames:
            return
        stream.fed_at = at
        if stream.kept_head is None:
            self._note(frames, at)
        if stream.extend(frames) & 63 < len(frames):
            stream.take_stock()

    def _note(self, frames: list[bytes], at: float) -> None:
        """Have the dialect's reader read frames: modes need what it knows. Of ordinary ones it need not know."""
        if self._has_reader_failed:
            return
        vitals = self.stream.vitals
        try:
            frames = [frame for frame in frames if not vitals.reader.ordinary(frame)]
            if frames:
                vitals.note(frames, at, [])
        except Exception as fault:
            log_fault(f"the reader of dialect {self.stream.dialect.name}", fault)
            self._has_reader_failed = True

    def _seal(self, entry: Entry) -> None:
        seal = read_seal(entry)
        if seal.at is not None and seal.at != self.at:
            raise GapError(f"the stream has {seal.at.seq} frames, and {self.at.seq} came")
        self.stream.seal(seal.ending, tail=seal.tail)

    # Writer

    def pause(self) -> None:
        """Read no further; entries that were read already are still appended."""
        self.paused = True

    def resume(self) -> None:
        """Read on."""
        if self.paused:
            self.paused = False
            self._on_resume(self)

    def followed(self) -> None:
        """Do nothing: followers are served from the log."""

    def last_left(self) -> None:
        """Tell the owner, who decides."""
        self._on_left(self)

    def stop(self, ending: Ending) -> None:
        """Have the owner end the stream. It is sealed here when the store has the seal."""
        self._on_stop(self, ending)
