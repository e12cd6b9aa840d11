"""The accounts of all callers that have limits: an observer of streams and of their followers.

Of several processes each has accounts of its own. With several workers these ask the supervisor for what all of them
have used; with several machines, `sums` has their windows hold for all processes together.
"""

import asyncio
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Sequence

from proxy.access.account import PLACE, Account
from proxy.access.limits import CallerLimits
from proxy.access.sums import Sums
from proxy.access.windows import DAY_S
from proxy.dialects.usage import tokens_of_document
from proxy.stream.endings import COMPLETE
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.wire.errors import Overloaded

NewAccount = Callable[[str, bytes, CallerLimits, Callable[[], float]], Account]
"""Makes the account of a caller, of its name, digest, limits, and the clock."""
_ROOM = "asking_for_room"  # the hold of a client that is to follow, if there is room
_MOST = 10_000  # accounts; beyond it, those of callers that use nothing now are dropped


class Accounts:
    """The accounts of all callers that have limits; an observer of streams and of their followers."""

    def __init__(
        self,
        limits_of: Callable[[str], CallerLimits],
        clock: Callable[[], float] = time.time,
        new_account: NewAccount = Account,
    ) -> None:
        """`limits_of` returns the limits of the caller of a name. `clock` returns Unix seconds."""
        self._new_account = new_account
        self._limits_of = limits_of
        self.clock = clock
        self.sums: Sums | None = None  # where several processes have the same callers
        self.name_of: Callable[[bytes], str | None] = lambda digest: None  # of a caller that may not have come here
        self.waiting: Callable[[bytes], int] = lambda caller: 0  # how many wait for a stream of a caller to begin
        self._of: dict[bytes, Account] = {}
        self._before: dict[str, tuple[int, int]] = {}  # what was used today before this process began, by name
        self._before_day = 0

    def __iter__(self) -> Iterator[Account]:
        return iter(self._of.values())

    def of(self, digest: bytes) -> Account | None:
        """Return the account of the caller with this digest, if it has one."""
        return self._of.get(digest)

    def account(self, name: str, digest: bytes) -> Account:
        """Return the account of a caller; a new one for the first request of it."""
        account = self._of.get(digest)
        if account is None:
            if len(self._of) >= _MOST:
                self._drop_idle()
            account = self._of[digest] = self._new_account(name, digest, self._limits_of(name), self.clock)
            account.restore(*self._used_before().pop(name, (0, 0)))
            account.waiting = self.waiting
            if self.sums is not None:
                self.sums.include(account)
        return account

    def _owner(self, stream: Stream) -> Account | None:
        """Return the account of the caller of a stream; a new one if it has come to another machine only."""
        account, digest = self._of.get(stream.info.caller), stream.info.caller
        name = self.name_of(digest) if account is None else None
        return account if name is None else self.account(name, digest)

    def limit(self, name: str | None = None) -> None:
        """Ask for the limits of a caller again; None: of all callers."""
        for account in self._of.values():
            if name in (None, account.name):
                account.limit(self._limits_of(account.name))

    def freed(self, account: Account) -> None:
        """Have other processes know soon that a place for a stream may be free."""
        if self.sums is not None and account.limits.streams:
            self.sums.hurry(account)

    # Observer of streams and followers

    def begun(self, stream: Stream) -> None:
        """Give a stream that has begun the place of the request in whose task this runs."""
        place = PLACE.get()
        account = self._of.get(stream.info.caller)
        if place is not None and account is not None:
            place.become(stream)

    def ended(self, stream: Stream) -> None:
        """Give a stream's place back, and count its tokens."""
        account = self._of.get(stream.info.caller)
        if account is not None:
            account.ended(stream)
            account.spend(_tokens(stream))
            if self.sums is not None:
                self.sums.hurry(account)

    def attached(self, subscription: Subscription) -> None:
        """Count a follower of a stream, unless it is the client that asked for it."""
        stream = subscription.stream
        account = self._of.get(stream.info.caller)
        if account is not None and stream.originator is not subscription:
            account.attached(subscription)

    def left(self, subscription: Subscription) -> None:
        """Count a follower no longer."""
        account = self._of.get(subscription.stream.info.caller)
        if account is not None:
            account.left(subscription)

    async def make_room(self, streams: Sequence[Stream]) -> None:
        """Have the callers of streams decide on one more follower of each: ask for room where they don't know.

        Nothing waits between the return of this and a follower that is attached in the same turn. Raises: LimitReached.
        """
        more = Tally(account for stream in streams if (account := self._owner(stream)) is not None)
        asking = list(more.items())
        if all(account.has_room(count) for account, count in asking):
            return
        for stream in streams:  # else it may be closed meanwhile, when its last follower leaves
            stream.hold(_ROOM)
        try:
            while lacking := next(((account, count) for account, count in asking if not account.has_room(count)), None):
                await lacking[0].ask_room(lacking[1])
        finally:
            for stream in streams:
                asyncio.get_running_loop().call_soon(stream.release, _ROOM)

    def check_followers(self, streams: Iterable[Stream]) -> None:
        """Check one more follower of each of these streams against the limits of their callers. Raises: LimitReached.

        By the stream's caller, not by that of the request: a caller that shares a stream answers for its followers.
        """
        more = Tally(stream.info.caller for stream in streams)
        for digest, count in more.items():
            account = self._of.get(digest)
            if account is not None:
                account.check_followers(count)

    def check_view(self, streams: list[Stream], mode: str) -> None:
        """Check that their callers may have streams in a mode, and one more follower of each.

        Raises: NotAllowedForKey, LimitReached.
        """
        for stream in streams:
            account = self._of.get(stream.info.caller)
            if account is not None:
                account.check_mode(mode)
        self.check_followers(streams)

    # Usage of the day, which survives a restart

    @property
    def day(self) -> int:
        """The number of the current day, from 1970-01-01, UTC."""
        return int(self.clock()) // DAY_S

    def used_today(self) -> dict[str, tuple[int, int]]:
        """Return the requests and tokens that each caller has used today, by name."""
        used = dict(self._used_before())
        for account in self._of.values():
            account.roll()
            used[account.name] = account.requests[1].used, account.tokens[1].used
        return {name: counts for name, counts in used.items() if any(counts)}

    def restore(self, day: int, used: dict[str, tuple[int, int]]) -> None:
        """Continue with what callers had used of a day before this process began; of another day it is of no use."""
        self._before_day, self._before = day, dict(used)

    def _used_before(self) -> dict[str, tuple[int, int]]:
        if self._before_day != self.day:
            self._before.clear()
        return self._before

    def _drop_idle(self) -> None:
        for digest, account in list(self._of.items()):
            account.roll()
            if account.is_idle:
                del self._of[digest]
        if len(self._of) >= _MOST:
            raise Overloaded(f"{len(self._of)} callers have sent requests today; no more can be counted")


def _tokens(stream: Stream) -> int:
    """Return the tokens of a stream that has ended, as its usage states them.

    A stream that was cut off has not stated all of them, if any: then each event that came counts as one, at least.
    """
    log, usage = stream.log, stream.vitals.reader.usage
    if not stream.dialect.frames.has_text:
        return 0
    if stream.kept_head is not None:
        return tokens_of_document(log.content(log.start, log.end))
    stated = 0 if usage is None else usage.prompt + usage.completion
    complete = log.ending is not None and log.ending.reason == COMPLETE.reason
    return stated if stated and complete else max(stated, log.end)
