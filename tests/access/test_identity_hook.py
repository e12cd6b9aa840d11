"""The endpoint of the operator's that is asked who a caller is: real sockets on both sides."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.access import identity_hook
from proxy.access.identity_hook import IdentityHook
from proxy.wire.errors import CallerUnknowable
from tests.access.keys import UPSTREAMS, code
from tests.access.named import NamedCallers
from tests.event_loops import until
from tests.proxy_under_test import CHAT, chat_body, teed
from tests.stage import Stage
from tests.workers_under_test import in_one_process


class Endpoint:
    """The operator's endpoint: what it says is `says`, and what it was asked is `asked`."""

    def __init__(self) -> None:
        self.url = ""
        self.says: Any = {"name": "alice"}
        self.status = 200
        self.asked: list[tuple[str, str | None]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def serve(self, request: web.BaseRequest) -> web.Response:
        """Answer as the test has set it."""
        self.asked.append(((await request.json())["key"], request.headers.get("Authorization")))
        await self.gate.wait()
        if isinstance(self.says, bytes):
            return web.Response(status=self.status, body=self.says)
        return web.json_response(self.says, status=self.status)


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    """A running endpoint."""
    one = Endpoint()
    runner = web.ServerRunner(web.Server(one.serve, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    one.gate.set()
    await runner.cleanup()


@asynccontextmanager
async def hooked(endpoint: Endpoint, **options: Any) -> AsyncIterator[IdentityHook]:
    hook = IdentityHook(endpoint.url, **options)
    try:
        yield hook
    finally:
        await hook.close()


def tables(endpoint: Endpoint, **auth: Any) -> dict[str, Any]:
    return {"auth": {"mode": "keys", "hook_url": endpoint.url, **auth}, "upstream": {"key": UPSTREAMS}}


@in_one_process("each asks the endpoint for itself")
async def test_endpoint_names_a_caller_and_its_limits(stage: Stage, endpoint: Endpoint) -> None:
    """It is asked once for as long as its answer holds; the limits it says hold."""
    endpoint.says = {"name": "alice", "limits": {"requests_per_day": 1}}
    async with teed(stage.url, **tables(endpoint, hook_key="ours")) as tee:
        key = "Authorization: Bearer whatever-it-knows"
        client = await tee.send("POST", CHAT, key, body=chat_body())
        turn = await stage.next()
        await turn.body()
        assert turn.all("authorization") == [f"Bearer {UPSTREAMS}".encode()]
        turn.reply("200 OK", body=b"{}")
        assert (await client.answer()).status == 200
        assert await code(await tee.ask("POST", CHAT, key, body=chat_body())) == (429, "rate_limit_exceeded")
        assert endpoint.asked == [("whatever-it-knows", "Bearer ours")]


@in_one_process("each asks the endpoint for itself")
@pytest.mark.parametrize("status", [401, 403, 404])
async def test_caller_it_does_not_know_is_refused(stage: Stage, endpoint: Endpoint, status: int) -> None:
    """That, too, is remembered."""
    endpoint.status = status
    async with teed(stage.url, **tables(endpoint)) as tee:
        for _ in range(3):
            answer = await tee.ask("POST", CHAT, "Authorization: Bearer x", body=chat_body())
            assert await code(answer) == (401, "invalid_api_key")
        assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (500, {"name": "alice"}),
        (302, {"name": "alice"}),
        (204, b""),
        (200, b"not json"),
        (200, {}),
        (200, {"name": ""}),
        (200, {"name": "a b"}),
        (200, {"name": "alice", "limits": {"streams": -1}}),
        (200, {"name": "alice", "admin": True}),
        (200, b'{"name": "alice"}' + b" " * 100_000),
    ],
)
async def test_answer_that_is_not_foreseen_refuses_the_caller(
    endpoint: Endpoint, status: int, says: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It fails closed, and asks again the next time; the log has no word of keys or answers."""
    endpoint.status, endpoint.says = status, says
    async with hooked(endpoint) as hook:
        for _ in range(2):
            with pytest.raises(CallerUnknowable):
                await hook.ask(["the-key"])
        assert hook.name_of("the-key") is None
        assert len(endpoint.asked) == 2
        endpoint.status, endpoint.says = 200, {"name": "alice"}
        await hook.ask(["the-key"])
        assert hook.name_of("the-key") == "alice"
    assert "the-key" not in caplog.text
    assert len(caplog.records) == 1


@in_one_process("it reads the log of this process")
async def test_endpoint_that_is_away_refuses_only_those_it_would_know(
    tmp_path: Path, background_log: list[logging.LogRecord]
) -> None:
    """In the shape of the API, with Retry-After; callers of the file go on."""
    callers = NamedCallers(tmp_path, bob={})
    hook = {"hook_url": "http://127.0.0.1:9"}
    async with teed("http://127.0.0.1:9", **callers.tables(**hook)) as tee:
        assert (await tee.ask("GET", "/v1/streams", callers.header("bob"))).status == 200
        for path in ("/v1/streams", "/v1/messages"):
            answer = await tee.ask("GET", path, "Authorization: Bearer x")
            assert await code(answer) == (503, "caller_unknowable")
            assert answer.header("retry-after") == "1"
        assert len(background_log) == 1


async def test_slow_endpoint_is_not_waited_for_longer_than_configured(endpoint: Endpoint) -> None:
    """Then the caller is refused."""
    endpoint.gate.clear()
    async with hooked(endpoint, timeout_s=0.05) as hook:
        with pytest.raises(CallerUnknowable):
            await hook.ask(["x"])


async def test_same_question_at_once_is_asked_once(endpoint: Endpoint) -> None:
    """A client with many connections makes one; one that leaves takes the answer from nobody."""
    endpoint.gate.clear()
    async with hooked(endpoint) as hook:
        asking = [asyncio.create_task(hook.ask(["x"])) for _ in range(10)]
        await until(lambda: len(endpoint.asked) == 1)
        asking[0].cancel()
        endpoint.gate.set()
        await asyncio.gather(*asking[1:])
        assert (hook.name_of("x"), len(endpoint.asked)) == ("alice", 1)


async def test_questions_and_answers_are_bounded(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those over the bound are refused or forgotten, the longest unused first."""
    async with hooked(endpoint, size=2) as hook:
        for key in ("a", "b", "a", "c"):
            await hook.ask([key])
        assert [hook.name_of(key) for key in ("a", "b", "c")] == ["alice", None, "alice"]
        assert [key for key, _ in endpoint.asked] == ["a", "b", "c"]
        monkeypatch.setattr(identity_hook, "_WAITING", 1)
        endpoint.gate.clear()
        waiting = asyncio.create_task(hook.ask(["d"]))
        await until(lambda: len(endpoint.asked) == 4)
        with pytest.raises(CallerUnknowable, match="too many"):
            await hook.ask(["e"])
        endpoint.gate.set()
        await waiting


async def test_answer_is_asked_for_again_when_its_time_is_over(stage: Stage, endpoint: Endpoint) -> None:
    """A caller that is known no longer is refused then, though it had been let in."""
    now = [0.0]
    async with teed(stage.url, **tables(endpoint, hook_ttl_s=60)) as tee:
        assert tee.proxy.identification is not None
        assert tee.proxy.identification.known.hook is not None
        tee.proxy.identification.known.hook._clock = lambda: now[0]
        key = "Authorization: Bearer x"
        assert (await tee.ask("GET", "/v1/streams", key)).status == 200
        endpoint.status = 403
        now[0] = 59.0
        assert (await tee.ask("GET", "/v1/streams", key)).status == 200
        now[0] = 60.0
        assert (await tee.ask("GET", "/v1/streams", key)).status == 401
        endpoint.status = 200
        now[0] = 120.0
        assert (await tee.ask("GET", "/v1/streams", key)).status == 200
