"""WebSockets that pass through: real clients on one side, a real server or the fake on the other, and followers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode
from websockets.typing import Subprotocol

from proxy.stream.ledger import UNFINISHED
from proxy.tools.fake.qwen import FakeQwen
from proxy.tools.fake.realtime import FakeSocket
from proxy.wire.websocket import accept
from tests.event_loops import GUARD_S, on_one_loop, until
from tests.frames import ASK, masked
from tests.http_client import KEY, request
from tests.memory import rss_bytes
from tests.proxy_under_test import Serve, Tee
from tests.stage import Stage
from tests.websocket_client import MINE, opened, rest
from tests.workers_under_test import COUNT

REALTIME = "/api-ws/v1/realtime?model=qwen-omni"
INFERENCE = "/api-ws/v1/inference/"
MEGABYTE = 1 << 20
CREATE = json.dumps({"type": "response.create"})
Handler = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def socket_to(tee: Tee, path: str = REALTIME, headers: dict[str, str] | None = None, **options: Any) -> Any:
    """Open a WebSocket through the proxy with the `websockets` library, which offers compression."""
    url = tee.proxy.url.replace("http", "ws", 1) + path
    async with asyncio.timeout(GUARD_S), connect(url, additional_headers={**MINE, **(headers or {})}, **options) as one:
        yield one


@asynccontextmanager
async def upstream(handler: Handler, **options: Any) -> AsyncIterator[tuple[str, list[ServerConnection]]]:
    """Run a real WebSocket server as the upstream; yield its URL, and the connections that came."""
    came: list[ServerConnection] = []

    async def handle(connection: ServerConnection) -> None:
        came.append(connection)
        await handler(connection)

    async with serve(handle, "127.0.0.1", 0, **options) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", came


async def echo(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


def stream_id(socket: ClientConnection) -> str:
    assert socket.response is not None
    return socket.response.headers["Stream-Id"]


async def closed(socket: ClientConnection) -> tuple[int | None, str | None]:
    """Wait until the other side has closed, whatever it sends before; return code and reason."""
    try:
        while True:
            await socket.recv()
    except ConnectionClosed:
        return socket.close_code, socket.close_reason


async def answered(socket: ClientConnection) -> list[dict[str, Any]]:
    """Ask for an answer; return its events."""
    await socket.send(CREATE)
    events = []
    while not events or events[-1]["type"] != "response.done":
        events.append(json.loads(await socket.recv()))
    return events


async def open_socket(fake: FakeQwen) -> FakeSocket:
    await until(lambda: bool(fake.sockets))
    return fake.sockets[-1]


# Messages


@pytest.mark.parametrize(
    "message",
    ["", "text", "路\n\r\n\0", b"", b"\x00\xff" * 100, "x" * 70_000, b"y" * MEGABYTE],
    ids=lambda m: str(len(m)),
)
async def test_message_crosses_both_ways_as_it_is(serve: Serve, message: str | bytes) -> None:
    """Text is text and binary is binary, of any size."""
    async with upstream(echo) as (url, _):
        tee = await serve(url=url)
        async with socket_to(tee, max_size=None) as socket:
            await socket.send(message)
            assert await socket.recv() == message


@on_one_loop
async def test_handshake_crosses_without_extensions(serve: Serve) -> None:
    """Neither side is offered compression; path, query, subprotocol and headers are the client's."""
    async with upstream(echo, subprotocols=["realtime"]) as (url, came):  # type: ignore[list-item]
        tee = await serve(url=url)
        async with socket_to(tee, headers={"X-Mine": "1"}, subprotocols=["realtime"]) as socket:
            assert socket.subprotocol == "realtime"
            asked = came[0].request
            assert asked is not None
            assert asked.path == REALTIME
            assert (asked.headers["X-Mine"], asked.headers["Authorization"]) == ("1", f"Bearer {KEY}")
            assert "Sec-WebSocket-Extensions" not in asked.headers
            assert "Sec-WebSocket-Extensions" not in socket.response.headers
            assert len(asked.headers.get_all("Sec-WebSocket-Key")) == 1


@on_one_loop
async def test_fragments_arrive_whole(serve: Serve, fake: FakeQwen) -> None:
    """Of either side, with a ping amid them."""
    tee = await serve()
    async with socket_to(tee, headers={"Fake-Fault": "socket_fragments"}) as socket:
        assert json.loads(await socket.recv())["type"] == "session.created"
        await socket.send(['{"type":', b'"session.update"}'.decode()])
        assert json.loads(await socket.recv())["type"] == "session.updated"
        assert (await open_socket(fake)).texts() == [{"type": "session.update"}]


@on_one_loop
async def test_ping_is_answered_on_its_own_side(serve: Serve) -> None:
    """Neither crosses; a thousand pings in one read hurt nobody."""
    heard: list[Opcode] = []

    async def listen(connection: ServerConnection) -> None:
        parse = connection.protocol.recv_frame

        def note(frame: Any) -> None:
            heard.append(frame.opcode)
            parse(frame)

        connection.protocol.recv_frame = note  # type: ignore[method-assign]
        await (await connection.ping())
        await echo(connection)

    async with upstream(listen) as (url, _):
        tee = await serve(url=url)
        async with socket_to(tee, ping_interval=None) as socket:
            await (await socket.ping(b"mine"))
            await until(lambda: Opcode.PONG in heard)
            socket.transport.write(masked(9, b"") * 1000)
            await socket.send("after")
            assert await socket.recv() == "after"
    assert Opcode.PING not in heard


@on_one_loop
async def test_aiohttp_and_the_openai_sdk_talk_through_it(serve: Serve) -> None:
    """Real clients, of which only the base URL is another."""
    tee = await serve()
    async with aiohttp.ClientSession() as session, session.ws_connect(tee.proxy.url + REALTIME, headers=MINE) as socket:
        assert (await socket.receive_json())["type"] == "session.created"
        await socket.send_json({"type": "session.update", "session": {"voice": "Cherry"}})
        assert (await socket.receive_json())["session"] == {"voice": "Cherry", "model": "qwen-omni"}
    base = tee.proxy.url.replace("http", "ws", 1) + "/api-ws/v1"
    kinds = []
    client = AsyncOpenAI(api_key=KEY, websocket_base_url=base)
    async with client, client.realtime.connect(model="qwen-omni") as connection:
        await connection.response.create()
        async for event in connection:
            kinds.append(event.type)
            if event.type == "response.done":
                break
    assert kinds[:2] == ["session.created", "response.created"]
    assert kinds.count("response.audio_transcript.delta") == 5


# The end


@pytest.mark.parametrize(
    ("code", "reason", "ending"),
    [
        (1000, "", "complete"),
        (1000, "bye", "complete"),
        (1001, "", "upstream_error"),
        (1011, "the model failed 路", "upstream_error"),
        (4321, "r" * 123, "upstream_error"),
    ],
)
@on_one_loop
async def test_close_of_the_upstream_reaches_the_client(serve: Serve, code: int, reason: str, ending: str) -> None:
    """Code and reason; what was sent before comes before. Only a normal one is a success."""

    async def say(connection: ServerConnection) -> None:
        await connection.send("last words")
        await connection.close(code, reason)

    async with upstream(say) as (url, came):
        tee = await serve(url=url)
        async with socket_to(tee) as socket:
            assert await socket.recv() == "last words"
            assert await closed(socket) == (code, reason)
            info = await tee.wait_ended(stream_id(socket))
        assert info["ending"]["reason"] == ending
        await came[0].wait_closed()
        assert came[0].close_code == code


@pytest.mark.parametrize(
    ("code", "reason", "ending"), [(1000, "done", "complete"), (1001, "", "complete"), (3001, "why", "client_gone")]
)
@on_one_loop
async def test_close_of_the_client_reaches_the_upstream(serve: Serve, code: int, reason: str, ending: str) -> None:
    """What it sends before it answers still arrives."""
    async with upstream(echo) as (url, came):
        tee = await serve(url=url)
        async with socket_to(tee) as socket:
            await socket.send("x")
            assert await socket.recv() == "x"
            await socket.close(code, reason)
            assert (socket.close_code, socket.close_reason) == (code, reason)
            info = await tee.wait_ended(stream_id(socket))
        await came[0].wait_closed()
        assert (came[0].close_code, came[0].close_reason) == (code, reason)
        assert info["ending"]["reason"] == ending


@on_one_loop
async def test_close_without_a_code_has_none_on_the_other_side(serve: Serve) -> None:
    """1005 is what the library says then."""
    async with upstream(echo) as (url, came):
        tee = await serve(url=url)
        async with socket_to(tee) as socket:
            socket.transport.write(masked(8, b""))
            assert await closed(socket) == (1005, "")
        await came[0].wait_closed()
        assert came[0].close_code == 1005


@on_one_loop
async def test_close_that_the_upstream_does_not_answer_is_answered(serve: Serve) -> None:
    """After a moment, so that the client need not wait for its own time-out."""
    tee = await serve()
    async with socket_to(tee, headers={"Fake-Fault": "socket_no_answer"}) as socket:
        await socket.recv()
        await socket.close(1000)
        assert socket.close_code == 1000
        assert (await tee.wait_ended(stream_id(socket)))["state"] == "complete"


@pytest.mark.parametrize(
    ("fault", "code", "ending"),
    [
        ("socket_drop", 4502, "upstream_reset"),
        ("socket_reset", 4502, "upstream_reset"),
        ("socket_garbled", 4502, "garbled"),
        ("socket_masked", 4502, "garbled"),
        ("socket_bad_code", 4502, "garbled"),
        ("socket_close; code=1000", 1000, "upstream_reset"),
        ("socket_close; code=1011", 1011, "upstream_error"),
    ],
)
async def test_failure_of_the_upstream_ends_the_session(serve: Serve, fault: str, code: int, ending: str) -> None:
    """With a close code, never as if the answer were complete; a follower in raw sees a connection that breaks off."""
    tee = await serve()
    async with socket_to(tee, headers={"Fake-Fault": fault}) as socket:
        follower = await tee.follow(stream_id(socket), "mode=raw")
        await socket.send(CREATE)
        assert (await closed(socket))[0] == code
        info = await tee.wait_ended(stream_id(socket))
    assert (info["state"], info["ending"]["reason"]) == ("failed", ending)
    await follower.read()
    assert follower.end != "whole"
    assert await tee.metric("streamtee_streams_ended_total", route="realtime", ending=ending) == 1


async def test_client_that_goes_without_a_word_ends_the_session(serve: Serve, fake: FakeQwen) -> None:
    """Its upstream connection is closed at once; the stream is kept as cancelled."""
    tee = await serve()
    async with socket_to(tee) as socket:
        await socket.recv()
        ident = stream_id(socket)
        socket.transport.abort()
    assert (await tee.wait_ended(ident))["ending"]["reason"] == "client_gone"
    assert await tee.metric("streamtee_streams_ended_total", route="realtime") == 1
    await (await open_socket(fake)).closed.wait()


@on_one_loop
async def test_client_that_goes_during_the_handshake_leaves_nothing(perform: Serve, stage: Stage) -> None:
    """The upstream that then agrees is left at once; no stream has begun."""
    tee = await perform()
    client = await tee.send("GET", REALTIME, *ASK)
    turn = await stage.next()
    await client.leave()
    turn.say(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept(turn.all("sec-websocket-key")[0].decode())
        + b"\r\n\r\n"
    )
    await turn.wait_left()
    assert tee.proxy.hub.running == 0


@on_one_loop
async def test_session_is_cancelled_by_its_stream(serve: Serve, fake: FakeQwen) -> None:
    """Both sides are told."""
    tee = await serve()
    async with socket_to(tee) as socket:
        await socket.recv()
        assert (await tee.ask("POST", f"/v1/streams/{stream_id(socket)}/cancel")).status == 200
        assert await closed(socket) == (4409, "cancelled")
    await (await open_socket(fake)).closed.wait()
    assert fake.sockets[-1].heard[-1] == (8, b"\x03\xe9")


@on_one_loop
async def test_silence_of_both_sides_ends_a_session(serve: Serve, fake: FakeQwen) -> None:
    """Pings are no messages; what one side says is enough."""
    tee = await serve(timeouts={"idle_s": 0.4})
    async with socket_to(tee, ping_interval=0.05) as socket:
        for _ in range(6):
            await socket.send("{}")
            assert json.loads(await socket.recv())["type"] in ("session.created", "error")
            await asyncio.sleep(0.1)
        assert await closed(socket) == (4504, "timeout_idle")
    await (await open_socket(fake)).closed.wait()


@on_one_loop
async def test_drained_server_closes_sessions(serve: Serve) -> None:
    """When their time is over, with 1001; until then they go on, and new ones are refused."""
    tee = await serve(drain_s=0.3)
    async with socket_to(tee) as socket:
        await socket.recv()
        draining = asyncio.create_task(tee.proxy.drain())
        await until(lambda: tee.proxy.hub.draining)
        assert len(await answered(socket)) == 12
        assert await closed(socket) == (1001, "drained")
        await draining


# What may pass


@on_one_loop
async def test_refusal_of_the_upstream_is_the_answer(serve: Serve) -> None:
    """Status, headers and body; no stream comes of it."""
    tee = await serve()
    with pytest.raises(InvalidStatus) as refused:
        async with socket_to(tee, headers={"Fake-Fault": "socket_refuse; status=429"}):
            pass
    response = refused.value.response
    assert (response.status_code, json.loads(response.body or b"")["error"]["code"]) == (429, "invalid_api_key")
    assert await tee.listed() == []


@pytest.mark.parametrize("fault", ["socket_bad_accept", "socket_extension"])
@on_one_loop
async def test_upstream_that_agrees_to_something_else_is_a_bad_gateway(serve: Serve, fault: str) -> None:
    """Then it is no WebSocket that both sides could speak."""
    tee = await serve()
    with pytest.raises(InvalidStatus) as refused:
        async with socket_to(tee, headers={"Fake-Fault": fault}):
            pass
    response = refused.value.response
    assert (response.status_code, json.loads(response.body or b"")["error"]["code"]) == (502, "upstream_garbled")
    assert await tee.metric("streamtee_streams_ended_total", route="realtime", ending="garbled") == 1


@on_one_loop
async def test_key_of_ours_is_put_on_and_opens_listed_paths_only(serve: Serve, fake: FakeQwen) -> None:
    """Also below the prefix; a page of another origin may not use it."""
    tee = await serve(upstream={"key": "sk-ours", "paths": ["/api-ws/v1/realtime", "/api-ws/v1/inference/"]})
    for path in (REALTIME, INFERENCE):
        async with socket_to(tee, path):
            assert (await open_socket(fake)).headers["authorization"] == "Bearer sk-ours"
            fake.sockets.clear()
    for path, headers in (("/api-ws/v1/other", {}), (REALTIME, {"Origin": "https://elsewhere.test"})):
        with pytest.raises(InvalidStatus) as refused:
            async with socket_to(tee, path, headers):
                pass
        assert refused.value.response.status_code == 403
    assert not fake.sockets


@on_one_loop
@pytest.mark.parametrize("path", [REALTIME, INFERENCE])
async def test_key_of_ours_opens_no_session_unless_configured(serve: Serve, path: str) -> None:
    """Nobody can tell whose tasks and files its messages are about."""
    tee = await serve(upstream={"key": "sk-ours"})
    with pytest.raises(InvalidStatus) as refused:
        async with socket_to(tee, path):
            pass
    assert refused.value.response.status_code == 403


@on_one_loop
@pytest.mark.parametrize(
    "said",
    ['{"header":{"action":"continue-task","task_id":"theirs"}}', '{"item":{"content":[{"file_id":"file-theirs"}]}}'],
)
async def test_message_about_what_is_not_the_callers_ends_a_session_with_a_key_of_ours(serve: Serve, said: str) -> None:
    """It does not reach the upstream, whatever was sent before."""
    async with upstream(echo) as (url, _):
        tee = await serve(upstream={"url": url, "key": "sk-ours", "paths": ["/api-ws/"]})
        async with socket_to(tee) as socket:
            await socket.send("a word")
            assert await socket.recv() == "a word"
            await socket.send(said)
            code, reason = await closed(socket)
    assert code == 1008
    assert str(reason).endswith("_not_allowed")


@on_one_loop
async def test_key_in_the_protocols_is_the_callers(serve: Serve, fake: FakeQwen) -> None:
    """Web pages can set no other header: it goes upstream as any key does, and owns the stream; never back."""
    tee = await serve()
    key, offers = "sk-from-a-page", [Subprotocol("realtime"), Subprotocol("openai-insecure-api-key.sk-from-a-page")]
    base = tee.proxy.url.replace("http", "ws", 1)
    async with connect(base + REALTIME, subprotocols=offers, compression=None) as socket:
        headers = (await open_socket(fake)).headers
        assert (headers["authorization"], headers["sec-websocket-protocol"]) == (f"Bearer {key}", "realtime")
        assert socket.subprotocol == "realtime"
        ident = stream_id(socket)
        async with connect(f"{base}/v1/streams/{ident}", subprotocols=offers, compression=None) as follower:
            assert follower.subprotocol == "realtime"
        owner = await tee.ask("GET", f"/v1/streams/{ident}/info", f"Authorization: Bearer {key}")
        other = await tee.ask("GET", f"/v1/streams/{ident}/info", "Authorization: Bearer sk-another")
        assert (owner.status, other.status) == (200, 404)


@on_one_loop
async def test_sessions_count_as_streams(serve: Serve) -> None:
    """One more than allowed is refused before the upstream is asked."""
    tee = await serve(limits={"streams": 1})
    async with socket_to(tee):
        with pytest.raises(InvalidStatus) as refused:
            async with socket_to(tee):
                pass
        assert refused.value.response.status_code == 503


@on_one_loop
async def test_message_larger_than_allowed_ends_the_session(serve: Serve) -> None:
    """Whoever sends it is told 1009; it is not held until it is whole."""
    async with upstream(echo, max_size=None) as (url, came):
        tee = await serve(url=url, limits={"frame_bytes": 1000})
        async with socket_to(tee) as socket:
            await socket.send("x" * 1000)
            assert await socket.recv() == "x" * 1000
            await socket.send("x" * 1001)
            assert await closed(socket) == (1009, "too_large")
        async with socket_to(tee) as socket:
            await came[-1].send(b"y" * 1001)
            assert await closed(socket) == (4413, "frame_limit")
            await came[-1].wait_closed()
            assert came[-1].close_code == 1009


@on_one_loop
async def test_model_of_a_session_chooses_its_upstream(serve: Serve, fake: FakeQwen) -> None:
    """By the query, in which an alias takes its place."""
    async with upstream(echo) as (url, came):
        tee = await serve(
            upstreams={"other": {"url": url}},
            models=[{"name": "omni-*", "upstream": "other"}, {"name": "mine", "alias_of": "a/b"}],
        )
        async with socket_to(tee, "/api-ws/v1/realtime?x=1&model=omni-1") as socket:
            await socket.send("x")
            assert await socket.recv() == "x"
        assert came[0].request is not None
        assert came[0].request.path == "/api-ws/v1/realtime?x=1&model=omni-1"
        async with socket_to(tee, "/api-ws/v1/realtime?x=1&model=mine&y="):
            assert (await open_socket(fake)).target == "/api-ws/v1/realtime?x=1&model=a%2Fb&y="


@on_one_loop
async def test_configured_route_carries_websockets(serve: Serve) -> None:
    """To its own upstream, below its path; it is a stream like any other, of which nothing is known."""
    async with upstream(echo) as (url, came):
        tee = await serve(upstreams={"own": {"url": f"{url}/base"}}, routes=[{"path": "/own/", "upstream": "own"}])
        async with socket_to(tee, "/own/socket") as socket:
            await socket.send("to me")
            assert await socket.recv() == "to me"
            await socket.close()
            info = await tee.wait_ended(stream_id(socket))
        assert came[0].request is not None
        assert came[0].request.path == "/base/own/socket"
        assert (info["route"], info["events"], info["state"]) == ("/own/", 1, "complete")


@pytest.mark.parametrize("headers", [ASK[:3], (*ASK[:2], "Sec-WebSocket-Version: 8", ASK[3])])
@on_one_loop
async def test_handshake_that_is_none_goes_nowhere(serve: Serve, fake: FakeQwen, headers: tuple[str, ...]) -> None:
    """Without a key, or of another version."""
    tee = await serve()
    assert (await tee.ask("GET", REALTIME, *headers)).status in (400, 426)
    assert not fake.sockets


@on_one_loop
async def test_what_comes_before_the_upstream_has_answered_is_not_lost(serve: Serve) -> None:
    """A client may send at once, though it should wait; it is held back meanwhile."""
    async with upstream(echo) as (url, _):
        tee = await serve(url=url)
        client = await tee.connect()
        client.send(request("GET", REALTIME, *ASK) + masked(1, b"early") + masked(1, b"bird"))
        await until(lambda: client.buffer.endswith(b"\x81\x05early\x81\x04bird"))
        assert client.buffer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")


# Those who do not read


@on_one_loop
async def test_client_that_does_not_read_stops_the_upstream(serve: Serve) -> None:
    """Little is held for it; another session goes on."""
    sent = 0

    async def pour(connection: ServerConnection) -> None:
        nonlocal sent
        for _ in range(400):
            await connection.send(bytes(MEGABYTE // 4))
            sent += 1
        await connection.close()

    async with upstream(pour) as (url, _):
        tee = await serve(url=url)
        async with socket_to(tee, max_queue=1, max_size=None) as socket:
            held_before = rss_bytes()
            await until(lambda: sent > 2)
            await tee.settled(lambda: sent)
            assert sent < 200
            assert rss_bytes() - held_before < 32 * MEGABYTE
            received = 0
            async for message in socket:
                received += len(message)
            assert received == 400 * MEGABYTE // 4


@on_one_loop
async def test_upstream_that_does_not_read_stops_the_client(serve: Serve) -> None:
    """What it is sent waits with the client, and arrives in the end."""
    go = asyncio.Event()
    heard = 0

    async def wait(connection: ServerConnection) -> None:
        nonlocal heard
        await go.wait()
        async for message in connection:
            heard += len(message)

    async with upstream(wait, max_queue=1, max_size=None) as (url, _):
        tee = await serve(url=url)
        async with socket_to(tee) as socket:
            sent = 0

            async def pour() -> None:
                nonlocal sent
                for _ in range(400):
                    await socket.send(bytes(MEGABYTE // 4))
                    sent += 1

            held_before = rss_bytes()
            pouring = asyncio.create_task(pour())
            await until(lambda: sent > 2)
            await tee.settled(lambda: sent)
            assert sent < 200
            assert rss_bytes() - held_before < 32 * MEGABYTE
            go.set()
            await pouring
            await socket.close()
    assert heard == 400 * MEGABYTE // 4


async def test_flood_of_the_upstream_holds_nobody_else(serve: Serve) -> None:
    """However many messages come in one read, all others have their turns in between; and each arrives."""
    many, heard, most = 100_000, 0, 0

    async def pour(connection: ServerConnection) -> None:
        connection.transport.write(b"\x81\x00" * many)
        await connection.wait_closed()

    async with upstream(pour) as (url, _):
        tee = await serve(url=url)
        async with socket_to(tee, max_queue=None) as socket:
            log = next(iter(tee.proxy.hub)).log
            async with asyncio.timeout(GUARD_S):
                while heard < many:
                    await asyncio.sleep(0)
                    most, heard = max(most, log.end - heard), log.end
            await socket.close()
    assert most < 10_000  # one read is 32,000 or more


# Those who follow


@on_one_loop
async def test_session_is_followed_like_any_stream(serve: Serve, fake: FakeQwen) -> None:
    """Early, late, by key, from an event on, by SSE and by WebSocket: the upstream's text messages, one an event."""
    tee = await serve()
    async with socket_to(tee, headers={"Stream-Key": "call-1"}) as socket:
        early = await tee.follow("keys/call-1", "mode=raw")
        first = await socket.recv()
        told = [json.loads(first), *await answered(socket)]
        ident = stream_id(socket)
        late = await tee.follow(ident, "after=12")
        async with opened(tee, ident) as follower:
            await socket.close()
            messages, code = await rest(follower)
        assert [json.loads(message["data"]) for message in messages] == told
        assert code == (1000, "complete")
    blocks = b"".join(b"data: %b\n\n" % json.dumps(one, separators=(",", ":")).encode() for one in told)
    assert await early.read() == blocks
    assert json.loads((await late.read()).partition(b"data: ")[2].partition(b"\n")[0]) == told[12]
    assert any(one["type"] == "response.audio.delta" and one["delta"] for one in told)


@on_one_loop
async def test_binary_messages_are_left_out_of_the_stream(serve: Serve) -> None:
    """They are no text; tasks of DashScope's own protocol, whose audio is binary, are followed by their events."""
    tee = await serve()
    header = {"task_id": "t", "streaming": "duplex"}
    async with socket_to(tee, INFERENCE) as socket:
        for action, back in (("run-task", 1), ("continue-task", 2), ("finish-task", 1)):
            await socket.send(json.dumps({"header": {**header, "action": action}, "payload": {"input": {"text": "a"}}}))
            heard = [await socket.recv() for _ in range(back)]
        assert "task-finished" in heard[-1]
        await socket.close()
        info = await tee.wait_ended(stream_id(socket))
        body = await (await tee.follow(stream_id(socket), "mode=raw")).read()
    assert (info["state"], info["events"], info["usage"]["completion"]) == ("complete", 3, 6)
    assert b"audio" not in body
    assert body.count(b"data: ") == 3


@on_one_loop
async def test_line_breaks_in_a_message_are_one_event_to_followers(serve: Serve) -> None:
    """The client is sent them as they are."""

    async def say(connection: ServerConnection) -> None:
        await connection.send('{\r\n "a":\r1\n}')
        await connection.close()

    async with upstream(say) as (url, _):
        tee = await serve(url=url)
        async with socket_to(tee) as socket:
            assert await socket.recv() == '{\r\n "a":\r1\n}'
            body = await (await tee.follow(stream_id(socket), "mode=raw")).read()
    assert body == b'data: {\ndata:  "a":\ndata: 1\ndata: }\n\n'


@on_one_loop
async def test_slow_follower_stops_nobody(serve: Serve, fake: FakeQwen) -> None:
    """The log keeps its newest; the session is not slower, nor does it end, for a follower that does not read."""
    tee = await serve(limits={"log_bytes": MEGABYTE})
    async with socket_to(tee, max_size=None) as socket:
        await tee.follow(stream_id(socket), "mode=raw")
        fake_answer = {"pieces": 64, "piece_bytes": MEGABYTE // 4}
        await socket.send(json.dumps({"type": "response.create", "fake": fake_answer}))
        while "response.done" not in str(await socket.recv())[:60]:
            pass
        stream = next(iter(tee.proxy.hub))
        assert stream.log.size_bytes <= 2 * MEGABYTE


# What is measured


@on_one_loop
async def test_session_is_measured(serve: Serve) -> None:
    """Each answer's first token from its own beginning, usage summed up, messages and bytes by side."""
    tee = await serve()
    async with socket_to(tee) as socket:
        sent = [str(await socket.recv())]
        for _ in range(2):
            await socket.send(CREATE)
            while "response.done" not in sent[-1]:
                sent.append(str(await socket.recv()))
            sent.append("")
        assert await tee.metric("streamtee_streams_active") == 1
        await socket.close()
        info = await tee.wait_ended(stream_id(socket))
    used = info["usage"]
    assert (used["prompt"], used["completion"], used["cached"]) == (20, 40, 4)
    assert info["model"] == "qwen-omni"
    labels = {"route": "realtime", "model": "qwen-omni"}
    assert await tee.metric("streamtee_time_to_first_token_seconds_count", **labels) == 2
    least = 0 if COUNT == 1 else -1  # from another process, the beginning and the first token come in one read
    assert least < await tee.metric("streamtee_time_to_first_token_seconds_sum", **labels) < GUARD_S
    assert await tee.metric("streamtee_tokens_total", kind="completion", **labels) == 40
    assert await tee.metric("streamtee_no_first_token_total") == 0
    assert await tee.metric("streamtee_stream_duration_seconds_count", ending="complete", **labels) == 1
    received = [text for text in sent if text]
    assert await tee.metric("streamtee_socket_messages_total", route="realtime", **{"from": "upstream"}) == len(
        received
    )
    size_bytes = sum(len(text.encode()) for text in received)
    assert await tee.metric("streamtee_socket_bytes_total", route="realtime", **{"from": "upstream"}) == size_bytes
    assert await tee.metric("streamtee_socket_bytes_total", **{"from": "client"}) == 2 * len(CREATE)


@on_one_loop
async def test_unfinished_message_is_counted(serve: Serve) -> None:
    """What is held of one, of either side, is memory; it is none once the session is over."""

    async def half(connection: ServerConnection) -> None:
        connection.transport.write(b"\x82\x7f" + MEGABYTE.to_bytes(8, "big") + bytes(MEGABYTE // 2))
        await echo(connection)

    async with upstream(half) as (url, _):
        tee = await serve(url=url)
        ledger = tee.proxy.hub.ledger
        async with socket_to(tee) as socket:
            await until(lambda: ledger.by_kind()[UNFINISHED] > MEGABYTE // 2)
            socket.transport.write(masked(2, bytes(MEGABYTE))[: MEGABYTE // 2])
            await until(lambda: ledger.by_kind()[UNFINISHED] >= MEGABYTE)
            socket.transport.abort()
            await tee.wait_ended(stream_id(socket))
        assert ledger.by_kind()[UNFINISHED] == 0
