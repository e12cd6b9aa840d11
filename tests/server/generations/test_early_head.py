"""A response that begins before that of the upstream: when it does, and how it ends if there is no stream after all."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from proxy.dialects.chat import CHAT
from proxy.server.generations.early_head import EarlyHead
from proxy.stream.endings import CANCELLED, COMPLETE
from proxy.stream.modes.projection import View
from proxy.stream.stream import Stream
from proxy.wire.errors import Overloaded, Unreachable
from proxy.wire.http import Head
from tests.downstream.ports import Port, port
from tests.event_loops import until
from tests.fakes import FakeWriter
from tests.http_client import Answer, request
from tests.streams import new_stream

EVERY_S = 0.01
REFUSAL = b'{"error": {"message": "no such model", "code": "model_not_found"}}'
ERRORS: dict[str, Exception] = {"unreachable": Unreachable("nobody answers"), "overloaded": Overloaded("too many")}


class Early:
    """A port whose one request waits for a call's response, which the test gives."""

    def __init__(self) -> None:
        self.stream: Stream = new_stream(CHAT)
        self.writer = FakeWriter(self.stream)
        self.opening: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        self.view = View("raw")
        self.every_s = EVERY_S
        self.begun: bool | None = None
        """Whether the response had begun when the upstream's came."""
        self.port: Port

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Respond as the handler of generations does."""
        call: Any = SimpleNamespace(stream=self.stream, opening=self.opening)
        early = EarlyHead(request, call, self.view, [(b"Stream-Id", b"st_1")], self.every_s)
        await early.wait()
        self.begun = early.downstream is not None
        error = self.opening.exception()
        if not self.begun:
            return web.Response(text="it came in time")
        if error is not None:
            assert isinstance(error, Unreachable | Overloaded)
            return early.fail(error)
        return await early.refuse()

    async def ask(self) -> Answer:
        """Ask; return the response, of which a comment has come."""
        client = await self.port.send(request("POST", "/"))
        answer = await client.answer()
        await answer.until(b":\n:\n")
        return answer

    def refuse(self, body: bytes, status: int = 404) -> None:
        """Have the upstream respond with what is no stream."""
        self.stream.kept_head = Head(status, b"Not Found", [])
        self.stream.extend([body])
        self.opening.set_result(self.stream.kept_head)


@pytest.fixture
async def early() -> AsyncIterator[Early]:
    """A request that waits."""
    one = Early()
    async with port(one.serve) as one.port:
        yield one


async def test_response_in_time_needs_none(early: Early) -> None:
    """Its client is sent the upstream's own head."""
    early.every_s = 60
    client = await early.port.send(request("POST", "/"))
    early.opening.set_result(Head(200, b"OK", []))
    assert await (await client.answer()).read() == b"it came in time"
    assert early.begun is False


@pytest.mark.parametrize(
    ("mode", "kind"), [("raw", "text/event-stream"), ("events", "text/event-stream"), ("text", "text/plain")]
)
async def test_client_that_waits_is_sent_a_head_and_comments(early: Early, mode: str, kind: str) -> None:
    """Of a stream in its mode, with the proxy's own headers; text has no comments."""
    early.view = View(mode)
    client = await early.port.send(request("POST", "/"))
    answer = await client.answer()
    assert (answer.status, answer.header("stream-id")) == (200, "st_1")
    assert (answer.header("content-type") or "").startswith(kind)
    assert answer.header("stream-mode") == (None if mode == "raw" else mode)
    if mode != "text":
        await answer.until(b":\n:\n:\n")
    early.opening.set_exception(Unreachable("nobody answers"))
    await answer.read()


async def test_stream_is_wanted_while_its_client_waits(early: Early) -> None:
    """Else it would be closed, as nobody follows it yet; it is let go of in the next turn."""
    answer = await early.ask()
    assert early.stream.wanted
    assert early.writer.asked == []
    early.opening.set_exception(Unreachable("nobody answers"))
    await answer.read()
    assert early.writer.asked == ["last_left"]


@pytest.mark.parametrize("name", ERRORS)
async def test_failure_is_an_event_of_the_dialect(early: Early, name: str) -> None:
    """Also in mode raw, as nothing of the upstream's was sent; the response is no complete one."""
    answer = await early.ask()
    error = ERRORS[name]
    early.opening.set_exception(error)
    said = await answer.read()
    assert str(error).encode() in said
    assert b'"error"' in said
    assert b"[DONE]" not in said


async def test_ending_of_the_stream_goes_before_the_error(early: Early) -> None:
    """It says more: who ended it."""
    answer = await early.ask()
    early.stream.seal(CANCELLED.saying("somebody cancelled it"))
    early.opening.set_exception(Unreachable("nobody answers"))
    assert b"somebody cancelled it" in await answer.read()


@pytest.mark.parametrize("is_late", [False, True])
async def test_refusal_is_told_in_the_upstreams_words(early: Early, is_late: bool) -> None:
    """Once its body is whole, for which it is waited."""
    answer = await early.ask()
    if is_late:
        early.refuse(REFUSAL[:20])
        early.stream.extend([REFUSAL[20:]])
        asyncio.get_running_loop().call_later(EVERY_S, early.stream.seal, COMPLETE)
    else:
        early.refuse(REFUSAL)
        early.stream.seal(COMPLETE)
    said = await answer.read()
    assert b"no such model" in said
    assert b"404" in said


async def test_refusal_without_words_has_its_status(early: Early) -> None:
    """And the reader knows it, for those who decide whether to ask again."""
    answer = await early.ask()
    early.refuse(b"<html>", 503)
    early.stream.seal(COMPLETE)
    assert b"503" in await answer.read()
    assert early.stream.reader.failure is not None
    assert early.stream.reader.failure.status == 503


async def test_client_that_leaves_while_it_waits_lets_go_of_the_stream(early: Early) -> None:
    """So that the call is ended, if nobody else waits."""
    answer = await early.ask()
    await answer.client.leave()
    await until(lambda: bool(early.writer.asked))
    assert early.writer.asked == ["last_left"]
    early.opening.cancel()
