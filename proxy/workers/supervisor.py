"""Starts the workers of one address, replaces those that die, and has them reload and end. It serves no client itself.

    begin     all workers are started, then accept; any that fails ends the others
    die       the worker's streams are gone; another is started under its number, later and later if it keeps dying
    reload    as many new workers are started, under other numbers, with the configuration as it is now; when all are
              ready, the old ones say which names they hold and begin nothing any more, and then the new ones accept. An
              old one ends when nothing runs or is kept there, at the latest after its `drain_s`
    drain     all end as one process does on SIGTERM

Every worker knows all others by `Membership`, which is sent to all whenever it changes.
"""

import asyncio
import logging
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes
from time import monotonic
from typing import Any

from proxy.server.config import Config, address, loads
from proxy.server.configuration.mistakes import explained
from proxy.stream.faults import log_fault
from proxy.workers.counting.sums import Sums
from proxy.workers.ids import free_numbers
from proxy.workers.listening import listen
from proxy.workers.merged_page import MergedPage
from proxy.workers.peers import Peers
from proxy.workers.process import Start, WorkerFailed, WorkerProcess

MOST_WORKERS = 256  # each has a number, and so have those of the reload before, in two characters of a stream's id
_RETIRED_S = 2.0  # for the old workers to say what they hold; one that hangs holds nothing that could be found
_GRACE_S = 5.0  # beyond `drain_s`, for workers to end
_HURRIED_S = 5.0
_LONGEST_PATH = 85  # of the directory: a Unix socket's path has 104 characters, on some systems 108
_STEADY_S = 10.0  # a worker that lived so long is replaced at once
_LONGEST_WAIT_S = 30.0
_SPARE_AFTER_S = 1.0  # when the workers have begun: they need the cores first

_log = logging.getLogger("streamtee.workers")


class Supervisor:
    """The parent of all workers of one address."""

    def __init__(
        self,
        config: Config,
        read: Callable[[], str],
        workers: int,
        command: Sequence[str],
        sums: Sums,
        listening: socket.socket | None = None,
    ) -> None:
        """Call within a running loop. `read` returns the text of the configuration file as it is now.

        `command` starts a worker; its last argument will be the descriptor of the worker's channel. `sums`: of what
        callers use in all workers.
        `listening`: a socket that listens already, at which all workers then accept.
        """
        self.config = config
        self.page = MergedPage()
        self._sums = sums
        self._saving = asyncio.create_task(sums.save_all_the_time())
        self._read = read
        self._count = workers
        self._command = command
        self._text = ""
        self._drain_s = config.drain_s
        self._secret = token_bytes(16).hex()
        self._sockets: list[socket.socket] = []
        self._listening = listening
        self._current: list[int] = []
        self._older: dict[bytes, int] = {}
        self._workers: dict[int, WorkerProcess] = {}  # those that run
        self._watching: set[asyncio.Task[None]] = set()
        self._draining = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._will_reload = False  # once the workers have begun that are beginning
        self._spare: WorkerProcess | None = None
        self._spare_timer: asyncio.TimerHandle = asyncio.get_running_loop().call_later(0, bool)
        self._sparing: asyncio.Task[None] | None = None
        self._deaths = 0  # in a row, of workers that did not live long
        self._directory = tempfile.mkdtemp(prefix="streamtee-")  # nobody else may enter it
        self.peers = Peers(Path(self._directory), self._secret)
        self.url = ""

    @property
    def is_draining(self) -> bool:
        """Return whether all workers are ending."""
        return self._draining.is_set()

    @property
    def numbers(self) -> dict[int, bool]:
        """Return the numbers of all workers there should be, and whether each begins what is new."""
        return {number: number in self._current for number in sorted({*self._current, *self._workers})}

    async def start(self) -> None:
        """Listen, and start the workers. Raises: OSError, if the address is taken; WorkerFailed."""
        if len(self._directory) > _LONGEST_PATH:
            raise OSError(f"{self._directory} is too long a path for Unix sockets in it; TMPDIR names another place")
        host, port = address(self.config.listen)
        given = self._listening
        self._sockets = listen(host, port, self._count) if given is None else [given] * self._count
        scheme = "https" if self.config.tls.certificate else "http"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._sockets[0].getsockname()[1]}"
        self._text = self._read()
        self._current = free_numbers(self._count, ())
        try:
            async with self._reloading:
                workers = await self._spawn_all(self._current, self._text)
        except WorkerFailed:
            await self.close()
            raise
        for worker in workers:
            self._add(worker)
        self._tell(self._current, "serve")
        self._plan_spare()

    async def reload(self) -> Config | None:
        """Replace all workers by new ones with the configuration as it is now, and return that.

        If that fails, nothing is changed. While workers are beginning, it waits until they have begun.
        """
        if self._will_reload:
            return None  # soon, with the configuration as it will be then
        self._will_reload = True
        async with self._reloading:
            self._will_reload = False
            if self.is_draining:
                _log.error("SIGHUP: nothing was changed: all workers are ending")
                return None
            try:
                text = self._read()
                config = loads(text)
                await self._drop_spare()  # it may have the code of before
                numbers = free_numbers(self._count, self.numbers)
                workers = await self._spawn_all(numbers, text)
            except (OSError, ValueError, WorkerFailed) as error:
                why = str(error) if isinstance(error, WorkerFailed) else explained(error)
                _log.error("SIGHUP: nothing was changed: %s", why)
                self._plan_spare()
                return None
            if self.is_draining:
                await asyncio.gather(*(worker.kill() for worker in workers))
                return None
            await self._take_over(workers, text)
            self._note(config)
            self._plan_spare()
            return config

    async def drain(self) -> None:
        """Have all workers end as on SIGTERM; return when they have."""
        self._draining.set()
        for worker in self._workers.values():
            worker.send("drain")
        until = monotonic() + self._drain_s + _GRACE_S
        while self._workers and monotonic() < until:
            await asyncio.wait(list(self._watching), timeout=until - monotonic())
        await self.close()

    def hurry(self) -> None:
        """Have `drain` wait no longer."""
        for worker in self._workers.values():
            worker.send("hurry")
            asyncio.get_running_loop().call_later(_HURRIED_S, worker.kill_soon)

    async def close(self) -> None:
        """End what is left."""
        self._draining.set()
        for worker in self._workers.values():
            worker.kill_soon()
        await self._drop_spare()
        await asyncio.gather(*self._watching, return_exceptions=True)
        self._saving.cancel()
        await self._sums.save()
        await self.peers.close()
        for sock in self._sockets:
            sock.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _take_over(self, workers: list[WorkerProcess], text: str) -> None:
        """Have new workers begin what is new from now on, and the old ones end."""
        old, self._current = list(self._workers.values()), [worker.number for worker in workers]
        for worker in workers:
            self._add(worker)
        retiring = [worker for worker in old if not worker.is_asked_to_end]
        for worker in old:  # older ones, too: else they would send what is new to one that has ended meanwhile
            worker.send("retire" if worker in retiring else "members", **self._membership())
        waited = [worker.retired for worker in retiring]
        if waited:
            await asyncio.wait(waited, timeout=_RETIRED_S)
        for worker in retiring:
            held = worker.retired.result() if worker.retired.done() else []
            self._older |= dict.fromkeys(held, worker.number)
        self._text, self._deaths = text, 0
        self._tell(self._current, "serve")
        self._tell(sorted(set(self._workers) - set(self._current)), "members")
        _log.warning("SIGHUP: %d new workers have begun with the configuration as it is now", len(workers))

    def _note(self, config: Config) -> None:
        """Note what of a configuration concerns the supervisor."""
        self._drain_s = config.drain_s
        for key in ("listen", "admin", "workers"):
            if getattr(config, key) != getattr(self.config, key):
                _log.warning("SIGHUP: a restart is needed for: %s", key)
        if config.auth.usage_file != self.config.auth.usage_file:
            _log.warning("SIGHUP: a restart is needed for: auth.usage_file")

    async def _spawn_all(self, numbers: Sequence[int], text: str) -> list[WorkerProcess]:
        """Start workers and return them when all are ready. Raises: WorkerFailed, when none of them runs any more."""
        starting = [self._spawn(number, seat, text) for seat, number in enumerate(numbers)]
        started = await asyncio.gather(*starting, return_exceptions=True)
        errors = [one for one in started if isinstance(one, BaseException)]
        workers = [one for one in started if isinstance(one, WorkerProcess)]
        if errors:
            await asyncio.gather(*(worker.kill() for worker in workers))
            raise errors[0]
        return workers

    async def _spawn(self, number: int, seat: int, text: str) -> WorkerProcess:
        spare, self._spare = self._spare, None
        worker = await self._new_process() if spare is None or spare.has_ended else spare
        listening = self._sockets[seat].fileno()
        start = Start(number, self._count, seat, text, self._directory, self._secret, listening)
        await worker.begin(start, self._heed)
        return worker

    async def _new_process(self) -> WorkerProcess:
        return await WorkerProcess.spawn(self._command, [sock.fileno() for sock in self._sockets])

    def _plan_spare(self) -> None:
        """Have a process started that imports all it needs, so that a worker that dies is replaced within a moment."""
        self._spare_timer.cancel()
        self._spare_timer = asyncio.get_running_loop().call_later(_SPARE_AFTER_S, self._begin_spare)

    def _begin_spare(self) -> None:
        if self._spare is None and not self.is_draining:
            self._sparing = asyncio.create_task(self._provide_spare())

    async def _provide_spare(self) -> None:
        self._spare = await self._new_process()

    async def _drop_spare(self) -> None:
        self._spare_timer.cancel()
        if self._sparing is not None:
            await asyncio.wait({self._sparing})
        spare, self._spare = self._spare, None
        if spare is not None:
            await spare.kill()

    def _add(self, worker: WorkerProcess) -> None:
        self._workers[worker.number] = worker
        task = asyncio.create_task(self._watch(worker))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def _watch(self, worker: WorkerProcess) -> None:
        """Wait until a worker ends, and replace it, if it was to go on."""
        try:
            how = await worker.wait()
        except Exception as error:  # what it said can't be read: it is not to be trusted
            log_fault(f"what worker {worker.number} said", error)
            await worker.kill()
            how = "it was killed"
        self._workers.pop(worker.number, None)
        self._sums.forget(worker.number)
        self.page.ended(worker.number, worker.last_counts)
        await self.peers.forget(worker.number)
        if self.is_draining:
            return
        if worker.number not in self._current:
            self._older = {name: number for name, number in self._older.items() if number != worker.number}
            self._tell(list(self._workers), "members")
            return
        _log.error("worker %d (process %d) ended: %s; it is replaced", worker.number, worker.process.pid, how)
        await self._replace(worker)

    def _heed(self, number: int, said: dict[str, Any]) -> dict[str, Any] | None:
        """Do what a worker says: count what callers use, or pass on what it knows to one that stays."""
        if said["kind"] == "count":
            return self._sums.heed(number, said)
        heir = next((self._workers[one] for one in self._current if one in self._workers), None)
        if heir is not None:
            heir.send(said["kind"], ids=said["ids"])
        return None

    async def _replace(self, dead: WorkerProcess) -> None:
        """Start another worker under the number of one that ended, after a while if workers keep ending."""
        self._deaths = 0 if monotonic() - dead.began_at >= _STEADY_S else self._deaths + 1
        while not self.is_draining and dead.number in self._current:
            if self._deaths > 1:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(_LONGEST_WAIT_S, 0.25 * 2.0 ** (self._deaths - 1))):
                        await self._draining.wait()
                        return
            try:
                worker = await self._spawn(dead.number, dead.start.seat, dead.start.config)
            except (OSError, WorkerFailed) as error:
                self._deaths += 1
                _log.error("worker %d can't be replaced: %s", dead.number, error)
                continue
            if self.is_draining or dead.number not in self._current:
                await worker.kill()
                return
            self._add(worker)
            self._tell([worker.number], "serve")
            self._plan_spare()
            return

    def _membership(self) -> dict[str, Any]:
        draining = [number for number in self._workers if number not in self._current]
        older = {name.hex(): number for name, number in self._older.items()}
        return {"current": self._current, "draining": draining, "older": older}

    def _tell(self, numbers: Sequence[int], kind: str) -> None:
        said = self._membership()
        for number in numbers:
            if number in self._workers:
                self._workers[number].send(kind, **said)
