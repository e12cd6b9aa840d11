"""One request and its response, against an upstream that says exactly what each test has it say."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest

from proxy.upstream.exchange import NOT_ENDED
from proxy.upstream.pool import ConnectionPool
from proxy.wire.errors import Garbled, Truncated, Unreachable, UpstreamError, UpstreamTimeout
from tests.event_loops import GUARD_S, on_each_loop, until
from tests.exchanges import CUTS, GET, NO_LIMITS, Listener, listened, opening, pieces, say, upstream
from tests.stage import Stage, staged


class Reply(NamedTuple):
    """What an upstream writes, and what is to be made of it."""

    connection: bytes
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


@pytest.mark.parametrize("lengths", [b"Content-Length: 5\r\nA: b\r\ncontent-length:5", b"Content-Length: 5, 5,5"])
@pytest.mark.parametrize("cut", [lambda reply: [reply], lambda reply: [reply[:-2], reply[-2:]]])
async def test_length_that_is_repeated_is_one(lengths: bytes, cut: Callable[[bytes], list[bytes]]) -> None:
    """RFC 9112 section 6.3; where the head comes in one read."""
    reply = Reply(b"HTTP/1.1 200 OK\r\nB: c\r\n%b\r\n\r\nhello" % lengths, b"hello")
    async with staged() as stage, upstream(stage.url) as up:
        await _replied(stage, up, reply, cut)


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
@on_each_loop
async def test_response_is_read_so_from_an_upstream_that_has_a_name(reply: Reply) -> None:
    """Then aiohttp makes the connection, and lends it."""
    async with staged() as stage, upstream(stage.url.replace("127.0.0.1", "localhost")) as up:
        await _replied(stage, up, reply, lambda connection: [connection])


async def _replied(stage: Stage, up: ConnectionPool, reply: Reply, cut: Callable[[bytes], list[bytes]]) -> None:
    for number in range(2):
        task = opening(up, reply.method)
        turn = await stage.next()
        await say(turn, cut(reply.connection))
        (turn.close if reply.closes else turn.done.set)()
        exchange = await task
        assert exchange.status == reply.status
        assert exchange.framed == reply.framed
        exchange.drop_headers()
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

    connection: bytes
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
    "two lengths in a line": Failure(b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello", Garbled),
    "no length, twice": Failure(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\nContent-Length: x\r\n\r\nhello", Garbled),
    "two lengths": Failure(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", Garbled),
    "endless head": Failure(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000, Garbled),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@on_each_loop
async def test_failure_is_told_as_what_it_is(failure: Failure) -> None:
    """Before the head it is raised; after it the receiver gets what came, and the error."""
    async with staged() as stage, upstream(stage.url) as up:
        task = opening(up)
        turn = await stage.next()
        turn.say(failure.connection)
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


# Time.


@pytest.mark.parametrize(
    ("timeouts", "connection", "ending"),
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
async def test_time_outs_are_told_apart(timeouts: dict[str, float], connection: bytes, ending: str) -> None:
    """Each has an ending of its own and names its limit; the connection is closed."""
    async with staged() as stage, upstream(stage.url, NO_LIMITS._replace(**timeouts)) as up:
        task = opening(up)
        turn = await stage.next()
        turn.say(connection)
        began = asyncio.get_running_loop().time()
        if b"hel" in connection:
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
        assert took > 0.05
        await turn.wait_left()


class Watched:
    """A Progress as a test says it."""

    ended_at = 0.0
    enough_after_s = 0.0

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


@pytest.mark.parametrize(
    ("timeouts", "watched", "in_s"),
    [
        ({}, {}, float("inf")),
        ({"idle_s": 20}, {}, 20),
        ({"idle_s": 20, "total_s": 15}, {}, 15),
        ({"idle_s": 20, "first_token_s": 10}, {"awaits_token": True}, 10),
        ({"idle_s": 20, "first_token_s": 10}, {}, 20),
        ({"idle_s": 20}, {"enough_after_s": 5.0}, None),
        ({"idle_s": 20}, {"ended_at": 1e12}, None),
    ],
)
async def test_exchange_is_not_looked_at_before_a_time_out_may_expire(
    timeouts: dict[str, float], watched: dict[str, Any], in_s: float | None
) -> None:
    """Progress puts the first of them off; where silence tells that a response has ended, it is looked at each time."""
    async with staged() as stage, upstream(stage.url) as up:
        task = opening(up)
        turn = await stage.next()
        turn.begin()
        exchange, now = await task, asyncio.get_running_loop().time()
        exchange.progress = Watched(now, awaits_token=False)
        exchange.progress.__dict__.update(watched)
        exchange.attach(Listener())
        assert exchange.late(now, NO_LIMITS._replace(**timeouts)) is None
        assert exchange.look_at == (0 if in_s is None else pytest.approx(now + in_s, abs=0.5))
        exchange.look_soon()
        assert exchange.look_at == 0
        exchange.pause()
        assert exchange.late(now, NO_LIMITS._replace(**timeouts)) is None
        assert exchange.look_at == 0  # a time-out may have expired by the moment when it goes on
        exchange.close()


async def test_exchange_that_is_not_answered_is_looked_at_when_its_answer_may_be_late() -> None:
    """In time for what may be late after that, too."""
    for timeouts, in_s in (({"first_byte_s": 30}, 30), ({"first_byte_s": 30, "idle_s": 20}, 20), ({"total_s": 9}, 9)):
        async with staged() as stage, upstream(stage.url) as up:
            task = opening(up)
            await stage.next()
            (exchange,) = up.active
            now = asyncio.get_running_loop().time()
            assert exchange.late(now, NO_LIMITS._replace(**timeouts)) is None
            assert exchange.look_at == pytest.approx(now + in_s, abs=0.5)
            exchange.close()
            task.cancel()


async def test_first_token_is_looked_for_in_time_though_the_request_is_sent_longer_than_its_head_takes() -> None:
    """An upstream may respond while the client still sends: its time for a token begins when all was sent."""
    async with staged() as stage, upstream(stage.url) as up:
        task = opening(up)
        turn = await stage.next()
        turn.begin()
        exchange, now = await task, asyncio.get_running_loop().time()
        exchange.progress = Watched(now, awaits_token=True)
        exchange.attach(Listener())
        exchange._asked_at = float("inf")
        assert exchange.late(now, NO_LIMITS._replace(idle_s=60, first_token_s=5)) is None
        assert exchange.look_at <= now + 5
        exchange.close()


async def test_shorter_time_outs_hold_at_once() -> None:
    """For what was looked at while they were longer."""
    async with staged() as stage, upstream(stage.url, NO_LIMITS._replace(idle_s=60, connect_s=0.4)) as up:
        task = opening(up)
        turn = await stage.next()
        turn.begin()
        exchange, listener = await task, Listener()
        exchange.attach(listener)
        await until(lambda: exchange.look_at > 0)
        up.limit(NO_LIMITS._replace(idle_s=0.05, connect_s=0.4))
        await listener.wait()
        assert isinstance(listener.error, UpstreamTimeout)


@on_each_loop
async def test_silence_after_an_answer_that_has_finished_ends_it_unless_it_is_not_read() -> None:
    """Then more may have come; and no longer silence is waited for than its reader says."""
    async with staged() as stage, upstream(stage.url, NO_LIMITS._replace(idle_s=60)) as up:
        task = opening(up)
        turn = await stage.next()
        turn.begin()
        exchange, listener = await task, Listener()
        watched = exchange.progress = Watched(now := asyncio.get_running_loop().time(), awaits_token=False)
        exchange.attach(listener)
        assert exchange.late(now + 50, up.timeouts) is None
        watched.enough_after_s = 5.0
        assert exchange.late(now + 4.9, up.timeouts) is None
        assert exchange.late(now + 5, up.timeouts) is NOT_ENDED
        exchange.pause()
        assert exchange.late(now + 50, up.timeouts) is None
        exchange.close()


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


@on_each_loop
async def test_refusal_is_heard_though_the_request_met_a_reset_connection() -> None:
    """The loop notices the reset as it writes, and reads no more: what had come is read all the same."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        async with upstream(f"http://127.0.0.1:{listening.getsockname()[1]}") as up:
            task = opening(up, b"POST", bytes(9))
            peer, _ = await loop.sock_accept(listening)
            await loop.sock_recv(peer, 65536)
            (exchange,) = up.active
            assert exchange._connection is not None
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\n\r\ntoo much")
            peer.close()
            exchange._connection.transport.write(b"the rest")
            assert (await listened(await task)).body == b"too much"


# Framing.


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Transfer-Encoding: chunked\r\nContent-Length: 9", b"5\r\nhello\r\n0\r\n\r\n"),
        ("Content-Length: 2\r\nTransfer-Encoding: Chunked", b"5\r\nhello\r\n0\r\n\r\n"),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: identity", b"hello"),
        ("Transfer-Encoding: identity\r\nContent-Length: 2", b"hello"),
    ],
)
@CUTS
@on_each_loop
async def test_transfer_coding_overrides_a_length(
    framing: str, body: bytes, cut: Callable[[bytes], list[bytes]]
) -> None:
    """Of two that conflict (RFC 9112 section 6.3), the length is told to nobody. No chunks: the connection ends it."""
    async with staged() as stage, upstream(stage.url) as up:
        task = opening(up)
        turn = await stage.next()
        await say(turn, cut(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + body))
        if "hunked" not in framing:
            turn.close()
        exchange = await task
        assert exchange.header(b"content-length") is None
        listener = await listened(exchange)
        assert (listener.body, listener.error) == (b"hello", None)


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: -5",
        "Content-Length: five",
        "Content-Length: ",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
    ],
)
@on_each_loop
async def test_framing_that_says_nothing_sure_is_garbled(framing: str) -> None:
    """It is not guessed where the response ends (RFC 9112 section 6.3, rule 5)."""
    async with staged() as stage, upstream(stage.url) as up:
        task = opening(up)
        (await stage.next()).say(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + b"5\r\nhello\r\n0\r\n\r\n")
        with pytest.raises(Garbled):
            await task
