"""The account of a caller as one of several workers has it: the supervisor decides what its limits leave.

What is counted here is only what this worker serves: metrics add it up. The windows are those of all workers as they
were at the last request, for the headers that tell clients of them.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from proxy.access.account import Account, Place, Reached
from proxy.access.limits import DIVIDED, CallerLimits
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.workers.counting.questions import Questions, wait

_UNUSED_S = 1.0  # room for a follower that has not come then is given back


class SharedAccount(Account):
    """What a caller has used of its limits in one of several workers, and may use yet of those of all."""

    __slots__ = ("_asking", "_looking", "_questions", "_room", "_said", "_waited", "_waiting")

    def __init__(
        self,
        questions: Questions,
        waiting: Callable[[bytes], int],
        name: str,
        digest: bytes,
        limits: CallerLimits,
        clock: Callable[[], float],
    ) -> None:
        """`waiting` returns how many followers wait here for a stream of the caller with a digest to begin."""
        self._questions = questions
        self._waiting = waiting
        self._room = 0  # followers that may be here
        self._asking = 0  # questions for more room
        self._waited = 0  # followers that waited when that was last looked at
        self._looking: asyncio.TimerHandle | None = None
        super().__init__(name, digest, limits, clock)

    def limit(self, limits: CallerLimits) -> None:
        super().limit(limits)
        self._said = {"name": self.name, "limits": [getattr(limits, limit) for limit in DIVIDED]}

    # Requests and streams

    async def place(self, *, looks_up: bool = False) -> Place:
        """Take a place among those of all workers. Raises: LimitReached, Overloaded."""
        answer = self._questions.ask("take", looks_up=looks_up, **self._said)
        try:
            told = await wait(answer)
        except BaseException:  # the client has disconnected, or nobody answers: a place that is given yet is not needed
            answer.add_done_callback(self._return_place)
            raise
        self.roll()
        for window, used in zip((*self.requests, *self.tokens), told["used"], strict=True):
            window.hear(used)
        self._check(told)
        self._taken += 1
        for window in self.requests:
            window.use(1)
        return Place(self)

    def give_back(self) -> None:
        super().give_back()
        self._count_served()

    def begun(self, stream: Stream) -> None:
        super().begun(stream)
        self.requests_total += 1

    def ended(self, stream: Stream) -> None:
        if stream in self.running:
            self._tell("over")
        super().ended(stream)

    def spend(self, tokens: int) -> None:
        super().spend(tokens)
        self._tell("spent", tokens=tokens)

    async def withdraw(self) -> None:
        """Give a place back as if it had not been taken: another worker serves the request, and asks for one."""
        self._taken -= 1
        self.count_less()
        await wait(self._questions.ask("withdraw", **self._said))

    def _count_served(self) -> None:
        """Count a request that no stream came of. Not when it is let in: another worker may serve it."""
        self.requests_total += 1
        self._tell("over")

    def _return_place(self, answer: "asyncio.Future[dict[str, Any]]") -> None:
        if not answer.cancelled() and answer.result().get("reached", ()) is None:
            self._count_served()

    # Followers

    def has_room(self, more: int) -> bool:
        return not self.limits.followers or self.followers + more <= self._room

    def check_followers(self, more: int) -> None:
        if not self.has_room(more):
            reached = Reached("followers", f"{self.followers} follow here, {self.limits.followers} are allowed", 1)
            self.refuse(reached)

    async def ask_room(self, more: int) -> None:
        """Ask for room for so many more followers. Raises: LimitReached, Overloaded."""
        answer = self._questions.ask("follow", count=self.followers + more, **self._said)
        self._asking += 1
        answer.add_done_callback(self._have_room)
        self._check(await wait(answer))

    def left(self, subscription: Subscription) -> None:
        super().left(subscription)
        self._return_room()

    def _have_room(self, answer: "asyncio.Future[dict[str, Any]]") -> None:
        self._asking -= 1
        if not answer.cancelled():
            self._room = answer.result().get("room", self._room)
            self._look_later()

    def _return_room(self) -> None:
        """Give back the room that nobody needs; not while an answer is under way that has more."""
        needed = self.followers + self._waited
        if not self._asking and self._room > needed:
            self._room = needed
            self._tell("followers", count=needed)

    def _look_later(self) -> None:
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_UNUSED_S, self._look)

    def _look(self) -> None:
        """Look for room that is not needed: for a follower that has not come, or that waits no longer."""
        self._looking = None
        self._waited = self._waiting(self.digest)
        self._return_room()
        if self._waited:
            self._look_later()

    # What is told

    async def sums(self) -> dict[str, Any]:
        """Return what all workers have counted. Raises: Overloaded."""
        told: dict[str, Any] = (await wait(self._questions.ask("sums", **self._said)))["sums"]
        return told

    def _tell(self, what: str, **said: Any) -> None:
        self._questions.tell(what, **self._said, **said)

    def _check(self, told: dict[str, Any]) -> None:
        if told["reached"] is not None:
            self.refuse(Reached(*told["reached"]))
