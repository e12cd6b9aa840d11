"""Which call a request gets: one of an earlier request, a new one, or another worker's. No server, no client."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import pytest

from proxy.dialects.chat import CHAT
from proxy.dialects.route import Route
from proxy.server.configuration.settings import LimitsConfig
from proxy.server.generations.call_finder import CallFinder
from proxy.server.generations.options import GenerationOptions
from proxy.server.generations.pumps import Pumps
from proxy.server.generations.request import GenerationRequest
from proxy.server.generations.retries import LostCalls
from proxy.server.generations.shared_calls import Call, Calls, Identity, by_body, by_key
from proxy.server.placement import call_name, retry_name
from proxy.stream.modes.projection import View
from proxy.telemetry.metrics import Metrics
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.wire.errors import KeyReused
from tests.streams import new_hub

STANDS_IN = pytest.mark.skipif("TEST_COMPILED" in os.environ, reason="compiled modules take no stand-in for workers")
ME, ROUTE, BODY = b"me", Route("chat", "/v1/", "/v1/", CHAT), b'{"stream":true}'


class Finding:
    """A CallFinder, and what it is connected to; requests upstream are never answered."""

    def __init__(self, placement: Any = None) -> None:
        self.hub = new_hub()
        self.sent: list[Any] = []
        self.lost = LostCalls(30)
        self.metrics = Metrics(max_models=10)
        pumps = Pumps(self.hub, self.metrics, LimitsConfig(), cumulative=None, empty_events=False)
        self.finder = CallFinder(self.hub, self.open, Calls(), self.lost, pumps, self.metrics, placement)
        self.calls: list[Call] = []

    async def open(self, request: Any) -> Any:
        self.sent.append(request)
        await asyncio.Event().wait()

    async def find(self, generation: GenerationRequest) -> tuple[Call, str | None]:
        found, joined = await self.finder.find(generation)
        assert isinstance(found, Call)
        self.calls.append(found)
        await asyncio.sleep(0)  # so that the call's task sends its request
        return found, joined


@pytest.fixture
async def finding() -> AsyncIterator[Finding]:
    """With one worker."""
    one = Finding()
    yield one
    openings = [call.opening for call in one.calls]
    for opening in openings:
        opening.cancel()
    await asyncio.gather(*openings, return_exceptions=True)


def asked(
    identity: Identity | None = None, *, key: str | None = None, grace_s: float = 0, meaning: bytes | None = None
) -> GenerationRequest:
    """Return a request; that of an Idempotency-Key has the key in its options, as the reader makes it."""
    idempotency_key = str(identity.name[2]) if identity is not None and identity.lasting else None
    options = GenerationOptions(View("raw"), key, 0, OnDisconnect(grace_s), None, idempotency_key, respond_async=False)
    generation = GenerationRequest(ROUTE, ME, options, b"/v1/chat/completions", [], BODY, 0.0)
    generation.identity, generation.meaning = identity, meaning
    return generation


def of_key(body: bytes = BODY) -> Identity:
    return by_key(ME, "chat", "k", b"/v1/chat/completions", body)


OF_BODY = by_body(ME, "chat", b"/v1/chat/completions", BODY, [])


@pytest.mark.parametrize(("identity", "how"), [(of_key(), "key"), (OF_BODY, "body")])
async def test_equal_requests_share_a_call(finding: Finding, identity: Identity, how: str) -> None:
    """One request is sent upstream; the other's body is released, and that it was saved is counted."""
    first, begun = await finding.find(asked(identity))
    other = asked(identity)
    second, joined = await finding.find(other)
    assert (second is first, begun, joined, len(finding.sent)) == (True, None, how, 1)
    assert other.body == b""
    assert finding.metrics.shared_requests["chat", how] == 1


async def test_requests_that_share_nothing_have_a_call_each(finding: Finding) -> None:
    """Also equal ones."""
    (first, _), (second, _) = await finding.find(asked()), await finding.find(asked())
    assert first is not second
    assert len(finding.sent) == 2


async def test_who_joins_brings_a_key_and_a_longer_wait(finding: Finding) -> None:
    """The stream is found by both keys, and is not cut short for the one who would wait less."""
    call, _ = await finding.find(asked(of_key(), key="a", grace_s=60))
    for grace_s, waits_s in ((5, 60), (90, 90)):
        await finding.find(asked(of_key(), key="b", grace_s=grace_s))
        assert call.writer.on_disconnect == OnDisconnect(waits_s)
    assert [finding.hub.keys.find(key, ME) for key in ("a", "b")] == [call.stream] * 2


async def test_key_of_another_request_is_refused(finding: Finding) -> None:
    """Nothing is sent for it."""
    await finding.find(asked(of_key()))
    with pytest.raises(KeyReused):
        await finding.find(asked(of_key(b"{}")))
    assert len(finding.sent) == 1


async def test_retry_gets_the_call_whose_client_was_lost_once(finding: Finding) -> None:
    """The next one makes a call of its own. Such a call runs on for as long as a retry may come."""
    call, _ = await finding.find(asked(meaning=b"m"))
    assert call.writer.on_disconnect == OnDisconnect(30)
    finding.lost.begin(b"m")
    finding.lost.end(b"m", call, lost=True)
    assert await finding.find(asked(meaning=b"m")) == (call, "retry")
    assert (await finding.find(asked(meaning=b"m")))[0] is not call


# Several workers


class Elsewhere:
    """A placement that notes what it is asked, and sends everything to another worker."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, tuple[bytes, ...] | None, bool]] = []

    async def of_generation(self, request: Any, caller: bytes, key: Any, shared: Any, *, held: bool) -> Any:
        self.asked.append((key, shared, held))
        return mock.sentinel.response


@STANDS_IN
async def test_worker_is_asked_for_by_what_requests_share() -> None:
    """A retry by its meaning, before all else; what goes elsewhere is not held here any more."""
    placement = Elsewhere()
    one = Finding(placement)
    request: Any = mock.Mock()
    generations = [asked(key="a"), asked(OF_BODY), asked(OF_BODY, meaning=b"m")]
    for generation in generations:
        assert await one.finder.hand_over(request, generation) is mock.sentinel.response
    assert placement.asked == [
        ("a", None, False),
        (None, call_name(*OF_BODY.name), False),
        (None, retry_name(b"m"), False),
    ]
    assert [generation.body for generation in generations] == [b""] * 3
    assert request.protocol.release_body.call_count == 3


@STANDS_IN
async def test_worker_says_what_it_holds() -> None:
    """A call that runs here, and the call of a lost client: the request stays then."""
    placement = Elsewhere()
    one = Finding(placement)
    one.lost.begin(b"m")
    call, _ = await one.find(asked(OF_BODY))
    for generation in (asked(OF_BODY), asked(meaning=b"m")):
        await one.finder.hand_over(mock.Mock(), generation)
    assert [held for *_, held in placement.asked] == [True, True]
    call.opening.cancel()


def test_without_workers_nobody_is_asked(finding: Finding) -> None:
    """The handler looks here first, so that a request waits for nothing."""
    assert not finding.finder.hands_over
    assert Finding(Elsewhere()).finder.hands_over
