"""The fake Qwen against recorded streams, a raw socket, and the real SDKs."""

import asyncio
import gzip
import hashlib
import json
import os
import re
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from random import Random
from typing import Any

import dashscope
import openai
import pytest
import uvloop

from proxy.tools.fake.chat import ChatAnswer, read_chat
from proxy.tools.fake.chosen_faults import fault_options
from proxy.tools.fake.connection import Connection, Received
from proxy.tools.fake.faults import FAULTS
from proxy.tools.fake.native import NativeAnswer, read_native
from proxy.tools.fake.qwen import FakeQwen, Pace
from proxy.tools.fake.refusals import REFUSALS, Refusal
from proxy.tools.fake.steps import Part, Wait
from proxy.tools.fake.text import Stamp

SAMPLES = Path(os.environ.get("STREAMTEE_SAMPLES") or Path(__file__).parents[2].parent / "shared/samples")
CHAT = "/compatible-mode/v1/chat/completions"
NATIVE = "/api/v1/services/aigc/text-generation/generation"
MULTIMODAL = "/api/v1/services/aigc/multimodal-generation/generation"
APP = "/api/v1/apps/an-app/completion"
SSE = ("X-DashScope-SSE: enable",)
MESSAGES = [{"role": "user", "content": "说点什么"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    },
}


@pytest.fixture
async def fake() -> AsyncIterator[FakeQwen]:
    async with running() as one:
        yield one


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[FakeQwen]:
    one = FakeQwen(**options)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "qwen3-max", "messages": MESSAGES, "stream": True, **more}


def native(*, prompt: str = "说点什么", model: str = "qwen-max", **parameters: Any) -> dict[str, Any]:
    return {"model": model, "input": {"prompt": prompt}, "parameters": parameters}


def request(path: str, body: Any = None, *headers: str, method: str = "POST") -> bytes:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: fake", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


@dataclass
class Answer:
    """One HTTP response as its bytes tell it."""

    status: int
    headers: list[tuple[str, str]]
    chunks: list[bytes] = field(default_factory=list)
    ended: bool = False
    rest: bytes = b""
    """What follows the last whole chunk, or a body without chunks."""
    reset: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks) or self.rest

    @property
    def frames(self) -> list[bytes]:
        return re.findall(rb".*?(?:\r\n\r\n|\r\r|\n\n)", self.body, re.DOTALL)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


def parse(wire: bytes, *, reset: bool = False) -> Answer:
    head, _, rest = wire.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    answer = Answer(int(first.split()[1]), [tuple(line.split(": ", 1)) for line in lines], reset=reset)  # type: ignore[misc]
    while answer.header("transfer-encoding") == "chunked" and (found := re.match(rb"([0-9a-f]+)\r\n", rest)):
        size, start = int(found[1], 16), found.end()
        if rest[start + size : start + size + 2] != b"\r\n":
            break
        chunk, rest = rest[start : start + size], rest[start + size + 2 :]
        if not size:
            answer.ended = True
            break
        answer.chunks.append(chunk)
    answer.rest = rest
    return answer


@asynccontextmanager
async def connected(fake: FakeQwen) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(fake.url.rsplit(":", 1)[1]), limit=1 << 22)
    try:
        yield reader, writer
    finally:
        writer.close()


async def wire(fake: FakeQwen, sent: bytes) -> tuple[bytes, bool]:
    """Send a request; return all bytes up to FIN or RST, and whether it was RST."""
    async with connected(fake) as (reader, writer):
        writer.write(sent)
        got = bytearray()
        try:
            while data := await reader.read(1 << 16):
                got += data
        except ConnectionResetError:
            return bytes(got), True
        return bytes(got), False


async def ask(fake: FakeQwen, path: str, body: Any = None, *headers: str, method: str = "POST") -> Answer:
    got, reset = await wire(fake, request(path, body, "Connection: close", *headers, method=method))
    return parse(got, reset=reset)


async def faulty(fake: FakeQwen, fault: str, body: dict[str, Any] | None = None, path: str = CHAT) -> Answer:
    return await ask(fake, path, body or chat(), f"Fake-Fault: {fault}", *(SSE if path != CHAT else ()))


def payloads(answer: Answer) -> list[dict[str, Any]]:
    data = [line for frame in answer.frames for line in frame.split(b"\n") if line.startswith(b"data:")]
    return [json.loads(line[5:]) for line in data if line != b"data: [DONE]"]


def said(answer: Answer, choice: int = 0, channel: str = "content") -> str:
    choices = [c for p in payloads(answer) for c in p["choices"] if c["index"] == choice]
    return "".join(c["delta"].get(channel) or "" for c in choices)


# What the recordings show.


def shape(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return tuple((name, shape(inner, name)) for name, inner in value.items() if name != "doc_references")
    if isinstance(value, list):
        return [shape(value[0], key)] if value else []
    if key in ("finish_reason", "object", "role", "type") or (key == "id" and value == ""):
        return value
    return type(value).__name__


def shapes(lines: list[bytes]) -> list[Any]:
    """Return what kinds of data lines follow one another, repetitions taken as one."""
    kinds = [line if b"[DONE]" in line else shape(json.loads(line.partition(b":")[2])) for line in lines]
    return [kind for kind, _ in groupby(kinds)]


def sample(name: str) -> bytes:
    if not SAMPLES.is_dir():
        pytest.skip(f"no recorded streams at {SAMPLES}; set STREAMTEE_SAMPLES")
    return (SAMPLES / name).read_bytes().removeprefix(b"\xef\xbb\xbf").strip(b"\r\n")


def data_lines(stream: bytes) -> list[bytes]:
    return [line for line in stream.split(b"\n") if line.startswith(b"data:")]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("compat-vercel-alibaba-text", {}),
        ("compat-vercel-alibaba-reasoning", {"enable_thinking": True}),
        ("compat-vercel-alibaba-tool-call", {"tools": [WEATHER]}),
    ],
)
async def test_compatible_stream_has_the_recorded_shape(fake: FakeQwen, name: str, more: dict[str, Any]) -> None:
    """Keys, their order, nulls and the sequence of kinds of chunks are the recording's; so is the framing."""
    recorded = sample(f"{name}.sse") + b"\n\n"
    answer = await ask(fake, CHAT, chat(stream_options={"include_usage": True}, **more))
    assert shapes(data_lines(answer.body)) == shapes(data_lines(recorded))
    framing = rb"(?:data: [^\n]+\n\n)+"
    assert re.fullmatch(framing, recorded)
    assert re.fullmatch(framing, answer.body)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("single-generation-text-sse", NATIVE),
        ("single-generation-message-sse", NATIVE),
        ("single-generation-message-reasoning-sse", NATIVE),
        ("single-generation-message-search-sse", NATIVE),
        ("single-generation-message-with-tools-sse", NATIVE),
        ("single-generation-message-with-parallel-tools-sse", NATIVE),
        ("multimodal-generation-vl-sse", MULTIMODAL),
        ("application-single-generation-text-sse", APP),
        ("parameter-error-sse", NATIVE),
    ],
)
async def test_native_stream_has_the_recorded_shape(fake: FakeQwen, name: str, path: str) -> None:
    """The recording's own request gives the recording's kinds of events, in its order, with its four lines each."""
    recorded, body = sample(f"native-cnblogs-{name}.sse"), json.loads(sample(f"native-cnblogs-{name}.request.json"))
    for cap in ("max_tokens", "max_completion_tokens"):
        body["parameters"].pop(cap, None)
    answer = await ask(fake, path, body, *SSE)
    assert shapes(data_lines(answer.body)) == shapes(data_lines(recorded))
    for stream in (recorded + b"\n\n", answer.body):
        assert re.fullmatch(rb"(?:id:\d+\nevent:(result|error)\n:HTTP_STATUS/\d+\ndata:\{[^\n]+\n\n?)+", stream)
        ids = [int(number) for number in re.findall(rb"^id:(\d+)$", stream, re.MULTILINE)]
        assert ids == [*range(1, len(ids) + 1)]


@pytest.mark.parametrize(
    ("name", "fault", "path"),
    [
        ("compat-error-http400-nonstream.json", "status; status=400", CHAT),
        ("compat-error-http400-stream.sse", "status; status=400_stream", CHAT),
        ("compat-error-http401.json", "status; status=401", CHAT),
        ("native-cnblogs-auth-error-nosse.json", "status; status=401", NATIVE),
        ("native-cnblogs-parameter-error-nosse.json", "status; status=400", NATIVE),
    ],
)
async def test_refusals_have_the_recorded_shape(fake: FakeQwen, name: str, fault: str, path: str) -> None:
    """Error bodies have the recorded keys in the recorded order."""
    answer = await faulty(fake, fault, chat() if path == CHAT else native(), path)
    recorded, body = (content.removeprefix(b"data: ") for content in (sample(name), answer.body))
    assert shape(json.loads(body)) == shape(json.loads(recorded))


async def test_native_stream_has_the_recorded_headers(fake: FakeQwen) -> None:
    """Names and order of the response headers are those recorded in 2025."""
    recorded = sample("native-cnblogs-single-generation-message-search-sse.headers.txt").decode()
    names = [line.partition(":")[0] for line in recorded.splitlines()[1:]]
    answer = await ask(fake, NATIVE, native(), *SSE)
    assert [name for name, _ in answer.headers] == [*names, "connection"]
    assert answer.header("content-type") == "text/event-stream;charset=UTF-8"


async def test_native_401_has_no_content_type(fake: FakeQwen) -> None:
    """As recorded."""
    assert (await faulty(fake, "status; status=401", native(), NATIVE)).header("content-type") is None


# What an answer says.


async def test_equal_requests_have_equal_text() -> None:
    """The text comes from seed, model and messages: not from the pace, the call or the process."""
    async with running(seed=7) as one, running(seed=7, pace=Pace(tokens_per_frame=9)) as other, running(seed=8) as odd:
        first, second = await ask(one, CHAT, chat()), await ask(one, CHAT, chat())
        assert said(first) == said(second) == said(await ask(other, CHAT, chat()))
        assert said(first) != said(await ask(odd, CHAT, chat()))
        assert said(first) != said(await ask(one, CHAT, chat(model="qwen-max")))
        assert payloads(first)[0]["id"] != payloads(second)[0]["id"]


async def test_text_goes_beyond_ascii_unescaped(fake: FakeQwen) -> None:
    """Two, three and four byte characters occur as raw UTF-8."""
    body = (await ask(fake, CHAT, chat(max_tokens=2000))).body
    assert {len(c.encode()) for c in body.decode()} == {1, 2, 3, 4}
    assert b"\\u" not in body


@pytest.mark.parametrize(
    "more", [{}, {"n": 3}, {"tools": [WEATHER]}, {"tools": [WEATHER], "parallel_tool_calls": True}, {"max_tokens": 77}]
)
async def test_non_stream_answer_equals_the_streamed(fake: FakeQwen, more: dict[str, Any]) -> None:
    """Text, tool calls, finish reasons and usage do not depend on how they are asked for."""
    streamed = await ask(fake, CHAT, chat(stream_options={"include_usage": True}, **more))
    whole = (await ask(fake, CHAT, chat(**more) | {"stream": False})).json
    assert [aggregate(streamed, choice["index"]) for choice in whole["choices"]] == [
        {**choice["message"], "finish_reason": choice["finish_reason"]} for choice in whole["choices"]
    ]
    assert payloads(streamed)[-1]["usage"] == whole["usage"]


def aggregate(answer: Answer, index: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said(answer, index)}
    choices = [c for p in payloads(answer) for c in p["choices"] if c["index"] == index]
    calls: dict[int, dict[str, Any]] = {}
    for part in (part for c in choices for part in c["delta"].get("tool_calls", ())):
        call = calls.setdefault(part["index"], part)
        if call is not part:
            call["function"]["arguments"] += part["function"]["arguments"]
    if calls:
        message["tool_calls"] = list(calls.values())
    return {**message, "finish_reason": choices[-1]["finish_reason"]}


def test_whole_answer_of_a_thinking_model_equals_its_frames() -> None:
    """Both dialects: reasoning, too, is the same whole and in frames."""
    stamp = Stamp("a-uuid", 0)
    ask = read_chat(chat(enable_thinking=True, stream_options={"include_usage": True}), seed=0)
    answer = ChatAnswer(ask, stamp)
    streamed, whole = Answer(200, [], list(answer.frames())), json.loads(answer.whole())
    message = whole["choices"][0]["message"]
    assert message["reasoning_content"] == said(streamed, channel="reasoning_content") != ""
    assert message["content"] == said(streamed)
    assert payloads(streamed)[-1]["usage"] == whole["usage"]
    options: dict[str, Any] = {"enable_thinking": True, "incremental_output": True}
    ask = read_native(native(**options), seed=0, stream=True, multimodal=False)
    events = [json.loads(frame.partition(b"data:")[2]) for frame in NativeAnswer(ask, stamp).frames()]
    reasoning = "".join(event["output"]["choices"][0]["message"]["reasoning_content"] for event in events)
    whole = json.loads(NativeAnswer(ask, stamp).whole())
    assert whole["output"]["choices"][0]["message"]["reasoning_content"] == reasoning != ""
    assert whole["usage"] == events[-1]["usage"]


async def test_reasoning_comes_before_content(fake: FakeQwen) -> None:
    """Once content has begun, no reasoning follows."""
    deltas = [p["choices"][0]["delta"] for p in payloads(await ask(fake, CHAT, chat(enable_thinking=True)))]
    assert [kind for kind, _ in groupby(d["content"] is None for d in deltas)] == [True, False]


async def test_max_tokens_sets_the_length(fake: FakeQwen) -> None:
    """Exactly so many tokens, and the finish reason says so."""
    whole = (await ask(fake, CHAT, chat(stream=False, max_tokens=321))).json
    assert whole["usage"]["completion_tokens"] == 321
    assert whole["choices"][0]["finish_reason"] == "length"


async def test_usage_chunk_comes_only_when_asked_for(fake: FakeQwen) -> None:
    """Without include_usage every usage is null."""
    assert all(p["usage"] is None and p["choices"] for p in payloads(await ask(fake, CHAT, chat())))


async def test_several_choices_are_interleaved(fake: FakeQwen) -> None:
    """The first choice of n says what the only one would."""
    several = await ask(fake, CHAT, chat(n=3))
    assert [p["choices"][0]["index"] for p in payloads(several)[:6]] == [0, 1, 2, 0, 1, 2]
    assert said(several) == said(await ask(fake, CHAT, chat()))
    assert len({said(several, choice) for choice in range(3)}) == 3


async def test_tools_are_not_called_again_after_their_answer(fake: FakeQwen) -> None:
    """A conversation that ends in a tool's answer gets text."""
    messages = [*MESSAGES, {"role": "tool", "content": "sunny", "tool_call_id": "call_1"}]
    assert said(await ask(fake, CHAT, chat(messages=messages, tools=[WEATHER])))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            chat(model="qwq-plus", stream=False),
            "This model only support stream mode, please enable the stream parameter to access the model. ",
        ),
        (
            chat(enable_thinking=True, stream=False),
            "parameter.enable_thinking must be set to false for non-streaming calls",
        ),
    ],
)
async def test_stream_only_model_refuses_a_non_stream_call(fake: FakeQwen, body: dict[str, Any], message: str) -> None:
    """HTTP 400 with the recorded message."""
    answer = await ask(fake, CHAT, body)
    assert (answer.status, answer.json["error"]["message"]) == (400, message)
    assert answer.header("content-type") == "application/json"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (CHAT, b"{", 400),
        (CHAT, b"[]", 400),
        (CHAT, {"messages": MESSAGES}, 400),
        (CHAT, chat(messages=[]), 400),
        (CHAT, chat(stream_options=3), 400),
        (CHAT, chat(n="many"), 400),
        (CHAT, chat(tools=[{"type": "function", "function": {}}]), 400),
        (NATIVE, native(enable_thinking=True, incremental_output=False), 200),
        (NATIVE, native(model="qwen-vl-plus"), 200),
        ("/elsewhere", b"", 404),
    ],
)
async def test_malformed_request_is_refused(fake: FakeQwen, path: str, body: Any, status: int) -> None:
    """In JSON, as an SSE-framed 400, or natively as an error event in an HTTP 200."""
    answer = await ask(fake, path, body, *SSE)
    assert answer.status == status
    assert status != 200 or answer.body.startswith(b"id:1\nevent:error\n:HTTP_STATUS/400\ndata:{")


async def test_required_key_is_asked_for() -> None:
    """Missing and empty keys give 401, any other passes; a key is only required when told so."""
    async with running(require_key=True) as fake:
        answers = [await ask(fake, CHAT, chat(), *header) for header in ((), ("Authorization: Bearer ",))]
        assert [(a.status, a.json["error"]["code"]) for a in answers] == [(401, "invalid_api_key")] * 2
        assert (await ask(fake, CHAT, chat(), "Authorization: Bearer sk-any")).status == 200


@pytest.mark.parametrize(("option", "cumulative"), [({}, True), ({"incremental_output": True}, False)])
async def test_native_text_is_cumulative_unless_incremental(
    fake: FakeQwen, option: dict[str, Any], cumulative: bool
) -> None:
    """Cumulative frames grow and end with the whole text; increments join to it and end empty."""
    outputs = [p["output"] for p in payloads(await ask(fake, NATIVE, native(**option), *SSE))]
    whole = (await ask(fake, NATIVE, native())).json
    texts = [output["text"] for output in outputs]
    assert [output["finish_reason"] for output in outputs] == ["null"] * (len(outputs) - 1) + ["stop"]
    assert (texts[-1] if cumulative else "".join(texts)) == whole["output"]["text"]
    assert all(late.startswith(early) for early, late in pairwise(texts)) is cumulative
    assert whole["usage"]["output_tokens"] > 0


async def test_accept_header_alone_makes_native_streaming(fake: FakeQwen) -> None:
    """`stream` in a native body means nothing."""
    answer = await ask(fake, NATIVE, native(), "Accept: text/event-stream")
    assert answer.body.startswith(b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:{")
    assert (await ask(fake, NATIVE, native() | {"stream": True})).json["output"]["finish_reason"] == "stop"


async def test_app_keeps_the_session(fake: FakeQwen) -> None:
    """The session id of the request, or a new one."""
    given = {"input": {"prompt": "继续", "session_id": "mine"}}
    assert (await ask(fake, APP, given)).json["output"]["session_id"] == "mine"
    assert len((await ask(fake, APP, {"input": {"prompt": "你好"}})).json["output"]["session_id"]) == 32


async def test_models_are_listed(fake: FakeQwen) -> None:
    """The compatible list."""
    answer = await ask(fake, "/compatible-mode/v1/models", method="GET")
    assert {"id", "object"} <= answer.json["data"][0].keys()


async def test_other_requests_are_echoed(fake: FakeQwen) -> None:
    """Target, headers and body come back untouched, for the sake of plain proxying."""
    body = bytes(range(256)) * 1000
    answer = await ask(fake, "/api/v1/files/a%2Fb?x=%20+y&x", body, "X-Odd:  spaced ", "X-Odd: twice", method="PUT")
    told = answer.json
    assert (told["method"], told["target"]) == ("PUT", "/api/v1/files/a%2Fb?x=%20+y&x")
    assert [value.strip() for name, value in told["headers"] if name == "X-Odd"] == ["spaced", "twice"]
    assert (told["body_bytes"], told["body_sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


async def test_head_request_has_no_body(fake: FakeQwen) -> None:
    """Length told, nothing sent."""
    answer = await ask(fake, "/v1/anything", method="HEAD")
    assert (answer.body, bytes(fake.requests[0].sent)) == (b"", b"")
    assert int(answer.header("content-length") or 0) > 0


# HTTP and the record of requests.


async def test_request_and_answer_are_recorded(fake: FakeQwen) -> None:
    """Everything as it came, and exactly the body bytes that went."""
    answer = await ask(fake, CHAT + "?a=%41", chat(), "X-Case: Ä")
    received = await fake.wait_closed()
    assert (received.method, received.target) == ("POST", CHAT + "?a=%41")
    assert (b"X-Case", "Ä".encode()) in received.headers
    assert json.loads(received.body) == chat()
    assert (received.state, bytes(received.sent)) == ("complete", answer.body)


async def test_frame_is_a_chunk(fake: FakeQwen) -> None:
    """One HTTP chunk an event, and the proper end."""
    answer = await ask(fake, CHAT, chat())
    assert answer.chunks == answer.frames
    assert answer.ended
    assert answer.chunks[-1] == b"data: [DONE]\n\n"


async def test_connection_is_kept_alive_and_pipelined(fake: FakeQwen) -> None:
    """Two requests in one write get two answers, in order, on one connection."""
    async with connected(fake) as (reader, writer):
        writer.write(request(CHAT, chat()) + request("/v1/second", b"x"))
        await reader.readuntil(b"\r\n0\r\n\r\n")
        assert b'"target":"/v1/second"' in await reader.readuntil(b"}")
    assert [received.state for received in fake.requests] == ["complete", "complete"]


async def test_old_client_gets_a_close_delimited_body(fake: FakeQwen) -> None:
    """HTTP/1.0 knows no chunks."""
    got, _ = await wire(fake, request(CHAT, chat()).replace(b"HTTP/1.1", b"HTTP/1.0"))
    answer = parse(got)
    assert answer.header("transfer-encoding") is None
    assert answer.rest.endswith(b"data: [DONE]\n\n")


async def test_expect_continue_is_answered(fake: FakeQwen) -> None:
    """curl waits a second for it before it sends a large body."""
    async with connected(fake) as (reader, writer):
        writer.write(b"POST /v1/x HTTP/1.1\r\nHost: f\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"x")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_no_http_is_answered_with_400(fake: FakeQwen) -> None:
    """And recorded as no request."""
    got, _ = await wire(fake, b"\x16\x03\x01 hello\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 400 ")
    assert fake.requests == []


async def test_large_request_is_accepted(fake: FakeQwen) -> None:
    """64 MiB, the documented limit with images."""
    body = bytes(64 << 20)
    assert (await ask(fake, "/v1/upload", body)).json["body_sha256"] == hashlib.sha256(body).hexdigest()


async def test_client_that_leaves_is_noticed(fake: FakeQwen) -> None:
    """Even when nothing is being written."""
    async with connected(fake) as (reader, writer):
        writer.write(request(CHAT, chat(), "Fake-Fault: hang; after=2"))
        await reader.readuntil(b"\n\n\r\n")
        await fake.wait_requests(1)
        assert fake.requests[0].state == "open"
    assert (await fake.wait_closed()).state == "client_gone"


async def test_stop_is_quick_with_open_streams() -> None:
    """Hanging and endless streams end with it, and their state says who ended them."""
    async with running() as fake:
        readers = [
            asyncio.create_task(ask(fake, CHAT, chat(), f"Fake-Fault: {fault}")) for fault in ("hang", "endless")
        ]
        await fake.wait_requests(2)
        async with asyncio.timeout(2):
            await fake.stop()
            await asyncio.gather(*readers, return_exceptions=True)
        assert [received.state for received in fake.requests] == ["cut", "cut"]


async def test_hundreds_of_streams_at_once(fake: FakeQwen) -> None:
    """All whole, none mixed up."""
    answers = await asyncio.gather(
        *(ask(fake, CHAT, chat(messages=[{"role": "user", "content": f"stream {n % 7}"}])) for n in range(300))
    )
    assert all(answer.ended for answer in answers)
    assert len({said(answer) for answer in answers}) == 7


async def test_history_bounds_what_is_kept() -> None:
    """For a fake that runs for days."""
    async with running(history=2) as fake:
        for number in range(4):
            await ask(fake, f"/v1/{number}")
        await fake.wait_requests(4)
        assert [received.target for received in fake.requests] == ["/v1/2", "/v1/3"]


# Faults, seen from a raw socket.


async def test_cut_mid_frame_ends_without_end_chunk(fake: FakeQwen) -> None:
    """N frames, then half of one as a whole chunk, then FIN."""
    answer, plain = await faulty(fake, "cut_mid_frame; after=4"), await ask(fake, CHAT, chat())
    assert len(answer.chunks) == 5
    assert 0 < len(answer.chunks[4]) < len(plain.chunks[4])
    assert (answer.ended, answer.rest, answer.reset) == (False, b"", False)
    assert fake.requests[0].state == "cut"
    assert bytes(fake.requests[0].sent) == answer.body


async def test_cut_mid_chunk_ends_inside_a_chunk(fake: FakeQwen) -> None:
    """The last chunk announces more than it brings."""
    answer = await faulty(fake, "cut_mid_chunk; after=2")
    assert len(answer.chunks) == 2
    size, _, part = answer.rest.partition(b"\r\n")
    assert 0 < len(part) < int(size, 16)
    assert bytes(fake.requests[0].sent) == b"".join(answer.chunks) + part


async def test_cut_clean_half_frame_ends_properly(fake: FakeQwen) -> None:
    """The HTTP body is whole, the last frame is not."""
    answer = await faulty(fake, "cut_clean_half_frame; after=2")
    assert answer.ended
    assert len(answer.frames) == 2 < len(answer.chunks)
    assert fake.requests[0].state == "cut"


async def test_reset_is_a_reset(fake: FakeQwen) -> None:
    """RST, not FIN."""
    assert (await faulty(fake, "reset; after=2")).reset
    assert fake.requests[0].state == "cut"


async def test_hang_before_head_says_nothing(fake: FakeQwen) -> None:
    """Not one byte, until the client leaves."""
    async with connected(fake) as (_, writer):
        writer.write(request(CHAT, chat(), "Fake-Fault: hang_before_head"))
        await fake.wait_requests(1)
    assert (await fake.wait_closed()).sent == b""


@pytest.mark.parametrize(
    ("fault", "before"),
    [
        ("slow_first_token; seconds=0.05", b""),
        ("stall; after=2; seconds=0.05", b"\n\n\r\n"),
        ("late_end; seconds=0.05", b"[DONE]"),
    ],
)
async def test_pauses_are_where_they_should_be(fake: FakeQwen, fault: str, before: bytes) -> None:
    """Before the head, between two frames, before the end chunk."""
    async with connected(fake) as (reader, writer):
        writer.write(request(CHAT, chat(), "Connection: close", f"Fake-Fault: {fault}"))
        got = await reader.readuntil(before) if before else b""
        began = time.perf_counter()
        got += await reader.read()
    assert time.perf_counter() - began > 0.04
    assert parse(got).ended
    assert said(parse(got)) == said(await ask(fake, CHAT, chat()))


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: f"{row.status}-{row.code}")
async def test_status_gives_every_refusal(fake: FakeQwen, row: Refusal) -> None:
    """Each row of the table in both dialects."""
    fault = f"status; status={row.status}; code={row.code}"
    compatible, own = await faulty(fake, fault), await faulty(fake, fault, native(), NATIVE)
    assert (compatible.status, compatible.json["error"]["code"]) == (row.status, row.code)
    assert (own.status, own.json["code"]) == (row.status, row.native_code)
    assert "{model}" not in compatible.body.decode()


async def test_retry_after_is_a_header(fake: FakeQwen) -> None:
    """On a 429 by default, on another status if told so."""
    answer = await faulty(fake, "retry_after; seconds=2")
    assert (answer.status, answer.header("retry-after")) == (429, "2")
    assert (await faulty(fake, "retry_after; status=503")).status == 503


async def test_error_inside_comes_after_n_frames(fake: FakeQwen) -> None:
    """In both dialects' words and the flat variant; HTTP says 200 and ends properly."""
    compatible = await faulty(fake, "error_inside; after=2")
    assert (compatible.status, compatible.ended, len(compatible.frames)) == (200, True, 3)
    assert payloads(compatible)[2]["error"]["code"] == "data_inspection_failed"
    own = await faulty(fake, "error_inside; after=2; code=Throttling", native(), NATIVE)
    assert own.frames[2].startswith(b"id:3\nevent:error\n:HTTP_STATUS/429\ndata:{")
    flat = await faulty(fake, "error_inside; after=0; flat=1; done=1")
    assert flat.frames[0].startswith(b'event: error\ndata: {"code":')
    assert flat.frames[1] == b"data: [DONE]\n\n"


@pytest.mark.parametrize(("fault", "ending"), [("crlf", b"\r\n"), ("cr", b"\r")])
@pytest.mark.parametrize("path", [CHAT, NATIVE])
async def test_line_endings_are_replaced(fake: FakeQwen, fault: str, ending: bytes, path: str) -> None:
    """Every line of every frame, and nothing else."""
    body = chat() if path == CHAT else native()
    answer = await faulty(fake, fault, body, path)
    lines = len(data_lines((await ask(fake, path, body, *SSE)).body))
    assert len(answer.frames) == lines
    assert answer.body.replace(ending, b"").count(b"\n") + answer.body.replace(ending, b"").count(b"\r") == 0


async def test_gzip_only_if_offered(fake: FakeQwen) -> None:
    """Each frame can be unpacked as it comes; the record holds the packed bytes."""
    plain = await ask(fake, CHAT, chat())
    packed = await ask(fake, CHAT, chat(), "Fake-Fault: gzip", "Accept-Encoding: gzip, deflate")
    assert packed.header("content-encoding") == "gzip"
    assert said(Answer(200, [], [gzip.decompress(packed.body)])) == said(plain)
    assert bytes(fake.requests[1].sent) == packed.body
    assert len(packed.chunks) >= len(plain.chunks)
    assert (await faulty(fake, "gzip")).header("content-encoding") is None
    whole = await ask(fake, CHAT, chat(stream=False), "Fake-Fault: gzip", "Accept-Encoding: gzip")
    assert json.loads(gzip.decompress(whole.body))["object"] == "chat.completion"


async def test_no_done_leaves_out_done_only(fake: FakeQwen) -> None:
    """A clean end without the word."""
    answer = await faulty(fake, "no_done")
    assert answer.ended
    assert b"[DONE]" not in answer.body
    assert said(answer) == said(await ask(fake, CHAT, chat()))


@pytest.mark.parametrize(("fault", "size"), [("huge_frame", 1 << 20), ("huge_frame; bytes=5000; after=4", 5000)])
async def test_huge_frame_is_one_frame(fake: FakeQwen, fault: str, size: int) -> None:
    """The others are as they were."""
    answer = await faulty(fake, fault)
    sizes = [len(c) for c in answer.chunks]
    assert sizes.index(max(sizes)) == (4 if "after" in fault else 3)
    assert size < max(sizes) < size + 1000
    own = await faulty(fake, fault, native(incremental_output=True), NATIVE)
    assert max(map(len, own.chunks)) > size


async def test_comments_stand_in_and_between_frames(fake: FakeQwen) -> None:
    """Comment-only blocks, and comment lines before data."""
    answer = await faulty(fake, "comments")
    assert b"\n\n: between\n\ndata: " in answer.body
    assert b"\n\n: before\ndata: " in answer.body
    assert said(answer) == said(await ask(fake, CHAT, chat()))


async def test_close_delimited_has_neither_chunks_nor_length(fake: FakeQwen) -> None:
    """FIN is the end; with cut=reset it is RST before the end."""
    answer = await faulty(fake, "close_delimited")
    assert (answer.header("transfer-encoding"), answer.header("content-length")) == (None, None)
    assert answer.header("connection") == "close"
    assert answer.rest.endswith(b"data: [DONE]\n\n")
    assert fake.requests[0].state == "complete"
    cut = await faulty(fake, "close_delimited; cut=reset; after=2")
    assert cut.reset
    assert len(fake.requests[1].sent.split(b"\n\n")) == 3


async def test_bad_chunk_leaves_the_connection_open(fake: FakeQwen) -> None:
    """Whoever waits for more waits for ever."""
    async with connected(fake) as (reader, writer):
        writer.write(request(CHAT, chat(), "Fake-Fault: bad_chunk; after=2"))
        answer = parse(await reader.readuntil(b"not-a-size\r\n"))
        assert len(answer.chunks) == 2
        assert fake.requests[0].state == "open"


async def test_garbage_is_no_http(fake: FakeQwen) -> None:
    """And then FIN."""
    got, reset = await wire(fake, request(CHAT, chat(), "Fake-Fault: garbage"))
    assert not got.startswith(b"HTTP/")
    assert not reset


async def test_no_blank_line_lacks_only_the_last(fake: FakeQwen) -> None:
    """The last frame ends with its line."""
    answer, plain = await faulty(fake, "no_done, no_blank_line"), await faulty(fake, "no_done")
    assert len(answer.body) == len(plain.body) - 1
    assert answer.ended
    assert answer.body.endswith(b"}\n")


async def test_bom_comes_first(fake: FakeQwen) -> None:
    """Before the first frame, not before the others."""
    assert (await faulty(fake, "bom")).body.startswith(b"\xef\xbb\xbfdata: ")


async def test_count_is_exact(fake: FakeQwen) -> None:
    """So many frames of content, beside the role, the finish and [DONE]."""
    assert len((await faulty(fake, "count; frames=500")).frames) == 503


async def test_endless_goes_on_until_the_client_goes(fake: FakeQwen) -> None:
    """Under back-pressure it waits: what it writes is bounded by what is read."""
    async with connected(fake) as (reader, writer):
        writer.write(request(CHAT, chat(), "Fake-Fault: endless"))
        for _ in range(3000):
            await reader.readuntil(b"\n\n\r\n")
        assert fake.requests[0].state == "open"
    assert (await fake.wait_closed()).state == "client_gone"


async def test_faults_apply_to_whole_answers_and_echoes(fake: FakeQwen) -> None:
    """`after` is then 0: there is but one part."""
    whole = await faulty(fake, "cut_mid_frame", chat(stream=False))
    assert len(whole.body) < int(whole.header("content-length") or 0)
    assert (await ask(fake, "/v1/x", b"", "Fake-Fault: reset")).reset


async def test_faults_combine(fake: FakeQwen) -> None:
    """Content faults first, then the others in order."""
    answer = await faulty(fake, "crlf, split_bytes, count; frames=3")
    assert {len(chunk) for chunk in answer.chunks} == {1}
    assert len(answer.frames) == 6
    assert answer.body.count(b"\r\n\r\n") == 6


async def test_model_name_carries_faults(fake: FakeQwen) -> None:
    """For clients that can't set headers; the answer names the model alone and says the same."""
    answer = await ask(fake, CHAT, chat(model="qwen3-max+no_done+error_inside,after=2"))
    assert payloads(answer)[0]["model"] == "qwen3-max"
    assert "error" in payloads(answer)[2]
    named = await ask(fake, CHAT, chat(model="qwen3-max+no_done"))
    assert said(named) == said(await ask(fake, CHAT, chat()))


async def test_times_bounds_a_fault(fake: FakeQwen) -> None:
    """For retries: the first two fail, the third succeeds."""
    answers = [await faulty(fake, "status; status=429; times=2") for _ in range(3)]
    assert [answer.status for answer in answers] == [429, 429, 200]


@pytest.mark.parametrize(
    "fault",
    [
        "nonsense",
        "hang; x=1",
        "hang; steps=1",
        "hang; after=two",
        "status; status=999",
        "status; status=x",
        "reset; times=x",
    ],
)
async def test_unknown_fault_is_told(fake: FakeQwen, fault: str) -> None:
    """A typing error must not pass for a well-behaved upstream."""
    answer = await faulty(fake, fault)
    assert answer.status == 400
    assert answer.json["error"]["code"] == "invalid_parameter_error"
    assert re.search("fault|options|status=|times", answer.json["error"]["message"])


def test_every_fault_says_what_it_does() -> None:
    """One line each, and its options."""
    for name, fault in FAULTS.items():
        assert (fault.__doc__ or "").splitlines()[0].endswith("."), name
    assert fault_options(FAULTS["stall"]) == {"after": "3", "seconds": "1.0", "times": "always"}


class Tape(asyncio.Transport):
    """A transport that only remembers its writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


async def writes(fault: str) -> list[bytes]:
    """Return an answer's single writes, which a socket does not show."""
    fake, tape = FakeQwen(), Tape()
    connection = Connection(fake)
    connection.connection_made(tape)
    connection.data_received(request(CHAT, chat(), f"Fake-Fault: {fault}"))
    await fake.wait_closed()
    connection.connection_lost(None)
    return tape.writes


async def test_frame_is_a_write() -> None:
    """The head comes with the first frame, the end chunk with [DONE]."""
    first, *between, last = await writes("")
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.count(b"data: ") == 1
    assert all(write.count(b"data: ") == 1 for write in between)
    assert last.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_burst_is_one_write() -> None:
    """Frames back to back."""
    assert len(await writes("burst")) == 1


async def test_split_utf8_ends_writes_inside_characters() -> None:
    """Right after the first byte of each multi-byte character."""
    cut = [write for write in await writes("split_utf8") if not decodes(write)]
    assert len(cut) > 20


def decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


async def test_split_bytes_writes_single_bytes() -> None:
    """A chunk of one byte each."""
    _, *rest, _ = await writes("split_bytes; times=1, count; frames=2")
    assert {len(write) for write in rest} == {len(b"1\r\nx\r\n")}


# Pace.


def test_real_pace_is_the_recorded_one() -> None:
    """Median 0.4 s to the first token, p95 about 1.5 s; 60 to 140 ms between frames."""
    random = Random(1)
    firsts = sorted(Pace.REAL.first_s(random) for _ in range(2000))
    gaps = [Pace.REAL.gap_s(random) for _ in range(2000)]
    assert 0.36 < statistics.median(firsts) < 0.44
    assert 1.2 < firsts[1900] < 1.8
    assert 0.06 <= min(gaps) < max(gaps) <= 0.14


def steps(pace: Pace) -> list[Any]:
    received = Received("POST", CHAT, [], json.dumps(chat(max_tokens=3000)).encode())
    return list(FakeQwen(pace=pace).plan(received))


def test_real_pace_begins_tiny_and_has_bursts() -> None:
    """Two or three tiny frames, then blocks of four to six tokens; now and then two or three frames in one write."""
    planned = steps(Pace.REAL)
    parts = [step for step in planned if isinstance(step, Part)]
    assert max(len(said(Answer(200, [], [part.body]))) for part in parts[1:3]) < 12
    runs = [len(list(run)) for held, run in groupby(part.held for part in parts[:-1]) if held]
    assert set(runs) <= {1, 2, 3, 4}
    assert 5 < len(runs) < 60
    assert sum(step.seconds for step in planned if isinstance(step, Wait)) > 30


def test_fast_pace_never_waits() -> None:
    """Not at all."""
    assert not any(step.seconds for step in steps(Pace.FAST) if isinstance(step, Wait))


def test_stalls_are_added_to_gaps() -> None:
    """As often as told."""
    stalls = [Pace(stall_chance=0.5, stall_s=9).gap_s(random) for random in [Random(2)] for _ in range(100)]
    assert set(stalls) == {0, 9}


# Both loops.


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_loops_put_the_same_on_the_wire(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Chunks, FIN and RST do not depend on the event loop."""
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(tour())


async def tour() -> None:
    async with running() as fake:
        plain = await ask(fake, CHAT, chat())
        assert plain.chunks == plain.frames
        assert (await faulty(fake, "split_bytes")).body.count(b"\n\n") == len(plain.frames)
        assert not (await faulty(fake, "cut_mid_frame")).ended
        reset = await faulty(fake, "reset; after=2")
        assert reset.reset
        assert len(reset.chunks) == 2
        hanging = asyncio.create_task(faulty(fake, "hang"))
        await fake.wait_requests(5)
        await fake.stop()
        await asyncio.gather(hanging, return_exceptions=True)
        assert fake.requests[-1].state == "cut"


# The real SDKs, straight to the fake.


@pytest.fixture
def client(fake: FakeQwen) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{fake.url}/compatible-mode/v1", api_key="sk-fake", max_retries=0) as one:
        yield one


async def test_openai_sync_client_reads_stream_and_whole(client: openai.OpenAI) -> None:
    """And both say the same."""

    create: Any = client.chat.completions.create

    def calls() -> tuple[str, str]:
        stream = create(model="qwen-plus", messages=MESSAGES, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        whole = create(model="qwen-plus", messages=MESSAGES)
        return streamed, whole.choices[0].message.content or ""

    streamed, whole = await asyncio.to_thread(calls)
    assert streamed == whole != ""


async def test_openai_client_raises_the_error_inside(client: openai.OpenAI) -> None:
    """With its code."""

    create: Any = client.chat.completions.create

    def call() -> list[Any]:
        return list(create(model="qwen-plus+error_inside", messages=MESSAGES, stream=True))

    with pytest.raises(openai.APIError) as caught:
        await asyncio.to_thread(call)
    assert caught.value.code == "data_inspection_failed"


async def test_openai_async_client_reads_thinking_tools_and_usage(fake: FakeQwen) -> None:
    """Reasoning, the odd tool call fragments, the usage chunk."""
    async with openai.AsyncOpenAI(base_url=f"{fake.url}/v1", api_key="sk-fake", max_retries=0) as client:
        create: Any = client.chat.completions.create
        thinking = await create(
            model="qwen-plus",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"enable_thinking": True},
        )
        chunks = [chunk async for chunk in thinking]
        assert any(getattr(c.choices[0].delta, "reasoning_content", None) for c in chunks if c.choices)
        assert chunks[-1].usage.completion_tokens_details.reasoning_tokens > 0
        async with client.chat.completions.stream(
            model="qwen-plus",
            messages=MESSAGES,  # type: ignore[arg-type]
            tools=[WEATHER],  # type: ignore[list-item]
        ) as stream:
            completion = await stream.get_final_completion()
        calls = completion.choices[0].message.tool_calls
        assert calls is not None
        assert json.loads(calls[0].function.arguments)["location"]


@pytest.mark.parametrize("incremental", [True, False, None])
async def test_dashscope_client_reads_native_streams(fake: FakeQwen, incremental: bool | None) -> None:
    """Increments, its own accumulation of increments, and the service's cumulative text."""
    option = {} if incremental is None else {"incremental_output": incremental}

    def call(**more: Any) -> Any:
        return dashscope.Generation.call(
            model="qwen-max",
            prompt="说点什么",
            api_key="sk-fake",
            base_address=f"{fake.url}/api/v1",
            **more,
        )

    answers = await asyncio.to_thread(lambda: list(call(stream=True, **option)))
    whole = await asyncio.to_thread(call)
    texts = [answer.output.text for answer in answers]
    assert {answer.status_code for answer in answers} == {200}
    assert ("".join(texts) if incremental else texts[-1]) == whole.output.text != ""
