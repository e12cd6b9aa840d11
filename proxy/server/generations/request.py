"""A request for a generation, and how it is sent upstream.

Requests on configured routes with `record = true` are sent here, too.
"""

import time
from collections.abc import Awaitable
from typing import Final

from proxy.dialects.failure import asks_for_stream
from proxy.dialects.route import Route
from proxy.downstream.request_body import LargeBody
from proxy.server.generations.options import GenerationOptions
from proxy.server.generations.shared_calls import Identity
from proxy.stream.info import StreamInfo
from proxy.stream.vitals import Vitals
from proxy.upstream.exchange import Exchange
from proxy.upstream.group import OpenExchange
from proxy.upstream.upstream import UpstreamRequest
from proxy.wire.http import Headers
from proxy.wire.sse import begins_stream

_DROPPED: Final[Headers] = []
_REFUSAL_BYTES: Final = 64 * 1024  # a longer error response is not read


class GenerationRequest:
    """A request for a generation, as it was read from its client."""

    # What few requests have is set on those alone: setting all of it took 0.5 us a request.
    streamed: tuple[Headers, bytes] | None = None
    """Headers and body that ask for a stream, in case the upstream demands that."""
    hides_usage: bool = False
    """The proxy asked for the usage, the client did not: it is not sent to the client."""
    identity: Identity | None = None
    """Of the call that it may share with others; None: it shares none."""
    upstream: str = ""
    """The name of the upstream that serves its model; "": the usual one."""
    continues: bool = False
    """That upstream made the response which this one continues."""
    background: bool = False
    """Its client is sent the object of the response at once, and fetches it later."""
    meaning: bytes | None = None
    """Equal for a request and its retry, which finds the call by it; None: no retry may."""
    is_unshared: bool = False
    """Its call is for its client alone, ends when that disconnects, and responds first."""
    method: bytes = b"POST"
    keepalive_s: float = 0.0
    """After so many seconds the response begins, before the upstream's; 0: not before."""
    recorded: bool = False
    """On a recorded route: only the Content-Type of the response tells whether it is a stream."""
    upgraded: bool = False
    """It asks for a stream, and its client for a document."""
    client_request_id: str = ""
    """What its client calls it."""

    def __init__(
        self,
        route: Route,
        caller: bytes,
        options: GenerationOptions,
        target: bytes,
        headers: Headers,
        body: bytes | LargeBody,
        started_at: float,
        client: str = "",
    ) -> None:
        self.route = route
        self.caller = caller
        self.options = options
        self.target = target
        self.headers = headers  # to send upstream, without Content-Length
        self.body = body
        self.started_at = started_at  # when its last byte arrived, in monotonic seconds
        self.client = client  # the address it came from

    def info(self, ident: str, max_log_bytes: int, cumulative: bool | None, empty_events: bool) -> StreamInfo:
        """Return the StreamInfo of the stream for this request; `cumulative` holds unless the request decides it."""
        options, route = self.options, self.route
        keys = () if options.key is None else (options.key,)
        requests = route.dialect.requests
        asked = requests.asks_cumulative(self.whole_body) if requests.reads_body else None
        # Positional arguments: keywords make a dict, 0.5 us a constructor.
        return StreamInfo(
            ident, route.name, self.caller, int(time.time()), options.retain_s, max_log_bytes, keys, options.trace_id,
            cumulative if asked is None else asked, self.client, empty_events, self.client_request_id,
        )  # fmt: skip

    def drop_message(self) -> None:
        """Release headers and body: the request will not be sent again."""
        self.headers, self.body, self.streamed = _DROPPED, b"", None

    def vitals(self) -> Vitals:
        """Return the Vitals of the stream for this request."""
        dialect, body = self.route.dialect, self.body
        began_at = self.started_at if isinstance(body, bytes) else body.ended_at or self.started_at
        requests = dialect.requests
        beginning = body if isinstance(body, bytes) else body.beginning
        vitals = Vitals(dialect, began_at, None if requests.names_model else requests.model(beginning))
        vitals.reader.choices = requests.choices(beginning)
        return vitals

    @property
    def whole_body(self) -> bytes:
        """Return the body, if all of it is held in memory."""
        assert isinstance(self.body, bytes)
        return self.body


def ask(open_exchange: OpenExchange, generation: GenerationRequest) -> Awaitable[Exchange]:
    """Send a request upstream; await the result for the response's head. That raises what UpstreamGroup.open does."""
    if generation.streamed is not None:
        return _ask_again(open_exchange, generation, generation.streamed)
    return _send(open_exchange, generation)


def is_known_stream(generation: GenerationRequest, exchange: Exchange) -> bool | None:
    """Return whether a response is a readable event stream; None if more of it must come first.

    A generation is not judged by its Content-Type alone: some gateways send a wrong one, or none.
    """
    if generation.recorded:
        return exchange.is_readable_stream
    if not 200 <= exchange.status < 300 or exchange.is_encoded:
        return False
    if exchange.is_event_stream:
        return not exchange.bodyless
    begins = begins_stream(exchange.body_so_far())
    return False if begins is None and exchange.has_ended else begins


async def is_stream(generation: GenerationRequest, exchange: Exchange) -> bool:
    """Return the same, after waiting for the first bytes if necessary. The client is sent no head before."""
    known = is_known_stream(generation, exchange)
    if known is not None:
        return known
    try:
        return begins_stream(await exchange.peek(_is_decided)) is True
    except BaseException:
        exchange.close()
        raise


def _is_decided(body: bytes) -> bool:
    return begins_stream(body) is not None


async def _ask_again(
    open_exchange: OpenExchange, generation: GenerationRequest, streamed: tuple[Headers, bytes]
) -> Exchange:
    """Send the request as it is; if the upstream responds that it only streams, send it again, asking for a stream."""
    exchange = await _send(open_exchange, generation)
    if exchange.status != 400:
        return exchange
    try:
        refusal = await exchange.peek(lambda body: len(body) > _REFUSAL_BYTES)
    except BaseException:
        exchange.close()
        raise
    if not asks_for_stream(refusal):
        return exchange
    exchange.close()
    generation.headers, generation.body = streamed
    generation.upgraded = True
    return await _send(open_exchange, generation)


def _send(open_exchange: OpenExchange, generation: GenerationRequest) -> Awaitable[Exchange]:
    body, chunked = generation.body, False
    if not body and generation.method == b"GET":
        headers = generation.headers
    elif isinstance(body, bytes):
        headers = [*generation.headers, (b"Content-Length", b"%d" % len(body))]
    elif body.size_bytes is not None:
        headers = [*generation.headers, (b"Content-Length", b"%d" % body.size_bytes)]
    else:
        headers, chunked = [*generation.headers, (b"Transfer-Encoding", b"chunked")], True
    json = generation.options.view.mode == "json"  # the client asked for a document: so errors are documents, too
    recorded = generation.recorded
    # By place: a name takes 0.1 us.
    upstream_request = UpstreamRequest(
        generation.route, generation.method, generation.target, headers, body, generation.caller, not recorded, json,
        chunked, recorded and bool(body), False, generation.upstream, generation.continues,
    )  # fmt: skip
    return open_exchange(upstream_request)
