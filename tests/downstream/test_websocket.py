"""The way down to a WebSocket client, byte by byte: handshake, what it hears, what it does not, and how it ends."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import count

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from proxy.downstream import switched
from proxy.downstream.response import Downstream
from proxy.downstream.websocket import WebSocket, handshake
from proxy.stream.modes.projection import Heartbeat, Span
from proxy.stream.turns import TURN_S, Turns
from proxy.wire.errors import BadRequest, UpgradeRequired
from proxy.wire.sse import COMMENT
from proxy.wire.websocket import CLOSE, FRAMES_A_FEED, PING, PONG, TEXT, close_frame, frame
from tests.event_loops import GUARD_S, on_each_loop, until
from tests.frames import ASK, heard, masked
from tests.http_client import Client, request
from tests.served import Served, running

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def asked(**headers: str) -> web.Request:
    given = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": KEY}
    named = {name.replace("_", "-"): value for name, value in {**given, **headers}.items() if value}
    return make_mocked_request("GET", "/", headers=named)


# Handshake


@pytest.mark.parametrize("connection", ["Upgrade", "keep-alive, Upgrade", "upgrade"])
@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket"])
def test_handshake_is_accepted(connection: str, upgrade: str) -> None:
    """Firefox sends `keep-alive, Upgrade`."""
    assert handshake(asked(Connection=connection, Upgrade=upgrade)) == ACCEPT


@pytest.mark.parametrize("headers", [{"Upgrade": ""}, {"Upgrade": "h2c"}, {"Connection": ""}, {"Connection": "close"}])
def test_request_without_an_upgrade_is_no_handshake(headers: dict[str, str]) -> None:
    """RFC 9110 7.8: an Upgrade that Connection does not name is to be ignored."""
    assert handshake(asked(**headers)) == b""


@pytest.mark.parametrize("version", ["", "8", "14"])
def test_other_version_is_refused(version: str) -> None:
    """The answer names ours."""
    with pytest.raises(UpgradeRequired, match="13"):
        handshake(asked(Sec_WebSocket_Version=version))


@pytest.mark.parametrize("key", ["", "?", KEY[:-4], KEY + KEY, "dGhlIHNhbXBsZSBub25j\u00e9Q=="])
def test_key_that_is_none_is_refused(key: str) -> None:
    """It is 16 bytes in base64, and is not told back."""
    with pytest.raises(BadRequest) as error:
        handshake(asked(Sec_WebSocket_Key=key))
    assert not key or key not in error.value.message


# The connection


class Opened(Served[WebSocket]):
    """A server of WebSockets: the test plays what is sent on `socket`, the last that was opened."""

    time: Callable[[], float] | None = None  # of turns; None: the loop's

    @property
    def socket(self) -> WebSocket:
        return self.down

    def begin(self, request: web.BaseRequest) -> WebSocket:
        loop = asyncio.get_running_loop()
        socket = WebSocket(request, Downstream(request, 101), Turns(loop.call_soon, self.time or loop.time))
        socket.start(handshake(request), [(b"X-A", b"b")])
        return socket

    async def open(self, *, behind: bytes = b"", receive_bytes: int = 0) -> Client:
        """Have a client open one; `behind` is what it sends with its request."""
        client = await self.connect(receive_bytes=receive_bytes)
        await self.send(client, request("GET", "/", *ASK) + behind)
        answer = await client.answer()
        assert answer.head == (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\nX-A: b\r\n\r\n"
        )
        return client


def served() -> AbstractAsyncContextManager[Opened]:
    return running(Opened())


async def wait_said(client: Client, said: bytes) -> None:
    """Wait until the client has been sent so much, and no more."""
    await client.wait_bytes(lambda buffer: len(buffer) >= len(said))
    assert client.buffer == said


@on_each_loop
async def test_frames_are_written_as_they_are() -> None:
    """And the client's answer to the close is waited for, so that nothing is lost before it."""
    async with served() as one:
        client = await one.open()
        assert one.socket.write(Span(0, 1, frame(TEXT, b"a")))
        one.socket.close(frame(TEXT, b"b") + close_frame(1000, "complete"))
        assert await client.wait_bytes(lambda buffer: buffer.endswith(b"complete"))
        assert heard(bytes(client.buffer)) == [(TEXT, b"a"), (TEXT, b"b"), (CLOSE, (1000, "complete"))]
        assert not one.outcomes
        assert client.gone == ""
        client.send(masked(CLOSE, b"\x03\xe8"))
        assert await client.wait_gone() == "fin"
        await one.wait_outcome("ended")


@on_each_loop
async def test_client_that_does_not_answer_a_close_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while."""
    monkeypatch.setattr(switched, "CLOSING_S", 0.02)
    async with served() as one:
        client = await one.open()
        one.socket.close(close_frame(1000))
        assert await client.wait_gone() == "fin"
        await one.wait_outcome("ended")


@on_each_loop
async def test_ping_is_answered_and_a_message_is_passed_over() -> None:
    """Also when they came with the handshake."""
    async with served() as one:
        client = await one.open(behind=masked(PING, b"early"))
        await wait_said(client, frame(PONG, b"early"))
        client.send(masked(TEXT, b"hello") + masked(PING, b"") + masked(PONG, b"x"))
        await wait_said(client, frame(PONG, b"early") + frame(PONG, b""))


@pytest.mark.parametrize(("payload", "code"), [(b"\x03\xe9bye", 1001), (b"", 1000), (b"\x03\xed", 1002)])
@on_each_loop
async def test_close_is_answered_and_ends_the_connection(payload: bytes, code: int) -> None:
    """With its own code; nothing is sent behind the answer."""
    async with served() as one:
        client = await one.open()
        client.send(masked(CLOSE, payload) + masked(PING, b"late"))
        assert await client.wait_gone() == "fin"
        assert client.buffer == close_frame(code)
        await until(lambda: bool(one.outcomes))
        assert not one.socket.write(Span(0, 1, frame(TEXT, b"a")))
        assert not one.socket.write(Heartbeat(COMMENT))


@on_each_loop
async def test_what_no_client_may_send_closes_with_1002() -> None:
    """A frame that is not masked, say."""
    async with served() as one:
        client = await one.open()
        client.send(frame(TEXT, b"a"))
        assert await client.wait_gone() == "fin"
        assert client.buffer == close_frame(1002, "bad_request")


@pytest.mark.parametrize("leave", [lambda client: client.transport.close(), lambda client: client.transport.abort()])
@on_each_loop
async def test_client_that_leaves_without_a_close_is_noticed(leave: Callable[[Client], None]) -> None:
    """By FIN or RST."""
    async with served() as one:
        leave(await one.open())
        await one.wait_outcome("left")


@on_each_loop
async def test_heartbeat_is_a_ping_and_an_answered_one_keeps_the_client() -> None:
    """Any word of the client's is an answer."""
    async with served() as one:
        client = await one.open()
        said = b""
        for answer in (masked(PONG, b""), masked(TEXT, b"a"), masked(PONG, b"")):
            assert one.socket.write(Heartbeat(COMMENT))
            said += frame(PING, b"")
            await wait_said(client, said)
            client.send(answer + masked(PING, b""))
            said += frame(PONG, b"")
            await wait_said(client, said)
        assert not one.outcomes


@on_each_loop
async def test_client_that_has_not_answered_at_the_next_heartbeat_is_dead() -> None:
    """Its connection is given up at once."""
    async with served() as one:
        client = await one.open()
        assert one.socket.write(Heartbeat(COMMENT))
        await wait_said(client, frame(PING, b""))
        assert not one.socket.write(Heartbeat(COMMENT))
        await one.wait_outcome("left")
        await client.wait_gone()


@on_each_loop
async def test_clogged_client_is_not_written_to_and_is_told_of_when_it_reads() -> None:
    """As over plain HTTP; and its pings cost no memory beyond a bound."""
    async with served() as one:
        client = await one.open(receive_bytes=4096)
        client.stall()
        message = Span(0, 1, frame(TEXT, b"x" * 65536))
        written = 0
        while one.socket.write(message):
            written += 1
        resumed = asyncio.Event()
        one.socket.on_writable(resumed.set)
        client.send(masked(PING, b"p" * 125) * 20_000)
        async with asyncio.timeout(GUARD_S):
            while client.transport.get_write_buffer_size():
                await asyncio.sleep(0)
        assert not resumed.is_set()
        client.read_on()
        async with asyncio.timeout(GUARD_S):
            await resumed.wait()
        one.socket.close(close_frame(1000))
        await client.wait_bytes(lambda buffer: buffer.endswith(close_frame(1000)))
        kinds = [kind for kind, _ in heard(bytes(client.buffer))]
        assert kinds.count(TEXT) == written
        assert kinds.count(PONG) < 20_000
        client.send(masked(CLOSE, b"\x03\xe8"))
        await one.wait_outcome("ended")


@pytest.mark.parametrize("opcode", [PING, TEXT])
@on_each_loop
async def test_flood_of_frames_leaves_others_their_turns(opcode: int) -> None:
    """It is read a little at a time, and of its pings the latest is answered; what comes behind it is heard, too."""
    many, a_turn = 200_000, 10
    looks = count()
    async with served() as one:
        one.time = lambda: next(looks) * TURN_S / a_turn  # it is looked at after each feed
        client = await one.open()
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            asyncio.get_running_loop().call_soon(turn)

        turn()
        client.send(masked(opcode, b"") * many + masked(PING, b"last"))
        await client.wait_bytes(lambda buffer: buffer.endswith(frame(PONG, b"last")))
        assert turns > many / FRAMES_A_FEED / (a_turn + 1)
        one.socket.close(close_frame(1000))
        client.send(masked(CLOSE, b"\x03\xe8"))
        await one.wait_outcome("ended")
