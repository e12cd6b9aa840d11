"""A request for a generation, and how it is rewritten for the upstream."""

import re
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxy.dialects.route import Route
from proxy.dialects.stream_only import is_stream_only
from proxy.server.config import GenerationsConfig
from proxy.server.document import JSON
from proxy.server.generation_options import GenerationOptions
from proxy.server.pass_through import Forward
from proxy.upstream.exchange import Exchange
from proxy.upstream.upstream import UpstreamRequest
from proxy.wire.http import Headers
from proxy.wire.sse import begins_stream

if TYPE_CHECKING:
    from proxy.telemetry.tracing import Trace

_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,100})"')
_MODEL_WITHIN = 64 * 1024
_REFUSAL_BYTES = 64 * 1024  # more is none
_INCREMENTAL = re.compile(rb'"incremental_output"\s*:\s*(true|false)')


@dataclass  # made in half the time that a NamedTuple takes
class GenerationRequest:
    """A request for a generation, as it was read from its client."""

    route: Route
    caller: bytes
    options: GenerationOptions
    target: bytes
    headers: Headers  # for upstream, but for the length
    body: bytes
    streamed: tuple[Headers, bytes] | None  # headers and body to ask with, if a stream must be asked for
    hides_usage: bool  # the client did not ask for it
    started_at: float  # when the last byte of it was here
    trace: "Trace | None" = None


def model_of(body: bytes) -> str | None:
    """Return the model that a request's body names."""
    model = _MODEL.search(body, 0, _MODEL_WITHIN)
    return model and model[1].decode(errors="replace")


def rewrite(generation: GenerationRequest, generations: GenerationsConfig) -> GenerationRequest:
    """Have the upstream asked for a stream, or for the usage of one, as is configured."""
    dialect = generation.route.dialect
    if generations.upgrade != "never":
        streamed = dialect.requests.streamed(generation.headers, generation.body)
        if streamed is not None:  # the answer is a document, also if it is made of a stream
            generation = replace(generation, options=generation.options._replace(view=JSON))
            if generations.upgrade == "auto":
                return replace(generation, streamed=streamed)
            return replace(generation, headers=streamed[0], body=streamed[1])
    if generations.include_usage:
        counted = dialect.requests.counted(generation.body)
        if counted is not None:
            return replace(generation, body=counted, hides_usage=True)
    return generation


def asks_cumulative(body: bytes) -> bool | None:
    """Tell whether a native request asks for all so far in every event, or for increments; None: it says neither."""
    asked = _INCREMENTAL.search(body)
    return None if asked is None else asked[1] == b"false"


def ask(forward: Forward, generation: GenerationRequest) -> Awaitable[Exchange]:
    """Ask upstream; what is returned waits for the head of the answer. Raises, then: as Forward.open."""
    if generation.streamed is not None:
        return _ask_again(forward, generation, generation.streamed)
    if generation.trace is not None:
        return _send_traced(forward, generation, generation.trace)
    return _send(forward, generation)


async def is_stream(exchange: Exchange) -> bool:
    """Return whether a generation is answered with a readable event stream; wait for its first bytes if need be.

    Not by Content-Type alone: some gateways name another, or none. Where it is another, no head leaves before that.
    """
    if not 200 <= exchange.status < 300 or exchange.is_encoded:
        return False
    if exchange.is_event_stream:
        return not exchange.bodyless
    try:
        return begins_stream(await exchange.peek(_is_decided)) is True
    except BaseException:
        exchange.close()
        raise


def _is_decided(body: bytes) -> bool:
    return begins_stream(body) is not None


async def _ask_again(forward: Forward, generation: GenerationRequest, streamed: tuple[Headers, bytes]) -> Exchange:
    """Ask as the client did; once more for a stream, if the upstream says that it answers nothing else."""
    generation = replace(generation, streamed=None)
    exchange = await ask(forward, generation)
    if exchange.status != 400:
        return exchange
    try:
        refusal = await exchange.peek(lambda body: len(body) > _REFUSAL_BYTES)
    except BaseException:
        exchange.close()
        raise
    if not is_stream_only(refusal):
        return exchange
    exchange.close()
    return await ask(forward, replace(generation, headers=streamed[0], body=streamed[1]))


async def _send_traced(forward: Forward, generation: GenerationRequest, trace: "Trace") -> Exchange:
    exchange = await _send(forward, replace(generation, headers=trace.asks(generation.headers)))
    trace.answered(exchange)
    return exchange


def _send(forward: Forward, generation: GenerationRequest) -> Awaitable[Exchange]:
    headers = [*generation.headers, (b"Content-Length", b"%d" % len(generation.body))]
    json = generation.options.view.mode == "json"  # then its client knows nothing of streams, nor do refusals
    # By place: a name takes 0.1 us.
    upstream_request = UpstreamRequest(
        b"POST", generation.target, headers, generation.body, generation.caller, True, json
    )
    return forward.open(generation.route, upstream_request)
