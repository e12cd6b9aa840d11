"""`follow(url)` against a real proxy: over cuts, to every kind of end, and what it raises."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import aiohttp
import pytest
from aiohttp import web

from proxy.tools.follow import FollowedEvent, FollowError, follow
from tests.event_loops import GUARD_S, until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import KEY
from tests.proxy_under_test import Tee, begun
from tests.relay import Relay, relayed
from tests.stage import Stage
from tests.tools.check.gateway import serving

MINE = {"Authorization": f"Bearer {KEY}"}
FRAMES = [*(chunk_frame(f"word {number} 茶") for number in range(20)), FINISH, DONE]
DATA = [frame.decode().removeprefix("data: ").strip() for frame in FRAMES]


@pytest.fixture
async def relay(tee: Tee) -> AsyncIterator[Relay]:
    """A network between the follower and the proxy that can be cut."""
    async with relayed(tee.proxy.url) as one:
        yield one


async def followed(url: str, last_event_id: str = "", **options: float) -> list[FollowedEvent]:
    """Follow to the end."""
    found = follow(url, headers=MINE, last_event_id=last_event_id, retry_s=0.01, **options)  # type: ignore[arg-type]
    async with asyncio.timeout(GUARD_S):
        return [event async for event in found]


async def test_ended_stream_has_no_gap_and_no_repeat_over_cuts(tee: Tee, stage: Stage, relay: Relay) -> None:
    """However often it is cut: in a head, in an event, between two."""
    answer, turn = await begun(tee, stage)
    turn.end(*FRAMES)
    await answer.read()
    relay.cut_each_after([100, 700, 500, 900, 1500, 450, 2000])
    events = await followed(f"{relay.url}/v1/streams/{answer.stream_id}")
    assert [event.data for event in events] == DATA
    assert [event.id for event in events] == [f"{answer.epoch}-{seq}" for seq in range(1, len(DATA) + 1)]
    assert relay.event_streams > 4


async def test_running_stream_goes_on_after_a_cut(tee: Tee, stage: Stage, relay: Relay) -> None:
    """Live; and from an event on, if that is asked for."""
    answer, turn = await begun(tee, stage, frames=3)
    following = asyncio.create_task(followed(f"{relay.url}/v1/streams/{answer.stream_id}", f"{answer.epoch}-2"))
    await until(lambda: relay.event_streams == 1)
    await tee.wait_followers(2)
    relay.cut()
    turn.end(*FRAMES)
    events = await following
    assert [event.data for event in events[1:]] == DATA
    assert events[0].id == f"{answer.epoch}-3"


async def test_failed_stream_has_an_error_event(tee: Tee, stage: Stage) -> None:
    """It is the last one, and follows nobody again."""
    answer, turn = await begun(tee, stage, frames=1)
    following = asyncio.create_task(followed(f"{tee.proxy.url}/v1/streams/{answer.stream_id}"))
    await tee.wait_followers(2)
    turn.reset()
    events = await following
    assert len(events) == 2
    assert "upstream_reset" in events[-1].data


async def test_follower_that_stops_closes_its_connection(tee: Tee, stage: Stage) -> None:
    """So that nobody is sent what he does not read."""
    answer, _ = await begun(tee, stage, frames=3)
    async with aclosing(follow(f"{tee.proxy.url}/v1/streams/{answer.stream_id}", headers=MINE)) as events:
        async for event in events:
            assert event.type == "message"
            break
    await tee.wait_followers(1)


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/streams/st_aaaa", 404), ("/v1/keys/none/stream", 404), ("/healthz", 200)]
)
async def test_refusal_is_raised_at_once(tee: Tee, path: str, status: int) -> None:
    """Nothing that comes later can change it."""
    with pytest.raises(FollowError) as error:
        await followed(tee.proxy.url + path)
    assert error.value.status == status


async def test_server_that_is_gone_is_tried_as_often_as_allowed() -> None:
    """Then what happened last is raised."""
    with pytest.raises(aiohttp.ClientConnectorError):
        await followed("http://127.0.0.1:1", attempts=2)


async def test_other_servers_are_followed_as_the_standard_has_it() -> None:
    """An id, a type, several lines, a time to wait; 503 passes, and 204 is the end; silence is a cut."""
    heads: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        heads.append(request.headers.get("Last-Event-ID", ""))
        if len(heads) == 1:
            return web.Response(status=503)
        if len(heads) == 4:
            return web.Response(status=204)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if len(heads) == 2:
            await response.write(b"retry: 5\nid: 7\nevent: tick\ndata: a\ndata: b\n\nid: 8\ndata: unfinished\n")
            return response
        await response.write(b": only a comment\n\n")
        await asyncio.sleep(GUARD_S)
        return response

    application = web.Application()
    application.router.add_get("/", answer)
    async with serving(application) as url:
        assert await followed(f"{url}/", silence_s=0.2) == [FollowedEvent("7", "tick", "a\nb")]
    assert heads == ["", "", "7", "7"]


async def test_event_without_an_id_is_not_asked_for_twice(tee: Tee) -> None:
    """The next connection would begin at the start."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=b"data: a\n\n", content_type="text/event-stream")

    application = web.Application()
    application.router.add_get("/", answer)
    async with serving(application) as url:
        with pytest.raises(aiohttp.ClientPayloadError):
            await followed(f"{url}/")
