"""The account of one caller: what it has used of its limits, and whether they leave room for more.

The door (`Admission.limited`) has every request upstream of such a caller take a `Place`, and gives it back when its
handler has ended. A stream that begins in the task of the request takes the place over, since it may outlive the
handler; it is given back when the stream ends. Tokens are counted when they are known, which is at the end of a
response: so a request is admitted while its windows are not used up, and the last one may use more than was left.
"""

import asyncio
import time
from collections import Counter as Tally
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, NoReturn

from proxy.access.gauges import Gauge, Reached, Room
from proxy.access.limits import CallerLimits
from proxy.access.windows import DAY_S, MINUTE_S, Window, tightest
from proxy.dialects.allowance import Allowance
from proxy.dialects.dialect import Dialect
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.wire.errors import LimitReached, NotAllowedForKey
from proxy.wire.http import Headers
from proxy.wire.json_members import pairs

_LONG_S = 60  # after a longer wait no client library asks again by itself
_UNUSED_S = 1.0  # room for a follower that has not come then is given back


class Account:
    """What one caller has used of its limits, and may use yet.

    With several processes, what their limits leave is known in one of them: the subclasses in room `workers` have that
    one asked. Hence the methods that may wait: `place`, `ask_room` and `sums`. With several machines, `access.sums`
    adds a gauge of the streams, and room for followers.
    """

    __slots__ = (
        "_clock", "_followers", "_looking", "_taken", "_waited", "digest", "gauges", "limits", "name", "on_withdrawn",
        "refusals", "requests", "requests_total", "rooms", "running", "tokens", "tokens_total", "waiting",
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
        self.on_withdrawn: Callable[[Account], Awaitable[None]] | None = None  # others know of the place already
        self._taken = 0  # places of requests that have begun no stream
        self._followers: dict[Subscription, None] = {}
        self.gauges: dict[str, Gauge] = {}  # by the limit: what counts together with other processes
        self.rooms: list[Room] = []  # for followers, of each who counts them for several processes
        self.waiting: Callable[[bytes], int] = lambda caller: 0  # how many wait here for a stream of it to begin
        self._waited = 0  # how many did when that was last looked at
        self._looking: asyncio.TimerHandle | None = None
        self.limit(limits)

    def limit(self, limits: CallerLimits) -> None:
        """Keep these limits from now on."""
        self.limits = limits
        for window in self.windows:
            window.limit = getattr(limits, window.name)
        for gauge in self.gauges.values():
            gauge.limit = getattr(limits, gauge.key)

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows."""
        return (*self.requests, *self.tokens)

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
        used = any(window.used for window in self.windows)
        holds = any(gauge.is_held for gauge in self.gauges.values())
        return not (self.streams or self._followers or used or holds)

    @property
    def is_told(self) -> bool:
        """Whether other processes know all that is counted here, if there are any."""
        return all(one.is_told for one in self.windows) and all(one.is_told for one in self.gauges.values())

    def roll(self) -> float:
        """Begin the windows that have changed anew; return the time, in Unix seconds."""
        now = self._clock()
        for window in self.windows:
            window.roll(now)
        return now

    def take(self, *, looks_up: bool = False) -> "Place":
        """Count a request and take a place for it. Raises: LimitReached, if the limits leave no room for it.

        One that only `looks_up` something is served while as many streams run as may.
        """
        reached = self.reached(looks_up=looks_up)
        if reached is not None:
            self.refuse(reached)
        self.count()
        return Place(self)

    async def place(self, *, looks_up: bool = False) -> "Place":
        """As `take`, wherever it is counted."""
        return self.take(looks_up=looks_up)

    def reached(self, *, looks_up: bool = False) -> Reached | None:
        """Return the limit that leaves no room for one more request, if there is one."""
        now = self.roll()
        for window in (*self.requests, *self.tokens):
            if window.is_used_up:
                return Reached(window.name, f"{window.used} of {window.limit} are used", window.ends_in_s(now))
        if 0 < self.limits.streams <= self.streams and not looks_up:
            return Reached("streams", f"{self.streams} run, {self.limits.streams} are allowed", 1)
        return None

    def count(self) -> None:
        """Count a request, and that it has a place."""
        for window in self.requests:
            window.use(1)
        self.requests_total += 1
        self._taken += 1

    def exceeded(self, *, looks_up: bool = False) -> Reached | None:
        """Return the limit that is exceeded by the request that was counted last, now that the sum of all is known."""
        now = self.roll()
        full = [one for one in self.requests if one.is_exceeded] or [one for one in self.tokens if one.is_used_up]
        if full:
            return Reached(full[0].name, f"{full[0].allowed} of {full[0].limit} are used", full[0].ends_in_s(now))
        streams = self.gauges.get("streams")
        if streams is None or looks_up or not streams.exceeds(self.streams):
            return None
        return streams.reached(self.streams - 1)

    async def withdraw(self) -> None:
        """Give a place back as if it had not been taken."""
        self._taken -= 1
        self.requests_total -= 1
        self.count_less()

    def count_less(self) -> None:
        """Count a request no more."""
        for window in self.requests:
            window.use(-min(1, window.own))

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
            window.use(tokens)

    def restore(self, requests: int, tokens: int) -> None:
        """Count what was used of the current day before this process began."""
        self.roll()
        for windows, used in ((self.requests, requests), (self.tokens, tokens)):
            windows[1].restore(used)

    def check_followers(self, more: int) -> None:
        """Raises: LimitReached, if so many more clients may not follow its streams."""
        allowed = self.limits.followers
        if allowed and (self.followers + more > allowed or not self.has_room(more)):
            self.refuse(Reached("followers", f"{self.followers} follow, {allowed} are allowed", 1))

    def has_room(self, more: int) -> bool:
        """Return whether `check_followers` can decide: if not, room for so many has to be asked for before."""
        return not self.limits.followers or all(self.followers + more <= room.size for room in self.rooms)

    async def ask_room(self, more: int) -> None:
        """Ask for room for so many more followers. Raises: LimitReached, Overloaded."""
        wanted = self.followers + more
        try:
            for room in self.rooms:
                if room.size < wanted:
                    await room.ask(wanted)
        finally:
            self.look_later()

    def look_later(self) -> None:
        """Look in a moment for room that is not needed: for a follower that has not come, or waits no longer."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_UNUSED_S, self._look)

    def _look(self) -> None:
        self._looking = None
        self._waited = self.waiting(self.digest)
        self._keep_room()
        if self._waited:
            self.look_later()

    def _keep_room(self) -> None:
        for room in self.rooms:
            room.keep(self.followers + self._waited)

    async def sums(self) -> dict[str, Any]:
        """Return what is told of its use that is not known here alone."""
        return {}

    def attached(self, subscription: Subscription) -> None:
        """Count a follower."""
        self._followers[subscription] = None

    def left(self, subscription: Subscription) -> None:
        """Count a follower no longer."""
        self._followers.pop(subscription, None)
        if self.rooms:
            self._keep_room()

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

    def refuse(self, reached: Reached) -> NoReturn:
        """Count a refusal. Raises: LimitReached."""
        self.refusals[reached.limit] += 1
        error = LimitReached(f"the limit {reached.limit} of this key is reached: {reached.used}", reached.retry_after_s)
        error.retried = reached.retry_after_s > _LONG_S  # so that clients don't ask again before it can help
        raise error


class Place:
    """The place of one request of a caller among its concurrent streams, until a stream takes it over."""

    __slots__ = ("_account", "is_held")

    def __init__(self, account: Account) -> None:
        self._account = account
        self.is_held = True  # no stream has taken it over, and it was not given back

    def become(self, stream: Stream) -> bool:
        """Pass the place to a stream; return whether it was not given back or passed on before."""
        held, self.is_held = self.is_held, False
        if held:
            self._account.begun(stream)
        return held

    async def withdraw(self) -> None:
        """Give the place back as if it had not been taken, unless a stream has taken it over. Raises: Overloaded."""
        if self.is_held:
            self.is_held = False
            await self._account.withdraw()
            if self._account.on_withdrawn is not None:
                await self._account.on_withdrawn(self._account)

    def give_back(self) -> None:
        """Give the place back, unless a stream has taken it over. Only the first call counts."""
        if self.is_held:
            self.is_held = False
            self._account.give_back()


PLACE: ContextVar[Place | None] = ContextVar("place", default=None)
"""The place of the request whose handler runs in this task. A generation's stream is begun in the same task."""


def _check_listed(what: str, name: str, allowed: tuple[str, ...]) -> None:
    if allowed and name not in allowed:
        raise NotAllowedForKey(f"this key is for the {what}s {', '.join(allowed)}; not for {name[:100]!r}")


def _allowance(windows: tuple[Window, Window], unix_s: float) -> Allowance | None:
    window = tightest(windows)
    return None if window is None else Allowance(window.limit, window.left, window.ends_in_s(unix_s))
