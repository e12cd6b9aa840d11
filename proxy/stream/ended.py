"""Streams that have ended: kept for a while, and then forgotten. A forgotten stream serves its last followers."""

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import Final

from proxy.stream.endings import TOO_SLOW
from proxy.stream.ledger import Ledger
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription

# Memory that a stream takes besides its frames, which matters if there are many short streams.
STREAM_BYTES: Final = 3000


class EndedStreams:
    """The streams that are kept after their end, and the forgotten ones that still run or have followers."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # Oldest ending first. A plain dict would look for its first entry past all that were removed before it.
        self._kept: OrderedDict[str, Stream] = OrderedDict()
        self._retire_at: list[tuple[float, str]] = []  # when each is to be forgotten: a heap
        self._followed: dict[Stream, None] = {}  # those that are kept and have followers
        self._outlived: dict[str, Stream] = {}  # forgotten streams that still run or have followers

    def __iter__(self) -> Iterator[Stream]:
        """Yield the streams that are kept, oldest ending first."""
        yield from self._kept.values()

    def newest(self, count: int) -> list[Stream]:
        """Return so many of the streams that are kept, newest ending first."""
        return list(islice(reversed(self._kept.values()), count))

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, ident: str) -> Stream | None:
        """Return the stream with this id, if it is kept."""
        return self._kept.get(ident)

    @property
    def pending_bytes(self) -> int:
        """Return how much is in the logs of forgotten streams that only their last followers still need."""
        return sum([stream.log.size_bytes for stream in self._outlived.values() if stream.sealed])

    def keep(self, stream: Stream) -> None:
        """Keep a stream for its `retain_s`, from `ended_at` on."""
        self._kept[stream.id] = stream
        if stream.subscriptions:
            self._followed[stream] = None
        heapq.heappush(self._retire_at, (stream.ended_at + stream.info.retain_s, stream.id))

    def due(self, now: float) -> Iterator[Stream]:
        """Yield the kept streams that are to be forgotten by now."""
        while self._retire_at and self._retire_at[0][0] <= now:
            stream = self._kept.get(heapq.heappop(self._retire_at)[1])
            if stream is not None:
                yield stream

    def remove(self, stream: Stream) -> bool:
        """Keep a stream no longer; return whether it was kept."""
        self._followed.pop(stream, None)
        return self._kept.pop(stream.id, None) is not None

    def outlive(self, stream: Stream) -> None:
        """Have a stream that is no longer found serve its followers, until it has ended and all have left."""
        self._outlived[stream.id] = stream
        self.drop_if_unused(stream)

    def followed(self) -> list[Stream]:
        """Return the kept streams that are wanted, and the forgotten ones."""
        return [*(stream for stream in self._kept.values() if stream.wanted), *self._outlived.values()]

    def surveyed(self) -> list[Stream]:
        """Return the streams whose followers may hold memory: those with followers, and the forgotten ones."""
        return [*self._followed, *self._outlived.values()]

    def unwanted(self) -> list[Stream]:
        """Return the kept streams that nobody follows, oldest ending first."""
        return [stream for stream in self._kept.values() if not stream.wanted]

    def attached(self, stream: Stream) -> None:
        """Note that an ended stream has another follower."""
        self._followed[stream] = None

    def left(self, subscription: Subscription) -> None:
        """Note that a follower has left its stream, whether that has ended or not."""
        stream = subscription.stream
        if not stream.subscriptions and stream in self._followed:
            del self._followed[stream]
            stream.pack()
        if self._outlived:
            self.drop_if_unused(stream)

    def cut_pending(self, allowed_bytes: int) -> None:
        """End the last followers of forgotten streams, oldest first, until only so many bytes are pending."""
        for stream in list(self._outlived.values()):
            held = self.pending_bytes
            if held <= allowed_bytes:
                return
            for subscription in list(stream.subscriptions) if stream.sealed else ():
                why = f"clients have yet to be sent {held} bytes of forgotten streams, {allowed_bytes} are allowed"
                subscription.fail(TOO_SLOW.saying(why))

    def drop_if_unused(self, stream: Stream) -> None:
        """Drop a forgotten stream, and stop counting its memory, if it has ended and nobody follows it."""
        if stream.id in self._outlived and not stream.subscriptions and stream.sealed:
            del self._outlived[stream.id]
            self._ledger.bytes -= STREAM_BYTES
            stream.uncount()
