"""The connections to Redis, by the scheme of a URL. Needs the extra `redis`.

redis://[[user]:password@]host[:port][/db]     rediss:// with TLS, unix:///path/to/socket[?db=N]
redis+sentinel://host[:port],host[:port]/name  the primary that Sentinel names, rediss+sentinel:// with TLS
redis+cluster://host[:port],host[:port]        Redis Cluster, rediss+cluster:// with TLS

With TLS, `?ssl_ca_certs=FILE` names whom to trust instead of the system's authorities, and `&ssl_certfile=FILE` and
`&ssl_keyfile=FILE` what to show.
"""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from proxy.store.redis_store import Command
from proxy.store.redis_wires import MOST, Wires
from proxy.store.store import StoreError

SOCKET_S = 5.0  # without an answer the connection is given up: more than readers block for
_AS_THEY_COME = (
    "DEL",
    "EXISTS",
    "PEXPIRE",
    "SADD",
    "SET",
    "SMEMBERS",
    "SREM",
    "XADD",
    "XRANGE",
    "XREAD",
    "XREVRANGE",
    "HGETALL",
)
"""Commands whose replies are read by `redis_store`."""
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_PORT, _SENTINEL_PORT = 6379, 26379


class RedisConnections:
    """The connections to one Redis, Sentinel's primary, or a cluster."""

    def __init__(self, url: str) -> None:
        """Raises: ValueError, for a URL of another form."""
        _check_numbers(url)
        self.is_cluster = "+cluster:" in url
        self._sentinel: Any = None
        self._client: Any = self._cluster(url) if self.is_cluster else self._single(url)
        for name in _AS_THEY_COME if self.is_cluster else ():
            self._client.response_callbacks.pop(name, None)
        self._free = asyncio.Semaphore(MOST)  # of a cluster
        self._wires = None if self.is_cluster else Wires(self._client.connection_pool.make_connection, SOCKET_S)

    def _single(self, url: str) -> Any:
        if "+sentinel:" not in url:
            return Redis.from_url(url, **_OPTIONS)
        parts, hosts = _split(url, _SENTINEL_PORT)
        name, _, db = parts.path.strip("/").partition("/")
        if not name:
            raise ValueError("the URL of Sentinel lacks the name of the primary: redis+sentinel://HOST:PORT/NAME")
        keys = _credentials(parts)
        make: Any = Sentinel
        tls = {name: value for name, value in keys.items() if name.startswith("ssl")}
        self._sentinel = make(hosts, sentinel_kwargs=_OPTIONS | tls, **keys)
        return self._sentinel.master_for(name, db=int(db or 0), **_OPTIONS, **keys)

    def _cluster(self, url: str) -> Any:
        parts, hosts = _split(url, _PORT)
        nodes = [ClusterNode(host, port) for host, port in hosts]
        return RedisCluster(startup_nodes=nodes, socket_timeout=SOCKET_S, protocol=2, **_credentials(parts))

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        if self._wires is not None:
            return await self._wires.run(commands)
        if commands[0][0] == "XREAD":  # waits for long: there are as many as there are lanes
            return await self._run_in_cluster(commands)
        async with self._free:
            return await self._run_in_cluster(commands)

    async def _run_in_cluster(self, commands: Sequence[Command]) -> list[Any]:
        """Do so where each key leads to another server, which redis-py knows."""
        try:
            if len(commands) == 1:
                return [await self._run_one(commands[0])]
            pipeline = self._client.pipeline()
            for command in commands:
                pipeline.execute_command(*command)
            replies = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreError(f"{type(error).__name__}: {error}") from None
        return [StoreError(str(reply)) if isinstance(reply, Exception) else reply for reply in replies]

    async def _run_one(self, command: Command) -> Any:
        try:
            return await self._client.execute_command(*command)
        except ResponseError as error:
            return StoreError(str(error))

    async def close(self) -> None:
        if self._wires is not None:
            await self._wires.close()
        await self._client.aclose()
        for sentinel in self._sentinel.sentinels if self._sentinel is not None else ():
            await sentinel.aclose()


_OPTIONS: dict[str, Any] = {
    "socket_timeout": SOCKET_S,
    "socket_connect_timeout": SOCKET_S,
    "protocol": 2,
    "driver_info": None,  # else each connection begins with two commands that Redis has since 7.2
    "retry": Retry(NoBackoff(), 1),  # for a connection that was closed meanwhile; who waits for longer asks again
}


def _split(url: str, port: int) -> tuple[Any, list[tuple[str, int]]]:
    """Return the parts of a URL with several hosts, and these. Raises: ValueError."""
    parts = urlsplit(url)
    hosts = []
    for text in parts.netloc.rpartition("@")[2].split(","):
        host, colon, number = text.rpartition(":") if not text.endswith("]") else (text, "", "")
        hosts.append((host.strip("[]"), int(number)) if colon else (text.strip("[]"), port))
    return parts, hosts


def _check_numbers(url: str) -> None:
    """Raises: ValueError, for a port or a database that is no number, which it does not show.

    They may be a part of the password, if that has a slash.
    """
    try:
        parts, _ = _split("" if url.startswith("unix:") else url, _PORT)
        if "+" not in parts.scheme:
            int(parts.path.strip("/") or 0)
        elif "+sentinel" in parts.scheme:
            int(parts.path.strip("/").partition("/")[2] or 0)
    except ValueError:
        raise ValueError(
            "store.url: the port or the database is no number; in a password / is written %2F, @ is %40, and : is %3A"
        ) from None


def _credentials(parts: Any) -> dict[str, Any]:
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    found: dict[str, Any] = {}
    if parts.scheme.startswith("rediss"):
        found = {"ssl": True, **{name: value for name, value in parse_qsl(parts.query) if name in _TLS_FILES}}
    if user:
        found["username"] = unquote(user)
    if password:
        found["password"] = unquote(password)
    return found
