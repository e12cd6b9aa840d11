"""A generation that was asked for, how it is asked for upstream, and what of it in another way."""

import re
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxy.edge.upstream_exchange import Exchange
from proxy.server.config import GenerationsConfig
from proxy.server.document import JSON
from proxy.server.forward import Forward, Route
from proxy.server.options import Options
from proxy.server.origin import Message
from proxy.wire.http import Headers
from proxy.wire.sse import begins_stream
from proxy.wire.stream_only import is_stream_only

if TYPE_CHECKING:
    from proxy.server.tracing import Trace

_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,100})"')
_MODEL_WITHIN = 64 * 1024
_REFUSAL_BYTES = 64 * 1024  # more is none
_INCREMENTAL = re.compile(rb'"incremental_output"\s*:\s*(true|false)')


@dataclass  # made in half the time that a NamedTuple takes
class Asked:
    """A generation that was asked for."""

    route: Route
    caller: bytes
    options: Options
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


def rewrite(asked: Asked, generations: GenerationsConfig) -> Asked:
    """Have the upstream asked for a stream, or for the usage of one, as is configured."""
    dialect = asked.route.dialect
    if generations.upgrade != "never":
        streamed = dialect.streamed(asked.headers, asked.body)
        if streamed is not None:  # the answer is a document, also if it is made of a stream
            asked = replace(asked, options=asked.options._replace(view=JSON))
            if generations.upgrade == "auto":
                return replace(asked, streamed=streamed)
            return replace(asked, headers=streamed[0], body=streamed[1])
    if generations.include_usage:
        counted = dialect.counted(asked.body)
        if counted is not None:
            return replace(asked, body=counted, hides_usage=True)
    return asked


def asks_cumulative(body: bytes) -> bool | None:
    """Tell whether a native request asks for all so far in every event, or for increments; None: it says neither."""
    asked = _INCREMENTAL.search(body)
    return None if asked is None else asked[1] == b"false"


def ask(forward: Forward, asked: Asked) -> Awaitable[Exchange]:
    """Ask upstream; what is returned waits for the head of the answer. Raises, then: as Forward.open."""
    if asked.streamed is None:
        return _send(forward, asked) if asked.trace is None else _send_traced(forward, asked, asked.trace)
    return _ask_again(forward, asked, asked.streamed)


async def is_stream(exchange: Exchange) -> bool:
    """Tell whether a generation is answered with an event stream that can be read; wait for its first bytes if need be.

    Not by Content-Type alone: some gateways name another, or none. Where it is another, no head leaves before that.
    """
    if not 200 <= exchange.status < 300 or exchange.is_encoded:
        return False
    if exchange.is_event_stream:
        return not exchange.bodyless
    try:
        return begins_stream(await exchange.peek(_tells)) is True
    except BaseException:
        exchange.close()
        raise


def _tells(body: bytes) -> bool:
    return begins_stream(body) is not None


async def _ask_again(forward: Forward, asked: Asked, streamed: tuple[Headers, bytes]) -> Exchange:
    """Ask as it was asked; once more for a stream, if the upstream says that it answers nothing else."""
    asked = replace(asked, streamed=None)
    exchange = await ask(forward, asked)
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
    return await ask(forward, replace(asked, headers=streamed[0], body=streamed[1]))


async def _send_traced(forward: Forward, asked: Asked, trace: "Trace") -> Exchange:
    exchange = await _send(forward, replace(asked, headers=trace.asks(asked.headers)))
    trace.answered(exchange)
    return exchange


def _send(forward: Forward, asked: Asked) -> Awaitable[Exchange]:
    headers = [*asked.headers, (b"Content-Length", b"%d" % len(asked.body))]
    json = asked.options.view.mode == "json"  # then its client knows nothing of streams, nor do refusals
    message = Message(b"POST", asked.target, headers, asked.body, asked.caller, True, json)  # by place: 0.1 us a name
    return forward.open(asked.route, message)
