"""Every error of Qwen's as its SDKs tell it through the proxy: class, status, code, message, and how often it asked.

One table, that of the fake, in each form in which an error comes; the DashScope SDK is compared with what it tells
without the proxy. What the proxy does about errors (retries, spares, unwrapping) is off unless a test turns it on.
"""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import dashscope
import openai
import pytest
from dashscope.api_entities.http_request import close_shared_sync_session

from proxy.tools.fake.qwen import FakeQwen
from proxy.tools.fake.refusals import BAD_KEY, OUTPUT_INSPECTION, REFUSALS, Refusal
from tests.cuts import messages
from tests.event_loops import GUARD_S, on_one_loop
from tests.proxy_under_test import Serve, Tee

pytestmark = on_one_loop  # the clients have loops and threads of their own

KEY = "sk-a-real-client"
MODEL = "qwen-plus"
MESSAGES: Any = [{"role": "user", "content": "说点什么"}]
CLASSES: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    408: openai.APIStatusError,
    413: openai.APIStatusError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
}
_REQUEST_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
Told = tuple[str, int | None, str | None, str]


def fault(row: Refusal, **options: Any) -> str:
    status = options.pop("status", row.status)
    pairs = {"status": status, "code": row.code, **options}
    return "; ".join(["status", *(f"{name}={value}" for name, value in pairs.items())])


def message(row: Refusal, *, native: bool = False) -> str:
    return "Invalid API-key provided." if native and row is BAD_KEY else row.message.replace("{model}", MODEL)


class OpenAi:
    """openai-python before a proxy; it asks once unless it is told to retry."""

    def __init__(self, tee: Tee, fake: FakeQwen, retries: int = 0) -> None:
        self._fake = fake
        url = f"{tee.proxy.url}/v1"
        self._client = openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=retries, timeout=GUARD_S)

    async def __aenter__(self) -> "OpenAi":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def told(self, faults: str, *, stream: bool) -> Told:
        """Return the exception of a call: its class, status, code and message."""
        try:
            answer: Any = await self._client.chat.completions.create(
                model=MODEL, messages=MESSAGES, stream=stream, extra_headers={"Fake-Fault": faults}
            )
            if stream:
                async for _ in answer:
                    pass
        except openai.APIError as error:
            body = error.body if isinstance(error.body, dict) else {}
            said = body.get("message", error.message)
            return type(error).__name__, getattr(error, "status_code", None), error.code, said
        return "", 200, None, ""

    async def calls(self, faults: str, *, stream: bool = True) -> tuple[Told, int]:
        """Return the same, and the number of upstream calls it took."""
        before = len(self._fake.requests)
        return await self.told(faults, stream=stream), len(self._fake.requests) - before


# The compatible mode


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("flat", [0, 1])
async def test_openai_raises_every_error_as_qwen_says_it(serve: Serve, fake: FakeQwen, stream: bool, flat: int) -> None:
    """As JSON, nested or flat; one call upstream each."""
    async with OpenAi(await serve(), fake) as client:
        for row in REFUSALS:
            code = row.native_code if flat else row.code
            expected = (CLASSES[row.status].__name__, row.status, code, message(row, native=bool(flat)))
            assert await client.calls(fault(row, flat=flat), stream=stream) == (expected, 1)


@pytest.mark.parametrize("unwrap", [False, True])
async def test_openai_gets_the_code_of_a_framed_error_if_it_is_unwrapped(
    serve: Serve, fake: FakeQwen, unwrap: bool
) -> None:
    """Byte for byte, the SDK sees a string and no code."""
    async with OpenAi(await serve(generations={"unwrap_errors": unwrap}), fake) as client:
        for row in [row for row in REFUSALS if row.status == 400]:
            name, status, code, said = await client.told(fault(row, status="400_stream"), stream=True)
            assert (name, status) == ("BadRequestError", 400)
            assert (code, said) == ((row.code, message(row)) if unwrap else (None, "Error code: 400"))


async def test_framed_error_passes_byte_for_byte(serve: Serve, fake: FakeQwen) -> None:
    """And no stream is kept."""
    tee = await serve()
    answer = await tee.chat(fault="status; status=400_stream")
    assert answer.status == 400
    assert await answer.read() == bytes(fake.requests[-1].sent)
    assert answer.body.startswith(b"data: {")
    assert answer.header("content-type") == "text/event-stream;charset=UTF-8"
    assert answer.header("stream-id") is None
    assert await tee.listed() == []
    assert await tee.metric("streamtee_requests_total", route="chat", status="400") == 1


@pytest.mark.parametrize("headers", [(), ("Stream-Key: k",), ("Idempotency-Key: k",)])
async def test_unwrapped_error_is_the_object_alone(serve: Serve, fake: FakeQwen, headers: tuple[str, ...]) -> None:
    """With the headers that go with it; other headers, and other errors, are as they were."""
    tee = await serve(generations={"unwrap_errors": True})
    answer = await tee.chat(*headers, fault="status; status=400_stream")
    body = await answer.read()
    assert bytes(fake.requests[-1].sent) == b"data: %b\n\n" % body
    assert answer.header("content-type") == "application/json"
    assert answer.header("content-length") in (f"{len(body)}", None)
    assert answer.header("x-request-id")
    plain = await tee.chat(fault="status; status=429")
    assert await plain.read() == bytes(fake.requests[-1].sent)


@pytest.mark.parametrize("tables", [{}, {"generations": {"unwrap_errors": True}, "retries": {"attempts": 1}}])
async def test_answer_without_body_or_content_type_passes(serve: Serve, fake: FakeQwen, tables: dict[str, Any]) -> None:
    """A refusal of nothing at all (QwenLM/qwen-code#882), and the native 401 that names no content type."""
    tee = await serve(**tables)
    empty = await tee.chat(fault="status; status=403; empty=1")
    assert (empty.status, await empty.read()) == (403, b"")
    assert empty.header("content-type") is None
    native = await tee.native(fault="status; status=401")
    assert native.status == 401
    assert native.header("content-type") is None
    assert await native.read() == bytes(fake.requests[-1].sent)
    assert await tee.metric("streamtee_requests_total", route="dashscope", status="401") == 1


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("done", [0, 1])
async def test_openai_raises_an_error_inside_a_stream(serve: Serve, fake: FakeQwen, after: int, done: int) -> None:
    """Whatever was said before it, and whether or not [DONE] follows; the stream counts as failed."""
    tee = await serve()
    async with OpenAi(tee, fake) as client:
        faults = f"error_inside; after={after}; done={done}"
        row = OUTPUT_INSPECTION
        assert await client.calls(faults) == (("APIError", None, row.code, row.message), 1)
    assert await tee.metric("streamtee_streams_ended_total", ending="upstream_error") == 1


@pytest.mark.parametrize("done", [0, 1])
async def test_flat_error_inside_a_stream_counts_as_failed(serve: Serve, fake: FakeQwen, done: int) -> None:
    """The SDKs take it for a chunk; the metrics do not."""
    tee = await serve()
    answer = await tee.chat(fault=f"error_inside; flat=1; done={done}")
    assert await answer.read() == bytes(fake.requests[-1].sent)
    assert await tee.metric("streamtee_streams_ended_total", ending="upstream_error") == 1
    assert await tee.metric("streamtee_streams_ended_total", ending="complete") == 0


@pytest.mark.parametrize("mode", ["events", "coalesced", "cumulative"])
async def test_flat_error_is_told_in_a_form_that_clients_raise(serve: Serve, fake: FakeQwen, mode: str) -> None:
    """Once more behind the upstream's own words, to a client that asks and to one that resumes behind those."""
    tee = await serve()
    answer = await tee.chat(f"Stream-Mode: {mode}", "Stream-Key: k", fault="error_inside; flat=1; after=3")
    *_, flat, ours = messages(await answer.read())
    assert json.loads(flat.data)["code"] == OUTPUT_INSPECTION.native_code
    assert json.loads(ours.data)["error"]["code"] == "upstream_error"
    await tee.wait_ended(answer.stream_id)
    resumed = await tee.follow(answer.stream_id, f"mode={mode}", f"Last-Event-ID: {(flat.id or b'').decode()}")
    assert messages(await resumed.read()) == [ours]
    over = await tee.follow(answer.stream_id, f"mode={mode}", f"Last-Event-ID: {(ours.id or b'').decode()}")
    assert over.status == 204


# The native API


class DashScope:
    """The DashScope SDK, asked the same with and without the proxy."""

    def __init__(self, tee: Tee, fake: FakeQwen, monkeypatch: pytest.MonkeyPatch) -> None:
        self._urls = (fake.url, tee.proxy.url)
        self._fake = fake
        self._monkeypatch = monkeypatch

    async def calls(self, faults: str, *, stream: bool) -> tuple[list[Any], list[Any], int]:
        """Return what it tells without and with the proxy, and the number of upstream calls of the latter."""
        direct, through = [await asyncio.to_thread(self._told, url, faults, stream) for url in self._urls]
        named = [received for received in self._fake.requests if received.header("fake-fault") == faults]
        return direct, through, len(named) - 1

    def _told(self, url: str, faults: str, stream: bool) -> list[Any]:
        self._monkeypatch.setattr(dashscope, "base_http_api_url", f"{url}/api/v1")
        headers = {"Fake-Fault": faults}
        answer: Any = dashscope.Generation.call(
            model=MODEL, messages=MESSAGES, api_key=KEY, stream=stream, headers=headers, incremental_output=True
        )
        answers = answer if stream else [answer]
        return [(one.status_code, one.code, _REQUEST_ID.sub("…", one.message)) for one in answers]


@pytest.fixture
def quiet(fake: FakeQwen, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the SDK log nothing, since it logs what it returns; and close what it pools before the fake goes."""
    monkeypatch.setattr(logging.getLogger("dashscope"), "disabled", True)
    yield
    close_shared_sync_session()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("stream", [True, False])
async def test_dashscope_tells_every_error_as_without_the_proxy(
    serve: Serve, fake: FakeQwen, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """Status, code and message; one call upstream each."""
    sdk = DashScope(await serve(), fake, monkeypatch)
    for row in REFUSALS:
        direct, through, calls = await sdk.calls(fault(row), stream=stream)
        assert through == direct
        ((status, code, said),) = through
        if row is BAD_KEY:  # without a content-type the SDK reads no code
            assert (status, code) == (401, "Unknown")
            assert json.loads(said)["code"] == row.native_code
        else:
            assert (status, code, said) == (row.status, row.native_code, message(row))
        assert calls == 1


@pytest.mark.usefixtures("quiet")
async def test_dashscope_tells_errors_inside_a_stream(
    serve: Serve, fake: FakeQwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP 200 and an error event, first or after others, which the metrics count; the SDK does not read its status."""
    tee = await serve()
    sdk = DashScope(tee, fake, monkeypatch)
    rows = list({row.native_code: row for row in reversed(REFUSALS) if row is not BAD_KEY}.values())
    for number, row in enumerate(rows):
        faults = f"error_inside; code={row.native_code}; after={number % 2 * 3}"
        direct, through, calls = await sdk.calls(faults, stream=True)
        assert through == direct
        assert through[-1] == (400, row.native_code, message(row))
        assert calls == 1
    assert await tee.metric("streamtee_streams_ended_total", ending="upstream_error") == len(rows)
    assert await tee.metric("streamtee_streams_ended_total", ending="complete") == 0


async def test_native_error_framed_in_a_refusal_is_unwrapped(serve: Serve, fake: FakeQwen) -> None:
    """Where it comes with a status of its own, not 200."""
    tee = await serve(generations={"unwrap_errors": True})
    answer = await tee.native(fault="error_inside; after=0; code=InvalidParameter")
    assert answer.status == 200  # an event, as the SDK knows it
    assert await answer.read() == bytes(fake.requests[-1].sent)


# Once more


async def test_errors_that_pass_are_asked_again_and_no_others(serve: Serve, fake: FakeQwen) -> None:
    """429 and 503 up to the attempts; then the SDK is told to stop, though it would retry itself."""
    tee = await serve(retries={"attempts": 2, "wait_max_s": 0.001})
    async with OpenAi(tee, fake, retries=2) as client:
        for row in [row for row in REFUSALS if row.status not in (408, 500)]:
            expected = (CLASSES[row.status].__name__, row.status, row.code, message(row))
            again = row.status in (429, 503)
            assert await client.calls(fault(row)) == (expected, 3 if again else 1), row.code
    async with OpenAi(tee, fake) as client:  # that retries nothing itself: 408 and 500 it would
        for row in [row for row in REFUSALS if row.status in (408, 500)]:
            assert (await client.calls(fault(row)))[1] == 1, row.code
    throttled = sum(row.status == 429 for row in REFUSALS)
    assert await tee.metric("streamtee_retries_total", reason="status_429") == 2 * throttled


async def test_retry_that_succeeds_is_all_the_client_sees(serve: Serve, fake: FakeQwen) -> None:
    """In both dialects, streamed."""
    tee = await serve(retries={"attempts": 2, "wait_max_s": 0.001})
    async with OpenAi(tee, fake) as client:
        told, calls = await client.calls("status; status=429; code=insufficient_quota; times=2")
        assert (told[0], calls) == ("", 3)
    before = len(fake.requests)
    answer = await tee.native(fault="error_inside; after=0; code=Throttling.RateQuota; times=1")
    assert b"event:error" not in await answer.read()
    assert answer.stream_id
    assert len(fake.requests) - before == 2
    assert await tee.metric("streamtee_retries_total") == 3
    assert await tee.metric("streamtee_streams_ended_total", ending="complete") == 2


async def test_absent_upstream_is_told_once_with_all_tries_used_up(serve: Serve, fake: FakeQwen) -> None:
    """502, and the SDK does not begin again."""
    tee = await serve(url="http://127.0.0.1:9", retries={"attempts": 1, "wait_max_s": 0.001})
    answer = await tee.chat()
    assert answer.status == 502
    assert answer.header("x-should-retry") == "false"
    assert json.loads(await answer.read())["error"]["code"] == "upstream_unreachable"
    assert await tee.metric("streamtee_retries_total", reason="upstream_unreachable") == 1
