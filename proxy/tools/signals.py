"""What signals have a running server do.

* SIGTERM, SIGINT: drain, and end; the second one: end at once; the third one kills
* SIGHUP: read the configuration and the files it names again, and change in place what can be changed so, or, with
  several workers, have new ones take over; it never ends the process

What comes while a server starts is heeded as soon as its event loop runs: `__main__` has it wait.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import click

from proxy.server.app import Proxy
from proxy.server.config import address, load
from proxy.server.configuration.mistakes import explained
from proxy.server.reload import reload
from proxy.tools.command_error import CommandError
from proxy.workers.admin_port import AdminPort
from proxy.workers.supervisor import Supervisor

_log = logging.getLogger("streamtee")
_ENDING = (signal.SIGTERM, signal.SIGINT)


def end_signal(on_second: Callable[[], object] = bool) -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set. Call it before the server announces its URL.

    What came before, and waited, comes now; have a handler of SIGHUP by then.
    """
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        if not ending.is_set():
            ending.set()
            return
        on_second()
        for number in _ENDING:
            loop.remove_signal_handler(number)

    for number in _ENDING:
        loop.add_signal_handler(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, *_ENDING))
    return ending


class Server(Protocol):
    """A server that a command runs."""

    url: str

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises: OSError."""

    async def stop(self) -> None:
        """Listen no more."""


async def serve_until_signal(server: Server, listen: str, what: str) -> None:
    """Serve at HOST:PORT, and print `what` with the URL, until SIGTERM or SIGINT comes. Raises: CommandError."""
    ending = end_signal()
    try:
        await server.start(*address(listen))
    except (OSError, ValueError) as error:
        raise CommandError(f"can't listen: {error}") from None
    click.echo(f"{what} on {server.url}")
    await ending.wait()
    await server.stop()


def heed_signals(proxy: Proxy, file: Path | None) -> asyncio.Event:
    """Have signals do to a proxy what they should; return the event that says when to drain.

    `file`: that of its configuration.
    """
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _read_again, proxy, file)
    return end_signal(proxy.hurry)


def heed_signals_for_all(supervisor: Supervisor, admin: AdminPort | None) -> asyncio.Event:
    """Have signals do to all workers, and their admin port, what they should; return what says when to drain."""
    loop = asyncio.get_running_loop()
    reloading: set[asyncio.Task[None]] = set()

    async def reload_workers() -> None:
        config = await supervisor.reload()
        if config is not None and admin is not None:
            admin.use(config)

    def reload_all() -> None:
        task = loop.create_task(reload_workers())
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    loop.add_signal_handler(signal.SIGHUP, reload_all)
    return end_signal(supervisor.hurry)


def _read_again(proxy: Proxy, file: Path | None) -> None:
    try:
        changes = reload(proxy, load(file))
    except (OSError, ValueError) as error:
        _log.error("SIGHUP: nothing was changed: %s", explained(error, file))
        return
    _log.warning("SIGHUP: the configuration was read again: %s", changes)
    try:
        proxy.refresh()
    except (OSError, ValueError) as error:
        _log.error("SIGHUP: the certificate in use stays in use: %s", error)
