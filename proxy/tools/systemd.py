"""What systemd hands to a service, and what the service tells it: sockets, readiness, a watchdog.

By environment variables and a datagram socket, without libsystemd: sd_listen_fds(3), sd_notify(3),
sd_watchdog_enabled(3). Without these variables nothing happens.
"""

import asyncio
import os
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import suppress

_FIRST_DESCRIPTOR = 3
ADMIN = "admin"
"""The name (FileDescriptorName=) of the admin port's socket; any other is the data port's."""


class BadSocket(ValueError):
    """A socket that was handed over is none that the proxy can listen on."""


def handed_over(environment: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """Return the sockets that systemd hands over; their addresses are part of the configuration from now on.

    They are set in the environment, which overrides the file: so what is refused off loopback is refused for them, too,
    and reading the configuration again changes no address. Raises: BadSocket.
    """
    sockets = inherited(environment, os.getpid())
    for key, listening in sockets.items():
        environment[f"STREAMTEE_{key.upper()}"] = address_of(listening)
    return sockets


def inherited(environment: Mapping[str, str], process: int) -> dict[str, socket.socket]:
    """Return the listening sockets that were handed to a process: `listen` and `admin`, as the keys are called.

    Raises: BadSocket.
    """
    if environment.get("LISTEN_PID") != str(process):  # inherited by a child, which they are not for
        return {}
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, socket.socket] = {}
    for number in range(int(environment.get("LISTEN_FDS") or 0)):
        name = names[number] if number < len(names) else ""
        key = ADMIN if name == ADMIN else "listen"
        if key in found:
            raise BadSocket(f"systemd hands over two sockets for {key}; FileDescriptorName={ADMIN} is the admin port's")
        found[key] = _listening(_FIRST_DESCRIPTOR + number, name)
    return found


def _listening(descriptor: int, name: str) -> socket.socket:
    try:
        found = socket.socket(fileno=descriptor)
        is_listening = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise BadSocket(f"the descriptor {descriptor} that systemd hands over is not a socket: {error}") from None
    if found.family not in (socket.AF_INET, socket.AF_INET6) or not is_listening:
        raise BadSocket(f"the socket {name!r} that systemd hands over is not one that listens for TCP")
    os.set_inheritable(descriptor, False)
    return found


def address_of(listening: socket.socket) -> str:
    """Return the HOST:PORT of a socket."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Notifier:
    """Tells the service manager what state the service is in, if one listens."""

    def __init__(self, environment: Mapping[str, str], process: int) -> None:
        self._path = environment.get("NOTIFY_SOCKET", "")
        self._watchdog_s = _watchdog_s(environment, process)
        self._beats: asyncio.Task[None] | None = None

    def ready(self, status: str) -> None:
        """Say that clients are served; from now on the watchdog is told that the event loop runs."""
        self._tell("READY=1", f"STATUS={status}")
        if self._watchdog_s and self._path:
            self._beats = asyncio.create_task(self._beat(self._watchdog_s / 2))

    def stopping(self, within_s: float) -> None:
        """Say that the service ends, and how long that may take: else it would be killed after TimeoutStopSec."""
        self._tell("STOPPING=1", "STATUS=draining", f"EXTEND_TIMEOUT_USEC={int(within_s * 1e6)}")

    def stopped(self) -> None:
        """End the watchdog's task."""
        if self._beats is not None:
            self._beats.cancel()

    async def _beat(self, every_s: float) -> None:
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(every_s)

    def _tell(self, *lines: str) -> None:
        if not self._path:
            return
        path = "\0" + self._path[1:] if self._path.startswith("@") else self._path  # an abstract one (unix(7))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            with suppress(OSError):  # no manager, or one that does not read: clients are served all the same
                sender.sendto("\n".join(lines).encode(), path)


def _watchdog_s(environment: Mapping[str, str], process: int) -> float:
    """Return within how many seconds the watchdog is to be told that the process lives; 0 for no watchdog."""
    if environment.get("WATCHDOG_PID", str(process)) != str(process):
        return 0
    return int(environment.get("WATCHDOG_USEC") or 0) / 1e6
