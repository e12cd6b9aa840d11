"""The way up, against an upstream that says exactly what each test has it say."""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from proxy.upstream.pool import ConnectionPool
from proxy.wire.errors import ConnectTimeout, Garbled, Unreachable, UpstreamTimeout
from tests.certificates import self_signed
from tests.event_loops import GUARD_S, on_each_loop, until
from tests.exchanges import GET, NO_LIMITS, Listener, listened, opening, pieces, upstream
from tests.stage import Stage, Turn, staged


async def broken_off(piece: bytes, cue: asyncio.Event, over: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield a piece of a body whose client then breaks off, when it is told to."""
    yield piece
    await cue.wait()
    over.set()
    raise ConnectionResetError


# Connections.


@on_each_loop
async def test_connections_are_used_again() -> None:
    """One after the other on one; at once on one each; afterwards all wait."""
    async with staged() as stage, upstream(stage.url) as up:
        for _ in range(3):
            task = opening(up)
            (await stage.next()).reply("200 OK")
            await listened(await task)
        assert (stage.connections, up.idle) == (1, 1)
        tasks = [opening(up) for _ in range(3)]
        turns = [await stage.next() for _ in tasks]
        for turn in turns:
            turn.reply("200 OK")
        for task in tasks:
            await listened(await task)
        assert (stage.connections, up.idle) == (3, 3)


@on_each_loop
async def test_idle_connections_expire() -> None:
    """After the keep-alive time they are closed, asked for or not."""
    async with staged() as stage, upstream(stage.url, keepalive_s=0.1) as up:
        task = opening(up)
        turn = await stage.next()
        turn.reply("200 OK")
        await listened(await task)
        await turn.wait_left()
        assert up.idle == 0


@on_each_loop
async def test_connection_that_the_upstream_closed_is_not_used() -> None:
    """One that is seen to be closed costs nothing: the next request goes out once, on a new one."""
    async with staged() as stage, upstream(stage.url) as up:
        task = opening(up)
        turn = await stage.next()
        turn.reply("200 OK")
        await listened(await task)
        turn.close()
        await turn.wait_left()
        task = opening(up)
        turn = await stage.next()
        turn.reply("200 OK")
        await listened(await task)
        assert (stage.connections, len(stage.turns)) == (2, 2)


@on_each_loop
async def test_bytes_on_an_idle_connection_close_it() -> None:
    """Nobody asked for them (RFC 9112 section 9.2): they are nobody's answer."""
    async with staged() as stage, upstream(stage.url) as up:
        task = opening(up)
        turn = await stage.next()
        turn.reply("200 OK")
        await listened(await task)
        turn.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await turn.wait_left()
        task = opening(up)
        (await stage.next()).reply("200 OK", body=b"good")
        assert (await listened(await task)).body == b"good"


@on_each_loop
async def test_what_one_receiver_raises_keeps_no_other_from_its_time_out(
    background_log: list[logging.LogRecord],
) -> None:
    """The one watch over all of them goes on."""
    async with staged() as stage, upstream(stage.url, NO_LIMITS._replace(idle_s=0.1)) as up:
        listeners = []
        for number in range(3):
            task = opening(up)
            (await stage.next()).say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
            exchange = await task
            listener = Listener()
            if number == 0:
                listener.ended = _raise  # type: ignore[method-assign]
            exchange.attach(listener)
            listeners.append(listener)
        for listener in listeners[1:]:
            await listener.wait()
            assert isinstance(listener.error, UpstreamTimeout)
        await until(lambda: up.background.failures == 1)
        assert not up.background.alive
    assert "ZeroDivisionError" in background_log[0].getMessage()


def _raise(*_: Any) -> None:
    raise ZeroDivisionError


async def pooled(up: ConnectionPool, stage: Stage, count: int) -> None:
    """Have so many connections wait for a request."""
    tasks = [opening(up) for _ in range(count)]
    for _ in tasks:
        (await stage.next()).reply("200 OK")
    for task in tasks:
        await listened(await task)
    assert up.idle == count


def end_silently(turn: Turn, how: int) -> None:
    """End the upstream's side of a connection so that the system knows it, and the loop does not yet."""
    sock = socket.socket(fileno=os.dup(turn._transport.get_extra_info("socket").fileno()))
    if how == socket.SHUT_RDWR:  # what arrives after it is answered with a reset
        sock.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    sock.shutdown(how)
    sock.close()


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR])
@pytest.mark.parametrize("body", ["none", "whole", "pieces"])
@on_each_loop
async def test_connection_that_has_ended_by_now_is_not_written_on(body: str, how: int) -> None:
    """Whatever is asked goes out once, on a new one, though the loop has not told that the old ones are closed."""
    async with staged() as stage, upstream(stage.url) as up:
        await pooled(up, stage, 2)
        before = len(stage.turns)
        for turn in stage.turns:
            end_silently(turn, how)
        data = {"none": b"", "whole": b"one", "pieces": pieces(b"one")}[body]
        task = opening(up, b"POST", data) if data else opening(up)
        turn = await stage.next()
        turn.reply("200 OK", body=b"new")
        assert (await listened(await task)).body == b"new"
        assert (len(stage.turns) - before, stage.connections, up.retries) == (1, 3, 0)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
@on_each_loop
async def test_safe_request_is_sent_again_when_its_connection_closes(method: bytes) -> None:
    """It went out on a kept connection, and no byte of an answer came: it is sent once more, on a new one."""
    async with staged() as stage, upstream(stage.url) as up:
        await pooled(up, stage, 1)
        task = opening(up, method)
        (await stage.next()).close()
        again = await stage.next()
        assert again.head.startswith(method + b" /x ")
        again.reply("200 OK")
        assert (await task).status == 200
        (await task).close()
        assert up.retries == 1


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"DELETE", b"LOCK"])
@on_each_loop
async def test_other_request_is_not_sent_again(method: bytes, end: str) -> None:
    """The upstream may have begun to work on what it has read of it (RFC 9110 section 9.2.2)."""
    async with staged() as stage, upstream(stage.url) as up:
        await pooled(up, stage, 1)
        before = len(stage.turns)
        task = opening(up, method, b"body")
        getattr(await stage.next(), end)()
        with pytest.raises(Unreachable):
            await task
        assert (len(stage.turns) - before, up.retries) == (1, 0)


@on_each_loop
async def test_request_is_sent_twice_at_most() -> None:
    """Also when many pooled connections are stale: who knows which of them the upstream has read."""
    async with staged() as stage, upstream(stage.url) as up:
        await pooled(up, stage, 3)
        before = len(stage.turns)
        task = opening(up)
        (await stage.next()).close()
        (await stage.next()).close()
        third = asyncio.create_task(stage.next())
        await asyncio.wait({task, third}, return_when=asyncio.FIRST_COMPLETED)
        assert len(stage.turns) - before == 2
        third.cancel()
        with pytest.raises(Unreachable):
            await task


@on_each_loop
async def test_body_in_pieces_is_not_sent_twice() -> None:
    """It is gone, though the method would allow it."""
    async with staged() as stage, upstream(stage.url) as up:
        await pooled(up, stage, 1)
        task = asyncio.create_task(up.open(b"GET", b"/x", [(b"Content-Length", b"3")], pieces(b"one")))
        (await stage.next()).close()
        with pytest.raises(Unreachable):
            await task
        assert len(stage.turns) == 2


@on_each_loop
async def test_connection_that_still_holds_a_request_is_not_kept() -> None:
    """Refused before it was read, the request stands in the way of the next one."""
    async with staged() as stage, upstream(stage.url) as up:
        task = opening(up, b"POST", bytes(16 * 1024 * 1024))
        turn = await stage.next()
        turn.say(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\ntoo much")
        assert (await listened(await task)).body == b"too much"
        assert up.idle == 0


@pytest.mark.parametrize(
    ("host", "named"),
    [("[::1]", "[::1]"), ("127.0.0.1", "127.0.0.1"), ("localhost", "localhost")],
)
@on_each_loop
async def test_host_names_the_upstream_as_a_url_does(host: str, named: str) -> None:
    """An IPv6 address stands in brackets (RFC 9110 section 7.2)."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(serve, "::1" if "[" in host else "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with upstream(f"http://{host}:{port}") as up:
        await listened(await up.open(*GET))
    listening.close()
    assert f"\r\nHost: {named}:{port}\r\n".encode() in asked[0]


@pytest.mark.parametrize("body", [b"", b"body", b"b" * 100_000])
@on_each_loop
async def test_post_is_not_sent_twice(body: bytes) -> None:
    """The upstream that closed the connection may have worked on it first."""
    async with staged() as stage, upstream(stage.url) as up:
        await pooled(up, stage, 1)
        task = opening(up, b"POST", body)
        (await stage.next()).close()
        with pytest.raises(Unreachable):
            await task
        assert (len(stage.turns), up.retries) == (2, 0)


@on_each_loop
async def test_connection_that_was_closed_while_the_loop_was_held_up_is_not_used() -> None:
    """The loop has not come to its end: so a POST goes out on another one, and is not lost."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        async with upstream(f"http://127.0.0.1:{listening.getsockname()[1]}") as up:
            for number in range(2):
                task = opening(up, b"POST", b"body")
                peer, _ = await loop.sock_accept(listening)
                assert await loop.sock_recv(peer, 1000)
                await loop.sock_sendall(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
                assert (await listened(await task)).body == b"%d" % number
                idle_since = monotonic()
                await until(lambda since=idle_since: monotonic() - since > 0.1)  # type: ignore[misc]
                assert up.idle == 1
                peer.close()  # and no turn of the loop until the next request


UNREAD = b"x" * 20_000_000  # more than two sockets hold


@pytest.mark.parametrize("how", ["at once", "in pieces", "broken off"])
@on_each_loop
async def test_connection_whose_request_was_not_sent_whole_is_not_used_again(how: str) -> None:
    """An answer that comes early is whole; what is left of its request would be taken for the next one."""
    async with staged() as stage, upstream(stage.url) as up:
        length = [(b"Content-Length", b"%d" % len(UNREAD))]
        cue, over = asyncio.Event(), asyncio.Event()
        bodies: dict[str, Any] = {
            "at once": UNREAD,
            "in pieces": pieces(UNREAD),
            "broken off": broken_off(b"a part", cue, over),
        }
        task = asyncio.create_task(up.open(b"POST", b"/x", length, bodies[how]))
        (await stage.next()).say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
        exchange = await task
        await until(lambda: exchange.complete)
        if how == "broken off":
            cue.set()
            await over.wait()
        assert (await listened(exchange)).body == b"early"
        assert up.idle == 0
        task = opening(up)
        (await stage.next()).reply("200 OK", body=b"next")
        assert (await listened(await task)).body == b"next"
        assert stage.connections == 2


@on_each_loop
async def test_connections_have_a_limit() -> None:
    """The next request waits for one to be free, whichever way it becomes so."""
    async with staged() as stage, upstream(stage.url, max_connections=1) as up:
        for free in ("reply", "close", "fail", "cancel"):
            first, second = opening(up), opening(up)
            turn = await stage.next()
            if free == "reply":
                turn.reply("200 OK")
                await listened(await first)
            elif free == "close":
                turn.say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
                (await first).close()
            elif free == "fail":
                turn.say(b"no HTTP\r\n\r\n")
                with pytest.raises(Garbled):
                    await first
            else:
                first.cancel()
            turn = await stage.next()
            assert len([one for one in up.active if one is not None]) == 1
            turn.reply("200 OK")
            await listened(await second)


@asynccontextmanager
async def unanswered() -> AsyncIterator[str]:
    """Yield the URL of a server that answers no attempt to connect: as many wait for it already as may."""
    with socket.socket() as listening, contextlib.ExitStack() as waiting:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("others", [0, 3])
@on_each_loop
async def test_connecting_to_an_address_has_a_time_out(others: int) -> None:
    """Each attempt for itself; its place and its descriptor are given back."""
    limits = NO_LIMITS._replace(connect_s=0.1)
    async with unanswered() as url, upstream(url, limits, max_connections=1 + others) as up, asyncio.timeout(GUARD_S):
        tasks = [opening(up) for _ in range(2 + 2 * others)]
        await asyncio.sleep(0)
        assert up.descriptors == 1 + others
        for task in tasks:
            with pytest.raises(ConnectTimeout):
                await task
        assert up.descriptors == 0


@on_each_loop
async def test_connecting_ends_with_the_pool_or_with_whoever_wants_it() -> None:
    """Without a time-out, too."""
    async with unanswered() as url, asyncio.timeout(GUARD_S):
        async with upstream(url) as up:
            task, other = opening(up), opening(up)
            await asyncio.sleep(0)
            other.cancel()
            with pytest.raises(asyncio.CancelledError):
                await other
            assert up.descriptors == 1
        with pytest.raises(ConnectTimeout):
            await task
        assert up.descriptors == 0


@on_each_loop
async def test_sockets_to_upstreams_send_at_once() -> None:
    """As event loops set it; read from the socket."""
    async with staged() as stage, upstream(stage.url) as up:
        task = opening(up)
        turn = await stage.next()
        (exchange,) = up.active
        assert exchange.connection is not None
        there = exchange.connection.transport.get_extra_info("socket")
        assert there.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        turn.reply("200 OK")
        await listened(await task)


@on_each_loop
async def test_place_is_given_back_when_no_connection_is_made() -> None:
    """Failing to connect, again and again, uses none up."""
    async with staged() as stage:
        url = stage.url
    async with upstream(url, max_connections=1) as up:
        for _ in range(3):
            async with asyncio.timeout(GUARD_S):
                with pytest.raises(Unreachable):
                    await up.open(*GET)


@on_each_loop
async def test_waiter_that_gives_up_takes_no_place() -> None:
    """A request cancelled while it waits for a connection leaves the queue."""
    async with staged() as stage, upstream(stage.url, max_connections=1) as up:
        first, second, third = (opening(up) for _ in range(3))
        turn = await stage.next()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        turn.reply("200 OK")
        await listened(await first)
        (await stage.next()).reply("200 OK")
        await listened(await third)


# The way there.


@on_each_loop
async def test_host_leaves_out_the_zone_of_an_address() -> None:
    """It means something on this machine only."""
    async with staged() as stage, upstream("http://[fe80::1%25eth0]:8000", outbound_proxy=stage.url) as up:
        task = opening(up)
        turn = await stage.next()
        assert turn.all("host") == [b"[fe80::1]:8000"]
        turn.reply("200 OK")
        await listened(await task)


@pytest.mark.parametrize(("userinfo", "authorization"), [("", []), ("user:p%40ss@", [b"Basic dXNlcjpwQHNz"])])
@on_each_loop
async def test_outbound_proxy_is_asked_in_absolute_form(userinfo: str, authorization: list[bytes]) -> None:
    """For an http:// upstream (RFC 9112 section 3.2.2); its credentials go to it in their header."""
    async with staged() as stage:
        proxy = stage.url.replace("http://", f"http://{userinfo}")
        async with upstream("http://upstream.test:8000", outbound_proxy=proxy) as up:
            task = opening(up)
            turn = await stage.next()
            assert turn.target == b"http://upstream.test:8000/x"
            assert turn.all("host") == [b"upstream.test:8000"]
            assert turn.all("proxy-authorization") == authorization
            turn.reply("200 OK", body=b"hello")
            assert (await listened(await task)).body == b"hello"


def certificate(tmp_path: Any) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a server for localhost and of a client that trusts it."""
    pem = self_signed(tmp_path, "localhost")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=str(pem))


@on_each_loop
async def test_tls_is_spoken_and_checked(tmp_path: Any) -> None:
    """A body crosses whole, the connection is kept; an upstream that can't be trusted is unreachable."""
    server, client = certificate(tmp_path)
    body = bytes(range(256)) * 4000

    connections: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.transport.abort()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server)
    url = f"https://localhost:{listening.sockets[0].getsockname()[1]}"
    async with upstream(url, ssl_context=client) as up:
        for _ in range(2):
            assert (await listened(await up.open(*GET))).body == body
        assert (up.idle, len(connections)) == (1, 1)
    async with upstream(url) as up:
        with pytest.raises(Unreachable) as raised:
            await up.open(*GET)
        assert "ertificate" in raised.value.message
    listening.close()
    await listening.wait_closed()


@on_each_loop
async def test_nobody_listens() -> None:
    """An address nobody listens at is unreachable; which address it is, is not the client's to know."""
    async with staged() as stage:
        url = stage.url
    async with upstream(url) as up:
        with pytest.raises(Unreachable) as raised:
            await up.open(*GET)
        assert url.removeprefix("http://") not in raised.value.message
