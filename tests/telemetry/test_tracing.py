"""Spans of generations: whose children they are, what they say, when they end, and that they get to a collector."""

import asyncio
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode
from pydantic import ValidationError

from proxy.server.config import Config
from proxy.telemetry.tracing import Tracing, exported
from tests.event_loops import until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import KEY
from tests.proxy_under_test import CHAT, PROMPT, Tee, begun, chat_body, teed
from tests.stage import Stage, Turn

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"
STREAM_ONLY = b'{"error":{"code":"invalid_parameter_error","message":"This model only support stream mode, please"}}'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'


class Collected:
    """The spans that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(provider)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    async def pair(self) -> tuple[ReadableSpan, ReadableSpan]:
        """Wait for the two spans of one generation: the server's and the client's."""
        await until(lambda: len(self.spans) >= 2)
        client, server = self.spans
        assert (server.kind, client.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
        assert client.parent is not None
        assert client.parent.span_id == server.context.span_id
        assert server.start_time <= client.start_time <= client.end_time <= server.end_time
        return server, client


@pytest.fixture
def collected() -> Iterator[Collected]:
    one = Collected()
    yield one
    for span in one.spans:
        assert PROMPT not in span.to_json()
        assert KEY not in span.to_json()
        assert "said" not in span.to_json()


@asynccontextmanager
async def traced(stage: Stage, collected: Collected, **tables: object) -> AsyncIterator[Tee]:
    async with teed(stage.url, tracing=collected.tracing, **tables) as tee:
        yield tee


def handed_on(turn: Turn) -> str:
    """Return the one traceparent that came upstream."""
    (parent,) = turn.all("traceparent")
    return parent.decode()


def context_of(span: ReadableSpan) -> str:
    context = span.context
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@pytest.mark.parametrize("apart", [(), ("Stream-Key: k",)], ids=["alone", "apart"])
async def test_generation_is_a_child_of_its_caller_and_its_call_a_child_of_it(
    stage: Stage, collected: Collected, apart: tuple[str, ...]
) -> None:
    """Upstream hears of the call's span instead of the caller's; tracestate goes on; info names the trace."""
    async with traced(stage, collected) as tee:
        client = await tee.send_chat(f"traceparent: {CALLER}", "tracestate: congo=t61", *apart)
        turn = await stage.next()
        turn.begin("x-request-id: q-1")
        turn.chunk(chunk_frame("said"))
        answer = await client.answer()
        await answer.until(b"said")
        assert not collected.spans
        turn.end(FINISH, USAGE, DONE)
        await answer.read()
        info = await tee.wait_ended(answer.stream_id)
        server, client_span = await collected.pair()
    assert server.parent is not None
    assert (f"{server.context.trace_id:032x}", server.parent.span_id) == (TRACE, 0x00F067AA0BA902B7)
    assert handed_on(turn) == context_of(client_span)
    assert turn.all("tracestate") == [b"congo=t61"]
    assert info["trace_id"] == TRACE
    assert (server.name, client_span.name) == ("POST /v1/chat/completions", "chat qwen3-max")
    assert server.attributes == {
        "client.address": "127.0.0.1",
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "streamtee.stream.id": answer.stream_id,
        "streamtee.upstream": "default",
    }
    assert client_span.attributes is not None
    first_chunk_s = client_span.attributes["gen_ai.response.time_to_first_chunk"]
    assert isinstance(first_chunk_s, float)
    assert 0 < first_chunk_s <= (client_span.end_time - client_span.start_time) / 1e9
    assert client_span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.stream": True,
        "gen_ai.response.time_to_first_chunk": first_chunk_s,
        "gen_ai.system": "dashscope",
        "gen_ai.provider.name": "dashscope",
        "gen_ai.request.model": "qwen3-max",
        "gen_ai.response.model": "qwen3-max",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "http.response.status_code": 200,
        "streamtee.stream.id": answer.stream_id,
        "streamtee.upstream": "default",
        "streamtee.upstream_request_id": "q-1",
    }
    first, ending = server.events
    assert (first.name, ending.name) == ("first_token", "ending")
    assert ending.attributes is not None
    assert (ending.attributes["reason"], ending.attributes["events"]) == ("complete", 4)
    assert server.start_time < first.timestamp < ending.timestamp <= server.end_time
    assert [event.name for event in client_span.events] == ["first_token"]
    assert {server.status.status_code, client_span.status.status_code} == {StatusCode.UNSET}


async def test_untraced_request_begins_a_trace(stage: Stage, collected: Collected) -> None:
    """Its id is that of the exemplars, too; a traceparent that is none is not passed on beside it."""
    async with traced(stage, collected) as tee:
        answer, turn = await begun(tee, stage, "traceparent: nonsense", "Stream-Mode: events")
        turn.end(chunk_frame(), DONE)
        await answer.read()
        server, client = await collected.pair()
        assert server.parent is None
        assert handed_on(turn) == context_of(client)
        assert (await tee.info(answer.stream_id))["trace_id"] == f"{server.context.trace_id:032x}"


@pytest.mark.parametrize("apart", [(), ("Stream-Key: k",)], ids=["alone", "apart"])
async def test_failure_before_the_answer_ends_the_spans(
    stage: Stage, collected: Collected, apart: tuple[str, ...]
) -> None:
    """With what it was, in both."""
    async with traced(stage, collected, timeouts={"first_byte_s": 0.1}) as tee:
        assert (await tee.chat(*apart)).status == 504
        server, client = await collected.pair()
    for span in (server, client):
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes is not None
        assert span.attributes["error.type"] == "timeout_first_byte"


@pytest.mark.parametrize(
    ("status", "failed"),
    [("429 Slow", {SpanKind.CLIENT}), ("503 No", {SpanKind.CLIENT, SpanKind.SERVER}), ("200 OK", set())],
)
@pytest.mark.parametrize("apart", [(), ("Stream-Key: k",)], ids=["alone", "apart"])
async def test_answer_without_a_stream_ends_the_spans(
    stage: Stage, collected: Collected, status: str, failed: set[SpanKind], apart: tuple[str, ...]
) -> None:
    """A caller's own fault is none of the server's."""
    async with traced(stage, collected) as tee:
        client = await tee.send("POST", CHAT, *apart, body=chat_body(stream=False))
        (await stage.next()).reply(status, "Content-Type: application/json", body=b"{}")
        await (await client.answer()).read()
        pair = await collected.pair()
    assert {span.kind for span in pair if span.status.status_code is StatusCode.ERROR} == failed
    assert {span.attributes["http.response.status_code"] for span in pair if span.attributes} == {int(status[:3])}


async def test_failed_and_left_streams_are_told_apart(stage: Stage, collected: Collected) -> None:
    """Who leaves has no error."""
    async with traced(stage, collected) as tee:
        answer, turn = await begun(tee, stage, frames=1)
        await answer.client.leave()
        await turn.wait_left()
        server, _ = await collected.pair()
        assert server.status.status_code is StatusCode.UNSET
        assert server.events[-1].attributes == {
            "reason": "client_gone",
            "events": 1,
            "bytes": len(chunk_frame("word 1")),
        }
        collected.exporter.clear()
        answer, turn = await begun(tee, stage, frames=1)
        turn.reset()
        await answer.read()
        for span in await collected.pair():
            assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "upstream_reset")


async def test_client_that_leaves_before_the_answer_ends_the_spans(stage: Stage, collected: Collected) -> None:
    """As its call does."""
    async with traced(stage, collected) as tee:
        client = await tee.send_chat()
        turn = await stage.next()
        await client.leave()
        await turn.wait_left()
        server, _ = await collected.pair()
        assert server.status.status_code is StatusCode.UNSET


async def test_clients_that_share_a_call_share_its_spans(stage: Stage, collected: Collected) -> None:
    """What is made once is told once."""
    async with traced(stage, collected) as tee:
        answer, turn = await begun(tee, stage, "Idempotency-Key: k")
        other = await tee.chat("Idempotency-Key: k")
        turn.end(chunk_frame(), DONE)
        await answer.read()
        await other.read()
        await collected.pair()
    assert len(collected.spans) == 2


async def test_call_that_is_made_anew_has_a_span_of_its_own(stage: Stage, collected: Collected) -> None:
    """The first says that it was refused."""
    async with traced(stage, collected, generations={"upgrade": "auto"}) as tee:
        client = await tee.send("POST", CHAT, body=chat_body(stream=False))
        refused = await stage.next()
        refused.reply("400 No", "Content-Type: application/json", body=STREAM_ONLY)
        turn = await stage.next()
        turn.begin()
        turn.end(chunk_frame(), FINISH, DONE)
        assert (await (await client.answer()).json())["object"] == "chat.completion"
        await until(lambda: len(collected.spans) == 3)
    first, second, server = collected.spans
    assert [handed_on(one) for one in (refused, turn)] == [context_of(first), context_of(second)]
    assert {first.parent.span_id, second.parent.span_id} == {server.context.span_id}  # type: ignore[union-attr]
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)


async def test_applications_share_a_route(stage: Stage, collected: Collected) -> None:
    """Their ids and the query are not in it."""
    async with traced(stage, collected) as tee:
        client = await tee.send("POST", "/api/v1/apps/a1b2/completion?x=1", body=b'{"input":{"prompt":"hi"}}')
        (await stage.next()).reply("200 OK", body=b"{}")
        await (await client.answer()).read()
        server, client_span = await collected.pair()
    assert (server.name, client_span.name) == ("POST /api/v1/apps/{app_id}/completion", "chat")


@pytest.mark.parametrize("name", ["", "qwen-edge"])
async def test_spans_get_to_a_collector(stage: Stage, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where the environment says, under the name it gives or ours; what is left is sent when the proxy stops."""
    exports: list[ExportTraceServiceRequest] = []

    async def take(request: web.Request) -> web.Response:
        exports.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
    monkeypatch.setenv("OTEL_SERVICE_NAME", name)
    async with teed(stage.url, otel={"enabled": True}) as tee:
        answer, turn = await begun(tee, stage)
        turn.end(chunk_frame(), DONE)
        await answer.read()
    await runner.cleanup()
    (export,) = exports
    (resource,) = export.resource_spans
    named = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert named["service.name"] == (name or "streamtee")
    assert len(resource.scope_spans[0].spans) == 2


async def test_collector_that_is_away_holds_up_the_stop_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK would go on trying for ten seconds a batch."""
    with socket.socket() as unrecognised:
        unrecognised.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{unrecognised.getsockname()[1]}")
        monkeypatch.setattr("proxy.telemetry.tracing.LAST_S", 0.2)
        tracing = exported()
        tracing.begin_call(INVALID_SPAN, "qwen3-max").end()
        async with asyncio.timeout(5):
            await tracing.close()


async def test_disabled_sdk_leaves_the_callers_trace_alone(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SDK_DISABLED is a switch that all SDKs know."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with traced(stage, Collected()) as tee:
        answer, turn = await begun(tee, stage, f"traceparent: {CALLER}", "Stream-Mode: events")
        turn.end(DONE)
        await answer.read()
        assert handed_on(turn) == CALLER
        assert (await tee.info(answer.stream_id))["trace_id"] == TRACE
        answer, turn = await begun(tee, stage)
        turn.end(DONE)
        await answer.read()
        assert not turn.all("traceparent")
        assert (await tee.info(answer.stream_id))["trace_id"] is None


def test_what_is_not_installed_can_not_be_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    assert Config(otel={"enabled": True}).otel.enabled
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    for module in [name for name in sys.modules if name.startswith("opentelemetry.")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ValidationError, match=re.escape("pip install 'streamtee[otel]'")):
        Config(otel={"enabled": True})
    assert not Config().otel.enabled


async def test_nothing_of_it_is_imported_unless_it_is_enabled() -> None:
    """It costs memory and the start's time."""
    code = "import sys, proxy.tools.cli; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("opt_in", "old"), [("", True), ("http,gen_ai_latest_experimental", False), ("http/dup", True)]
)
async def test_names_are_of_both_generations_or_the_latest(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, opt_in: str, old: bool
) -> None:
    """As OTEL_SEMCONV_STABILITY_OPT_IN says; a response that is no stream has no first chunk."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opt_in)
    collected = Collected()
    async with traced(stage, collected) as tee:
        client = await tee.send_chat(stream=False)
        turn = await stage.next()
        await turn.body()
        turn.reply("200 OK", "Content-Type: application/json", body=b"{}")
        await (await client.answer()).read()
        _, call = await collected.pair()
    assert call.attributes is not None
    assert call.attributes["gen_ai.provider.name"] == "dashscope"
    assert ("gen_ai.system" in call.attributes) == old
    assert "gen_ai.request.stream" not in call.attributes
    assert "gen_ai.response.time_to_first_chunk" not in call.attributes


@pytest.mark.parametrize("path", ["streams", "keys"])
async def test_follower_has_a_span_that_counts_no_tokens(stage: Stage, collected: Collected, path: str) -> None:
    """It says which response was read, is a child of the follower's own span, and ends with its response."""
    async with traced(stage, collected) as tee:
        answer, turn = await begun(tee, stage, "Stream-Key: k", frames=1)
        ident = answer.stream_id if path == "streams" else "keys/k"
        follower = await tee.follow(ident, "", f"traceparent: {CALLER}")
        turn.end(FINISH, USAGE, DONE)
        await follower.read()
        await until(lambda: len(collected.spans) == 3)
    (span,) = [one for one in collected.spans if one.name == "fetch_response"]
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", span.parent.span_id) == (TRACE, 0x00F067AA0BA902B7)
    assert span.kind == SpanKind.SERVER
    assert span.attributes == {
        "http.request.method": "GET",
        "http.route": "/v1/streams/{ident}" if path == "streams" else "/v1/keys/{key}/stream",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "fetch_response",
        "gen_ai.provider.name": "dashscope",
        "gen_ai.system": "dashscope",
        "gen_ai.response.id": answer.stream_id,
        "streamtee.stream.id": answer.stream_id,
    }
    counted = [one for one in collected.spans if one.attributes and "gen_ai.usage.input_tokens" in one.attributes]
    assert [one.name for one in counted] == ["chat qwen3-max"]


async def test_follower_of_several_streams_has_one_span_that_names_them(stage: Stage, collected: Collected) -> None:
    """As it has one connection."""
    async with traced(stage, collected) as tee:
        idents = []
        for _ in range(2):
            answer, turn = await begun(tee, stage, frames=1)
            turn.end(FINISH, USAGE, DONE)
            await answer.read()
            idents.append(answer.stream_id)
        follower = await tee.ask("GET", f"/v1/follow?stream={idents[0]}&stream={idents[1]}")
        await follower.read()
        await until(lambda: any(one.name == "fetch_response" for one in collected.spans))
    (span,) = [one for one in collected.spans if one.name == "fetch_response"]
    assert span.attributes is not None
    assert span.attributes["http.route"] == "/v1/follow"
    assert span.attributes["streamtee.stream.ids"] == tuple(idents)
    assert span.attributes["http.response.status_code"] == 200


async def test_follower_that_is_refused_or_leaves_ends_its_span(stage: Stage, collected: Collected) -> None:
    """A refusal with its error, a client that left with none."""
    async with traced(stage, collected) as tee:
        answer, turn = await begun(tee, stage, frames=1)
        await tee.follow("st_" + "a" * 26)
        follower = await tee.follow(answer.stream_id)
        await follower.until(b"word")
        await follower.client.leave()
        await until(lambda: len(collected.spans) == 2)
        turn.end()
    refused, left = collected.spans[:2]
    assert refused.attributes is not None
    assert (refused.attributes["error.type"], refused.attributes["http.response.status_code"]) == (
        "stream_not_found",
        404,
    )
    assert left.attributes is not None
    assert left.attributes["gen_ai.response.id"] == answer.stream_id
    assert {refused.status.status_code, left.status.status_code} == {StatusCode.UNSET}
