"""Real clients, nothing changed but the base URL: what they get through the proxy is what they get without it.

Every call is made twice, at the fake itself and at the proxy before it; the two must agree in all that is not drawn
anew for each request (ids, times). SDKs that block run in threads.
"""

import asyncio
import gc
import json
import logging
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import dashscope
import httpx
import httpx2
import httpx_sse
import openai
import pytest
import requests
from dashscope.aigc.generation import AioGeneration
from dashscope.api_entities.aio_session import close_shared_aio_session
from dashscope.api_entities.http_request import close_shared_sync_session
from openai.types.chat import ChatCompletionChunk

from proxy.tools import demo
from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import GUARD_S, on_one_loop, until
from tests.event_streams import DONE, blocks, chunk_frame, stamped
from tests.programs import system_tool
from tests.proxy_under_test import Serve, Tee, chat_body
from tests.stage import Stage

gc.freeze()  # the SDKs are large: the collection after each test, here and elsewhere, need not look at them again
pytestmark = on_one_loop  # the clients have loops and threads of their own; the proxy's two loops have their own tests

KEY = "sk-a-real-client"
MESSAGES: Any = [{"role": "user", "content": "说点什么"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    },
}
_DRAWN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|(?<=\bcreated': )\d+")


def settled(text: object) -> str:
    """Return a text without what is drawn anew for each request."""
    return _DRAWN.sub("…", str(text))


# openai-python


@dataclass
class Heard:
    """What a client of the OpenAI SDK was told, all chunks together."""

    text: dict[int, str] = field(default_factory=dict)
    reasoning: dict[int, str] = field(default_factory=dict)
    calls: dict[int, list[str]] = field(default_factory=dict)
    finish: dict[int, str] = field(default_factory=dict)
    usage: Any = None
    chunks: int = 0
    error: str = ""

    def add(self, chunk: Any) -> None:
        self.chunks += 1
        if chunk.usage is not None:
            self.usage = chunk.usage.model_dump()
        for choice in chunk.choices:
            said = choice.delta if hasattr(choice, "delta") else choice.message
            at = choice.index
            self.text[at] = self.text.get(at, "") + (said.content or "")
            self.reasoning[at] = self.reasoning.get(at, "") + (getattr(said, "reasoning_content", None) or "")
            for number, call in enumerate(said.tool_calls or ()):
                words = self.calls.setdefault(getattr(call, "index", number), ["", "", ""])
                for place, part in enumerate((call.id, call.function.name, call.function.arguments)):
                    words[place] += part or ""
            self.finish[at] = choice.finish_reason or self.finish.get(at, "")

    def fail(self, error: openai.APIError) -> None:
        status = getattr(error, "status_code", None)
        self.error = settled(f"{type(error).__name__} {status} {error.code} {error.message} {error.body}")


def settings(url: str, path: str, fault: str) -> dict[str, Any]:
    headers = {"Fake-Fault": fault} if fault else None
    return {"base_url": url + path, "api_key": KEY, "max_retries": 0, "timeout": GUARD_S, "default_headers": headers}


def hear(url: str, path: str, fault: str, **asked: Any) -> Heard:
    """Ask with the SDK that blocks."""
    heard = Heard()
    with openai.OpenAI(**settings(url, path, fault)) as client:
        try:
            answer: Any = client.chat.completions.create(model="qwen-plus", messages=MESSAGES, **asked)
            for chunk in answer if asked.get("stream") else [answer]:
                heard.add(chunk)
        except openai.APIError as error:
            heard.fail(error)
    return heard


async def hear_in_thread(url: str, path: str, fault: str, **asked: Any) -> Heard:
    return await asyncio.to_thread(hear, url, path, fault, **asked)


async def hear_async(url: str, path: str, fault: str, **asked: Any) -> Heard:
    """Ask with the SDK of coroutines."""
    heard = Heard()
    async with openai.AsyncOpenAI(**settings(url, path, fault)) as client:
        try:
            answer: Any = await client.chat.completions.create(model="qwen-plus", messages=MESSAGES, **asked)
            if asked.get("stream"):
                async for chunk in answer:
                    heard.add(chunk)
            else:
                heard.add(answer)
        except openai.APIError as error:
            heard.fail(error)
    return heard


Hear = Callable[..., Awaitable[Heard]]
each_way = pytest.mark.parametrize("way", [hear_in_thread, hear_async])
each_path = pytest.mark.parametrize("path", ["/v1", "/compatible-mode/v1"])


async def compared(way: Hear, fake: FakeQwen, tee: Tee, path: str = "/v1", fault: str = "", **asked: Any) -> Heard:
    """Return what was heard through the proxy, when it is what is heard at the fake."""
    direct = await way(fake.url, path, fault, **asked)
    through = await way(tee.proxy.url, path, fault, **asked)
    assert through == direct
    return through


@each_path
@each_way
async def test_openai_stream_says_the_same(serve: Serve, fake: FakeQwen, way: Hear, path: str) -> None:
    """Chunk by chunk the same text and finish reason; no usage that was not asked for."""
    heard = await compared(way, fake, await serve(), path, stream=True)
    assert len(heard.text[0]) > 50
    assert heard.finish == {0: "stop"}
    assert heard.usage is None
    assert heard.chunks > 5
    assert not heard.error


@each_path
@each_way
async def test_openai_answer_in_one_piece_says_the_same(serve: Serve, fake: FakeQwen, way: Hear, path: str) -> None:
    """And has its usage."""
    heard = await compared(way, fake, await serve(), path)
    assert heard.text[0]
    assert heard.usage["completion_tokens"] > 0
    assert heard.chunks == 1


@each_way
async def test_openai_stream_with_usage_has_it_last(serve: Serve, fake: FakeQwen, way: Hear) -> None:
    """stream_options.include_usage crosses, and the chunk without choices comes back."""
    heard = await compared(way, fake, await serve(), stream=True, stream_options={"include_usage": True})
    assert heard.usage["total_tokens"] > heard.usage["prompt_tokens"] > 0


@each_way
async def test_openai_thinking_arrives_as_reasoning(serve: Serve, fake: FakeQwen, way: Hear) -> None:
    """extra_body crosses; reasoning_content and its count of tokens come back."""
    asked = {"extra_body": {"enable_thinking": True}, "stream_options": {"include_usage": True}}
    heard = await compared(way, fake, await serve(), stream=True, **asked)
    assert heard.reasoning[0]
    assert heard.text[0]
    assert heard.usage["completion_tokens_details"]["reasoning_tokens"] > 0


@pytest.mark.parametrize("stream", [True, False])
@each_way
async def test_openai_tools_are_called(serve: Serve, fake: FakeQwen, way: Hear, stream: bool) -> None:
    """Two calls with Qwen's odd fragments: ids, names, and arguments that are JSON."""
    heard = await compared(way, fake, await serve(), stream=stream, tools=[WEATHER], parallel_tool_calls=True)
    assert heard.finish == {0: "tool_calls"}
    assert [name for _, name, _ in heard.calls.values()] == ["weather", "weather"]
    assert all(json.loads(arguments)["location"] for *_, arguments in heard.calls.values())


@each_way
async def test_openai_choices_stay_apart(serve: Serve, fake: FakeQwen, way: Hear) -> None:
    """Two answers that alternate in the stream."""
    heard = await compared(way, fake, await serve(), stream=True, n=2)
    assert heard.text[0] != heard.text[1]
    assert heard.finish == {0: "stop", 1: "stop"}


async def test_openai_stream_helper_builds_the_completion(serve: Serve, fake: FakeQwen) -> None:
    """`chat.completions.stream` with its events, tools included."""
    tee = await serve()

    async def completion(url: str) -> Any:
        async with (
            openai.AsyncOpenAI(**settings(url, "/v1", "")) as client,
            client.chat.completions.stream(
                model="qwen-plus",
                messages=MESSAGES,
                tools=[WEATHER],  # type: ignore[list-item]
            ) as stream,
        ):
            return (await stream.get_final_completion()).choices[0].message.model_dump()

    assert await completion(tee.proxy.url) == await completion(fake.url)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ("status; status=400", "BadRequestError 400", "invalid_parameter_error"),
        ("status; status=401", "AuthenticationError 401", "invalid_api_key"),
        ("status; status=404", "NotFoundError 404", "model_not_found"),
        ("status; status=429", "RateLimitError 429", "limit_requests"),
        ("retry_after; status=429; code=insufficient_quota", "RateLimitError 429", "insufficient_quota"),
        ("status; status=500", "InternalServerError 500", "internal_error"),
        ("status; status=503", "InternalServerError 503", "ModelUnavailable"),
    ],
)
async def test_openai_error_has_its_class_code_and_message(
    serve: Serve, fake: FakeQwen, fault: str, error: str, code: str, stream: bool
) -> None:
    """As it has without the proxy."""
    heard = await compared(hear_async, fake, await serve(), fault=fault, stream=stream)
    assert heard.error.startswith(f"{error} {code} ")
    assert heard.chunks == 0


@each_way
async def test_openai_error_framed_as_an_event_is_no_success(serve: Serve, fake: FakeQwen, way: Hear) -> None:
    """Qwen's HTTP 400 with an SSE body."""
    heard = await compared(way, fake, await serve(), fault="status; status=400_stream", stream=True)
    assert heard.error.startswith("BadRequestError 400 ")


@each_way
async def test_openai_error_in_mid_stream_is_raised(serve: Serve, fake: FakeQwen, way: Hear) -> None:
    """After the chunks before it, with its code."""
    heard = await compared(way, fake, await serve(), fault="error_inside; after=5", stream=True)
    assert heard.chunks == 5
    assert heard.error.startswith("APIError None data_inspection_failed Output data may contain")


@pytest.mark.parametrize("fault", ["cut_mid_chunk; after=5", "cut_mid_frame; after=5", "reset; after=5"])
@each_way
async def test_openai_stream_that_breaks_off_raises(serve: Serve, fake: FakeQwen, way: Hear, fault: str) -> None:
    """It never ends silently, and what came before is there."""
    heard = await way((await serve()).proxy.url, "/v1", fault, stream=True)
    assert heard.error.startswith("APIConnectionError ")
    assert heard.chunks == 5
    if "reset" not in fault:  # without the proxy, a reset may overtake what was sent before it
        assert heard == await way(fake.url, "/v1", fault, stream=True)


async def test_openai_half_a_frame_at_a_clean_end_raises(serve: Serve) -> None:
    """Without the proxy this one ends silently; the proxy knows that the upstream broke off."""
    heard = await hear_in_thread((await serve()).proxy.url, "/v1", "cut_clean_half_frame; after=5", stream=True)
    assert heard.error.startswith("APIConnectionError ")


async def test_openai_client_of_an_absent_upstream_is_told(serve: Serve) -> None:
    """502 with a code of ours, in OpenAI's shape."""
    heard = await hear_async((await serve(url="http://127.0.0.1:9")).proxy.url, "/v1", "", stream=True)
    assert heard.error.startswith("InternalServerError 502 upstream_unreachable ")


async def test_openai_lists_models(serve: Serve, fake: FakeQwen) -> None:
    """What is no generation passes through."""
    tee = await serve()

    def models(url: str) -> list[str]:
        with openai.OpenAI(**settings(url, "/compatible-mode/v1", "")) as client:
            return [model.id for model in client.models.list()]

    listed = await asyncio.to_thread(models, tee.proxy.url)
    assert listed == await asyncio.to_thread(models, fake.url)
    assert "qwen3-max" in listed


# openai-python as a follower


class Tap(httpx2.BaseTransport):
    """A transport of the SDK's own kind that keeps what the responses' bodies held."""

    def __init__(self) -> None:
        self.body = b""
        self._inner = httpx2.HTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._inner.handle_request(request)
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_Tapped(self, response),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._inner.close()


class _Tapped(httpx2.SyncByteStream):
    def __init__(self, tap: Tap, response: httpx2.Response) -> None:
        self._tap = tap
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        for data in self._response.iter_raw():
            self._tap.body += data
            yield data

    def close(self) -> None:
        self._response.close()


def follow_with_openai(url: str, ident: str, tap: Tap, heartbeat: str, last_id: str = "") -> Heard:
    """Read a stream in mode events with the SDK's own machinery for streams."""
    heard = Heard()
    http_client = openai.DefaultHttpxClient(transport=tap)
    with openai.OpenAI(**settings(url, "/v1", ""), http_client=http_client) as client:
        options: Any = {"params": {"mode": "events", "heartbeat": heartbeat}}
        if last_id:
            options["headers"] = {"Last-Event-ID": last_id}
        stream = client.get(
            f"/streams/{ident}",
            cast_to=ChatCompletionChunk,
            stream=True,
            stream_cls=openai.Stream[ChatCompletionChunk],
            options=options,
        )
        try:
            for chunk in stream:
                heard.add(chunk)
        except openai.APIError as error:
            heard.fail(error)
    return heard


async def begun_by_this_client(tee: Tee, stage: Stage) -> tuple[Any, Any]:
    """Begin a stream under the key of `settings`: its answer, and the upstream's side."""
    client = await tee.send("POST", "/v1/chat/completions", f"Authorization: Bearer {KEY}", body=chat_body())
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(chunk_frame("one "))
    answer = await client.answer()
    await answer.bytes(1)
    return answer, turn


async def test_openai_follower_survives_heartbeats(perform: Serve, stage: Stage) -> None:
    """Ids on every event, then silence with heartbeats in it, then more: openai-python must not stumble."""
    tee = await perform()
    answer, turn = await begun_by_this_client(tee, stage)
    tap = Tap()
    following = asyncio.create_task(asyncio.to_thread(follow_with_openai, tee.proxy.url, answer.stream_id, tap, "0.2"))
    await until(lambda: b"one" in tap.body and b"\n:\n" in tap.body)
    turn.chunk(chunk_frame("two"))
    await until(lambda: b"\n:\n" in tap.body.partition(b"two")[2])
    turn.end(DONE)
    heard = await following
    assert heard.error == ""
    assert heard.text == {0: "one two"}
    assert heard.chunks == 2
    await answer.read()


async def test_openai_follower_hears_of_a_stall_at_the_fake(serve: Serve) -> None:
    """`heartbeat=1`, as a user writes it, and a model that thinks for longer."""
    tee = await serve()
    fault = "stall; after=5; seconds=1.6, count; frames=20"
    answer = await tee.chat(f"Authorization: Bearer {KEY}", fault=fault)
    tap = Tap()
    heard = await asyncio.to_thread(follow_with_openai, tee.proxy.url, answer.stream_id, tap, "1")
    assert b"\n:\n" in tap.body
    assert heard.error == ""
    whole = await answer.read()
    assert heard.chunks == len(blocks(whole)) - 1  # [DONE] is none


async def test_openai_follower_resumes(serve: Serve) -> None:
    """From the id of the fifth event come all chunks but the first five."""
    tee = await serve()
    answer = await tee.chat(f"Authorization: Bearer {KEY}")
    frames = blocks(await answer.read())
    args = (tee.proxy.url, answer.stream_id, Tap(), "0")
    whole = await asyncio.to_thread(follow_with_openai, *args)
    rest = await asyncio.to_thread(follow_with_openai, *args, f"{answer.epoch}-5")
    assert whole.chunks == len(frames) - 1
    assert rest.chunks == whole.chunks - 5
    assert whole.text[0].endswith(rest.text[0])


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("cut_mid_chunk; after=5", "upstream_reset"),
        ("hang; after=5", "timeout_idle"),
        ("bad_chunk; after=5", "garbled"),
    ],
)
async def test_openai_follower_of_a_failed_stream_gets_the_error(serve: Serve, how: str, code: str) -> None:
    """An APIError with the reason as its code, after all that came."""
    tee = await serve(timeouts={"idle_s": 0.3})
    answer = await tee.chat(f"Authorization: Bearer {KEY}", fault=how)
    heard = await asyncio.to_thread(follow_with_openai, tee.proxy.url, answer.stream_id, Tap(), "1")
    assert heard.error.startswith(f"APIError None {code} ")
    assert heard.chunks == 5
    await answer.read()
    assert answer.end != "whole"


# dashscope


Answers = list[tuple[Any, ...]]


def told(answers: Iterable[Any]) -> Answers:
    """Return what the SDK told in each answer, less the request id."""
    return [
        (one.status_code, one.code, settled(one.message), json.dumps(one.output), json.dumps(one.usage))
        for one in answers
    ]


class DashScope:
    """The DashScope SDK before a fake and the proxy to it, with its base URL set as users do."""

    def __init__(self, fake: FakeQwen, tee: Tee, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake = fake
        self._urls = (fake.url, tee.proxy.url)
        self._monkeypatch = monkeypatch

    async def compared(self, kind: Any = dashscope.Generation, **asked: Any) -> Answers:
        """Return what the SDK tells of the proxy, when that is what it tells of the fake."""
        if kind is not dashscope.Application:
            asked = {"model": "qwen-plus", "messages": MESSAGES, **asked}
        direct, through = [await asyncio.to_thread(self._call, url, kind, asked) for url in self._urls]
        assert through == direct
        assert self.fake.requests[-1].header("authorization") == f"Bearer {KEY}"
        return through

    async def compared_async(self, kind: Any, **asked: Any) -> Answers:
        """Do the same with an SDK of coroutines, streamed."""
        heard = []
        for url in self._urls:
            self._point_at(url)
            answers = await kind.call(model="qwen-plus", messages=MESSAGES, api_key=KEY, stream=True, **asked)
            heard.append(told([one async for one in answers]))
        direct, through = heard
        assert through == direct
        return through

    def _call(self, url: str, kind: Any, asked: dict[str, Any]) -> Answers:
        self._point_at(url)
        try:
            answer = kind.call(api_key=KEY, **asked)
            return told(answer if asked.get("stream") else [answer])
        except requests.RequestException as error:
            return [(type(error).__name__,)]

    def _point_at(self, url: str) -> None:
        self._monkeypatch.setattr(dashscope, "base_http_api_url", f"{url}/api/v1")


@pytest.fixture
async def sdk(serve: Serve, fake: FakeQwen, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DashScope]:
    # It logs the exceptions that it raises; and it pools connections for the life of the process.
    monkeypatch.setattr(logging.getLogger("dashscope"), "disabled", True)
    yield DashScope(fake, await serve(), monkeypatch)
    close_shared_sync_session()
    await close_shared_aio_session()


@pytest.mark.parametrize("result_format", ["text", "message"])
@pytest.mark.parametrize("incremental", [{"incremental_output": True}, {"incremental_output": False}, {}])
async def test_dashscope_stream_says_the_same(sdk: DashScope, incremental: dict[str, bool], result_format: str) -> None:
    """Increments, the SDK's own sum of them, and Qwen's cumulative text: event by event."""
    answers = await sdk.compared(stream=True, result_format=result_format, **incremental)
    assert len(answers) > 5
    assert {status for status, *_ in answers} == {200}


async def test_dashscope_answer_in_one_piece_says_the_same(sdk: DashScope) -> None:
    """With its usage."""
    (answer,) = await sdk.compared()
    assert json.loads(answer[-1])["output_tokens"] > 0


async def test_dashscope_thinking_says_the_same(sdk: DashScope) -> None:
    """reasoning_content beside content."""
    more = {"result_format": "message", "incremental_output": True, "enable_thinking": True}
    answers = await sdk.compared(stream=True, **more)
    assert any(json.loads(output)["choices"][0]["message"]["reasoning_content"] for *_, output, _ in answers)


async def test_dashscope_tools_say_the_same(sdk: DashScope) -> None:
    """Fragments of tool calls."""
    more = {"result_format": "message", "incremental_output": True, "tools": [WEATHER]}
    answers = await sdk.compared(stream=True, **more)
    assert json.loads(answers[-1][3])["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [True, False])
async def test_dashscope_multimodal_says_the_same(sdk: DashScope, stream: bool) -> None:
    """Content in parts, at the other path."""
    messages = [{"role": "user", "content": [{"text": "说点什么"}]}]
    answers = await sdk.compared(
        dashscope.MultiModalConversation, model="qwen3-vl-plus", messages=messages, stream=stream
    )
    assert json.loads(answers[-1][3])["choices"][0]["message"]["content"][0]["text"]
    assert sdk.fake.requests[-1].path.endswith("/multimodal-generation/generation")


async def test_dashscope_application_says_the_same(sdk: DashScope) -> None:
    """`/apps/{id}/completion`, with its session."""
    asked = {"app_id": "an-app", "prompt": "说点什么", "incremental_output": True}
    answers = await sdk.compared(dashscope.Application, stream=True, **asked)
    assert len(answers) > 5
    assert sdk.fake.requests[-1].path == "/api/v1/apps/an-app/completion"


@pytest.mark.parametrize("incremental", [{"incremental_output": True}, {}])
async def test_dashscope_of_coroutines_says_the_same(sdk: DashScope, incremental: dict[str, bool]) -> None:
    """AioGeneration, streamed."""
    answers = await sdk.compared_async(AioGeneration, result_format="message", **incremental)
    assert len(answers) > 5


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_dashscope_error_has_its_status_and_code(sdk: DashScope, status: int, stream: bool) -> None:
    """Before the stream."""
    answers = await sdk.compared(stream=stream, headers={"Fake-Fault": f"status; status={status}"})
    assert [answer[0] for answer in answers] == [status]
    assert answers[0][1]


async def test_dashscope_error_in_the_stream_is_told(sdk: DashScope) -> None:
    """In an HTTP 200, after the answers before it."""
    fault = {"Fake-Fault": "error_inside; after=3"}
    answers = await sdk.compared(stream=True, incremental_output=True, headers=fault)
    assert [answer[0] for answer in answers] == [200, 200, 200, 400]
    assert answers[-1][1] == "DataInspectionFailed"


async def test_dashscope_stream_that_breaks_off_raises(sdk: DashScope) -> None:
    """The same exception as without the proxy."""
    fault = {"Fake-Fault": "cut_mid_chunk; after=3"}
    answers = await sdk.compared(stream=True, incremental_output=True, headers=fault)
    assert answers == [("ChunkedEncodingError",)]


# curl


async def curl(*arguments: str) -> asyncio.subprocess.Process:
    """Start curl; nothing of a user's own settings."""
    program = system_tool("curl")
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        program, "-q", "-sS", "--max-time", "20", *arguments, stdout=pipe, stderr=pipe
    )


async def test_curl_gets_the_bytes(serve: Serve, fake: FakeQwen) -> None:
    """What the fake has sent, and exit status 0."""
    tee = await serve()
    process = await curl("--no-buffer", "-d", chat_body().decode(), f"{tee.proxy.url}/v1/chat/completions")
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out == bytes(fake.requests[-1].sent)
    assert out.endswith(DONE)


async def test_curl_shows_each_event_as_it_comes(perform: Serve, stage: Stage) -> None:
    """Nothing is held back: the upstream goes on only once curl has shown the event before."""
    tee = await perform()
    process = await curl("--no-buffer", "-d", chat_body().decode(), f"{tee.proxy.url}/v1/chat/completions")
    turn = await stage.next()
    await turn.body()
    turn.begin()
    assert process.stdout is not None
    async with asyncio.timeout(GUARD_S):
        for number in range(3):
            turn.chunk(chunk_frame(f"word {number}"))
            assert f"word {number}".encode() in await process.stdout.readuntil(b"\n\n")
        turn.end(DONE)
        assert await process.stdout.read() == DONE
        assert await process.wait() == 0


async def test_curl_of_a_broken_stream_fails(serve: Serve) -> None:
    """Exit status 18: "transferred a partial file"."""
    tee = await serve()
    fault = ("-H", "Fake-Fault: cut_mid_frame; after=3")
    process = await curl("-N", *fault, "-d", chat_body().decode(), f"{tee.proxy.url}/v1/chat/completions")
    out, _ = await process.communicate()
    assert process.returncode == 18
    assert out.count(b"\n\n") == 3


async def test_curl_resumes_with_last_event_id(serve: Serve) -> None:
    """The rest of the events, with their ids; and nothing more, with status 204, after the last one."""
    tee = await serve()
    answer = await tee.chat(f"Authorization: Bearer {KEY}")
    frames = blocks(await answer.read())
    url, epoch = f"{tee.proxy.url}/v1/streams/{answer.stream_id}", answer.epoch
    own = ("-H", f"Authorization: Bearer {KEY}")
    process = await curl("-N", *own, "-H", f"Last-Event-ID: {epoch}-4", url)
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert out == stamped(b"".join(frames[4:]), epoch, 5)
    process = await curl(*own, "-w", "%{http_code}", "-H", f"Last-Event-ID: {epoch}-{len(frames)}", url)
    assert (await process.communicate())[0] == b"204"


async def test_lines_that_the_demo_shows_work(serve: Serve) -> None:
    """Each curl line, pasted into a shell, with only the ports changed."""
    system_tool("curl")
    tee = await serve()
    shown = demo.BY_HAND.replace("http://127.0.0.1:8080", tee.proxy.url)
    shown = shown.replace("http://127.0.0.1:9090", tee.proxy.admin_url).replace("\\\n", " ")
    lines = [line.strip() for line in shown.splitlines() if line.strip().startswith("curl ")]
    outs = []
    for line in lines:
        done = await asyncio.to_thread(subprocess.run, line, shell=True, capture_output=True, timeout=20, check=False)
        assert done.returncode == 0, (line, done)
        outs.append(done.stdout)
    asked, followed, resumed, metrics = outs
    frames = blocks(asked)
    assert frames[-1] == DONE
    assert followed == asked
    assert resumed.count(b"\nid: ") == len(frames) - 5
    assert b'streamtee_time_to_first_token_seconds_count{model="qwen3-max",route="chat"} 1.0' in metrics


# httpx and httpx-sse


async def test_httpx_sse_reads_events_with_their_ids(serve: Serve) -> None:
    """Dense ids, the upstream's data; a second connection with the last id seen has exactly the rest."""
    tee = await serve()
    async with httpx.AsyncClient(base_url=tee.proxy.url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        asked = await client.post("/v1/chat/completions", content=chat_body())
        path, epoch = asked.headers["location"], asked.headers["stream-id"][3:9]
        data = [frame.removeprefix(b"data: ").strip().decode() for frame in blocks(asked.content)]
        events: list[httpx_sse.ServerSentEvent] = []
        async with httpx_sse.aconnect_sse(client, "GET", path, params={"mode": "events"}) as source:
            async for event in source.aiter_sse():
                events.append(event)
                if len(events) == 4:
                    break
        resume = {"Last-Event-ID": events[-1].id}
        async with httpx_sse.aconnect_sse(client, "GET", path, headers=resume) as source:
            events += [event async for event in source.aiter_sse()]
    assert [event.data for event in events] == data
    assert [event.id for event in events] == [f"{epoch}-{seq}" for seq in range(1, len(data) + 1)]
    assert {event.event for event in events} == {"message"}


async def test_httpx_sse_sees_the_failure_as_the_last_event(serve: Serve) -> None:
    """With an id of its own, and no [DONE]."""
    tee = await serve()
    async with httpx.AsyncClient(base_url=tee.proxy.url) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(
                "/v1/chat/completions",
                content=chat_body(),
                headers={"Stream-Key": "broken", "Fake-Fault": "cut_mid_chunk; after=3"},
            )
        async with httpx_sse.aconnect_sse(client, "GET", "/v1/keys/broken/stream") as source:
            events = [event async for event in source.aiter_sse()]
    assert json.loads(events[-1].data)["error"]["code"] == "upstream_reset"
    assert [event.id.rpartition("-")[2] for event in events[:3]] == ["1", "2", "3"]
    assert "[DONE]" not in [event.data for event in events]
