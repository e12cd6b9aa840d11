"""Redis over TLS, by a real server with certificates that the tests make: who is trusted, and who is not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.store.redis_client import RedisConnections
from proxy.store.store import StoreError
from tests.certificates import Authority
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.stage import staged
from tests.store.nodes import sharing
from tests.store.redis_server import redis_sentinel_with_tls, redis_with_tls


async def pong(url: str) -> list[object]:
    """Return the reply of a Redis to a command, over a connection of its own."""
    connections = RedisConnections(url)
    try:
        return await connections.run([("EXISTS", "st:none")])
    finally:
        await connections.close()


@asynccontextmanager
async def showing(authority: Authority, *, clients: str = "no", dns: str = "localhost") -> AsyncIterator[str]:
    """Run a server that shows a certificate of an authority; `clients`: whether they are to show one, too."""
    certificate = authority.sign("redis", dns=dns)
    async with redis_with_tls(certificate, authority.file, "--tls-auth-clients", clients) as host:
        yield host


async def test_server_of_an_unknown_authority_is_not_talked_to(authority: Authority, tmp_path: Path) -> None:
    """Whoever poses as Redis would be told every answer."""
    stranger = Authority(tmp_path, "stranger")
    async with showing(authority) as host:
        assert await pong(f"rediss://{host}?ssl_ca_certs={authority.file}") == [0]
        for url in (f"rediss://{host}?ssl_ca_certs={stranger.file}", f"rediss://{host}"):
            with pytest.raises(StoreError, match="certificate verify failed"):
                await pong(url)


async def test_server_of_another_name_is_not_talked_to(authority: Authority) -> None:
    """Its certificate is for somebody else."""
    async with showing(authority, dns="elsewhere.example") as host:
        with pytest.raises(StoreError, match="certificate verify failed"):
            await pong(f"rediss://{host}?ssl_ca_certs={authority.file}")


async def test_server_that_wants_a_certificate_is_shown_one(authority: Authority) -> None:
    """Of which the URL names the files."""
    mine = authority.sign("proxy")
    async with showing(authority, clients="yes") as host:
        url = f"rediss://{host}?ssl_ca_certs={authority.file}"
        assert await pong(f"{url}&ssl_certfile={mine}&ssl_keyfile={mine}") == [0]
        with pytest.raises(StoreError):
            await pong(url)


async def test_server_without_tls_is_not_talked_to_in_the_clear(authority: Authority) -> None:
    """Nor one with TLS by a client without."""
    async with showing(authority) as host:
        with pytest.raises(StoreError):
            await pong(f"redis://{host}")


async def test_sentinel_is_asked_over_tls_too(authority: Authority) -> None:
    """And so is the primary that it names, to which the URL's certificate is shown."""
    mine = authority.sign("proxy")
    async with redis_sentinel_with_tls(authority.sign("redis"), authority.file) as host:
        files = f"ssl_ca_certs={authority.file}&ssl_certfile={mine}&ssl_keyfile={mine}"
        assert await pong(f"rediss+sentinel://{host}/main?{files}") == [0]
        with pytest.raises(StoreError):
            await pong(f"rediss+sentinel://{host}/main")


async def test_nodes_share_streams_over_tls(authority: Authority) -> None:
    """A follower at another node gets the same bytes."""
    word, last = chunk_frame("word"), FINISH + DONE
    async with (
        showing(authority) as host,
        staged() as stage,
        sharing(stage.url, f"rediss://{host}?ssl_ca_certs={authority.file}") as (owner, other),
    ):
        client = await owner.send_chat()
        turn = await stage.next()
        await turn.body()
        turn.begin()
        turn.chunk(word)
        answer = await client.answer()
        follower = await other.follow(answer.stream_id, "mode=raw")
        turn.end(last)
        assert await follower.read() == await answer.read() == word + last
