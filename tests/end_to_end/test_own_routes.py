"""Routes of the user's own, from outside: event servers of other makes, curl, and any interleaving of what happens."""

import asyncio
import json
import re
from typing import Any
from unittest import mock

import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.upstream import broadcast
from tests.event_loops import GUARD_S, on_one_loop, until
from tests.event_streams import blocks, stamped
from tests.http_client import Answer
from tests.proxy_under_test import Tee, faked, teed
from tests.spawned import ended, served_by_source
from tests.stage import Stage, Turn, staged
from tests.workers_under_test import in_one_process

SHARED = {"path": "/events", "share": "url"}
HALF = b"id: u999999\ndata: a block that is never"


def tick(number: int) -> bytes:
    return b"id: u%d\ndata: %d\n\n" % (number, number)


# Any interleaving.


class Server:
    """An event server that honours Last-Event-ID, however its connections break."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.said = 0
        self.turn: Turn | None = None

    async def accept(self, refusals: int = 0) -> None:
        """Answer the next request, after as many that are refused, with what it has missed."""
        for _ in range(refusals):
            (await self.stage.next()).reply("503 Service Unavailable")
        self.turn = await self.stage.next()
        self.turn.begin()
        (ident,) = self.turn.all("last-event-id") or [b"u0"]
        for number in range(int(ident[1:]) + 1, self.said + 1):
            self.turn.chunk(tick(number))

    def tick(self) -> None:
        self.said += 1
        if self.turn is not None:
            self.turn.chunk(tick(self.said))

    def drop(self, how: str) -> None:
        turn, self.turn = self.turn, None
        assert turn is not None
        if how == "half":
            turn.chunk(HALF)
        {"end": turn.end, "half": turn.end, "fin": turn.close, "reset": turn.reset}[how]()


class Browser:
    """A follower as EventSource is one: when it comes back, it says which event it had last."""

    def __init__(self, tee: Tee) -> None:
        self.tee = tee
        self.answer: Answer | None = None
        self.seen: list[tuple[int, str]] = []
        """Every event it had, by the number in its data, and its id."""

    async def come(self) -> None:
        headers = (f"Last-Event-ID: {self.seen[-1][1]}",) if self.seen else ()
        self.answer = await self.tee.ask("GET", "/events", *headers)
        assert self.answer.status == 200

    async def leave(self) -> None:
        """Leave, with what has been read until now."""
        assert self.answer is not None
        self._note()
        await self.answer.client.leave()
        self.answer = None

    async def wait(self, number: int) -> None:
        """Read until an event is there."""
        if self.answer is not None:
            await self.answer.until(b"data: %d\n" % number)

    def _note(self) -> None:
        assert self.answer is not None
        body = bytes(self.answer.body)
        whole = body[: body.rfind(b"\n\n") + 2]
        for block in blocks(whole):
            found = re.fullmatch(rb"id: u(\d+)\ndata: \1\nid: (.*)\n\n", block)
            assert found, block
            self.seen.append((int(found[1]), found[2].decode()))


WHO = st.integers(0, 3)
STEPS = st.one_of(
    st.just(("tick",)),
    st.just(("tick",)),
    st.tuples(st.just("come"), WHO),
    st.tuples(st.just("leave"), WHO, st.booleans()),
    st.tuples(st.just("break"), st.sampled_from(["end", "half", "fin", "reset"]), st.integers(0, 2), st.integers(0, 2)),
)


async def performed(steps: list[Any], join: str) -> None:
    async with staged() as stage, teed(stage.url, routes=[{**SHARED, "join": join}]) as tee:
        server, browsers = Server(stage), [Browser(tee) for _ in range(5)]
        anchor = browsers[4]  # it stays, so that the stream does
        coming = asyncio.create_task(anchor.come())
        await server.accept()
        await coming
        for step in steps:
            match step:
                case ("tick",):
                    server.tick()
                case ("come", who) if browsers[who].answer is None:
                    await browsers[who].come()
                case ("leave", who, up_to_date) if browsers[who].answer is not None:
                    if up_to_date:
                        server.tick()
                        await browsers[who].wait(server.said)
                    await browsers[who].leave()
                case ("break", how, missed, refusals):
                    server.drop(how)
                    for _ in range(missed):
                        server.tick()
                    await server.accept(refusals)
        server.tick()
        for browser in browsers:
            await browser.wait(server.said)
            if browser.answer is not None:
                await browser.leave()
        for browser in browsers:
            numbers = [number for number, _ in browser.seen]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
            assert [ident.partition("-")[2] for _, ident in browser.seen] == [str(number) for number in numbers]
            assert len({ident[:6] for _, ident in browser.seen}) <= 1
            if numbers and join == "window":
                assert numbers[0] == 1
        assert [number for number, _ in anchor.seen] == list(range(1, server.said + 1))


@in_one_process("it changes the delays of this process, and would start a server for each example")
@settings(max_examples=40)
@given(st.lists(STEPS, max_size=14), st.sampled_from(["live", "window"]))
def test_no_gap_and_no_repeat_whatever_happens(steps: list[Any], join: str) -> None:
    """Joins, leaves, resumes and broken upstreams: each follower's events are the upstream's, in order, each once."""
    with (
        mock.patch.object(broadcast, "LEAST_S", 0.001),
        mock.patch.object(broadcast, "RECONNECTION_S", 0.001),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(performed(steps, join))


# The fake's ticker


@on_one_loop
async def test_ticker_of_the_fake_is_shared() -> None:
    """Many followers, one connection upstream; each has the same ticks."""
    async with faked() as fake, teed(fake.url, routes=[SHARED]) as tee:
        followers = [await tee.ask("GET", "/events?every_ms=10") for _ in range(20)]
        last = followers[-1]
        seen = next(iter(tee.proxy.hub)).log.end
        body = await last.until(b"id: %b-%d\n\n" % (last.epoch.encode(), seen + 5))
        ticks = [block for block in blocks(body[: body.rfind(b"\n\n") + 2]) if b"event: tick" in block]
        for follower in followers[:-1]:
            await follower.until(ticks[-1])
            assert b"".join(ticks) in bytes(follower.body)
        assert len(fake.requests) == 1


# FastAPI with sse-starlette

SERVER = """
import asyncio, json, socket, sys
import uvicorn
from fastapi import FastAPI, Request
from sse_starlette import EventSourceResponse, ServerSentEvent

app = FastAPI()
calls = []

@app.get("/events")
async def get(request: Request) -> EventSourceResponse:
    return events("get", request)

@app.post("/events")
async def post(request: Request) -> EventSourceResponse:
    return events((await request.json())["topic"], request)

def events(topic: str, request: Request) -> EventSourceResponse:
    calls.append(topic)
    after = int(request.headers.get("last-event-id", "0"))

    async def numbers():
        for number in range(after + 1, after + 4):
            yield ServerSentEvent(json.dumps({"topic": topic, "number": number, "calls": len(calls)}),
                                  event="news", id=str(number), retry=100)
            await asyncio.sleep(0.01)
        if len(calls) > 3:
            await asyncio.sleep(3600)

    return EventSourceResponse(numbers())

listening = socket.socket(fileno=int(sys.argv[1]))
uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listening])
"""


class Curl:
    """A curl that follows."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.body = b""

    async def __aenter__(self) -> "Curl":
        self._process = await asyncio.create_subprocess_exec(
            "curl", "-sSN", *self.arguments, stdout=asyncio.subprocess.PIPE
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await ended(self._process)

    async def until(self, wanted: bytes) -> bytes:
        assert self._process.stdout is not None
        async with asyncio.timeout(GUARD_S):
            while wanted not in self.body:
                data = await self._process.stdout.read(4096)
                assert data, f"curl ended without {wanted!r}: {self.body!r}"
                self.body += data
        return self.body


def numbers(body: bytes) -> list[int]:
    return [json.loads(data)["number"] for data in re.findall(rb"^data: (.*)$", body, re.MULTILINE)]


@on_one_loop
async def test_fastapi_behind_the_proxy_is_read_by_curl() -> None:
    """GET and POST: each connection upstream ends after three events, and curl, on one connection, has them all."""
    async with served_by_source(SERVER) as url, teed(url, routes=[{**SHARED, "join": "window"}]) as tee:
        events = f"{tee.proxy.url}/events"
        async with Curl(events) as get, Curl(events) as also:
            said = await get.until(b'"number": 9')
            assert numbers(said) == list(range(1, 10))
            assert said.count(b"event: news\r\n") == 9
            assert numbers(await also.until(b'"number": 9'))[-1] == 9
        await tee.wait_followers(0)
        await until(lambda: not tee.proxy.hub.running)
        posted = ("-X", "POST", "-H", "Content-Type: application/json", "-d", '{"topic":"tea"}', events)
        async with Curl(*posted) as post:
            said = await post.until(b'"number": 3')
            assert b'"topic": "tea"' in said
            ident = re.findall(rb"^id: (\w{6}-2)\r$", said, re.MULTILINE)[0].decode()
            async with Curl("-H", f"Last-Event-ID: {ident}", *posted) as resumed:
                assert numbers(await resumed.until(b'"number": 3')) == [3]


@on_one_loop
async def test_first_event_of_any_server_is_stamped(stage: Stage) -> None:
    """Also of one that writes CRLF, comments in between, and ids without data."""
    said = b": hello\r\n\r\nid: 1\r\n\r\nevent: a\r\ndata: x\r\n\r\n"
    async with teed(stage.url, routes=[SHARED]) as tee:
        client = await tee.send("GET", "/events")
        turn = await stage.next()
        turn.begin()
        turn.chunk(said)
        answer = await client.answer()
        assert await answer.until(b"-3\r\n\r\n") == stamped(said, answer.epoch)
