"""A call upstream for one client alone: its place, its ending, and the ids of what it is answered."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from proxy.access.admission import Admission
from proxy.access.response_ids import GivenIds
from proxy.dialects.responses import RESPONSES
from proxy.dialects.route import Route
from proxy.downstream.connection import ERROR_TO_SEND
from proxy.server.callers.identification import access_of
from proxy.server.configuration.settings import LimitsConfig
from proxy.server.generations.options import GenerationOptions
from proxy.server.generations.pumps import Pumps
from proxy.server.generations.reader import GenerationReader
from proxy.server.generations.request import GenerationRequest
from proxy.server.generations.response import GenerationResponses
from proxy.server.generations.unshared import UnsharedCalls
from proxy.server.models import Models
from proxy.server.pass_through import Forward
from proxy.stream.modes.projection import View
from proxy.telemetry.metrics import Metrics
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.pool import ConnectionPool
from proxy.wire.errors import Drained, Unreachable
from tests.dialects.response_events import ID, message, numbered, response, snapshot
from tests.downstream.ports import Port, port
from tests.event_loops import until
from tests.exchanges import upstream
from tests.http_client import request
from tests.proxy_under_test import configured
from tests.stage import Stage
from tests.streams import new_hub

ME, ROUTE = b"me", Route("responses", "/v1/", "/v1/", RESPONSES)
OPTIONS = GenerationOptions(View("raw"), None, 0, OnDisconnect(0), None, None, respond_async=False)
FRAMES = numbered(response(message(0, ["one"])))
ASK = request("POST", "/v1/responses", body=b"{}")


class Calls:
    """UnsharedCalls, and what they are connected to."""

    def __init__(self, up: ConnectionPool) -> None:
        config = configured("http://upstream.test")
        self.hub = new_hub()
        self.metrics = Metrics(10)
        self.given = GivenIds(lambda: self.hub.found(), lambda: 0.0)
        self.is_draining = False
        self.asked: list[GenerationRequest] = []
        self.port: Port
        self._up = up
        callers, grants = access_of(config)
        admission = Admission(callers, grants, self.hub)
        responses = GenerationResponses(config, self.hub, admission, grants, self.metrics)
        reader = GenerationReader(config, admission, Forward(), Models(()))
        pumps = Pumps(self.hub, self.metrics, LimitsConfig(), cumulative=None, empty_events=False)
        self._calls = UnsharedCalls(self.hub, self._open, reader, pumps, responses, self.metrics, self.given)

    async def _open(self, asked: Any) -> Any:
        return await self._up.open(b"POST", b"/v1/responses", asked.headers, asked.body)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Respond as the handler of generations does."""
        body = await request.read()
        if self.is_draining:
            request[ERROR_TO_SEND] = Drained("the proxy is shutting down")
        generation = GenerationRequest(ROUTE, ME, OPTIONS, b"/v1/responses", [], body, 0.0)
        self.asked.append(generation)
        return await self._calls.deliver(request, generation)

    @property
    def unbegun(self) -> list[str]:
        """The endings of calls to which the upstream has not responded."""
        return [ending for (_, _, ending), count in self.metrics.streams_unbegun.items() for _ in range(count)]

    def check_over(self) -> None:
        """See that nothing of the last request is held."""
        assert (self.hub.promised_streams, self.hub.promised_followers) == (0, 0)
        assert (self.asked[-1].headers, self.asked[-1].body) == ([], b"")


@pytest.fixture
async def calls(stage: Stage) -> AsyncIterator[Calls]:
    """Calls to the upstream that the test plays, and a port at which they are asked for."""
    async with calling(stage.url) as one:
        yield one


@asynccontextmanager
async def calling(url: str) -> AsyncIterator[Calls]:
    async with upstream(url, name="default") as up:
        one = Calls(up)
        async with port(one.serve, complaints=True) as one.port:
            yield one


async def test_stream_takes_the_place_of_its_request_and_is_sent(calls: Calls, stage: Stage) -> None:
    """Its upstream is named; what is needed to ask again is let go of."""
    client = await calls.port.send(ASK)
    turn = await stage.next()
    await turn.body()
    assert (calls.hub.promised_streams, calls.hub.promised_followers) == (1, 1)
    turn.begin("X-Request-Id: req-7")
    turn.chunk(FRAMES[0])
    answer = await client.answer()
    (stream,) = calls.hub
    assert (stream.upstream, stream.upstream_request_id) == ("default", "req-7")
    assert answer.stream_id == stream.id
    calls.check_over()
    turn.end(*FRAMES[1:])
    assert await answer.read() == b"".join(FRAMES)
    assert calls.unbegun == []


async def test_client_that_leaves_before_the_head_ends_the_call(calls: Calls, stage: Stage) -> None:
    """The upstream's connection is closed; its place is free."""
    client = await calls.port.send(ASK)
    turn = await stage.next()
    await turn.body()
    await client.leave()
    await turn.wait_left()
    await until(lambda: bool(calls.unbegun))
    assert calls.unbegun == ["client_gone"]
    calls.check_over()


async def test_request_that_is_drained_before_the_head_ends_as_such(calls: Calls, stage: Stage) -> None:
    """It is cancelled as if its client had left, which has not."""
    calls.is_draining = True
    client = await calls.port.send(ASK)
    await (await stage.next()).body()
    await client.leave()
    await until(lambda: bool(calls.unbegun))
    assert calls.unbegun == ["drained"]


async def test_upstream_that_fails_before_the_head_is_told(calls: Calls, stage: Stage) -> None:
    """With the error's own ending."""
    client = await calls.port.send(ASK)
    turn = await stage.next()
    await turn.body()
    turn.close()
    assert (await client.answer()).status == Unreachable.status
    assert [type(error) for error in calls.port.errors] == [Unreachable]
    assert calls.unbegun == [Unreachable.ending]
    calls.check_over()


async def test_ids_of_a_document_are_its_callers(calls: Calls, stage: Stage) -> None:
    """Of the response and of its items: the caller may continue them, at the upstream that made them."""
    document = json.dumps(snapshot("completed", output=[{"id": "msg_1"}])).encode()
    client = await calls.port.send(ASK)
    (await stage.next()).reply("200 OK", "Content-Type: application/json", body=document)
    assert await (await client.answer()).read() == document
    assert [calls.given.made_by(ME, ident) for ident in (ID, "msg_1", "msg_2")] == ["default", "default", None]
    assert list(calls.hub) == []
    calls.check_over()


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Internal Server Error"])
async def test_refusal_is_sent_back_as_it_is(calls: Calls, stage: Stage, status: str) -> None:
    """It gives nobody an id."""
    document = json.dumps(snapshot("failed")).encode()
    client = await calls.port.send(ASK)
    (await stage.next()).reply(status, body=document)
    answer = await client.answer()
    assert (answer.status, await answer.read()) == (int(status[:3]), document)
    assert calls.given.made_by(ME, ID) is None
    calls.check_over()
