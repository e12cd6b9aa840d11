"""The account of a caller as one of several workers has it: the supervisor decides what its limits leave.

What is counted here is only what this worker serves: metrics add it up. The windows are those of all workers as they
were at the last request, for the headers that tell clients of them.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from proxy.access.account import Account, Place
from proxy.access.gauges import Reached
from proxy.access.limits import DIVIDED, CallerLimits
from proxy.stream.stream import Stream
from proxy.workers.counting.questions import Questions, wait


class SharedAccount(Account):
    """What a caller has used of its limits in one of several workers, and may use yet of those of all."""

    __slots__ = ("_questions", "_said")

    def __init__(
        self, questions: Questions, name: str, digest: bytes, limits: CallerLimits, clock: Callable[[], float]
    ) -> None:
        self._questions = questions
        super().__init__(name, digest, limits, clock)
        self.rooms.append(_GrantedRoom(self))

    def limit(self, limits: CallerLimits) -> None:
        super().limit(limits)
        self._said = {"name": self.name, "limits": [getattr(limits, limit) for limit in DIVIDED]}

    # Requests and streams

    async def place(self, *, looks_up: bool = False) -> Place:
        """Take a place among those of all workers. Raises: LimitReached, Overloaded."""
        answer = self.ask("take", looks_up=looks_up)
        try:
            told = await wait(answer)
        except BaseException:  # the client has disconnected, or nobody answers: a place that is given yet is not needed
            answer.add_done_callback(self._return_place)
            raise
        self.roll()
        for window, used in zip((*self.requests, *self.tokens), told["used"], strict=True):
            window.hear(used)
        self.check(told)
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
            self.tell("over")
        super().ended(stream)

    def spend(self, tokens: int) -> None:
        super().spend(tokens)
        self.tell("spent", tokens=tokens)

    async def withdraw(self) -> None:
        """Give a place back as if it had not been taken: another worker serves the request, and asks for one."""
        self._taken -= 1
        self.count_less()
        await wait(self.ask("withdraw"))

    def _count_served(self) -> None:
        """Count a request that no stream came of. Not when it is let in: another worker may serve it."""
        self.requests_total += 1
        self.tell("over")

    def _return_place(self, answer: "asyncio.Future[dict[str, Any]]") -> None:
        if not answer.cancelled() and answer.result().get("reached", ()) is None:
            self._count_served()

    # What is told

    async def sums(self) -> dict[str, Any]:
        """Return what all workers have counted. Raises: Overloaded."""
        told: dict[str, Any] = (await wait(self.ask("sums")))["sums"]
        return told

    def ask(self, what: str, **said: Any) -> "asyncio.Future[dict[str, Any]]":
        """Ask the supervisor something about the caller."""
        return self._questions.ask(what, **self._said, **said)

    def tell(self, what: str, **said: Any) -> None:
        """Tell the supervisor something about the caller."""
        self._questions.tell(what, **self._said, **said)

    def check(self, told: dict[str, Any]) -> None:
        """Raises: LimitReached, if the supervisor has told that a limit is reached."""
        if told["reached"] is not None:
            self.refuse(Reached(*told["reached"]))


class _GrantedRoom:
    """Room for followers that the supervisor has granted, which counts those of all workers."""

    def __init__(self, account: SharedAccount) -> None:
        self._account = account
        self._asking = 0
        self.size = 0

    async def ask(self, followers: int) -> None:
        """Ask for room for so many followers in all. Raises: LimitReached, Overloaded."""
        answer = self._account.ask("follow", count=followers)
        self._asking += 1
        answer.add_done_callback(self._heard)
        self._account.check(await wait(answer))

    def keep(self, followers: int) -> None:
        """Give back what is beyond room for so many; not while an answer is under way that has more."""
        if not self._asking and self.size > followers:
            self.size = followers
            self._account.tell("followers", count=followers)

    def _heard(self, answer: "asyncio.Future[dict[str, Any]]") -> None:
        self._asking -= 1
        if not answer.cancelled():
            self.size = answer.result().get("room", self.size)
            self._account.look_later()
