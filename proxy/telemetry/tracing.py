"""OpenTelemetry spans of generations: what the extra `otel` is for. Imported only when it is enabled.

A generation has a span of kind server, a child of the caller's if that sent a traceparent, from the arrival of its
request to the seal of its stream; and for each call upstream one of kind client, whose context goes upstream instead
of the caller's. Clients that share a call share its spans. Names are those of the semantic conventions for HTTP and
for generative AI; nothing that was asked or said is in them. Where they go is the business of OTEL_* variables.
"""

import asyncio
import re
import time
from collections.abc import Callable
from types import TracebackType

from opentelemetry.context import Context
from opentelemetry.propagate import get_global_textmap
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, set_span_in_context

from proxy import __version__
from proxy.dialects.route import Route
from proxy.stream.endings import Ending
from proxy.stream.stream import Stream
from proxy.upstream.exchange import Exchange
from proxy.wire.errors import ProxyError, UpstreamError
from proxy.wire.http import Headers

_APPLICATION = re.compile(r"(?<=/apps/)[^/]+")  # would make every application a route of its own
LAST_S = 3.0  # for the last export


def exported() -> "Tracing":
    """Return spans that are sent by OTLP over HTTP, in batches and by a thread of their own."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    given = OTELResourceDetector().detect().attributes  # by the environment; what is said here would go over it
    ours = {SERVICE_NAME: "streamtee", SERVICE_VERSION: __version__}
    provider = TracerProvider(resource=Resource.create({**ours, **given}))
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider, exporter.shutdown)


class Tracing:
    """Makes the spans of generations."""

    def __init__(self, provider: TracerProvider, give_up: Callable[[], None] = lambda: None) -> None:
        """`give_up` ends an export that goes on after the time it is given at the end."""
        self._provider = provider
        self._give_up = give_up
        self._tracer = provider.get_tracer("streamtee", __version__)
        self._propagator = get_global_textmap()
        self._fields = {field.lower().encode() for field in self._propagator.fields}

    def begin(self, route: Route, target: bytes, headers: Headers, model: str | None, started_at: float) -> "Trace":
        """Begin the spans of a generation that makes a call of its own; `started_at` in monotonic seconds."""
        path = target.partition(b"?")[0].decode("latin-1").removeprefix(route.upstream_prefix)
        named = _APPLICATION.sub("{app_id}", route.prefix + path)
        span = self._tracer.start_span(
            f"POST {named}",
            self._propagator.extract(self._carried(headers), Context()),
            SpanKind.SERVER,
            {"http.request.method": "POST", "http.route": named},
            start_time=_unix_ns(started_at),
        )
        return Trace(self, span, model)

    def begin_call(self, parent: Span, model: str | None) -> Span:
        """Begin the span of a call upstream."""
        asked = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "dashscope"}
        if model is not None:
            asked["gen_ai.request.model"] = model
        name = f"chat {model}" if model else "chat"
        return self._tracer.start_span(name, set_span_in_context(parent, Context()), SpanKind.CLIENT, asked)

    def readdressed(self, headers: Headers, span: Span) -> Headers:
        """Return headers that hand on a span's context, and no other."""
        carrier: dict[str, str] = {}
        context = self._propagator.extract(self._carried(headers), Context())
        self._propagator.inject(carrier, set_span_in_context(span, context))
        kept = [header for header in headers if header[0].lower() not in self._fields]
        return [*kept, *((name.encode(), value.encode("latin-1")) for name, value in carrier.items())]

    async def close(self) -> None:
        """Send what has not been sent; a collector that is away holds up the stop for a moment only."""
        closing = asyncio.create_task(asyncio.to_thread(self._provider.shutdown))
        await asyncio.wait([closing], timeout=LAST_S)
        if not closing.done():
            self._give_up()
        await closing

    def _carried(self, headers: Headers) -> dict[str, str]:
        """Return the headers that carry a context; those of one name are one list (RFC 9110 section 5.3)."""
        carried: dict[str, str] = {}
        for name, value in headers:
            lower = name.lower()
            if lower in self._fields:
                key, text = lower.decode(), value.decode("latin-1")
                carried[key] = f"{carried[key]},{text}" if key in carried else text
        return carried


class Trace:
    """The spans of one generation. They end with its stream; as a context, without one, when it is left."""

    __slots__ = ("_call", "_model", "_span", "_stream", "_tracing")

    def __init__(self, tracing: Tracing, span: Span, model: str | None) -> None:
        self._tracing = tracing
        self._span = span
        self._model = model
        self._call: Span | None = None
        self._stream: Stream | None = None

    def __enter__(self) -> "Trace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stream is not None:
            return
        if isinstance(error, ProxyError):
            self._span.set_attribute("http.response.status_code", error.status)
            self._fail(error.ending if isinstance(error, UpstreamError) else error.code)
        elif error is not None and not isinstance(error, asyncio.CancelledError):
            self._fail(type(error).__name__)
        self._end()

    def asks(self, headers: Headers) -> Headers:
        """Begin a call upstream; return the headers to make it with."""
        if self._call is not None:  # refused, and made anew in another way
            self._call.end()
        self._call = self._tracing.begin_call(self._span, self._model)
        return self._tracing.readdressed(headers, self._call)

    def answered(self, exchange: Exchange) -> None:
        """The head of the answer is there."""
        assert self._call is not None
        status = exchange.status
        for span, first_error in ((self._span, 500), (self._call, 400)):
            span.set_attributes({"http.response.status_code": status, "streamtee.upstream": exchange.upstream_name})
            if status >= first_error:
                span.set_attribute("error.type", str(status))
                span.set_status(StatusCode.ERROR)

    def take(self, stream: Stream) -> None:
        """Last as long as a stream, and give it the trace's id."""
        self._stream = stream
        context = self._span.get_span_context()
        if context.is_valid:  # else OTEL_SDK_DISABLED
            stream.trace_id = format_trace_id(context.trace_id)
        self._span.set_attribute("streamtee.stream.id", stream.id)
        stream.when_sealed(self._sealed)

    def _sealed(self, ending: Ending) -> None:
        stream = self._stream
        assert stream is not None
        first_token_at = stream.vitals.first_token_at
        if first_token_at:
            self._span.add_event("first_token", timestamp=_unix_ns(first_token_at))
        received_bytes = stream.log.end_bytes + len(stream.log.tail)
        self._span.add_event("ending", {"reason": ending.reason, "events": stream.log.end, "bytes": received_bytes})
        if self._call is not None:
            _describe(self._call, stream)
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
        self._span.end()


def _describe(span: Span, stream: Stream) -> None:
    """Say in a call's span what its answer was."""
    vitals, said = stream.vitals, stream.vitals.reader
    span.set_attribute("streamtee.stream.id", stream.id)
    ident = stream.upstream_request_id or said.request_id
    if ident:
        span.set_attribute("streamtee.upstream_request_id", ident)
    if vitals.model:
        span.set_attribute("gen_ai.response.model", vitals.model)
    if said.finish_reason:
        span.set_attribute("gen_ai.response.finish_reasons", [said.finish_reason])
    if vitals.first_token_at:
        span.add_event("first_token", timestamp=_unix_ns(vitals.first_token_at))
    if said.usage is not None:
        usage = said.usage
        span.set_attributes({"gen_ai.usage.input_tokens": usage.prompt, "gen_ai.usage.output_tokens": usage.completion})
        if usage.cached:
            span.set_attribute("gen_ai.usage.cache_read.input_tokens", usage.cached)
        if usage.reasoning:
            span.set_attribute("gen_ai.usage.reasoning.output_tokens", usage.reasoning)


def _unix_ns(at: float) -> int:
    """Return the Unix time of a moment in monotonic seconds."""
    return time.time_ns() - int((time.monotonic() - at) * 1e9)
