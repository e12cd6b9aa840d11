"""Responses as objects with ids: which is meant, where its events go on, and what is passed upstream instead."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from proxy.access.callers import Caller, Refusal
from proxy.access.response_ids import LONGEST, GivenIds
from proxy.dialects.responses import RESPONSES
from proxy.dialects.route import Route
from proxy.server.following.objects import ObjectRequests
from proxy.stream.endings import COMPLETE, UPSTREAM_RESET
from proxy.stream.info import StreamInfo
from proxy.stream.stream import Stream
from proxy.stream.vitals import Vitals
from proxy.wire.errors import BadRequest, NumberBeyond, OffsetGone, Unauthorised, UnknownResponse
from tests.dialects.response_events import ID, message, numbered, response
from tests.fakes import FakeWriter
from tests.streams import new_hub

ME, OTHER = Caller(b"me"), Caller(b"other")
ROUTE = Route("responses", "/v1/", "/v1/", RESPONSES)
FRAMES = numbered(response(message(0, ["one ", "two"])))
COMMENT = b": still here\n\n"


class Objects:
    """The handlers, and what they were asked to do otherwise."""

    def __init__(self, *, restricts: bool | None = None) -> None:
        self.hub = new_hub()
        self.offsets: list[int] = []
        self.passed: list[str] = []
        follow: Any = SimpleNamespace(events_after=self._follow)
        passing: Any = SimpleNamespace(serve=self._pass)
        given = None if restricts is None else GivenIds(self.hub.found, lambda: 0.0, restricts=restricts)
        self.given = given
        self.requests = ObjectRequests(self.hub, follow, passing, given)

    async def _follow(self, request: web.BaseRequest, stream: Stream, offset: int) -> web.StreamResponse:
        self.offsets.append(offset)
        return web.Response()

    async def _pass(self, route: Route, request: web.BaseRequest, caller: Caller, *, alone: str) -> web.StreamResponse:
        self.passed.append(alone)
        return web.Response(text="upstream")

    def stream(self, *frames: bytes, caller: Caller = ME, max_log_bytes: int = 1 << 20) -> Stream:
        """Begin a response that has said this."""
        info = StreamInfo(self.hub.new_id(), "responses", caller.digest, 0, 60, max_log_bytes)
        stream = self.hub.begin(info, Vitals(RESPONSES, 0.0))
        stream.upstream = "default"
        for frame in frames:
            stream.reader.note(frame)
            stream.extend([frame])
        return stream

    async def fetch(self, ident: str, query: str = "", caller: Caller = ME) -> Any:
        return await self.requests.fetch(ROUTE, asked(query), caller, ident)


def asked(query: str = "") -> web.Request:
    return make_mocked_request("GET", f"/v1/responses/x?{query}")


@pytest.fixture
def objects() -> Objects:
    return Objects()


async def test_response_is_found_by_its_own_id_and_the_upstreams(objects: Objects) -> None:
    """By its caller alone: for others it is asked of the upstream, which knows whose it is."""
    stream = objects.stream(*FRAMES[:2])
    for ident in (stream.id, ID):
        assert (await objects.fetch(ident)).headers["Stream-Id"] == stream.id
        assert (await objects.fetch(ident, caller=OTHER)).text == "upstream"
    nobody = ME._replace(refusal=Refusal(Unauthorised, "no key"))
    assert (await objects.fetch(ID, caller=nobody)).text == "upstream"


async def test_events_of_a_response_that_is_not_here_are_unknown(objects: Objects) -> None:
    """The upstream has none of them."""
    with pytest.raises(UnknownResponse, match="resp_1"):
        await objects.fetch("resp_1", "stream=true")
    assert objects.passed == []


@pytest.mark.parametrize(
    ("query", "offset"),
    [
        ("", 0),
        ("&starting_after=-1", 0),
        ("&starting_after=0", 1),
        ("&starting_after=1", 3),  # with the comment after it
        ("&starting_after=2", 4),
        ("&starting_after=7", 9),
    ],
)
async def test_events_go_on_after_a_number(objects: Objects, query: str, offset: int) -> None:
    """What has no number belongs to what was before it."""
    stream = objects.stream(*FRAMES[:2], COMMENT, *FRAMES[2:8])
    await objects.fetch(stream.id, f"stream=true{query}")
    assert objects.offsets == [offset]


async def test_number_beyond_the_events_is_refused_while_there_may_be_more(objects: Objects) -> None:
    """Once it has ended there is one more: the event by which the proxy ended it."""
    stream = objects.stream(*FRAMES[:3])
    with pytest.raises(NumberBeyond, match="99"):
        await objects.fetch(stream.id, "stream=true&starting_after=99")
    stream.seal(UPSTREAM_RESET)
    await objects.fetch(stream.id, "stream=true&starting_after=99")
    assert objects.offsets == [4]


async def test_events_that_are_gone_are_not_skipped(objects: Objects) -> None:
    """It is said which is the first that is here."""
    stream = objects.stream(*FRAMES[:8], max_log_bytes=sum(map(len, FRAMES[5:8])))
    assert stream.log.start > 0
    with pytest.raises(OffsetGone) as caught:
        await objects.fetch(stream.id, "stream=true&starting_after=0")
    assert caught.value.earliest == stream.log.start + 1


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("stream=yes", "stream 'yes' is neither true nor false"),
        ("stream=true&starting_after=x", "starting_after 'x'"),
        ("stream=true&starting_after=-2", "starting_after '-2'"),
        ("stream=true&starting_after=%D9%A1", "starting_after"),
        (f"stream=true&starting_after={'9' * 19}", "starting_after"),
    ],
)
async def test_wrong_query_is_named(objects: Objects, query: str, word: str) -> None:
    """With what was given."""
    stream = objects.stream(*FRAMES[:2])
    with pytest.raises(BadRequest, match=word):
        await objects.fetch(stream.id, query)


async def test_running_response_is_cancelled(objects: Objects) -> None:
    """One that has ended is not: it is shown as it is."""
    running, over = objects.stream(*FRAMES[:2]), objects.stream(*FRAMES)
    writer, _ = FakeWriter(running), FakeWriter(over)
    over.seal(COMPLETE)
    answer: Any = await objects.requests.cancel(ROUTE, asked(), ME, running.id)
    assert writer.asked == ["stop"]
    assert b'"cancelled"' in answer.body
    answer = await objects.requests.cancel(ROUTE, asked(), ME, over.id)
    assert b'"completed"' in answer.body
    await objects.requests.cancel(ROUTE, asked(), OTHER, running.id)
    assert objects.passed == [""]


async def test_deleted_response_is_unknown_from_then_on(objects: Objects) -> None:
    """By all its ids, also to the upstream, which may have it yet; of another caller that says nothing."""
    stream = objects.stream(*FRAMES[:2])
    writer = FakeWriter(stream)
    answer: Any = await objects.requests.delete(ROUTE, asked(), ME, stream.id)
    assert (writer.asked, b'"deleted":true' in answer.body) == (["stop"], True)
    for ident in (stream.id, ID):
        with pytest.raises(UnknownResponse):
            await objects.fetch(ident)
        assert objects.requests.knows(ME.digest, ident)
        assert (await objects.fetch(ident, caller=OTHER)).text == "upstream"


async def test_id_that_is_too_long_is_nobodys(objects: Objects) -> None:
    """It is not passed upstream."""
    for serve in (objects.requests.fetch, objects.requests.cancel, objects.requests.delete, objects.requests.other):
        with pytest.raises(UnknownResponse, match=str(LONGEST)):
            await serve(ROUTE, asked(), ME, "x" * (LONGEST + 1))
    assert objects.passed == []


async def test_id_that_its_caller_was_not_given_is_not_passed_with_a_key_of_ours() -> None:
    """One that it was given goes to the upstream that made the response."""
    objects = Objects(restricts=True)
    assert objects.given is not None
    objects.given.give(ME.digest, "resp_1", "second")
    await objects.fetch("resp_1")
    assert objects.passed == ["second"]
    for caller, ident in ((OTHER, "resp_1"), (ME, "resp_2")):
        with pytest.raises(UnknownResponse):
            await objects.fetch(ident, caller=caller)


async def test_responses_and_items_of_a_caller_are_known() -> None:
    """With the upstream that made them, for other workers that are asked."""
    objects = Objects(restricts=False)
    objects.stream(*FRAMES)
    made = [objects.requests.made_by(ME.digest, ident) for ident in (ID, "msg_0", "msg_9")]
    assert made == ["default", "default", None]
    assert not objects.requests.knows(OTHER.digest, ID)
