"""Prompts, answers and keys stay between a caller and the upstream: marked ones are looked for in all that is written.

That is: log lines at debug, metrics in both formats, spans, the list and the live feed of the admin port, and what
other callers are answered. `test_redaction` does the same for tokens, with a process of its own.
"""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from proxy.access.grants import Grants
from proxy.stream.modes import channel
from proxy.telemetry.live_feed import LiveFeed
from proxy.telemetry.tracing import Tracing
from tests import message_events
from tests.access.keys import UPSTREAMS
from tests.access.named import NamedCallers
from tests.dialects.response_events import message, numbered, response
from tests.event_loops import on_one_loop, until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Client
from tests.proxy_under_test import CHAT, NATIVE, RESPONSES, Tee, teed
from tests.stage import Stage, Turn

QUESTION, ANSWER = "marked-QUESTION-7f3a", "marked-ANSWER-91bc"
MESSAGES = "/v1/messages"
OPENMETRICS = "Accept: application/openmetrics-text; version=1.0.0"

pytestmark = on_one_loop


def native_frame(text: str, reason: str = "null") -> bytes:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return b"id:1\nevent:result\ndata:%b\n\n" % json.dumps({"output": {"choices": [choice]}}).encode()


BODIES: dict[str, tuple[dict[str, Any], list[bytes]]] = {
    CHAT: (
        {"model": "m", "stream": True, "messages": [{"role": "user", "content": QUESTION}]},
        [chunk_frame(ANSWER), FINISH, DONE],
    ),
    RESPONSES: ({"model": "m", "stream": True, "input": QUESTION}, numbered(response(message(0, [ANSWER])))),
    MESSAGES: (
        {"model": "m", "stream": True, "max_tokens": 9, "messages": [{"role": "user", "content": QUESTION}]},
        message_events.message([message_events.Block("text", (ANSWER,))]),
    ),
    NATIVE: ({"model": "m", "input": {"prompt": QUESTION}}, [native_frame(ANSWER), native_frame("", "stop")]),
}
"""What is asked of each API, and the frames of the answer."""

Play = Callable[[Turn, list[bytes]], None]


def _complete(turn: Turn, frames: list[bytes]) -> None:
    turn.begin()
    turn.end(*frames)


def _broken(turn: Turn, frames: list[bytes]) -> None:
    turn.begin()
    turn.chunk(frames[0] + frames[-1][:5])
    turn.reset()


def _garbled(turn: Turn, frames: list[bytes]) -> None:
    turn.begin()
    turn.chunk(frames[0])
    turn.say(f"{ANSWER}\r\n{ANSWER}".encode())
    turn.close()


def _not_http(turn: Turn, frames: list[bytes]) -> None:
    turn.say(f"HTTP/1.1 {ANSWER}\r\n{ANSWER}: {ANSWER}\r\n\r\n".encode())
    turn.close()


def _not_json(turn: Turn, frames: list[bytes]) -> None:
    turn.begin()
    turn.end(b'data: {"choices": %b\n\n' % ANSWER.encode(), b"data: %b\n\n" % ANSWER.encode())


def _error(turn: Turn, frames: list[bytes]) -> None:
    """The upstream's own error quotes both."""
    turn.begin()
    said = {"error": {"message": f"{QUESTION} {ANSWER}", "type": ANSWER, "code": f"{QUESTION} is not"}}
    turn.end(frames[0], b"event: error\ndata: %b\n\n" % json.dumps(said).encode())


def _refusal(turn: Turn, frames: list[bytes]) -> None:
    body = json.dumps({"error": {"message": QUESTION, "code": QUESTION}}).encode()
    turn.reply("400 Bad Request", f"x-note: {ANSWER}", "Content-Type: application/json", body=body)


PLAYS: tuple[Play, ...] = (_complete, _broken, _garbled, _not_http, _not_json, _error, _refusal)


class Written:
    """All that a proxy writes for others than the caller, and what must not be in it."""

    def __init__(self, tee: Tee, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture, *secrets: str) -> None:
        self._tee = tee
        self._spans = spans
        self._caplog = caplog
        self._secrets = secrets
        self.others = b""

    async def check(self, feed: bytes) -> None:
        """Look for the marks everywhere."""
        pages = b""
        for path, headers in (("/metrics", ()), ("/metrics", (OPENMETRICS,)), ("/admin/streams", ()), ("/readyz", ())):
            answer = await self._tee.admin(path, *headers)
            assert answer.status == 200
            pages += await answer.read()
        spans = "".join(span.to_json() for span in self._spans.get_finished_spans())
        log = "".join(f"{record.getMessage()} {record.exc_text} {record.args}" for record in self._caplog.records)
        assert b"streamtee_streams_ended_total" in pages
        for place, text in (
            ("log", log.encode()),
            ("spans", spans.encode()),
            ("pages", pages),
            ("feed", feed),
            ("others", self.others),
        ):
            for secret in (QUESTION, ANSWER, UPSTREAMS, *self._secrets):
                at = text.find(secret.encode())
                assert at < 0, f"{secret} is in the {place}: {text[max(0, at - 300) : at + 100]!r}"


def traced() -> tuple[InMemorySpanExporter, Tracing]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter, Tracing(provider)


async def ask_all(tee: Tee, stage: Stage, *headers: str, play: Play) -> None:
    """Ask by every API, streamed, and play what the upstream does; look at each stream as a caller does."""
    for path, (body, frames) in BODIES.items():
        more = ["X-DashScope-SSE: enable"] if path == NATIVE else []
        client = await tee.send("POST", path, *headers, *more, body=json.dumps(body).encode())
        turn = await stage.next()
        assert QUESTION.encode() in await turn.body()
        play(turn, frames)
        answer = await client.answer()
        body_read = await answer.read()
        if play is _complete:
            assert ANSWER.encode() in body_read
        ident = answer.header("stream-id")
        if ident is not None:
            for query in ("mode=text", "mode=json", "mode=events&after=1"):
                await (await tee.follow(ident, query, headers[0])).read()


async def ask_badly(tee: Tee, *headers: str) -> None:
    """Send what is refused here: malformed heads and bodies, options, cursors, and paths, each with the marks."""
    key = headers[0].rpartition(" ")[2]
    body = json.dumps({"input": QUESTION, "previous_response_id": QUESTION}).encode()
    for method, path, more, sent in (
        ("POST", CHAT, f"Stream-Mode: {QUESTION}", b"{}"),
        ("POST", CHAT, f"Stream-Retain: {QUESTION}", b"{}"),
        ("POST", RESPONSES, "x: y", body),
        ("POST", RESPONSES, "x: y", b'{"background": true, "input": "%b' % QUESTION.encode()),
        ("POST", "/v1/files", "x: y", QUESTION.encode()),
        ("GET", f"/nowhere/{QUESTION}?q={ANSWER}", "x: y", b""),
        ("GET", f"/v1/streams/{QUESTION}?after={ANSWER}", "x: y", b""),
        ("POST", f"/v1/streams/{QUESTION}/share", "x: y", b'{"rights": "%b"}' % QUESTION.encode()),
    ):
        await (await tee.ask(method, path, *headers, more, body=sent)).read()
    for broken in (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\x01\r\n\r\n{QUESTION}",
        f"{QUESTION} {key}\r\n\r\n",
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization {key}\r\n\r\n",
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nx-api-key: {key}\r\n\r\n{ANSWER}\r\n",
    ):
        client = await Client.connect(tee.proxy.url)
        tee.clients.append(client)
        client.send(broken.encode())
        await client.answer()


@pytest.mark.parametrize("play", PLAYS, ids=[play.__name__.strip("_") for play in PLAYS])
async def test_prompts_answers_and_keys_are_written_nowhere(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture, play: Play
) -> None:
    """By each API, whatever the upstream does, with all that can be asked wrongly."""
    caplog.set_level("DEBUG")
    callers = NamedCallers(tmp_path, alice={"requests_per_day": 1000}, bob={})
    alice, bob = callers.header("alice"), callers.header("bob")
    spans, tracing = traced()
    async with teed(stage.url, tracing=tracing, **callers.tables(), log_level="debug") as tee:
        written = Written(tee, spans, caplog, callers.keys["alice"], callers.keys["bob"])
        feed = await tee.admin("/admin/events")
        await ask_all(tee, stage, alice, play=play)
        await ask_badly(tee, alice)
        for stream in list(tee.proxy.hub):
            written.others += await (await tee.ask("GET", f"/v1/streams/{stream.id}", bob)).read()
        written.others += await (await tee.ask("GET", "/v1/streams", bob)).read()
        written.others += await (await tee.ask("GET", "/v1/usage", bob)).read()
        await until(lambda: tee.proxy.hub.running == 0)
        await written.check(bytes(feed.body) + bytes(feed.client.buffer))


@pytest.mark.parametrize("path", ["/v1/embeddings", "/own/echo", "/own/recorded", "/own/feed"])
async def test_what_passes_through_is_written_nowhere(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """Other paths of the APIs and routes of the operator's own: bodies, queries and headers."""
    caplog.set_level("DEBUG")
    callers = NamedCallers(tmp_path, alice={"tokens_per_day": 1000})
    alice = callers.header("alice")
    routes = [
        {"path": "/own/", "upstream": "own"},
        {"path": "/own/recorded", "upstream": "own", "record": True},
        {"path": "/own/feed", "upstream": "own", "share": "url"},
    ]
    tables = {**callers.tables(), "routes": routes, "upstreams": {"own": {"url": stage.url, "key": UPSTREAMS}}}
    spans, tracing = traced()
    async with teed(stage.url, tracing=tracing, **tables) as tee:
        written = Written(tee, spans, caplog, callers.keys["alice"])
        feed = await tee.admin("/admin/events")
        client = await tee.send("POST", CHAT, alice, body=json.dumps(BODIES[CHAT][0]).encode())
        turn = await stage.next()
        await turn.body()
        _complete(turn, BODIES[CHAT][1])
        await (await client.answer()).read()
        client = await tee.send("POST", f"{path}?q={QUESTION}", alice, f"x-note: {QUESTION}", body=QUESTION.encode())
        turn = await stage.next()
        await turn.body()
        if path in ("/own/recorded", "/own/feed"):
            turn.begin()
            turn.chunk(b"data: %b\n\n" % ANSWER.encode())
            answer = await client.answer()
            await answer.until(ANSWER.encode())
            turn.reset()
            await client.leave()
        else:
            turn.say(f"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{ANSWER}".encode())
            turn.reset()
            await (await client.answer()).read()
        await until(lambda: tee.proxy.hub.running == 0)
        await written.check(bytes(feed.body) + bytes(feed.client.buffer))


async def test_sessions_of_web_sockets_are_written_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Messages of both sides, and the reasons that they close with, also after a frame that no client may send."""
    caplog.set_level("DEBUG", logger="streamtee")

    async def answer(connection: ServerConnection) -> None:
        async for _ in connection:
            await connection.send(json.dumps({"type": "response.text.delta", "delta": ANSWER}))
            await connection.send(json.dumps({"type": "error", "error": {"message": QUESTION, "code": ANSWER}}))

    callers = NamedCallers(tmp_path, alice={})
    spans, tracing = traced()
    async with serve(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        tables = callers.tables()
        tables["upstream"]["paths"] = ["/api-ws/v1/realtime"]
        async with teed(url, tracing=tracing, **tables) as tee:
            written = Written(tee, spans, caplog, callers.keys["alice"])
            feed = await tee.admin("/admin/events")
            target = tee.proxy.url.replace("http", "ws", 1) + f"/api-ws/v1/realtime?model=m&note={QUESTION}"
            key = {"Authorization": f"Bearer {callers.keys['alice']}"}
            for how in ("closed", "broken"):
                async with connect(target, additional_headers=key) as session:
                    await session.send(json.dumps({"type": "session.update", "session": {"instructions": QUESTION}}))
                    assert ANSWER in str(await session.recv())
                    if how == "closed":
                        await session.close(1000, QUESTION)
                    else:
                        session.transport.write(b"\xf3" + QUESTION.encode())
                        await session.wait_closed()
            await until(lambda: tee.proxy.hub.running == 0)
            await written.check(bytes(feed.body) + bytes(feed.client.buffer))


async def test_fault_of_ours_does_not_quote_what_it_was_about(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    background_log: list[Any],
) -> None:  # fmt: skip
    """An exception with a text in its message, in a mode, an observer, a handler: only its type and place are told."""
    caplog.set_level("DEBUG")

    def fail(*given: Any) -> bytes:
        raise ValueError(f"{QUESTION} {ANSWER}")

    monkeypatch.setattr(channel, "bisect_right", fail)  # by which mode text finds its span
    monkeypatch.setattr(LiveFeed, "ended", fail)
    monkeypatch.setattr(Grants, "check_signs", fail)
    callers = NamedCallers(tmp_path, alice={})
    alice = callers.header("alice")
    spans, tracing = traced()
    async with teed(stage.url, tracing=tracing, **callers.tables()) as tee:
        written = Written(tee, spans, caplog, callers.keys["alice"])
        client = await tee.send("POST", CHAT, alice, body=json.dumps(BODIES[CHAT][0]).encode())
        turn = await stage.next()
        turn.begin()
        turn.chunk(BODIES[CHAT][1][0])
        answer = await client.answer()
        follower = await tee.follow(answer.stream_id, "mode=text", alice)
        turn.end(*BODIES[CHAT][1][1:])
        assert ANSWER.encode() in await answer.read()
        assert ANSWER.encode() not in await follower.read()
        failed = await tee.ask("POST", f"/v1/streams/{answer.stream_id}/share", alice)
        assert failed.status == 500
        written.others += await failed.read()
        monkeypatch.undo()
        await written.check(b"")
    assert len(background_log) == 3, [record.getMessage() for record in background_log]
    assert not any(QUESTION in record.getMessage() or record.exc_info for record in background_log)


async def test_admin_port_tells_no_text_without_the_token(stage: Stage, tmp_path: Path) -> None:
    """At no path, while a stream runs and after its end; an operator with the token may follow it."""
    callers = NamedCallers(tmp_path, alice={})
    alice = callers.header("alice")
    async with teed(stage.url, **callers.tables()) as tee:
        client = await tee.send("POST", CHAT, alice, body=json.dumps(BODIES[CHAT][0]).encode())
        turn = await stage.next()
        await turn.body()
        turn.begin()
        turn.chunk(BODIES[CHAT][1][0])
        answer = await client.answer()
        await answer.until(ANSWER.encode())
        for over in (False, True):
            if over:
                turn.end(*BODIES[CHAT][1][1:])
                await answer.read()
            stream = f"/admin/streams/{answer.stream_id}"
            paths = (stream, f"{stream}?mode=text", f"{stream}/info", "/admin/streams", "/admin/events", "/metrics")
            for path in (*paths, "/console", "/openapi.json", f"/v1/streams/{answer.stream_id}"):
                for key in ("Authorization: ", alice):
                    said = await (await tee.admin(path, key)).read()
                    assert ANSWER.encode() not in said, path
                    assert QUESTION.encode() not in said, path
        followed = await tee.admin(f"/admin/streams/{answer.stream_id}?mode=raw")
        assert ANSWER.encode() in await followed.read()


@pytest.mark.parametrize("path", list(BODIES))
@pytest.mark.parametrize("how", ["header", "setting"])
async def test_retention_of_zero_leaves_nothing_after_the_end(
    stage: Stage, tmp_path: Path, path: str, how: str
) -> None:
    """No log, no key, no description: it is as if it had never been, and no object of the process holds its text."""
    callers = NamedCallers(tmp_path, alice={})
    alice = callers.header("alice")
    retains = {"streams": {"retain_s": 0}} if how == "setting" else {}
    headers = [] if how == "setting" else ["Stream-Retain: 0"]
    body, frames = BODIES[path]
    async with teed(stage.url, **callers.tables(), **retains) as tee:
        more = ["X-DashScope-SSE: enable"] if path == NATIVE else []
        client = await tee.send("POST", path, alice, "Stream-Key: k", *headers, *more, body=json.dumps(body).encode())
        turn = await stage.next()
        await turn.body()
        turn.begin()
        answer = await client.answer()
        follower = await tee.follow(answer.stream_id, "", alice)
        for frame in frames:
            turn.chunk(frame)
        turn.end()
        assert ANSWER.encode() in await answer.read()
        assert ANSWER.encode() in await follower.read()
        await until(lambda: tee.proxy.hub.running == 0)
        for target in (f"/v1/streams/{answer.stream_id}", f"/v1/streams/{answer.stream_id}/info", "/v1/keys/k"):
            assert (await tee.ask("GET", target, alice)).status == 404
        assert await tee.listed(alice) == []
        assert list(tee.proxy.hub) == []
        assert tee.proxy.hub.ledger.total_bytes == 0
        for one in (client, follower.client):
            await one.leave()
        del answer, follower, client, one
        gc.collect()
        held = [
            type(thing)
            for thing in gc.get_objects()
            if type(thing).__module__.startswith("proxy.stream") and ANSWER in repr(getattr(thing, "frames", ""))
        ]
        assert held == []
