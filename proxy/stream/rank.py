"""Followers that stand abreast: at one offset, in one view and one framing, so that they are due the same bytes.

A sweep over thousands finds their memory cold, and each object that it touches costs. So a rank has the offset of all
its members, and of each it touches the transport alone: 1 us of 7 less a delivery, with 100 followers and with 5,000.
Whoever clogs, leaves or ends steps out with the offset it has reached. Keeps laws 5 (prefix) and 6 (independence).
"""

from typing import TYPE_CHECKING

from proxy.stream.interfaces import Transport
from proxy.stream.log import FrameLog
from proxy.stream.projections import Projection, Span

if TYPE_CHECKING:
    from proxy.stream.subscription import Subscription

SIZE = 64  # members at most: a sweep gives other streams their turn between two ranks


class Rank:
    """Followers of one view that stand at one offset: a Member of their cohort that advances all of them."""

    __slots__ = ("_chunked", "_log", "_members", "_projection", "offset", "parked", "sent_bytes")

    def __init__(self, log: FrameLog, projection: Projection, offset: int, *, chunked: bool) -> None:
        self._log = log
        self._projection = projection
        self._chunked = chunked
        self._members: dict[Subscription, Transport] = {}
        self.offset = offset
        self.sent_bytes = 0  # to each, since the rank is there
        self.parked = False  # nobody is left

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self._members)

    @property
    def full(self) -> bool:
        """Nobody more may join."""
        return len(self._members) >= SIZE

    def add(self, member: "Subscription", transport: Transport) -> None:
        """Take in a follower that stands at the offset."""
        self._members[member] = transport

    def remove(self, member: "Subscription") -> None:
        """Let a follower go."""
        del self._members[member]
        self.parked = not self._members

    def regroup(self, ranks: "Ranks") -> "Rank":
        """Offer its room to others."""
        if self._members and not self.full:
            ranks.setdefault((self._projection, self._chunked, self.offset), self)
        return self

    def advance(self) -> None:
        """Bring all members to the log's end; when that takes more than the same write to each, they go on alone."""
        log, span = self._log, self._projection
        if log.ending is not None or self.offset < log.start:
            self._dissolve()
            return
        if self.offset == log.end:
            return
        span.reach(self.offset)
        if span.end != log.end:
            self._dissolve()
            return
        if span.size:
            self._write(span)
        self.offset = span.end
        self.sent_bytes += span.size

    def _write(self, span: Span) -> None:
        data = span.chunked if self._chunked else span.plain
        unsure = []
        for transport in self._members.values():
            try:
                if transport.get_write_buffer_size():
                    unsure.append(transport)
                else:
                    transport.write(data)
            except RuntimeError:  # uvloop, of a connection that was lost a moment ago: its sink knows what to do
                unsure.append(transport)
        if unsure:
            for member in [member for member, transport in self._members.items() if transport in unsure]:
                if not member.sink.write(span):
                    member.stream.park(member)

    def _dissolve(self) -> None:
        members = list(self._members)
        for member in members:
            member.leave_rank()
        for member in members:
            if not member.parked:
                member.stream.make_live(member)
                member.advance()


Ranks = dict[tuple[Projection, bool, int], Rank]
