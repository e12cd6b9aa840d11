"""Routes with `record = true`: an event stream of any server is a stream, and any other response passes as it is."""

import asyncio
import contextlib
import gzip
from typing import Any

import pytest
from mcp import Client

from tests.event_loops import on_one_loop, until
from tests.event_streams import stamped
from tests.http_client import Answer
from tests.proxy_under_test import Tee, teed
from tests.spawned import served_by_source
from tests.stage import Stage, Turn

AGENT = {"path": "/agent/", "record": True}
EVENTS = [b"event: step\ndata: one\n\n", b": a comment\n\n", b"id: u2\ndata: two\n\n", b'data: {"last":true}\n\n']


def recorded(stage: Stage, **tables: Any) -> contextlib.AbstractAsyncContextManager[Tee]:
    """Run a proxy that records what is below `/agent/` of the stage."""
    return teed(stage.url, routes=[AGENT], **tables)


async def asked(tee: Tee, stage: Stage, method: str, *headers: str, body: bytes = b"") -> tuple[Answer, Turn]:
    """Have a client ask, and the upstream begin an event stream with the first two events."""
    client = await tee.send(method, "/agent/run?a=b", *headers, body=body)
    turn = await stage.next()
    turn.begin("X-Own: yes", "Mcp-Session-Id: 7")
    for event in EVENTS[:2]:
        turn.chunk(event)
    return await client.answer(), turn


@pytest.mark.parametrize(("method", "body"), [("POST", b'{"task":"tea"}'), ("GET", b""), ("POST", b"")])
async def test_event_stream_is_followed_and_resumed(stage: Stage, method: str, body: bytes) -> None:
    """The client has the upstream's bytes and a Stream-Id, and others the same events by that id."""
    async with recorded(stage) as tee:
        answer, turn = await asked(tee, stage, method, "Last-Event-ID: u0", "Mcp-Session-Id: 7", body=body)
        assert (turn.method.decode(), turn.target) == (method, b"/agent/run?a=b")
        assert await turn.body() == body
        assert turn.all("last-event-id") == [b"u0"]
        assert turn.all("mcp-session-id") == [b"7"]
        assert bool(turn.all("content-length")) == (method == "POST")
        assert (answer.header("x-own"), answer.header("mcp-session-id")) == ("yes", "7")
        follower = await tee.follow(answer.stream_id)
        for event in EVENTS[2:]:
            turn.chunk(event)
        turn.end()
        said = b"".join(EVENTS)
        assert (await answer.read(), answer.end) == (said, "whole")
        assert await follower.read() == stamped(said, answer.epoch)
        late = await tee.follow(answer.stream_id, "", f"Last-Event-ID: {answer.epoch}-2")
        assert await late.read() == stamped(b"".join(EVENTS[2:]), answer.epoch, 3)
        assert (await tee.info(answer.stream_id))["state"] == "complete"
        assert await tee.metric("streamtee_streams_ended_total", route="/agent/", ending="complete") == 1


async def test_each_get_has_a_stream_of_its_own(stage: Stage) -> None:
    """Also of one URL, and where identical generations share a call."""
    async with recorded(stage, generations={"share": "body"}) as tee:
        (one, first), (other, second) = [await asked(tee, stage, "GET") for _ in range(2)]
        assert one.stream_id != other.stream_id
        first.end(b"data: first\n\n")
        second.end(b"data: second\n\n")
        assert b"first" in await one.read()
        assert b"second" in await other.read()


async def test_response_that_is_no_event_stream_passes_as_it_is(stage: Stage) -> None:
    """With its status, headers and bytes, and no stream; also one that looks like events, or is compressed ones."""
    zipped = gzip.compress(b"data: x\n\n")
    compressed = ("Content-Type: text/event-stream", "Content-Encoding: gzip")
    async with recorded(stage) as tee:
        for status, headers, body in (
            ("202 Accepted", (), b""),
            ("200 OK", ("Content-Type: application/json", "X-Own: yes"), b'{"a":1}'),
            ("200 OK", ("Content-Type: text/plain",), b"data: x\n\n"),
            ("404 Not Found", ("Content-Type: text/event-stream",), b"data: no\n\n"),
            ("200 OK", compressed, zipped),
        ):
            client = await tee.send("POST", "/agent/x", body=b"{}")
            turn = await stage.next()
            await turn.body()
            turn.reply(status, *headers, body=body)
            answer = await client.answer()
            assert (answer.status, await answer.read()) == (int(status[:3]), body)
            assert answer.header("stream-id") is None
            assert answer.header("x-own") == ("yes" if "X-Own: yes" in headers else None)
        assert not list(tee.proxy.hub)


async def test_other_methods_pass_through(stage: Stage) -> None:
    """As on a route that is not recorded."""
    async with recorded(stage) as tee:
        client = await tee.send("DELETE", "/agent/session")
        (await stage.next()).reply("204 No Content", length=False)
        assert (await client.answer()).status == 204
        assert not list(tee.proxy.hub)


async def test_policies_hold_for_a_recorded_stream(stage: Stage) -> None:
    """It goes on without its client, is kept as long as asked for, and is found by its key."""
    async with recorded(stage) as tee:
        headers = ("Stream-On-Disconnect: continue", "Stream-Retain: 77", "Stream-Key: job")
        answer, turn = await asked(tee, stage, "POST", *headers, body=b"{}")
        await answer.until(EVENTS[1])
        await answer.client.leave()
        turn.end(b"".join(EVENTS[2:]))
        follower = await tee.follow("keys/job", "mode=raw")
        assert await follower.read() == b"".join(EVENTS)
        (stream,) = tee.proxy.hub
        assert stream.info.retain_s == 77


async def test_last_follower_that_leaves_ends_it(stage: Stage) -> None:
    """By default: the upstream's connection is closed."""
    async with recorded(stage) as tee:
        answer, turn = await asked(tee, stage, "GET")
        await answer.client.leave()
        await turn.wait_left()
        assert await tee.metric("streamtee_streams_ended_total", route="/agent/", ending="client_gone") == 1


async def test_idempotency_key_shares_a_recorded_call(stage: Stage) -> None:
    """And another method under the same key is refused."""
    async with recorded(stage) as tee:
        answer, turn = await asked(tee, stage, "POST", "Idempotency-Key: k")
        again = await tee.ask("POST", "/agent/run?a=b", "Idempotency-Key: k")
        assert again.header("idempotency-replayed") == "true"
        assert (await tee.ask("GET", "/agent/run?a=b", "Idempotency-Key: k")).status == 409
        turn.end()
        assert await again.read() == await answer.read() == b"".join(EVENTS[:2])
        assert len(stage.turns) == 1


async def test_stream_that_breaks_off_is_failed(stage: Stage) -> None:
    """Raw breaks off, and a follower gets an error event."""
    async with recorded(stage) as tee:
        answer, turn = await asked(tee, stage, "POST")
        follower = await tee.follow(answer.stream_id)
        turn.reset()
        await answer.read()
        assert answer.end == "cut"
        assert b"event: error\ndata: " in await follower.read()


async def test_stream_without_events_is_complete(stage: Stage) -> None:
    """And no time-out for a first token applies to one that is silent."""
    async with recorded(stage, timeouts={"first_token_s": 0.05}) as tee:
        client = await tee.send("GET", "/agent/quiet")
        turn = await stage.next()
        turn.begin()
        answer = await client.answer()
        (stream,) = tee.proxy.hub
        loop = asyncio.get_running_loop()
        await until(lambda: loop.time() - stream.vitals.started_at > 0.7)  # two turns of the pool's clock
        turn.end()
        assert (await answer.read(), answer.end) == (b"", "whole")
        assert (await tee.info(answer.stream_id))["state"] == "complete"


@pytest.mark.parametrize("mode", ["text", "json", "cumulative"])
async def test_mode_that_reads_an_answer_is_refused(stage: Stage, mode: str) -> None:
    """Before anything is sent upstream: nothing is known of the data of these events."""
    async with recorded(stage) as tee:
        answer = await tee.ask("POST", "/agent/run", f"Stream-Mode: {mode}", body=b"{}")
        assert answer.status == 400
        assert "raw, events" in (await answer.json())["error"]["message"]
        assert not stage.turns


@pytest.mark.parametrize(("mode", "status"), [("text", 400), ("json", 400), ("cumulative", 200), ("coalesced", 200)])
async def test_follower_in_a_mode_that_reads_an_answer_is_refused(stage: Stage, mode: str, status: int) -> None:
    """Not sent an empty text, or a document that nobody wrote; modes of events have the events as they are."""
    async with recorded(stage) as tee:
        answer, turn = await asked(tee, stage, "POST")
        turn.end()
        follower = await tee.follow(answer.stream_id, f"mode={mode}")
        assert follower.status == status
        assert (b"raw, events" if status == 400 else b"one") in await follower.read()


@pytest.mark.parametrize("mode", ["text", "json"])
async def test_follower_that_came_before_it_in_such_a_mode_is_refused(stage: Stage, mode: str) -> None:
    """Its response begins with the stream."""
    async with recorded(stage) as tee:
        early = await tee.send("GET", f"/v1/keys/job/stream?wait=9&mode={mode}")
        await tee.wait_followers(1)
        answer, turn = await asked(tee, stage, "POST", "Stream-Key: job")
        follower = await early.answer()
        await follower.read()
        assert (follower.status, follower.end) == (400, "whole")
        turn.end()
        assert await answer.read() == b"".join(EVENTS[:2])


MCP_SERVER = """
import socket, sys
import uvicorn
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("counter")

@server.tool()
async def count(to: int, context: Context) -> str:
    for number in range(1, to + 1):
        await context.report_progress(number, to, f"step {number}")
    return " ".join(map(str, range(1, to + 1)))

listening = socket.socket(fileno=int(sys.argv[1]))
uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="critical")).run(sockets=[listening])
"""


@on_one_loop
async def test_tool_call_of_the_mcp_sdk_is_a_stream() -> None:
    """The client has its progress and result as without the proxy, and the call can be read again by its id."""
    async with served_by_source(MCP_SERVER) as url, teed(url, routes=[{"path": "/mcp", "record": True}]) as tee:
        steps: list[str | None] = []

        async def note(done: float, total: float | None, message: str | None) -> None:
            steps.append(message)

        async with Client(f"{tee.proxy.url}/mcp") as client:
            result = await client.call_tool("count", {"to": 3}, progress_callback=note)
        assert [part.text for part in result.content] == ["1 2 3"]
        assert steps == ["step 1", "step 2", "step 3"]
        streams = [one for one in await tee.listed("Authorization:") if one["route"] == "/mcp"]
        texts = [await (await tee.follow(one["id"], "", "Authorization:")).read() for one in streams]
        (call,) = [text for text in texts if b"1 2 3" in text]
        assert call.count(b"notifications/progress") == 3
