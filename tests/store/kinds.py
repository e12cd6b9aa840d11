"""A redis-server, reached over each kind of connection."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.certificates import Authority
from tests.store.redis_server import redis_server, redis_with_tls


@asynccontextmanager
async def over_tcp() -> AsyncIterator[str]:
    """Run a redis-server; yield its URL."""
    async with redis_server() as server:
        yield server.url


@asynccontextmanager
async def over_unix() -> AsyncIterator[str]:
    """Do the same, over a Unix socket."""
    async with redis_server() as server:
        yield f"unix://{server.socket}"


@asynccontextmanager
async def over_tls() -> AsyncIterator[str]:
    """Do the same, with TLS."""
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder))
        async with redis_with_tls(authority.sign("redis"), authority.file, "--tls-auth-clients", "no") as host:
            yield f"rediss://{host}?ssl_ca_certs={authority.file}"
