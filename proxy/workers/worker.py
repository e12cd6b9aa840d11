"""One worker: a process that serves clients beside others on the same address, as its supervisor tells it.

It is a whole proxy (`server.app`), which is handed connections by the others, and hands them over where they belong.
"""

import asyncio
import functools
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from proxy.downstream.listener import Listener
from proxy.downstream.movable import MovableConnection
from proxy.server.app import Proxy
from proxy.server.config import Config, loads
from proxy.server.configuration.mistakes import explained
from proxy.server.placement import Member, call_name, key_name, retry_name
from proxy.stream.faults import log_fault
from proxy.workers import handover, relay
from proxy.workers.channel import Channel
from proxy.workers.counting.questions import Questions
from proxy.workers.counting.shared_account import SharedAccount
from proxy.workers.handover import Inbox
from proxy.workers.ids import ending_of
from proxy.workers.inner import Inner
from proxy.workers.membership import Membership
from proxy.workers.merged_page import Families, families_of
from proxy.workers.names import name_of
from proxy.workers.peers import socket_paths
from proxy.workers.placement import Placement
from proxy.workers.shares import divided

_IGNORED = (signal.SIGINT, signal.SIGHUP)  # those of a terminal go to the supervisor, too, which tells us
_POLL_S = 0.05
_MOVED_AT_ONCE = 32  # idle connections
_HANDSHAKES_S = 2.0  # for those of TLS that have begun when this worker accepts no more: nobody counts them
_TOLD_AT_ONCE = 1000  # ids of responses: half a millisecond


async def work(descriptor: int, prepare: Callable[[Config], object]) -> None:
    """Serve as one worker until the supervisor at the other end of a socket pair has it end, or is gone.

    `prepare` sets up the process by its configuration, before anything is made.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
    channel = await Channel.over(socket.socket(fileno=descriptor))
    start = await channel.receive()
    if start is None:
        return
    try:
        config = divided(loads(start["config"]), start["workers"], start["seat"])
        prepare(config)
        worker = Worker(config, channel, start)
        await worker.open()
    except (ValueError, OSError) as error:
        channel.send("failed", why=explained(error))
    else:
        channel.send("ready")
        await worker.run()
    await channel.close()


class Worker:
    """One of several processes that serve the same address."""

    def __init__(self, config: Config, channel: Channel, start: dict[str, Any]) -> None:
        number = start["number"]
        self._channel = channel
        self._listening = socket.socket(fileno=start["listening"])
        self._paths = socket_paths(Path(start["directory"]), number)
        names_bodies = config.generations.share == "body" or config.generations.attach_retries_s > 0
        membership = Membership(number, (number,))
        self.placement = Placement(membership, Path(start["directory"]), start["secret"], names_bodies=names_bodies)
        self.questions = Questions(channel)
        new_account = functools.partial(SharedAccount, self.questions)
        member = Member(ending_of(number), bytes.fromhex(start["secret"]), self.placement, new_account)
        self.proxy = Proxy(config, member=member)
        self._inner = Inner(self.proxy.hub, self.proxy.calls, self.placement, self._families)
        self._ending: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._all_end = False
        self._is_orphan = False  # the supervisor is gone
        self._adopting: set[asyncio.Task[None]] = set()
        self._retired_at = 0.0  # in monotonic seconds
        self._passed_on: set[tuple[str, str]] = set()  # callers and ids of responses that were told
        self._listener: Listener
        self.inbox: Inbox  # once it is open

    async def open(self) -> None:
        """Become ready. Raises: OSError."""
        self.inbox = Inbox(handover.listening(self._paths[0]), self._adopt)
        self._listener = await self.proxy.open_as_worker(self._inner.endpoints(), self._paths[1])

    async def run(self) -> None:
        """Do what the supervisor says, until all has ended."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._end, self.proxy.drain)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))  # which waited meanwhile
        obeying = asyncio.create_task(self._obey())
        await self.wait_over()
        obeying.cancel()
        await asyncio.wait({obeying})
        self._channel.send("ended", families=self._families())

    async def wait_over(self) -> None:
        """Wait until all has ended; then be handed no more, and ask the others nothing more."""
        await self._over.wait()
        self.inbox.close()
        await self.placement.peers.close()
        if self._is_orphan:
            self._remove_sockets()

    def _remove_sockets(self) -> None:
        """Remove this worker's sockets, and with those of the last worker their directory."""
        with suppress(OSError):
            for path in self._paths:
                Path(path).unlink(missing_ok=True)
            Path(self._paths[0]).parent.rmdir()

    async def _obey(self) -> None:
        """Do what the supervisor says; if it is gone, end."""
        try:
            while (message := await self._channel.receive()) is not None:
                await self.heed(message)
            self._is_orphan = self._all_end = True  # what is kept here is found by nobody any more
        except Exception as error:
            log_fault("what the supervisor said", error)
        self._end(self.proxy.drain)

    async def heed(self, message: dict[str, Any]) -> None:
        """Do what one message of the supervisor says."""
        kind = message["kind"]
        if "current" in message:
            self.placement.owners.membership = Membership(
                self.placement.membership.number,
                message["current"],
                frozenset(message["draining"]),
                {bytes.fromhex(name): number for name, number in message["older"].items()},
            )
        if kind == "answer":
            self.questions.answered(message)
        elif kind == "given" and self.proxy.given is not None:
            self.proxy.given.learn(message["ids"])
        elif kind == "serve":
            self.inbox.open()
            await self.proxy.accept(self._listening)
        elif kind == "retire":
            await self.proxy.retire()
            self._channel.send("retired", names=[name.hex() for name in self._names()])
            self._end(self._finish)
        elif kind == "drain":
            self._all_end = True
            self._end(self.proxy.drain)
        elif kind == "hurry":
            self._all_end = True
            self.proxy.hurry()
            self._end(self.proxy.drain)

    def _end(self, how: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """End, if that has not begun: then its time counts."""
        if self._ending is None:
            self._ending = asyncio.create_task(how())
            self._ending.add_done_callback(lambda ending: self._over.set())

    async def _finish(self) -> None:
        """Go on until nothing runs, is kept or waits, for at most `drain_s`; then leave idle connections to others.

        Requests that come meanwhile are served before this worker ends: on connections that it has not left yet, or
        with those that other workers hand over.
        """
        self._retired_at = monotonic()
        until = self._retired_at + self.proxy.config.drain_s
        tried: set[MovableConnection] = set()
        while not self.proxy.is_hurried:
            if self._is_needed and monotonic() < until:
                await asyncio.sleep(_POLL_S)
            elif idle := self._idle(tried):
                await self._leave(idle, tried)
            else:
                break
        self._pass_on_given()
        self.inbox.close()  # in the same turn as the last look: what is taken later would be cut
        await self.proxy.stop()

    def _idle(self, tried: set[MovableConnection]) -> list[MovableConnection]:
        """Return the connections on which nothing is asked now, and that were not left to others in vain.

        Not those that can't be left, as their TLS ends here.
        """
        idle = [one for one in self._movable if one.is_between_requests and one not in tried]
        return [one for one in idle if not one.is_encrypted]

    @property
    def _movable(self) -> Iterator[MovableConnection]:
        return (one for one in self.proxy.clients.open if isinstance(one, MovableConnection))

    async def _leave(self, idle: list[MovableConnection], tried: set[MovableConnection]) -> None:
        """Leave connections to other workers, unless a request comes meanwhile."""
        self._pass_on_given()
        for start in range(0, len(idle), _MOVED_AT_ONCE):
            await asyncio.gather(*(self._move(one, tried) for one in idle[start : start + _MOVED_AT_ONCE]))

    def _pass_on_given(self) -> None:
        """Tell which ids of responses callers were given here, each once: they may continue these for days."""
        given = [] if self._all_end or self.proxy.given is None else self.proxy.given.told()
        told = [one for one in given if one[:2] not in self._passed_on]
        self._passed_on.update(one[:2] for one in told)
        for start in range(0, len(told), _TOLD_AT_ONCE):
            self._channel.send("given", ids=told[start : start + _TOLD_AT_ONCE])

    @property
    def _is_needed(self) -> bool:
        """Return whether anything runs or waits for a response, or is handed over to this worker at the moment.

        Or is kept, or a first request is yet to come by TLS, unless all workers end.
        """
        if self.proxy.is_busy or self._adopting or self.inbox.is_taking:
            return True
        return not self._all_end and (any(True for _ in self.proxy.hub) or self._awaits_requests)

    @property
    def _awaits_requests(self) -> bool:
        """Return whether there are, or may be soon, connections without a request yet that can't go elsewhere.

        A client takes a connection that is closed without an answer to its first request for an error.
        """
        if not self.proxy.config.tls.certificate:
            return False
        in_handshakes = monotonic() - self._retired_at < _HANDSHAKES_S
        return in_handshakes or any(one.is_encrypted and one.is_unused for one in self._movable)

    async def _move(self, connection: MovableConnection, tried: set[MovableConnection]) -> None:
        if connection.is_between_requests:
            tried.add(connection)
            with suppress(ConnectionError):  # its client has disconnected
                await self.placement.move_anywhere(connection)

    def _names(self) -> set[bytes]:
        """Return the names of all streams and calls that are found here."""
        proxy = self.proxy
        return {
            *(name_of(*key_name(caller, key)) for caller, key in proxy.hub.keys),
            *(name_of(*call_name(*name)) for name in proxy.calls.named()),
            *(name_of(*retry_name(meaning)) for meaning in proxy.lost_calls.meanings()),
        }

    def _families(self) -> Families:
        metrics = [*self.proxy.page.registry.collect(), *self.placement.metrics()]
        return families_of(metrics)

    def _adopt(self, offered: handover.Connection) -> None:
        """Serve a connection that was handed over as if it had been accepted here."""
        task = asyncio.get_running_loop().create_task(self._adopted(offered))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _adopted(self, offered: handover.Connection) -> None:
        connection = self._listener()
        assert isinstance(connection, MovableConnection)
        connection.adopt(offered.read, is_placed=offered.is_placed, relayed=relay.read(offered.told))
        try:
            protocol: Any = connection  # by its methods, not by inheritance
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, offered.client)
        except OSError:  # the client has disconnected meanwhile
            offered.client.close()
        except Exception as error:
            offered.client.close()
            log_fault("a connection that was handed over", error)
