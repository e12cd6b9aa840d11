"""A redis-server of the system, in a folder of its own, that tests kill, stop and restart.

    python -m tests.store.redis_server COMMAND [ARGUMENT...]

runs a command with STORE_URL set to one.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.programs import system_tool

GUARD_S = 10.0
DATABASES = 10_000
"""That a server has for tests with STORE_URL: each proxy chooses one of them."""


class RedisServer:
    """One redis-server on loopback. `arguments` go to its command line."""

    def __init__(self, *arguments: str, port: int = 0, config: str = "") -> None:
        """`config`: the configuration file, which comes before the arguments."""
        self._program = system_tool("redis-server")
        self._arguments = arguments
        self._config = config
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")
        self.port = port or free_port()
        self.socket = Path(self._folder.name) / "socket"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        own = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name]
        faster = ["--save", "", "--repl-diskless-sync-delay", "0", "--unixsocket", str(self.socket)]
        command = [self._program, *filter(None, [self._config]), *own, *faster, *self._arguments]
        self._process = subprocess.Popen(  # noqa: ASYNC220  (it only forks)
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        async with asyncio.timeout(GUARD_S):
            while await self.command("PING") != b"+PONG\r\n":
                await asyncio.sleep(0.02)

    async def begin_cluster(self, first: int = 0, last: int = 16383) -> None:
        """Start it, and give it these slots of a cluster."""
        await self.start()
        await self.command("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))

    async def wait_cluster(self) -> None:
        """Wait until it knows who has each slot."""
        async with asyncio.timeout(GUARD_S):
            while b"cluster_state:ok" not in await self.command("CLUSTER", "INFO"):
                await asyncio.sleep(0.02)

    async def wait_replica(self, replica: "RedisServer") -> None:
        """Wait until a replica is sent what is written here: some time after it says that it is connected."""
        await self.command("SET", "written", "1")
        async with asyncio.timeout(GUARD_S):
            while await replica.command("EXISTS", "written") != b":1\r\n":
                await asyncio.sleep(0.02)

    async def command(self, *words: str) -> bytes:
        """Run a command on a connection of its own; return the beginning of its reply, b"" if there is none."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return b""
        try:
            parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
            writer.write(f"*{len(words)}\r\n{''.join(parts)}".encode())
            return await reader.read(65536)
        except OSError:
            return b""
        finally:
            writer.close()

    def pause(self) -> None:
        """Let it do nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()


@asynccontextmanager
async def redis_server(*arguments: str) -> AsyncIterator[RedisServer]:
    """Run a redis-server."""
    server = RedisServer(*arguments)
    try:
        await server.start()
        yield server
    finally:
        server.close()


@asynccontextmanager
async def redis_with_tls(certificate: Path, authority: Path, *arguments: str) -> AsyncIterator[str]:
    """Run a redis-server that shows a certificate; yield the host and port of its URL, by the certificate's name."""
    port = free_port()
    async with redis_server("--tls-port", str(port), *_files(certificate, authority), *arguments):
        yield f"localhost:{port}"


def _files(certificate: Path, authority: Path) -> tuple[str, ...]:
    shown = ("--tls-cert-file", str(certificate), "--tls-key-file", str(certificate))
    return (*shown, "--tls-ca-cert-file", str(authority), "--tls-replication", "yes")


@asynccontextmanager
async def redis_cluster() -> AsyncIterator[str]:
    """Run a cluster of two servers, each with half of the slots; yield its URL."""
    servers = [RedisServer("--cluster-enabled", "yes") for _ in range(2)]
    try:
        await servers[0].begin_cluster(0, 8191)
        await servers[1].begin_cluster(8192, 16383)
        await servers[0].command("CLUSTER", "MEET", "127.0.0.1", str(servers[1].port))
        for server in servers:
            await server.wait_cluster()
        yield f"redis+cluster://127.0.0.1:{servers[0].port}"
    finally:
        for server in servers:
            server.close()


@asynccontextmanager
async def redis_sentinel() -> AsyncIterator[str]:
    """Run a Sentinel that names a server as its primary; yield its URL."""
    async with redis_server() as server, _sentinel(f"127.0.0.1 {server.port}") as sentinel:
        yield f"redis+sentinel://127.0.0.1:{sentinel.port}/main"


@asynccontextmanager
async def redis_replicated() -> AsyncIterator[tuple[str, RedisServer]]:
    """Run a Sentinel, a primary and its replica, which takes over; yield the Sentinel's URL and the primary."""
    quick = "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
    async with redis_server() as primary, redis_server("--replicaof", "127.0.0.1", str(primary.port)) as replica:
        await primary.wait_replica(replica)
        async with _sentinel(f"127.0.0.1 {primary.port}", after=quick) as sentinel:
            async with asyncio.timeout(GUARD_S):
                while str(replica.port).encode() not in await sentinel.command("SENTINEL", "REPLICAS", "main"):
                    await asyncio.sleep(0.02)
            yield f"redis+sentinel://127.0.0.1:{sentinel.port}/main", primary


@asynccontextmanager
async def redis_sentinel_with_tls(certificate: Path, authority: Path) -> AsyncIterator[str]:
    """Do the same, with TLS between all of them; yield the host and port of the Sentinel."""
    async with redis_with_tls(certificate, authority) as host:
        port, names = free_port(), "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n"
        files = (*_files(certificate, authority), "--tls-auth-clients", "no")
        async with _sentinel(host.replace(":", " "), "--tls-port", str(port), *files, more=names):
            yield f"localhost:{port}"


@asynccontextmanager
async def _sentinel(primary: str, *arguments: str, more: str = "", after: str = "") -> AsyncIterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="sentinel-") as folder:
        config = Path(folder) / "sentinel.conf"
        config.write_text(f"{more}sentinel monitor main {primary} 1\n{after}")
        sentinel = RedisServer("--sentinel", *arguments, config=str(config))
        try:
            await sentinel.start()
            yield sentinel
        finally:
            sentinel.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


async def run(command: list[str]) -> int:
    """Run a command with STORE_URL set; return its exit status."""
    async with redis_server("--databases", str(DATABASES)) as server:
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "STORE_URL": server.url})
        return await process.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(run(sys.argv[1:])))
