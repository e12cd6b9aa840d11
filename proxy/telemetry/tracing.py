"""OpenTelemetry spans of generations. Needs the extra `otel`; imported only when tracing is enabled.

A generation has a span of kind server, from the arrival of its request to the seal of its stream; it is a child of the
client's span if the request has a traceparent. Each call upstream has a span of kind client, whose context is sent
upstream instead of the client's. Clients that share a call share its spans. A follower has a span `fetch_response`,
without tokens: those are the generation's. Names are those of the semantic conventions for HTTP and for generative AI;
of the latter those up to version 1.36 and the later ones, or with
OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental the later ones alone. No prompt or answer is in them. The
standard OTEL_* variables say where spans are sent.

Handlers know nothing of this: they are wrapped by `traced`, their calls upstream by `calls`, and an observer sees their
streams. The three find each other by a context variable, which a task passes on to the tasks it creates.
"""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from types import TracebackType
from typing import Any

from aiohttp import web
from opentelemetry.context import Context
from opentelemetry.propagate import get_global_textmap
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, set_span_in_context

from proxy import __version__
from proxy.dialects.route import Route
from proxy.dialects.table import PROVIDER
from proxy.downstream.request_body import LargeBody
from proxy.stream.stream import Stream
from proxy.upstream.exchange import Exchange
from proxy.upstream.group import OpenExchange
from proxy.upstream.upstream import UpstreamRequest
from proxy.wire.errors import ProxyError, UpstreamError
from proxy.wire.http import Headers, RawHeaders, origin_form

_APPLICATION = re.compile(r"(?<=/apps/)[^/]+")  # replaced, so that not every application is another route
_IDENT = re.compile(r"st_[a-z2-7]{26}")
_OPT_IN, _LATEST = "OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental"
LAST_S = 3.0  # at most, for the last export
_CURRENT: ContextVar["Trace | None"] = ContextVar("trace", default=None)

_MOST = 32  # stream ids in an attribute
FETCH = "fetch_response"  # the operation of reading a response that was generated for another request

Handler = Callable[..., Awaitable[web.StreamResponse]]
FindKey = Callable[[str, bytes], Stream | None]


def exported() -> "Tracing":
    """Return a Tracing whose spans are sent by OTLP over HTTP, in batches, by a thread of its own."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    given = OTELResourceDetector().detect().attributes  # of the environment; it must override our own
    ours = {SERVICE_NAME: "streamtee", SERVICE_VERSION: __version__}
    provider = TracerProvider(resource=Resource.create({**ours, **given}))
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider, exporter.shutdown)


class Tracing:
    """Makes the spans of generations; an observer of their streams."""

    def __init__(self, provider: TracerProvider, give_up: Callable[[], None] = lambda: None) -> None:
        """`give_up` ends the last export if it takes longer than LAST_S."""
        opted_in = [value.strip() for value in os.environ.get(_OPT_IN, "").split(",")]
        self._provided = {"gen_ai.provider.name": PROVIDER}
        if _LATEST not in opted_in:
            self._provided["gen_ai.system"] = PROVIDER  # the attribute's name until version 1.36 of the conventions
        self._provider = provider
        self._give_up = give_up
        self._tracer = provider.get_tracer("streamtee", __version__)
        self._propagator = get_global_textmap()
        self._fields = {field.lower().encode() for field in self._propagator.fields}
        self._traces: dict[str, Trace] = {}  # by stream id, of the streams that run

    def traced(self, handler: Handler) -> Handler:
        """Return `handler` wrapped so that each generation has a span, begun when it starts a stream or a call."""

        async def serve(route: Route, request: web.BaseRequest, *given: Any, **named: str) -> web.StreamResponse:
            with Trace(self, route, request) as trace:
                token = _CURRENT.set(trace)
                try:
                    return await handler(route, request, *given, **named)
                finally:
                    _CURRENT.reset(token)

        return serve

    def calls(self, open_exchange: OpenExchange) -> OpenExchange:
        """Return `open_exchange` wrapped so that each call of a generation has a span."""

        async def traced(request: UpstreamRequest) -> Exchange:
            trace = _CURRENT.get()
            if trace is None or not request.generation:
                return await open_exchange(request)
            body = request.body.beginning if isinstance(request.body, LargeBody) else request.body
            assert isinstance(body, bytes)
            headers = trace.begin_call(request.headers, body)
            exchange = await open_exchange(replace(request, headers=headers))
            trace.answered(exchange)
            return exchange

        return traced

    def follows(self, handler: Handler, path: str, find_key: FindKey) -> Handler:
        """Return the handler of followers at a path, wrapped so that each has a span.

        `find_key` returns a caller's newest stream under a key, for a path that names one instead of a stream.
        """

        async def serve(request: web.BaseRequest, caller: Any, **named: str) -> web.StreamResponse:
            ident = named.get("ident", "")
            with self._fetching(request, path) as span:
                try:
                    stream = find_key(named["key"], caller.digest) if "key" in named else None
                    response = await handler(request, caller, **named)
                    stream = stream or (find_key(named["key"], caller.digest) if "key" in named else None)
                finally:
                    ident = ident if stream is None else stream.id
                    if several := [one for one in request.query.getall("stream", ()) if _IDENT.fullmatch(one)]:
                        span.set_attribute("streamtee.stream.ids", several[:_MOST])
                    if _IDENT.fullmatch(ident):  # a path may hold anything instead, such as a key
                        span.set_attributes({"gen_ai.response.id": ident, "streamtee.stream.id": ident})
                span.set_attribute("http.response.status_code", response.status)
                return response

        return serve

    @contextmanager
    def _fetching(self, request: web.BaseRequest, path: str) -> Iterator[Span]:
        """Make the span of a follower; it ends with the response."""
        attributes = {
            "http.request.method": "GET",
            "http.route": path,
            "gen_ai.operation.name": FETCH,
            **self._provided,
        }
        context = self._propagator.extract(self._carried(request.raw_headers), Context())
        span = self._tracer.start_span(FETCH, context, SpanKind.SERVER, attributes)
        try:
            yield span
        except ProxyError as error:
            span.set_attributes({"http.response.status_code": error.status, "error.type": error.kind})
            if error.status >= 500:
                span.set_status(StatusCode.ERROR, error.kind)
            raise
        finally:
            span.end()

    def begun(self, stream: Stream) -> None:
        """Keep the spans of the current request open until the stream it began has ended."""
        trace = _CURRENT.get()
        if trace is not None:
            self._traces[stream.id] = trace
            trace.take(stream)

    def ended(self, stream: Stream) -> None:
        """End the spans of a stream."""
        trace = self._traces.pop(stream.id, None)
        if trace is not None:
            trace.sealed(stream)

    def begin(self, request: web.BaseRequest) -> Span:
        """Begin the span of a request."""
        path = origin_form(request.raw_path).partition("?")[0]
        named = _APPLICATION.sub("{app_id}", path)
        return self._tracer.start_span(
            f"POST {named}",
            self._propagator.extract(self._carried(request.raw_headers), Context()),
            SpanKind.SERVER,
            {"http.request.method": "POST", "http.route": named},
        )

    def begin_call(self, parent: Span, model: str | None) -> Span:
        """Begin the span of a call upstream."""
        asked = {"gen_ai.operation.name": "chat", **self._provided}
        if model is not None:
            asked["gen_ai.request.model"] = model
        name = f"chat {model}" if model else "chat"
        return self._tracer.start_span(name, set_span_in_context(parent, Context()), SpanKind.CLIENT, asked)

    def readdressed(self, headers: Headers, span: Span) -> Headers:
        """Return headers in which the trace context, if there is one, is replaced by that of a span."""
        carrier: dict[str, str] = {}
        context = self._propagator.extract(self._carried(headers), Context())
        self._propagator.inject(carrier, set_span_in_context(span, context))
        kept = [header for header in headers if header[0].lower() not in self._fields]
        return [*kept, *((name.encode(), value.encode("latin-1")) for name, value in carrier.items())]

    async def close(self) -> None:
        """Send the remaining spans; give up after LAST_S seconds if the collector does not respond."""
        closing = asyncio.create_task(asyncio.to_thread(self._provider.shutdown))
        await asyncio.wait([closing], timeout=LAST_S)
        if not closing.done():
            self._give_up()
        await closing

    def _carried(self, headers: RawHeaders) -> dict[str, str]:
        """Return the headers that carry a trace context; repeated ones are one list (RFC 9110 section 5.3)."""
        carried: dict[str, str] = {}
        for name, value in headers:
            lower = name.lower()
            if lower in self._fields:
                key, text = lower.decode(), value.decode("latin-1")
                carried[key] = f"{carried[key]},{text}" if key in carried else text
        return carried


class Trace:
    """The spans of one generation. They end with its stream, or, without a stream, at the end of the `with` block."""

    __slots__ = ("_asked_at", "_call", "_request", "_route", "_span", "_taken", "_tracing")

    def __init__(self, tracing: Tracing, route: Route, request: web.BaseRequest) -> None:
        self._tracing = tracing
        self._route = route
        self._request: web.BaseRequest | None = request  # until its span begins
        self._span: Span | None = None  # until the request begins a stream or a call upstream
        self._call: Span | None = None
        self._asked_at = 0.0  # when the call began, in monotonic seconds
        self._taken = False  # it ends with a stream

    def __enter__(self) -> "Trace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._taken or self._span is None:
            return
        if isinstance(error, ProxyError):
            self._span.set_attribute("http.response.status_code", error.status)
            self._fail(error.ending if isinstance(error, UpstreamError) else error.kind)
        elif error is not None and not isinstance(error, asyncio.CancelledError):
            self._fail(type(error).__name__)
        self._end()

    @property
    def span(self) -> Span:
        """The span of the request; begun at the first access."""
        if self._span is None:
            assert self._request is not None
            self._span = self._tracing.begin(self._request)
            self._request = None  # a pooled connection keeps the context it was made in, and thereby this trace
        return self._span

    def begin_call(self, headers: Headers, body: bytes) -> Headers:
        """Begin the span of a call upstream; return the headers to send."""
        if self._call is not None:  # of a call that was refused, and is made again with another request
            self._call.end()
        self._call = self._tracing.begin_call(self.span, self._route.dialect.requests.model(body))
        self._asked_at = time.monotonic()
        return self._tracing.readdressed(headers, self._call)

    def answered(self, exchange: Exchange) -> None:
        """Record the status of the upstream's response, whose head has arrived."""
        assert self._call is not None
        status = exchange.status
        for span, first_error in ((self.span, 500), (self._call, 400)):
            span.set_attributes({"http.response.status_code": status, "streamtee.upstream": exchange.upstream_name})
            if status >= first_error:
                span.set_attribute("error.type", str(status))
                span.set_status(StatusCode.ERROR)

    def take(self, stream: Stream) -> None:
        """End with this stream instead of the request, and set the stream's trace id."""
        self._taken = True
        context = self.span.get_span_context()
        if context.is_valid:  # else OTEL_SDK_DISABLED
            stream.info.w3c_trace_id = format_trace_id(context.trace_id)
        self.span.set_attribute("streamtee.stream.id", stream.id)
        if stream.info.client:
            self.span.set_attribute("client.address", stream.info.client)

    def sealed(self, stream: Stream) -> None:
        """Record how the stream ended, and end the spans."""
        ending, first_token_at = stream.log.ending, stream.vitals.first_token_at
        assert ending is not None
        if first_token_at:
            self.span.add_event("first_token", timestamp=_unix_ns(first_token_at))
        received_bytes = stream.log.end_bytes + len(stream.log.tail)
        self.span.add_event("ending", {"reason": ending.reason, "events": stream.log.end, "bytes": received_bytes})
        if self._call is not None:
            _describe(self._call, stream, self._asked_at)
        if ending.state == "failed" and (stream.kept_head is None or not ending.clean):
            self._fail(ending.reason)
        self._end()

    def _fail(self, reason: str) -> None:
        for span in filter(None, (self._span, self._call)):
            span.set_attribute("error.type", reason)
            span.set_status(StatusCode.ERROR, reason)

    def _end(self) -> None:
        if self._call is not None:
            self._call.end()
        self.span.end()


def _describe(span: Span, stream: Stream, asked_at: float) -> None:
    """Record the response in the span of a call that began at a time: model, finish reason, tokens, first chunk."""
    vitals, reader = stream.vitals, stream.vitals.reader
    if stream.kept_head is None:
        span.set_attribute("gen_ai.request.stream", True)
        if vitals.first_byte_at:
            span.set_attribute("gen_ai.response.time_to_first_chunk", max(0.0, vitals.first_byte_at - asked_at))
    span.set_attribute("streamtee.stream.id", stream.id)
    ident = stream.upstream_request_id
    if ident:
        span.set_attribute("streamtee.upstream_request_id", ident)
    if vitals.model:
        span.set_attribute("gen_ai.response.model", vitals.model)
    if reader.finish_reason:
        span.set_attribute("gen_ai.response.finish_reasons", [reader.finish_reason])
    if vitals.first_token_at:
        span.add_event("first_token", timestamp=_unix_ns(vitals.first_token_at))
    if reader.usage is not None:
        usage = reader.usage
        span.set_attributes({"gen_ai.usage.input_tokens": usage.prompt, "gen_ai.usage.output_tokens": usage.completion})
        if usage.cached:
            span.set_attribute("gen_ai.usage.cache_read.input_tokens", usage.cached)
        if usage.cache_written:
            span.set_attribute("gen_ai.usage.cache_creation.input_tokens", usage.cache_written)
        if usage.reasoning:
            span.set_attribute("gen_ai.usage.reasoning.output_tokens", usage.reasoning)


def _unix_ns(at: float) -> int:
    """Return the Unix time of a moment in monotonic seconds."""
    return time.time_ns() - int((time.monotonic() - at) * 1e9)
