"""What a worker asks its supervisor over their channel, each with a number, which the answer has, too."""

import asyncio
from itertools import count
from typing import Any, Protocol

from proxy.wire.errors import Overloaded

ANSWERED_S = 2.0  # a supervisor that answers later than this hangs
_SILENT = "the process that counts what callers use does not answer"


class Sending(Protocol):
    """What sends messages to the supervisor."""

    def send(self, kind: str, **said: Any) -> None:
        """Send a message."""


class Questions:
    """The questions of a worker that have no answer yet."""

    def __init__(self, channel: Sending) -> None:
        self._channel = channel
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}

    def tell(self, what: str, **said: Any) -> None:
        """Send what needs no answer."""
        self._channel.send("count", what=what, **said)

    def ask(self, what: str, **said: Any) -> "asyncio.Future[dict[str, Any]]":
        """Send a question; return what will have the answer, also if it comes when nobody waits for it any more."""
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send("count", what=what, number=number, **said)
        return answer

    def answered(self, message: dict[str, Any]) -> None:
        """Take the supervisor's answer to a question."""
        answer = self._asked.pop(message["number"], None)
        if answer is not None and not answer.done():
            answer.set_result(message["answer"])


async def wait(answer: "asyncio.Future[dict[str, Any]]") -> dict[str, Any]:
    """Wait for an answer, which may still come when this waits no longer. Raises: Overloaded."""
    done, _ = await asyncio.wait((answer,), timeout=ANSWERED_S)
    if not done:
        raise Overloaded(_SILENT)
    told = answer.result()
    if "no_account" in told:
        raise Overloaded(told["no_account"])
    return told
