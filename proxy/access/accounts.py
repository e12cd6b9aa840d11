"""What each caller with limits has used, and whether the limits leave room for more.

The door (`Admission.limited`) has every request upstream of such a caller take a `Place`, and gives it back when its
handler has ended. A stream that begins in the task of the request takes the place over, since it may outlive the
handler; it is given back when the stream ends. Tokens are counted when they are known, which is at the end of a
response: so a request is admitted while its windows are not used up, and the last one may use more than was left.

With several processes each has accounts of its own, so a caller may use the limits once in each of them.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar

from proxy.access.limits import CallerLimits
from proxy.access.windows import DAY_S, MINUTE_S, Window, tightest
from proxy.dialects.dialect import Allowance, Dialect, tokens_of_document
from proxy.stream.endings import COMPLETE
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.wire.errors import LimitReached, NotAllowedForKey, Overloaded
from proxy.wire.http import Headers
from proxy.wire.json_members import pairs

_LONG_S = 60  # after a longer wait no client library asks again by itself
_MOST = 10_000  # accounts; beyond it, those of callers that use nothing now are dropped


class Account:
    """What one caller has used of its limits, and may use yet."""

    __slots__ = (
        "_clock", "_followers", "_taken", "digest", "limits", "name", "refusals", "requests", "requests_total",
        "running", "tokens", "tokens_total",
    )  # fmt: skip

    def __init__(self, name: str, digest: bytes, limits: CallerLimits, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns Unix seconds."""
        self._clock = clock
        self.name = name
        self.digest = digest
        self.requests = Window("requests_per_minute", MINUTE_S, 0), Window("requests_per_day", DAY_S, 0)
        self.tokens = Window("tokens_per_minute", MINUTE_S, 0), Window("tokens_per_day", DAY_S, 0)
        self.requests_total = 0
        self.tokens_total = 0
        self.refusals: Tally[str] = Tally()  # requests, by the limit that was reached
        self.running: dict[Stream, None] = {}
        self._taken = 0  # places of requests that have begun no stream
        self._followers: dict[Subscription, None] = {}
        self.limit(limits)

    def limit(self, limits: CallerLimits) -> None:
        """Keep these limits from now on."""
        self.limits = limits
        for window in (*self.requests, *self.tokens):
            window.limit = getattr(limits, window.name)

    @property
    def streams(self) -> int:
        """How many requests and streams have a place now."""
        return self._taken + len(self.running)

    @property
    def followers(self) -> int:
        """How many clients follow its streams now, those that asked for them not counted."""
        return len(self._followers)

    @property
    def reads_bodies(self) -> bool:
        """Whether its limits need whole bodies of generations: the model is checked, or the usage requested."""
        return bool(self.limits.models) or self.limits.counts_tokens

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is going on, and nothing was used in the current windows."""
        used = any(window.used for window in (*self.requests, *self.tokens))
        return not (self.streams or self._followers or used)

    def roll(self) -> float:
        """Begin the windows that have changed anew; return the time, in Unix seconds."""
        now = self._clock()
        for window in (*self.requests, *self.tokens):
            window.roll(now)
        return now

    def take(self, *, looks_up: bool = False) -> "Place":
        """Count a request and take a place for it. Raises: LimitReached, if the limits leave no room for it.

        One that only `looks_up` something is served while as many streams run as may.
        """
        now = self.roll()
        for window in (*self.requests, *self.tokens):
            if window.is_used_up:
                self._refuse(window.name, f"{window.used} of {window.limit} are used", window.ends_in_s(now))
        if 0 < self.limits.streams <= self.streams and not looks_up:
            self._refuse("streams", f"{self.streams} run, {self.limits.streams} are allowed", 1)
        for window in self.requests:
            window.used += 1
        self.requests_total += 1
        self._taken += 1
        return Place(self)

    def give_back(self) -> None:
        """Give back the place of a request that has begun no stream."""
        self._taken -= 1

    def begun(self, stream: Stream) -> None:
        """Give a stream the place of its request."""
        self._taken -= 1
        self.running[stream] = None

    def ended(self, stream: Stream) -> None:
        """Give the place of a stream back."""
        self.running.pop(stream, None)

    def spend(self, tokens: int) -> None:
        """Count the tokens of a response."""
        self.roll()
        self.tokens_total += tokens
        for window in self.tokens:
            window.used += tokens

    def restore(self, requests: int, tokens: int) -> None:
        """Count what was used of the current day before this process began."""
        self.roll()
        for windows, used in ((self.requests, requests), (self.tokens, tokens)):
            windows[1].used += used

    def check_followers(self, more: int) -> None:
        """Raises: LimitReached, if so many more clients may not follow its streams."""
        allowed = self.limits.followers
        if allowed and self.followers + more > allowed:
            self._refuse("followers", f"{self.followers} follow, {allowed} are allowed", 1)

    def attached(self, subscription: Subscription) -> None:
        """Count a follower."""
        self._followers[subscription] = None

    def left(self, subscription: Subscription) -> None:
        """Count a follower no longer."""
        self._followers.pop(subscription, None)

    def check_route(self, name: str) -> None:
        """Raises: NotAllowedForKey, if its requests may not go to a route."""
        _check_listed("route", name, self.limits.routes)

    def check_mode(self, name: str) -> None:
        """Raises: NotAllowedForKey, if its streams may not be sent in a mode."""
        _check_listed("mode", name, self.limits.modes)

    def check_model(self, name: str | None) -> None:
        """Raises: NotAllowedForKey, if it may not ask for a model; None is a request that names none."""
        if not self.limits.models or (name is not None and self.limits.allows_model(name)):
            return
        asked = "the request names no model that could be read" if name is None else f"not {name[:100]!r}"
        raise NotAllowedForKey(f"this key is for the models {', '.join(self.limits.models)}; {asked}")

    def body_bytes(self, allowed: int) -> int:
        """Return how large a body may be where so much is allowed to everybody."""
        return min(self.limits.body_bytes or allowed, allowed)

    def check_body(self, body: bytes) -> None:
        """Check the model that a JSON body names. Raises: NotAllowedForKey.

        Each member of this name is checked, in upper and lower case: parsers differ in which one they take.
        """
        if self.limits.models:
            named = [value for name, value in pairs(body) or () if name.lower() == "model"]
            for value in named or [None]:
                self.check_model(value if isinstance(value, str) else None)

    def headers(self, dialect: Dialect) -> Headers:
        """Return the headers that tell a client what its limits leave."""
        now = self.roll()
        return dialect.limit_headers(_allowance(self.requests, now), _allowance(self.tokens, now), now)

    def _refuse(self, limit: str, why: str, retry_after_s: int) -> None:
        self.refusals[limit] += 1
        error = LimitReached(f"the limit {limit} of this key is reached: {why}", retry_after_s)
        error.retried = retry_after_s > _LONG_S  # so that clients don't ask again before it can help
        raise error


class Place:
    """The place of one request of a caller among its concurrent streams, until a stream takes it over."""

    __slots__ = ("_account", "_is_held")

    def __init__(self, account: Account) -> None:
        self._account = account
        self._is_held = True

    def become(self, stream: Stream) -> bool:
        """Pass the place to a stream; return whether it was not given back or passed on before."""
        held, self._is_held = self._is_held, False
        if held:
            self._account.begun(stream)
        return held

    def give_back(self) -> None:
        """Give the place back, unless a stream has taken it over. Only the first call counts."""
        if self._is_held:
            self._is_held = False
            self._account.give_back()


PLACE: ContextVar[Place | None] = ContextVar("place", default=None)
"""The place of the request whose handler runs in this task. A generation's stream is begun in the same task."""


class Accounts:
    """The accounts of all callers that have limits; an observer of streams and of their followers."""

    def __init__(self, limits_of: Callable[[str], CallerLimits], clock: Callable[[], float] = time.time) -> None:
        """`limits_of` returns the limits of the caller of a name. `clock` returns Unix seconds."""
        self._limits_of = limits_of
        self.clock = clock
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
            account = self._of[digest] = Account(name, digest, self._limits_of(name), self.clock)
            account.restore(*self._used_before().pop(name, (0, 0)))
        return account

    def limit(self, name: str | None = None) -> None:
        """Ask for the limits of a caller again; None: of all callers."""
        for account in self._of.values():
            if name in (None, account.name):
                account.limit(self._limits_of(account.name))

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
            raise Overloaded(f"{len(self._of)} callers have used something today, which is as many as can be counted")


def _tokens(stream: Stream) -> int:
    """Return the tokens of a stream that has ended, as its usage states them.

    A stream that was cut off has not stated all of them, if any: then each event that came counts as one, at least.
    """
    log, usage = stream.log, stream.vitals.reader.usage
    if not stream.dialect.frames.has_text:
        return 0
    if stream.kept_head is not None:
        return tokens_of_document(b"".join(log.span(log.start, log.end)))
    stated = 0 if usage is None else usage.prompt + usage.completion
    complete = log.ending is not None and log.ending.reason == COMPLETE.reason
    return stated if stated and complete else max(stated, log.end)


def _check_listed(what: str, name: str, allowed: tuple[str, ...]) -> None:
    if allowed and name not in allowed:
        raise NotAllowedForKey(f"this key is for the {what}s {', '.join(allowed)}; not for {name[:100]!r}")


def _allowance(windows: tuple[Window, Window], unix_s: float) -> Allowance | None:
    window = tightest(windows)
    return None if window is None else Allowance(window.limit, window.left, window.ends_in_s(unix_s))
