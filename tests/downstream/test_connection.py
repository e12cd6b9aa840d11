"""A connection of a client: its requests one after another, and who has left of those that have closed a side."""

import asyncio
import contextlib
import functools
import json
import math
import re
import select
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from proxy.downstream.connection import Connection
from proxy.downstream.movable import MovableConnection
from proxy.downstream.response import Downstream
from proxy.stream.modes.projection import Span
from tests.descriptors import check_nothing_is_written
from tests.downstream.ports import Respond, Turned, port
from tests.event_loops import GUARD_S, on_each_loop, until
from tests.event_streams import DONE, FINISH, chunk_frame, stamped
from tests.http_client import request
from tests.proxy_under_test import CHAT, Tee, chat_body
from tests.stage import Stage


@asynccontextmanager
async def serving(respond: Respond) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve with a handler; connect to it."""
    async with port(respond, complaints=True) as one:
        reader, writer = await asyncio.open_connection(*one.address)
        yield reader, writer
        writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Send a request; return the body of its answer."""
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(GUARD_S):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        return await reader.readexactly(length)


class Responses:
    """A handler whose responses are written by the test: on the path /aiohttp, by aiohttp."""

    def __init__(self) -> None:
        self.begun: list[Downstream] = []
        self.begins: Callable[[], object] = bool  # called before the next one does

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/aiohttp":
            return web.Response(body=bytes(1 << 24))
        self.begins()
        downstream = Downstream(request)
        self.begun.append(downstream)
        downstream.start(b"OK", [])
        await downstream.finished()
        return downstream.response

    async def write(self, number: int, *pieces: bytes) -> None:
        """Write pieces of the response with this number, once it has begun."""
        await until(lambda: len(self.begun) == number)
        for piece in pieces:
            assert self.begun[-1].write(Span(0, 0, piece))


@pytest.mark.parametrize("ended_by", ["client", "force_close", "leave_to"])
@on_each_loop
async def test_nothing_is_written_by_a_descriptor_that_is_another_connections_by_now(ended_by: str) -> None:
    """Bytes are sent past uvloop's transports, so these can't prevent it."""
    responses = Responses()
    async with port(responses, connection_class=MovableConnection) as one, asyncio.timeout(GUARD_S):
        client = await one.send(request("GET", "/"))
        await responses.write(1, b"one", b"two", b"three")
        (connection,) = one.connections.open
        assert isinstance(connection, MovableConnection)
        number = connection.descriptor
        if ended_by == "client":
            await client.leave()
        elif ended_by == "force_close":
            connection.force_close()
        else:
            connection.leave_to(asyncio.Protocol())
            connection.peer.abort()
        await check_nothing_is_written(connection.writer, number)


@on_each_loop
async def test_nothing_overtakes_what_waits_of_a_response_that_aiohttp_has_written() -> None:
    """The proxy's own responses are sent past uvloop's transports, aiohttp's are not."""
    responses, came = Responses(), bytearray()
    async with port(responses) as one, asyncio.timeout(GUARD_S):
        loop = asyncio.get_running_loop()
        with socket.create_connection(one.address) as client:

            def make_room() -> None:
                """Read until the server's socket takes more; the event loop does not turn meanwhile."""
                while not select.select([], [connection.peer.get_extra_info("socket").fileno()], [], 0)[1]:
                    with contextlib.suppress(BlockingIOError):
                        came.extend(client.recv(1 << 20))

            client.setblocking(False)
            client.send(request("GET", "/") + request("GET", "/aiohttp") + request("GET", "/"))
            await responses.write(1, b"one", b"two", b"three")
            (connection,) = one.connections.open
            connection.peer.set_write_buffer_limits(1 << 25)  # so that aiohttp does not wait until they are sent
            responses.begins = make_room
            responses.begun[-1].close(b"")
            await responses.write(2, b"four", b"five", b"six")
            responses.begun[-1].close(b"")
            while not came.endswith(b"six\r\n0\r\n\r\n"):
                came += await loop.sock_recv(client, 1 << 20)
    assert re.findall(rb"one|two|three|\x00+|four|five|six", came) == [
        b"one", b"two", b"three", bytes(1 << 24), b"four", b"five", b"six",
    ]  # fmt: skip


@on_each_loop
async def test_requests_of_a_connection_run_in_one_task() -> None:
    """A task for each would cost a third more."""
    tasks: list[object] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        return web.Response()

    async with serving(answer) as (reader, writer):
        for _ in range(3):
            await ask(reader, writer)
    assert len(tasks) == 3
    assert len(set(tasks)) == 1


@on_each_loop
async def test_client_that_leaves_ends_its_request() -> None:
    """At once, and only that one."""
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return web.Response()

    async with serving(answer) as (_, writer), asyncio.timeout(GUARD_S):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
        writer.close()
        await cancelled.wait()


@on_each_loop
async def test_connection_outlives_a_request_that_ran_out_of_time() -> None:
    """A time-out cancels the task it runs in, and takes that back."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        return web.Response(text="late")

    async with serving(answer) as (reader, writer):
        assert [await ask(reader, writer) for _ in range(3)] == [b"late"] * 3


@on_each_loop
async def test_fault_of_a_handler_is_answered_and_the_connection_goes_on_with_the_rest() -> None:
    """aiohttp responds with 500, and closes; what a handler did before is not lost."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/fault":
            raise RuntimeError("secret")
        return web.Response(text="fine")

    async with serving(answer) as (reader, writer):
        assert await ask(reader, writer) == b"fine"
        writer.write(b"GET /fault HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(GUARD_S):
            told = await reader.read()
    assert told.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in told


@on_each_loop
async def test_rest_of_a_body_is_read_before_the_next_request() -> None:
    """A handler may respond before the body has come."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=request.method)

    async with serving(answer) as (reader, writer), asyncio.timeout(GUARD_S):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        await reader.readuntil(b"POST")
        writer.write(b"def")
        assert await ask(reader, writer) == b"GET"


async def test_rest_of_a_body_is_not_taken_for_the_beginning_of_a_request() -> None:
    """Else it is kept whole, to be searched for the end of its first line, and its client is late with a head."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=request.method)

    async with port(answer) as one, asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(*one.address)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n")
        await reader.readuntil(b"POST")
        (connection,) = one.connections.open
        assert isinstance(connection, Connection)
        writer.write(b"abc")
        await until(lambda: connection._ends_request is False)
        assert connection.beginning == b""
        writer.write(b"def")
        await until(lambda: not connection.is_responding)
        timeouts = one.connections.timeouts
        connection.check(time.monotonic() + timeouts.head_s + 1, timeouts)
        assert await ask(reader, writer) == b"GET"
        writer.close()


class Streaming:
    """Responds to POST with a stream that goes on until it is `over`, and to the rest with what was asked."""

    def __init__(self) -> None:
        self.begun: list[web.BaseRequest] = []
        self.over = asyncio.Event()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method != "POST":
            return web.Response(text=f"{request.method} {request.path} {request.headers['X-Name']}")
        await request.read()
        downstream = Downstream(request)
        downstream.start(b"OK", [])
        downstream.flush()
        self.begun.append(request)
        await self.over.wait()
        downstream.close(b"")
        return downstream.response


@pytest.mark.parametrize("come", ["after the response", "within it", "in half within it", "before the check"])
async def test_request_whose_response_goes_on_keeps_no_headers_and_the_next_ones_are_answered(come: str) -> None:
    """A stream may go on for an hour; other requests of its connection may come at any time meanwhile."""
    streaming = Streaming()
    later = b"".join(b"GET / HTTP/1.1\r\nHost: x\r\nX-Name: %d\r\n\r\n" % n for n in range(3))
    async with port(streaming.answer) as one, asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(*one.address)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nX-Name: first\r\nContent-Length: 2\r\n\r\n{}")
        await reader.readuntil(b"\r\n\r\n")
        (connection,) = one.connections.open
        assert isinstance(connection, Connection)
        sent = {"after the response": b"", "in half within it": later[:20]}.get(come, later)
        if come == "before the check":
            writer.write(sent)
            await until(lambda: bool(connection._messages))
        connection.check(time.monotonic(), one.connections.timeouts)
        assert bool(streaming.begun[0].headers) == bool(streaming.begun[0].raw_headers) == (come == "before the check")
        if come != "before the check":
            writer.write(sent)
            await until(lambda: not sent or connection._within_head or bool(connection._messages))
        connection.check(time.monotonic(), one.connections.timeouts)
        streaming.over.set()
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(later[len(sent) :])
        for n in range(3):
            await reader.readuntil(b"GET / %d" % n)
        writer.close()


@on_each_loop
async def test_client_is_held_to_its_time_outs_after_a_response_that_went_on() -> None:
    """While it went on and was looked at, nothing could be late but its bytes; afterwards a head or a body can."""
    streaming = Streaming()
    streaming.over.set()
    for come, reason in ((b"", "keepalive"), (b"GET / HTT", "head"), (FIRST + b"Content-Length: 2\r\n\r\n{", "body")):
        streaming.over.clear()
        async with port(streaming.answer, complaints=True) as one, asyncio.timeout(GUARD_S):
            timeouts = one.connections.timeouts
            reader, writer = await asyncio.open_connection(*one.address)
            writer.write(FIRST + b"Content-Length: 2\r\n\r\n{}")
            await reader.readuntil(b"\r\n\r\n")
            (connection,) = one.connections.open
            assert isinstance(connection, Connection)
            for after_s in (0, 1e6, 2e6):
                connection.check(time.monotonic() + after_s, timeouts)
            assert not one.connections.cuts
            streaming.over.set()
            await reader.readuntil(b"0\r\n\r\n")
            await until(lambda connection=connection: connection.current is None)
            last = connection._received_at
            writer.write(come)
            await until(lambda connection=connection, last=last, come=come: not come or _has_read(connection, last))
            await until(lambda connection=connection, reason=reason: reason != "body" or connection.current is not None)
            connection.check(time.monotonic() + 1e6, timeouts)
            assert dict(one.connections.cuts) == {reason: 1}
            writer.close()


async def test_client_that_takes_nothing_is_found_out_long_after_its_request() -> None:
    """Its connection is looked at again as soon as bytes wait for it."""
    streaming = Streaming()
    async with port(streaming.answer) as one, asyncio.timeout(GUARD_S):
        timeouts = one.connections.timeouts
        reader, writer = await asyncio.open_connection(*one.address)
        writer.write(FIRST + b"Content-Length: 2\r\n\r\n{}")
        await reader.readuntil(b"\r\n\r\n")
        (connection,) = one.connections.open
        assert isinstance(connection, Connection)
        now = float(math.ceil(time.monotonic()))  # whole, so that no sum below is rounded
        connection.check(now, timeouts)
        connection.peer.write(bytes(64 << 20))
        for after_s in (1, timeouts.write_s, timeouts.write_s + 0.9):
            connection.check(now + after_s, timeouts)
            assert connection.unsent_bytes
            assert not one.connections.cuts
        connection.check(now + timeouts.write_s + 1, timeouts)
        assert dict(one.connections.cuts) == {"write": 1}
        streaming.over.set()
        writer.close()


def _has_read(connection: Connection, last: float) -> bool:
    return connection._received_at != last


FIRST = b"POST / HTTP/1.1\r\nHost: x\r\n"
HALF = b"GET / HTTP/1.1\r\nHost: x\r\nX-Name: "


@pytest.mark.parametrize(
    ("reads", "came_bytes"),
    [
        ([FIRST + b"\r\n"], 0),
        ([FIRST + b"Content-Length: 2\r\n\r\n{}"], 0),
        ([FIRST + b"Content-Length: 2\r\n\r\n", b"{", b"}"], 0),
        ([FIRST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"], 0),
        ([FIRST + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\n{}\r\n0\r\n\r\n"], 0),
        ([FIRST, b"Content-Length: 2\r\n\r\n", b"{}"], 0),
        ([FIRST + b"\r", b"\n" + HALF[:1]], 1),
        ([FIRST + b"\r\n" + HALF], len(HALF)),
        ([FIRST + b"Content-Length: 2\r\n\r\n{}" + HALF], len(HALF)),
        ([FIRST + b"Content-Length: 2\r\n\r\n{", b"}" + HALF], len(HALF)),
        ([FIRST + b"Content-Length: 6\r\n\r\n{}\r\n\r\n" + HALF], len(HALF)),
        ([FIRST, b"Content-Length: 6\r\n\r\n{}\r\n\r\n" + HALF], len(HALF)),
        ([FIRST + b"Content-Length: 6\r\n\r", b"\n{}\r\n\r\n" + HALF], len(HALF)),
        ([FIRST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + HALF], len(HALF)),
        ([FIRST + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\n{}\r\n0\r\n\r\n" + HALF], len(HALF)),
    ],
)
async def test_header_of_a_next_request_that_came_with_one_is_not_read_as_a_request(
    reads: list[bytes], came_bytes: int
) -> None:
    """The parser is dropped only if nothing came of the next one, however reads were cut and bodies framed."""
    streaming = Streaming()
    async with port(streaming.answer) as one, asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(*one.address)
        await until(lambda: bool(one.connections.open))
        (connection,) = one.connections.open
        assert isinstance(connection, Connection)
        for read in reads:
            last = connection._received_at
            writer.write(read)
            await until(functools.partial(_has_read, connection, last))  # so that each is read by itself
        await reader.readuntil(b"\r\n\r\n")
        connection.check(time.monotonic(), one.connections.timeouts)
        assert bool(streaming.begun[0].headers) == (came_bytes > 0)
        streaming.over.set()
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(HALF[came_bytes:] + b"GET /other HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readuntil(b"1.1") == b"GET / GET /other HTTP/1.1"
        writer.close()


async def test_header_of_a_malformed_request_is_not_read_as_a_request() -> None:
    """What came before it in the same read is answered, and then it is refused, whatever its last header says."""
    served: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        served.append(request.path)
        return web.Response(text="fine")

    async with port(answer) as one, asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(*one.address)
        writer.write(b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n" + HALF)
        await reader.readuntil(b"fine")
        writer.write(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
    assert served == ["/first"]


@pytest.mark.parametrize(
    "head", [b"1.1\r\nConnection: x-close", b"1.1\r\nX: HTTP/1.0", b"1.0\r\nConnection: keep-alive"]
)
async def test_body_before_something_malformed_is_not_read_as_a_request(head: bytes) -> None:
    """Nor is what follows a request lost, whose head only looks like that of the last one."""
    served: list[tuple[str, bytes]] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        served.append((request.path, await request.read()))
        return web.Response(text="fine")

    body, following = (
        b"POST /%b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" % path for path in (b"body", b"next")
    )
    async with port(answer) as one, asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(*one.address)
        writer.write(b"POST / HTTP/%b\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (head, len(body)) + body)
        writer.write(following + b"malformed\r\n\r\n")
        answers = await reader.read()
        writer.close()
    assert served == [("/", body), ("/next", b"")][: len(served)]
    assert answers.count(b"fine") == len(served)


@pytest.mark.parametrize(
    ("headers", "further", "refused"),
    [
        ([], b"malformed\r\n\r\n", True),
        (["Connection: close"], b"malformed\r\n\r\n", False),
        (["Connection: close"], request("GET", "/further"), False),
    ],
)
@pytest.mark.parametrize("answered", [False, True])
async def test_request_between_the_rest_of_a_body_and_what_is_malformed_is_answered(
    answered: bool, headers: list[str], further: bytes, refused: bool
) -> None:
    """In one read, and whether the one whose body it is was answered before or not. After the last, all is ignored."""
    served: list[str] = []
    begun = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        served.append(request.path)
        begun.set()
        if not answered:
            await request.read()
        return web.Response(text=request.path)

    async with port(answer) as one, asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(*one.address)
        writer.write(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        await (reader.readuntil(b"/body") if answered else begun.wait())
        writer.write(b"def" + request("GET", "/next", *headers) + further)
        answers = await reader.read()
        writer.close()
    assert served == ["/body", "/next"]
    assert (b" 400 " in answers) is refused


@pytest.mark.parametrize("last_bytes", [1, 2, 3, 4])
async def test_request_is_answered_whose_head_ends_in_the_read_of_what_is_malformed(last_bytes: int) -> None:
    """Of the end of the head that read has one byte, or all four."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="fine")

    asked = request("GET", "/")
    async with port(answer) as one, asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(*one.address)
        turned = await Turned.of(one)
        for read in (asked[:-last_bytes], asked[-last_bytes:] + b"malformed\r\n\r\n"):
            turned.read(read)
            turned.turn()
        answers = await reader.read()
        writer.close()
    assert (answers.count(b"fine"), answers.count(b" 400 ")) == (1, 1)


async def test_pieces_of_a_body_that_wait_for_their_turn_are_not_overtaken() -> None:
    """By those that come once the request has begun: it has only to be parsed for that."""
    bodies: list[bytes] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        begun.set()
        bodies.append(await request.read())
        return web.Response()

    begun = asyncio.Event()
    async with port(answer) as one, asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(*one.address)
        turned = await Turned.of(one)
        turned.read(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n")
        turned.turn()
        turned.read(b"abc")  # before the request begins
        await begun.wait()
        turned.read(b"def")
        turned.turn()
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert bodies == [b"abcdef"]


async def test_connection_is_busy_from_the_first_byte_that_waits_to_the_end_of_the_answer() -> None:
    """A process that ends waits for it: also before the request begins, when it waits for its turn or for its task."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        begun.set()
        await may_end.wait()
        return web.Response(text="over")

    async with port(answer) as one, asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(*one.address)
        turned = await Turned.of(one)
        assert not one.connections.busy
        turned.read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert one.connections.busy
        turned.turn()
        assert one.connections.busy
        await begun.wait()
        assert one.connections.busy
        may_end.set()
        await reader.readuntil(b"over")
        assert not one.connections.busy
        writer.close()


async def test_next_request_that_waits_for_its_turn_is_answered_after_a_response_that_goes_on() -> None:
    """Its bytes are not the parser's yet, which is not to be dropped with what was parsed of the request before."""
    streaming = Streaming()
    async with port(streaming.answer) as one, asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(*one.address)
        turned = await Turned.of(one)
        turned.read(FIRST + b"Content-Length: 2\r\n\r\n{}")
        turned.turn()
        turned.read(HALF)
        await until(lambda: bool(streaming.begun))
        turned.connection.check(time.monotonic(), one.connections.timeouts)
        turned.turn()
        turned.read(b"me\r\n\r\n")
        streaming.over.set()
        await reader.readuntil(b"GET / me")
        writer.close()


async def test_many_requests_in_one_read_are_all_answered_after_one_whose_body_came_late() -> None:
    """aiohttp stops at 32; it counts those whose bodies came late twice, and would not go on then."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        begun.set()
        await request.read()
        return web.Response(text=f"{request.path}.")

    begun = asyncio.Event()
    async with serving(answer) as (reader, writer), asyncio.timeout(GUARD_S):
        writer.write(FIRST + b"Content-Length: 2\r\n\r\n")
        await begun.wait()
        writer.write(b"{}")
        await reader.readuntil(b"/.")
        writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(70)))
        for n in range(70):
            await reader.readuntil(b"/%d." % n)


@pytest.mark.parametrize("when", ["with the request", "before the answer", "within the answer"])
@pytest.mark.parametrize("way", ["raw", "events", "text", "json", "pass", "follow"])
@pytest.mark.parametrize("version", ["1.1", "1.0", "1.1, to be closed"])
async def test_client_that_ended_its_side_has_its_answer(
    tee: Tee, stage: Stage, way: str, when: str, version: str
) -> None:
    """Whole, and then the connection is closed; it is not taken for one that has left."""
    whole = chunk_frame("one ") + chunk_frame("two") + FINISH + DONE
    path = "/v1/files" if way == "pass" else CHAT
    mode = way if way in ("events", "text", "json") else "raw"
    client = await tee.connect()
    headers = ["Connection: close"] if "closed" in version else []
    client.send(request("POST", path, f"Stream-Mode: {mode}", *headers, body=chat_body(), version=version[:3]))
    if when == "with the request" and way != "follow":
        client.transport.write_eof()
    turn = await stage.next()
    await turn.body()
    if way == "follow":
        turn.begin()
        turn.chunk(chunk_frame("one "))
        ident = (await client.answer()).stream_id
        client = await tee.connect()
        client.send(request("GET", f"/v1/streams/{ident}?mode=raw", *headers, version=version[:3]))
        if when == "with the request":
            client.transport.write_eof()
        await tee.wait_followers(2)
    if when == "before the answer":
        client.transport.write_eof()
        await (await tee.ask("GET", "/healthz")).read()
    if way != "follow":
        turn.begin()
        turn.chunk(chunk_frame("one "))
    answer = None
    if when == "within the answer" and way != "json":
        answer = await client.answer()
        await answer.bytes(1)
        client.transport.write_eof()
        await (await tee.ask("GET", "/healthz")).read()
    turn.chunk(chunk_frame("two"))
    turn.end(FINISH, DONE)
    answer = answer or await client.answer()
    body = await answer.read()
    assert (answer.status, answer.end) == (200, "whole")
    if way in ("raw", "pass", "follow"):
        assert body == whole
    elif way == "json":
        assert json.loads(body)["choices"][0]["message"]["content"] == "one two"
    else:
        assert body == (b"one two" if way == "text" else stamped(whole, answer.epoch))
    assert when == "within the answer" or await client.wait_gone() == "fin"


@pytest.mark.parametrize("kind", [Connection, MovableConnection])
@pytest.mark.parametrize("rest", [b"", FIRST, FIRST + b"Content-Length: 6\r\n\r\nabc"])
@on_each_loop
async def test_client_that_ended_its_side_has_the_answers_to_all_its_requests(
    kind: type[Connection], rest: bytes
) -> None:
    """Also to those that came together; what is incomplete is not waited for."""
    served: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        served.append(request.path)
        await request.read()
        await asyncio.sleep(0)
        return web.Response(text=f"{request.path}!")

    async with port(answer, connection_class=kind) as one, asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(*one.address)
        paths = [f"/{n}" for n in range(3)]
        writer.write(b"".join(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode() for path in paths) + rest)
        writer.write_eof()
        answers = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert served == paths
    assert re.findall(rb"/\d!", answers) == [f"{path}!".encode() for path in paths]


@on_each_loop
async def test_client_that_ended_its_side_within_a_head_that_waits_is_let_go() -> None:
    """When it is the head's turn, and not when the time for a head is over."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError(request.path)

    async with port(answer) as one, asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(*one.address)
        turned = await Turned.of(one)
        turned.read(b"GET / HT")
        writer.write_eof()
        await until(lambda: turned.connection._has_ended)
        turned.turn()
        assert await reader.read() == b""
        writer.close()


async def test_client_of_http_1_0_that_closed_altogether_has_left_when_it_is_written_to(tee: Tee, stage: Stage) -> None:
    """HTTP/1.0 has no byte without a meaning, so the first events have to tell."""
    client = await tee.connect()
    client.send(request("POST", CHAT, body=chat_body(), version="1.0"))
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(chunk_frame())
    await (await client.answer()).bytes(1)
    await client.leave()

    async def speak() -> None:
        while True:
            turn.chunk(chunk_frame())
            await (await tee.ask("GET", "/healthz")).read()

    speaking = asyncio.create_task(speak())
    await turn.wait_left()
    speaking.cancel()


@pytest.mark.parametrize("begun", [False, True])
async def test_client_that_closed_altogether_has_left(tee: Tee, stage: Stage, begun: bool) -> None:
    """Though it says the same: it answers what comes with a reset, and its upstream call ends."""
    client = await tee.connect()
    client.send(request("POST", CHAT, body=chat_body()))
    turn = await stage.next()
    await turn.body()
    if begun:
        turn.begin()
        turn.chunk(chunk_frame())
        await (await client.answer()).bytes(1)
    await client.leave()
    await turn.wait_left()


@on_each_loop
async def test_connection_has_a_task_from_its_first_request_until_it_ends() -> None:
    """Before, there is nothing to wait for; afterwards nothing is left, whether a request is in progress or not."""
    streaming = Streaming()
    async with port(streaming.answer) as one, asyncio.timeout(GUARD_S):
        before = len(asyncio.all_tasks())
        silent, asking = await one.connect(), await one.connect()
        await until(lambda: len(one.connections.open) == 2)
        assert len(asyncio.all_tasks()) == before
        asking.send(request("POST", "/", body=b"{}"))
        await asking.answer()
        assert len(asyncio.all_tasks()) == before + 1
        streaming.over.set()
        await until(lambda: len(one.connections.idle) == 2)
        assert len(asyncio.all_tasks()) == before + 1
        for client in (silent, asking):
            await client.leave()
        await until(lambda: not one.connections.open)
        await until(lambda: len(asyncio.all_tasks()) == before)
        assert one.listener.connections == []
        streaming.over.clear()
        asking = await one.send(request("POST", "/", body=b"{}"))
        await asking.answer()
        await asking.leave()
        await until(lambda: len(asyncio.all_tasks()) == before)
        await until(lambda: not one.listener.connections)
