"""What systemd hands over and is told, by processes that are started as it would start them."""

import asyncio
import fcntl
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.request import urlopen

import pytest

from proxy.tools.systemd import Notifier, address_of, inherited
from tests.http_client import request
from tests.nursery import ADDRESS, nursery
from tests.programs import system_tool
from tests.spawned import FREE, GUARD_S, answered, line, serving_at

HEALTH = request("GET", "/healthz")
SERVE = (sys.executable, "-m", "proxy.tools.cli", "serve")


def listening(host: str = "127.0.0.1", kind: int = socket.SOCK_STREAM) -> socket.socket:
    """Return a socket on a free port, which listens if its kind can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, kind)
    made.bind((host, 0))
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


LAUNCH = """\
import os, sys
for number, descriptor in enumerate(sys.argv[1].split()):
    os.dup2(int(descriptor), 3 + number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


@asynccontextmanager
async def activated(*files: socket.socket | BinaryIO, names: str = "", **settings: str) -> AsyncIterator[Process]:
    """Run `streamtee serve` with open files from descriptor 3 on, and with the variables that systemd sets."""
    handed = [fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 20) for one in files]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMTEE_")}
    variables = {"LISTEN_FDS": str(len(handed)), "LISTEN_FDNAMES": names, ADDRESS: nursery().path}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-ISc", LAUNCH, " ".join(map(str, handed)), str(nursery().launcher), "serve"),
        stdout=PIPE,
        stderr=PIPE,
        env=environment | variables | settings,
        pass_fds=handed,
    )
    for descriptor in handed:
        os.close(descriptor)
    try:
        async with asyncio.timeout(GUARD_S):
            yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


# Sockets


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_sockets_that_are_handed_over_are_served(host: str) -> None:
    """Each by its name, in place of the configured addresses."""
    with closing(listening(host)) as admin, closing(listening(host)) as data:
        async with activated(admin, data, names="admin:streamtee.socket", **FREE) as process:
            url, admin_url = await serving_at(process)
            assert (url, admin_url) == (f"http://{address_of(data)}", f"http://{address_of(admin)}")
            for path in (f"{url}/healthz", f"{admin_url}/readyz"):
                with await asyncio.to_thread(urlopen, path, timeout=GUARD_S) as answer:
                    assert answer.status == 200


async def test_data_port_alone_may_be_handed_over() -> None:
    """Without a name, as LISTEN_FDNAMES may be missing; the other is opened as configured."""
    with closing(listening()) as data:
        async with activated(data, **FREE) as process:
            url, admin_url = await serving_at(process)
            assert url == f"http://{address_of(data)}"
            assert (await answered(admin_url, request("GET", "/readyz")))[0] == 200


async def test_client_that_connects_between_two_processes_is_served() -> None:
    """The socket listens while nobody accepts: nobody is refused while the service is replaced."""
    with closing(listening()) as data:
        async with activated(data, **FREE) as process:
            url, _ = await serving_at(process)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        asking = asyncio.create_task(answered(url, HEALTH))
        async with activated(data, **FREE) as process:
            assert (await asking)[0] == 200


async def test_real_activation_starts_the_proxy_with_the_first_client() -> None:
    """By systemd's own tool."""
    tool = system_tool("systemd-socket-activate")
    with closing(listening()) as free:
        address = address_of(free)
    environment = {**os.environ, "STREAMTEE_ADMIN": "127.0.0.1:0"}
    names = ("--setenv=STREAMTEE_ADMIN", f"--setenv=PYTHONPATH={Path(__file__).parents[2]}")
    process = await asyncio.create_subprocess_exec(
        tool, f"--listen={address}", *names, *SERVE, stdout=PIPE, stderr=PIPE, env=environment
    )
    try:
        async with asyncio.timeout(GUARD_S):
            assert process.stderr is not None
            while b"Listening on" not in await process.stderr.readline():
                pass
            assert (await answered(f"http://{address}", HEALTH))[0] == 200
            assert f"on http://{address}," in await line(process)
    finally:
        process.kill()
        await process.communicate()


async def test_address_of_the_socket_decides_what_is_safe() -> None:
    """A configuration for loopback is no leave to serve others with a key of ours."""
    with closing(listening("0.0.0.0")) as data:
        address = address_of(data)
        async with activated(data, **FREE, STREAMTEE_UPSTREAM__KEY="sk-ours") as process:
            _, complaint = await process.communicate()
    assert process.returncode == 2
    assert f"whoever reaches {address} could use upstream.key".encode() in complaint


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        ((socket.SOCK_DGRAM,), b"is not one that listens for TCP"),
        ((socket.SOCK_STREAM, socket.SOCK_STREAM), b"hands over two sockets for listen"),
    ],
)
async def test_socket_that_can_not_be_served_is_refused(kinds: tuple[int, ...], told: bytes) -> None:
    """With what is wrong, and what is allowed."""
    sockets = [listening(kind=kind) for kind in kinds]
    async with activated(*sockets, **FREE) as process:
        _, complaint = await process.communicate()
    for one in sockets:
        one.close()
    assert process.returncode == 2
    assert told in complaint


def test_sockets_of_another_process_are_left_alone() -> None:
    """A child inherits the variables, not the sockets."""
    assert inherited({"LISTEN_PID": "1", "LISTEN_FDS": "2"}, 4711) == {}
    assert inherited({}, 4711) == {}
    assert inherited({"LISTEN_PID": "4711", "LISTEN_FDS": "0"}, 4711) == {}


async def test_descriptor_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    """It is named."""
    with (tmp_path / "file").open("wb") as file:
        async with activated(file, **FREE) as process:
            _, complaint = await process.communicate()
    assert process.returncode == 2
    assert b"the descriptor 3 that systemd hands over is not a socket" in complaint


# What systemd is told


class Manager:
    """The socket at which a service manager is told."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + path[1:] if path.startswith("@") else path)
        self._socket.setblocking(False)

    async def told(self) -> dict[str, str]:
        """Wait for the next message; return its variables."""
        async with asyncio.timeout(GUARD_S):
            message = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
        return dict(row.split("=", 1) for row in message.decode().splitlines())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """A manager, at a path in the file system or in none."""
    path = str(tmp_path / "notify") if request.param == "file" else f"@streamtee-{os.getpid()}-{tmp_path.name}"
    made = Manager(path)
    yield made
    made.close()


async def test_service_manager_is_told_what_happens(manager: Manager) -> None:
    """That it serves, once it does; again and again that it lives; that it ends, and how long that may take."""
    settings = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "100000", "STREAMTEE_DRAIN_S": "5", **FREE}
    async with activated(**settings) as process:
        url, _ = await serving_at(process)
        ready = await manager.told()
        assert (ready["READY"], ready["STATUS"]) == ("1", f"serving on {url}")
        for _ in range(3):
            assert await manager.told() == {"WATCHDOG": "1"}
        process.send_signal(signal.SIGTERM)
        while (told := await manager.told()) == {"WATCHDOG": "1"}:
            pass
        assert told == {"STOPPING": "1", "STATUS": "draining", "EXTEND_TIMEOUT_USEC": "15000000"}
        assert await process.wait() == 0


async def test_readiness_is_told_after_the_first_client_could_be_served(manager: Manager) -> None:
    """Not while the address is not listened on."""
    async with activated(NOTIFY_SOCKET=manager.path, **FREE) as process:
        told = await manager.told()
        assert (await answered(told["STATUS"].removeprefix("serving on "), HEALTH))[0] == 200
        assert process.returncode is None


async def test_watchdog_of_another_process_is_not_told(manager: Manager) -> None:
    """Only WATCHDOG_PID is watched."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}, os.getpid())
    notifier.ready("x")
    notifier.stopping(1)
    assert [(await manager.told()).get("READY"), (await manager.told()).get("STOPPING")] == ["1", "1"]
    notifier.stopped()


async def test_service_runs_without_a_manager(tmp_path: Path) -> None:
    """Nobody is at the socket that the variable names; other tests run it without the variable."""
    nobody = {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "100000"}
    async with activated(**nobody, **FREE) as process:
        url, _ = await serving_at(process)
        assert (await answered(url, HEALTH))[0] == 200
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
