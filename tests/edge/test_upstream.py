"""The way up, against an upstream that says exactly what each test has it say."""

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from proxy.edge.upstream import Exchange, Timeouts, Upstream, Wire
from proxy.wire.errors import Garbled, Truncated, Unreachable, UpstreamError, UpstreamTimeout
from proxy.wire.http import chunk
from tests.end_to_end.conftest import GUARD_S, Stage, Turn, no_complaints, on_each_loop, staged, until

NO_LIMITS = Timeouts(connect_s=0, first_byte_s=0, idle_s=0, total_s=0)
GET = (b"GET", b"/x", [])


class Listener:
    """A receiver that keeps what it is given, and holds its exchange to the Receiver protocol."""

    def __init__(self) -> None:
        self.body = b""
        self.error: UpstreamError | None = None
        self.over = asyncio.Event()
        self.times: list[float] = []

    def received(self, data: bytes, at: float) -> None:
        assert not self.over.is_set(), "received after the end"
        assert data, "received nothing"
        self.body += data
        self.times.append(at)

    def ended(self, data: bytes, at: float, error: UpstreamError | None) -> None:
        assert not self.over.is_set(), "ended twice"
        self.body += data
        self.error = error
        self.times.append(at)
        self.over.set()

    async def wait(self) -> None:
        async with asyncio.timeout(GUARD_S):
            await self.over.wait()
        assert self.times == sorted(self.times)

    async def bytes(self, count: int) -> bytes:
        await until(lambda: len(self.body) >= count)
        return self.body


@asynccontextmanager
async def upstream(url: str, timeouts: Timeouts = NO_LIMITS, **more: Any) -> AsyncIterator[Upstream]:
    """Open the way to an upstream; see afterwards that nothing of it is left."""
    with no_complaints():
        one = Upstream(url, timeouts, **more)
        try:
            yield one
        finally:
            await one.close()
        assert not one.active
        assert one.idle == 0


def opening(up: Upstream, method: bytes = b"GET", *more: Any, **named: Any) -> "asyncio.Task[Exchange]":
    """Begin a request."""
    return asyncio.create_task(up.open(method, b"/x", [], *more, **named))


async def listened(exchange: Exchange) -> Listener:
    """Hear a response to its end."""
    listener = Listener()
    exchange.attach(listener)
    await listener.wait()
    return listener


def whole(data: bytes) -> list[bytes]:
    return [data]


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


CUTS = pytest.mark.parametrize("cut", [whole, bytewise])


async def say(turn: Turn, pieces: Iterable[bytes]) -> None:
    """Write pieces, each to be read by itself."""
    for piece in pieces:
        await turn.pour(piece)


class Reply(NamedTuple):
    """What an upstream writes, and what is to be made of it."""

    wire: bytes
    body: bytes = b""
    status: int = 200
    keeps: bool = True
    framed: bool = True
    closes: bool = False
    method: bytes = b"GET"


REPLIES = {
    "length": Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "empty": Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "chunked": Reply(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"
    ),
    "chunked oddly": Reply(
        b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING:  Chunked \r\n\r\n0002;a=b\r\nhe\r\n3\r\nllo\r\n000\r\nX-T: 1\r\n\r\n",
        b"hello",
    ),
    "close-delimited": Reply(b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello", keeps=False, framed=False, closes=True),
    "HTTP/1.0": Reply(b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello", keeps=False, framed=False, closes=True),
    "HTTP/1.0, length": Reply(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", keeps=False),
    "connection: close": Reply(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", b"hello", keeps=False
    ),
    "204": Reply(b"HTTP/1.1 204 No Content\r\n\r\n", status=204),
    "304": Reply(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", status=304),
    "HEAD": Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", method=b"HEAD"),
    "HEAD, chunked": Reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", method=b"HEAD"),
    "interim": Reply(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
        status=404,
    ),
    "no reason": Reply(b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "bytes after it": Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200", b"hello", keeps=False),
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
@CUTS
@on_each_loop
async def test_response_is_read_by_its_framing(reply: Reply, cut: Callable[[bytes], list[bytes]]) -> None:
    """However it is cut: status, body, and whether the connection serves another request."""
    async with staged() as stage, upstream(stage.url) as up:
        await _replied(stage, up, reply, cut)


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
@on_each_loop
async def test_response_is_read_so_from_an_upstream_that_has_a_name(reply: Reply) -> None:
    """Then aiohttp makes the connection, and lends it."""
    async with staged() as stage, upstream(stage.url.replace("127.0.0.1", "localhost")) as up:
        await _replied(stage, up, reply, lambda wire: [wire])


async def _replied(stage: Stage, up: Upstream, reply: Reply, cut: Callable[[bytes], list[bytes]]) -> None:
    for number in range(2):
        task = opening(up, reply.method)
        turn = await stage.next()
        await say(turn, cut(reply.wire))
        (turn.close if reply.closes else turn.done.set)()
        exchange = await task
        assert exchange.status == reply.status
        assert exchange.framed == reply.framed
        listener = await listened(exchange)
        assert (listener.body, listener.error) == (reply.body, None)
        if not reply.keeps:
            await turn.wait_left()
        assert up.idle == int(reply.keeps)
        assert stage.connections == (1 if reply.keeps else number + 1)


@CUTS
@on_each_loop
async def test_head_is_kept_as_it_came(cut: Callable[[bytes], list[bytes]]) -> None:
    """Reason, names, values, order and repetitions are bytes; look-up is by lower-case name."""
    async with staged() as stage, upstream(stage.url) as up:
        task = opening(up)
        turn = await stage.next()
        lines = [b"Content-Type: TEXT/Event-Stream; x=y", b"X-Latin: caf\xe9", b"set-cookie: a", b"Set-Cookie: b"]
        await say(turn, cut(b"\r\n".join([b"HTTP/1.1 200 Quite \xe9", *lines, b"Content-Length: 0", b"", b""])))
        exchange = await task
        assert exchange.reason == b"Quite \xe9"
        assert [b"%b: %b" % header for header in exchange.headers] == [*lines, b"Content-Length: 0"]
        assert exchange.header(b"x-latin") == b"caf\xe9"
        assert exchange.header(b"x-none") is None
        assert exchange.is_event_stream
        await listened(exchange)


class Failure(NamedTuple):
    """What an upstream writes before it closes, the error that makes, and whether a head was there before."""

    wire: bytes
    error: type[UpstreamError]
    headed: bool = False
    body: bytes = b""


FAILURES = {
    "nothing": Failure(b"", Unreachable),
    "half a head": Failure(b"HTTP/1.1 200 OK\r\nContent-", Truncated),
    "half a body": Failure(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", Truncated, True, b"hel"),
    "half a chunk": Failure(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", Truncated, True, b"hel"),
    "no end chunk": Failure(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", Truncated, True, b"hel"
    ),
    "bad chunk": Failure(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\nxyz\r\n", Garbled, True, b"hel"
    ),
    "no HTTP": Failure(b"\x16\x03\x01 no HTTP\r\n\r\n", Garbled),
    "another protocol": Failure(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", Garbled
    ),
    "two lengths": Failure(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", Garbled),
    "length and chunks": Failure(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Garbled
    ),
    "endless head": Failure(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000, Garbled),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@on_each_loop
async def test_failure_is_told_as_what_it_is(failure: Failure) -> None:
    """Before the head it is raised; after it the receiver gets what came, and the error."""
    async with staged() as stage, upstream(stage.url) as up:
        task = opening(up)
        turn = await stage.next()
        turn.say(failure.wire)
        if failure.headed:
            exchange = await task
            listener = Listener()
            exchange.attach(listener)
            await listener.bytes(len(failure.body))
            turn.close()
            await listener.wait()
            assert listener.body == failure.body
            assert type(listener.error) is failure.error
        else:
            turn.close()
            with pytest.raises(failure.error):
                await task
        await turn.wait_left()
        assert len(stage.turns) == 1


@on_each_loop
async def test_reset_ends_a_body_that_ends_with_the_connection() -> None:
    """Only a FIN is the end of a close-delimited body; an RST is a truncation."""
    async with staged() as stage, upstream(stage.url) as up:
        task = opening(up)
        turn = await stage.next()
        turn.say(b"HTTP/1.1 200 OK\r\n\r\nhel")
        listener = Listener()
        (await task).attach(listener)
        await listener.bytes(3)
        turn.reset()
        await listener.wait()
        assert isinstance(listener.error, Truncated)


# The receiver.


@on_each_loop
async def test_body_waits_for_its_receiver() -> None:
    """What came before anybody listened is given first, whether the response goes on, has ended, or has broken off."""
    async with staged() as stage, upstream(stage.url) as up:
        for then in ("goes on", "ended", "broken"):
            task = opening(up)
            turn = await stage.next()
            turn.say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
            exchange = await task
            if then == "ended":
                turn.say(b"llo")
            elif then == "broken":
                turn.close()
            turn.done.set()
            probe = opening(up)  # by the time that another exchange has gone all the way, the bytes are there
            other = await stage.next()
            other.reply("200 OK")
            await listened(await probe)
            listener = Listener()
            exchange.attach(listener)
            assert listener.body == {"goes on": b"he", "ended": b"hello", "broken": b"he"}[then]
            assert listener.over.is_set() == (then != "goes on")
            if then == "goes on":
                turn.say(b"llo")
                await listener.wait()
            assert isinstance(listener.error, Truncated) == (then == "broken")


@on_each_loop
async def test_paused_exchange_reads_no_more() -> None:
    """The upstream is held back by TCP; what it said comes whole after resume. Both may be called at any time."""
    async with staged() as stage, upstream(stage.url, NO_LIMITS._replace(idle_s=0.1)) as up:
        task = opening(up)
        turn = await stage.next()
        size = 32 << 20
        turn.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        exchange = await task
        listener = Listener()
        exchange.attach(listener)
        exchange.pause()
        exchange.pause()
        probe = opening(up)
        turn.say(bytes(size))
        other = await stage.next()
        other.reply("200 OK")
        await listened(await probe)
        assert len(listener.body) < size // 2
        async with asyncio.timeout(GUARD_S):  # longer than the idle time, which a paused exchange does not use up
            late = opening(up)
            (await stage.next()).say(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
            assert isinstance((await listened(await late)).error, UpstreamTimeout)
        assert not listener.over.is_set()
        exchange.resume()
        exchange.resume()
        await listener.wait()
        assert (len(listener.body), listener.error) == (size, None)
        exchange.pause()
        exchange.resume()


@on_each_loop
async def test_closed_exchange_tells_nobody() -> None:
    """Its connection is closed at once; closing again, or after the end, is no harm."""
    async with staged() as stage, upstream(stage.url) as up:
        task = opening(up)
        turn = await stage.next()
        turn.say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
        exchange = await task
        listener = Listener()
        exchange.attach(listener)
        await listener.bytes(2)
        exchange.close()
        await turn.wait_left()
        exchange.close()
        assert not listener.over.is_set()
        assert up.idle == 0
        task = opening(up)
        (await stage.next()).reply("200 OK", body=b"hello")
        exchange = await task
        await listened(exchange)
        exchange.close()
        assert up.idle == 1


@on_each_loop
async def test_request_that_is_cancelled_leaves_nothing() -> None:
    """While it waits for the head, its connection is closed."""
    async with staged() as stage, upstream(stage.url) as up:
        task = opening(up)
        turn = await stage.next()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await turn.wait_left()
        assert not up.active


# The request.


@on_each_loop
async def test_request_is_written_as_it_is_given() -> None:
    """Method, target and headers are bytes; only Host is added."""
    async with staged() as stage, upstream(stage.url) as up:
        headers = [(b"X-Latin", b"caf\xe9"), (b"x-lower", b"1"), (b"Content-Length", b"4")]
        task = asyncio.create_task(up.open(b"PROPFIND", b"/a%2Fb?c=%zz&d=\xff", headers, b"body"))
        turn = await stage.next()
        host = stage.url.removeprefix("http://").encode()
        assert turn.head == (
            b"PROPFIND /a%2Fb?c=%zz&d=\xff HTTP/1.1\r\nHost: " + host + b"\r\n"
            b"X-Latin: caf\xe9\r\nx-lower: 1\r\nContent-Length: 4\r\n\r\n"
        )
        assert await turn.body() == b"body"
        turn.reply("200 OK")
        await listened(await task)


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


@pytest.mark.parametrize("chunked", [False, True])
@on_each_loop
async def test_body_in_pieces_is_written_as_it_comes(chunked: bool) -> None:
    """As chunks, or as they are; an empty piece ends nothing."""
    async with staged() as stage, upstream(stage.url) as up:
        framing = (b"Transfer-Encoding", b"chunked") if chunked else (b"Content-Length", b"9")
        body = pieces(b"one", b"", b"two", b"six")
        task = asyncio.create_task(up.open(b"POST", b"/x", [framing], body, chunked=chunked))
        turn = await stage.next()
        assert await turn.body() == b"onetwosix"
        turn.reply("200 OK")
        await listened(await task)
        assert up.idle == 1


@on_each_loop
async def test_answer_before_the_body_has_gone_ends_the_connection() -> None:
    """The rest of the body can't be left out: what comes next on the connection would be taken for it."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 10_000

    async with staged() as stage, upstream(stage.url) as up:
        headers = [(b"Transfer-Encoding", b"chunked")]
        task = asyncio.create_task(up.open(b"POST", b"/x", headers, endless(), chunked=True))
        turn = await stage.next()
        turn.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        listener = await listened(await task)
        assert (listener.body, listener.error) == (b"no", None)
        assert up.idle == 0
        async with asyncio.timeout(GUARD_S):
            await turn.reader.read()
        await turn.wait_left()


@on_each_loop
async def test_body_that_breaks_off_breaks_the_exchange() -> None:
    """The upstream never takes a part for the whole."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise ConnectionResetError

    async with staged() as stage, upstream(stage.url) as up:
        headers = [(b"Transfer-Encoding", b"chunked")]
        task = asyncio.create_task(up.open(b"POST", b"/x", headers, broken(), chunked=True))
        turn = await stage.next()
        with pytest.raises(Unreachable):
            await task
        await turn.wait_left()


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


async def pooled(up: Upstream, stage: Stage, count: int) -> None:
    """Have so many connections wait for a request."""
    tasks = [opening(up) for _ in range(count)]
    for _ in tasks:
        (await stage.next()).reply("200 OK")
    for task in tasks:
        await listened(await task)
    assert up.idle == count


@on_each_loop
async def test_stale_connection_is_made_good_once() -> None:
    """It closed as the request went out: the request is sent again, whole."""
    async with staged() as stage, upstream(stage.url) as up:
        await pooled(up, stage, 1)
        task = opening(up, b"POST", b"body")
        (await stage.next()).close()
        again = await stage.next()
        assert again.head.startswith(b"POST /x ")
        again.reply("200 OK", body=b"made good")
        assert (await listened(await task)).body == b"made good"
        assert up.retries == 1


@on_each_loop
async def test_request_is_sent_twice_at_most() -> None:
    """Also when many pooled connections are stale: who knows which of them the upstream has read."""
    async with staged() as stage, upstream(stage.url) as up:
        await pooled(up, stage, 3)
        before = len(stage.turns)
        task = opening(up, b"POST", b"body")
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
    """It is gone."""
    async with staged() as stage, upstream(stage.url) as up:
        await pooled(up, stage, 1)
        task = asyncio.create_task(up.open(b"POST", b"/x", [(b"Content-Length", b"3")], pieces(b"one")))
        (await stage.next()).close()
        with pytest.raises(Unreachable):
            await task
        assert len(stage.turns) == 2


@on_each_loop
async def test_what_is_to_be_sent_once_is_not_sent_twice() -> None:
    """Though its body is at hand."""
    async with staged() as stage, upstream(stage.url) as up:
        await pooled(up, stage, 1)
        task = asyncio.create_task(up.open(b"POST", b"/x", [(b"Content-Length", b"3")], b"one", once=True))
        (await stage.next()).close()
        with pytest.raises(Unreachable):
            await task
        assert len(stage.turns) == 2


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


# Time.


@pytest.mark.parametrize(
    ("timeouts", "wire", "ending"),
    [
        ({"first_byte_s": 0.1}, b"", "timeout_first_byte"),
        ({"first_byte_s": 0.1}, b"HTTP/1.1 200 OK\r\n", "timeout_first_byte"),
        ({"first_byte_s": 0.1}, b"HTTP/1.1 103 Early Hints\r\n\r\n", "timeout_first_byte"),
        ({"total_s": 0.1}, b"", "timeout_total"),
        ({"first_byte_s": 30, "total_s": 0.1}, b"", "timeout_total"),
        ({"idle_s": 0.1}, b"HTTP/1.1 200 OK\r\n\r\nhel", "timeout_idle"),
        ({"idle_s": 30, "total_s": 0.1}, b"HTTP/1.1 200 OK\r\n\r\nhel", "timeout_total"),
    ],
)
@on_each_loop
async def test_time_outs_are_told_apart(timeouts: dict[str, float], wire: bytes, ending: str) -> None:
    """Each has an ending of its own and names its limit; the connection is closed."""
    async with staged() as stage, upstream(stage.url, NO_LIMITS._replace(**timeouts)) as up:
        task = opening(up)
        turn = await stage.next()
        turn.say(wire)
        began = asyncio.get_running_loop().time()
        if b"hel" in wire:
            listener = await listened(await task)
            assert listener.body == b"hel"
            error = listener.error
        else:
            with pytest.raises(UpstreamTimeout) as raised:
                await task
            error = raised.value
        took = asyncio.get_running_loop().time() - began
        assert isinstance(error, UpstreamTimeout)
        assert error.ending == ending
        assert "0.1 s" in error.message
        assert 0.05 < took < 0.5
        await turn.wait_left()


class Watched:
    """A Progress as a test says it."""

    def __init__(self, fed_at: float, *, awaits_token: bool) -> None:
        self.fed_at, self.awaits_token = fed_at, awaits_token


@pytest.mark.parametrize(
    ("timeouts", "awaits_token", "ending", "says"),
    [
        ({"first_token_s": 0.1}, True, "timeout_first_token", "no token within 0.1 s"),
        ({"first_token_s": 0.1, "idle_s": 0.3}, False, "timeout_idle", "nothing but comments for 0.3 s"),
        ({"first_token_s": 0.3, "idle_s": 0.1}, True, "timeout_idle", "nothing but comments for 0.1 s"),
    ],
)
@on_each_loop
async def test_bytes_that_are_no_progress_hold_off_no_time_out(
    timeouts: dict[str, float], awaits_token: bool, ending: str, says: str
) -> None:
    """Where somebody knows which bytes bring a body on, it goes by those, and by what is due."""
    async with staged() as stage, upstream(stage.url, NO_LIMITS._replace(**timeouts)) as up:
        task = opening(up)
        turn = await stage.next()
        turn.begin()
        exchange, listener = await task, Listener()
        exchange.progress = Watched(asyncio.get_running_loop().time(), awaits_token=awaits_token)
        exchange.attach(listener)
        while not listener.over.is_set():
            turn.chunk(b":\n\n")
            await asyncio.sleep(0.01)
        assert isinstance(listener.error, UpstreamTimeout)
        assert listener.error.ending == ending
        assert says in listener.error.message


@on_each_loop
async def test_paused_exchange_owes_no_token() -> None:
    """It is not read: what it says can't be known."""
    async with staged() as stage, upstream(stage.url, NO_LIMITS._replace(first_token_s=0.1, idle_s=0.1)) as up:
        task = opening(up)
        turn = await stage.next()
        turn.begin()
        exchange, listener = await task, Listener()
        exchange.progress = Watched(asyncio.get_running_loop().time(), awaits_token=True)
        exchange.attach(listener)
        exchange.pause()
        late = opening(up)
        (await stage.next()).say(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
        assert isinstance((await listened(await late)).error, UpstreamTimeout)
        assert not listener.over.is_set()
        exchange.resume()
        await listener.wait()
        assert isinstance(listener.error, UpstreamTimeout)


@on_each_loop
async def test_connecting_has_a_time_out() -> None:
    """TLS included, and waiting for a free connection."""
    async with staged() as stage:
        limits = NO_LIMITS._replace(connect_s=0.1)
        async with upstream(stage.url.replace("http:", "https:"), limits) as up:
            with pytest.raises(UpstreamTimeout) as raised:
                await up.open(*GET)
            assert raised.value.ending == "timeout_connect"
        async with upstream(stage.url, limits, max_connections=1) as up:
            opening_first = opening(up)
            await stage.next()
            with pytest.raises(UpstreamTimeout) as raised:
                await up.open(*GET)
            assert raised.value.ending == "timeout_connect"
            opening_first.cancel()


# The way there.


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
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "certificate.pem"
    pem.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=str(pem))


@on_each_loop
async def test_tls_is_spoken_and_checked(tmp_path: Any) -> None:
    """A body crosses whole, the connection is kept; an upstream that can't be trusted is unreachable."""
    server, client = certificate(tmp_path)
    body = bytes(range(256)) * 4000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
        assert up.idle == 1
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


# The short way of an event. What it must never do is to lose its place between chunks.

_PIECES = (
    b"data: x\n\n",
    b"data: x\n\n",
    b": x\n\n",
    b"\n\n",
    b"\n",
    b"x",
    b"a\nb\n\n",
    b"a\r\n\r\n",
    b"5\r\nx\n\n\r\n",
)
_SIZES = (b"%x", b"%x", b"%X", b"0%x", b"%x;extension=1")


def _wire(framing: bytes = b"Transfer-Encoding: chunked") -> tuple[Wire, Exchange]:
    """Return a wire without a socket, and an exchange on it whose response has begun."""
    transport = SimpleNamespace(set_protocol=lambda protocol: None, is_closing=lambda: False, abort=lambda: None)
    wire = Wire(SimpleNamespace(transport=transport, protocol=None, close=lambda: None))  # type: ignore[arg-type]

    def released(exchange: Exchange, wire: Wire, keep: bool) -> None:
        wire.exchange = wire.receiver = None

    exchange = Exchange(SimpleNamespace(released=released), wire, b"GET")  # type: ignore[arg-type]
    wire.data_received(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
    return wire, exchange


@given(
    chunks=st.lists(st.tuples(st.sampled_from(_PIECES), st.sampled_from(_SIZES)), max_size=12),
    cuts=st.sets(st.integers(0, 400), max_size=6),
    taken=st.randoms(use_true_random=False),
)
async def test_short_way_and_the_long_one_bring_the_same(
    chunks: list[tuple[bytes, bytes]], cuts: set[int], taken: Any
) -> None:
    """A read is a chunk, but where it is cut at other places; who is asked takes what he likes."""
    wire, exchange = _wire()
    listener = Listener()

    def take_events(frames: list[bytes], chunks: bytes, at: float) -> bool:
        assert chunks == b"".join(map(chunk, frames))
        if taken.random() < 0.5:
            return False
        listener.received(b"".join(frames), at)
        return True

    exchange.attach(listener, take_events)
    sent = [(size % len(piece)) + b"\r\n" + piece + b"\r\n" for piece, size in chunks] + [b"0\r\n\r\n"]
    begin = 0
    for read in sent:
        places = sorted({0, len(read), *(at - begin for at in cuts if 0 < at - begin < len(read))})
        for first, last in itertools.pairwise(places):
            wire.data_received(read[first:last])
        begin += len(read)
    assert listener.body == b"".join(piece for piece, _ in chunks)
    assert listener.over.is_set()
    assert listener.error is None


async def test_events_after_an_event_go_the_short_way() -> None:
    """Also behind one that did not, the first or a comment; several in one read do, too."""
    wire, exchange = _wire()
    listener, taken = Listener(), []
    exchange.attach(listener, lambda frames, chunks, at: taken.append(frames) is None)
    for piece in (b"data: 1\n\n", b"data: 2\n\n", b": 3\n\n", b"id: 4\ndata: 4\n\n"):
        wire.data_received(chunk(piece))
    wire.data_received(chunk(b"data: 5\n\n") + chunk(b"data: 6\n\n"))
    assert taken == [[b"data: 2\n\n"], [b"id: 4\ndata: 4\n\n"], [b"data: 5\n\n", b"data: 6\n\n"]]
    assert listener.body == b"data: 1\n\n: 3\n\n"
    wire.data_received(b"9\r\ndata: 5\n\nno end of a chunk")
    assert isinstance(listener.error, Garbled)


@pytest.mark.parametrize(
    ("reads", "body"),
    [
        ([b"2\r\n\n\n\r\n1", b"9\r\ndata: y\n\n\r\n", b"abcdefghijklmn\r\n"], b"\n\ndata: y\n\n\r\nabcdefghijklmn"),
        ([b"f\r\n\n", b"9\r\ndata: y\n\n\r\n", b"\r\n"], b"\n9\r\ndata: y\n\n\r\n"),
        ([b"2\r\n\n\n\r\nf\r\n", b"9\r\ndata: y\n\n\r\n", b".\r\n"], b"\n\n9\r\ndata: y\n\n\r\n."),
        ([b"19\r\ndata: y\n\n\r\n", b"abcdefghijklmn\r\n"], b"data: y\n\n\r\nabcdefghijklmn"),
    ],
)
async def test_read_that_only_looks_like_a_chunk_is_none(reads: list[bytes], body: bytes) -> None:
    """It began within the size of one, or within one, or is the beginning of a longer one."""
    wire, exchange = _wire()
    listener = Listener()

    def take_events(frames: list[bytes], chunks: bytes, at: float) -> bool:
        listener.received(b"".join(frames), at)
        return True

    exchange.attach(listener, take_events)
    for read in (b"2\r\n\n\n\r\n", *reads):
        wire.data_received(read)
    assert listener.body == b"\n\n" + body
    assert listener.error is None


@pytest.mark.parametrize("asked", [True, False])
async def test_what_follows_a_response_is_not_given_to_its_receiver(asked: bool) -> None:
    """Whether it is the next one on the connection, or nobody asked for it."""
    wire, exchange = _wire()
    listener, event, taken = Listener(), chunk(b"data: x\n\n"), []
    exchange.attach(listener, lambda frames, chunks, at: taken.append(frames) is None)
    for read in (event, event, b"0\r\n\r\n"):
        wire.data_received(read)
    assert taken == [[b"data: x\n\n"]]
    if asked:
        Exchange(SimpleNamespace(), wire, b"GET")  # type: ignore[arg-type]
        wire.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + event)
    wire.data_received(event)
    assert taken == [[b"data: x\n\n"]]
    assert listener.body == b"data: x\n\n"


async def test_body_that_is_not_chunked_never_goes_the_short_way() -> None:
    """Though it looks so: what counts is how the response is framed."""
    body = b"9\r\ndata: x\n\n\r\n"
    wire, exchange = _wire(b"Content-Length: %d" % (3 * len(body)))
    listener = Listener()
    exchange.attach(listener, lambda frames, chunks, at: pytest.fail("it was asked"))
    for _ in range(3):
        wire.data_received(body)
    assert listener.body == 3 * body
    assert listener.error is None
