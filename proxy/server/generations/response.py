"""Responses to generation requests: a stream, a response that is not a stream, a JSON document, or a 202 with the id.

Also the headers that say where the stream can be followed. Knows nothing of the upstream call.
"""

from typing import Final

from aiohttp import web

from proxy.access.admission import Admission
from proxy.access.grants import Grants
from proxy.downstream.response import Downstream
from proxy.server.config import Config
from proxy.server.delivery import begin_answer, begin_stream, deliver
from proxy.server.directory import Directory
from proxy.server.document import JSON, deliver_document
from proxy.server.generations.early_head import EarlyHead
from proxy.server.generations.options import GenerationOptions
from proxy.server.generations.request import GenerationRequest
from proxy.server.generations.retries import Reading
from proxy.server.generations.shared_calls import Call, Joined
from proxy.server.json_responses import answer
from proxy.server.response_object import answer_object
from proxy.stream.hub import Hub
from proxy.stream.modes.projection import EVENT_STREAM, View
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.stream_object import describe
from proxy.wire.errors import OffsetGone
from proxy.wire.http import Head, Headers

_EVENTS: Final = Head(200, b"OK", [(b"Content-Type", EVENT_STREAM)])  # of a stream that another process reads
_JOINED: Final[dict[Joined, Headers]] = {  # the headers that say so
    "key": [(b"Idempotency-Replayed", b"true")],
    "body": [],
    "retry": [(b"Stream-Retry-Attached", b"true")],
}


class GenerationResponses:
    """Makes and sends the responses to generation requests."""

    def __init__(
        self,
        config: Config,
        hub: Hub,
        admission: Admission,
        grants: Grants,
        metrics: Metrics,
        directory: Directory | None = None,
    ) -> None:
        """`directory` finds what is stored of a stream; None: nothing is stored."""
        self._hub = hub
        self._admission = admission
        self._grants = grants
        self._directory = directory
        self._metrics = metrics
        self._has_links = bool(grants)
        self._heartbeat_s = config.streams.heartbeat_s
        self._client_keepalive_s = config.streams.client_keepalive_s
        self._keepalive_s = config.generations.keepalive_s

    def sends_events(self, view: View) -> bool:
        """Return whether `begin` is enough for the client that an event stream is begun for; else `send` is needed."""
        return self._directory is None and view != JSON

    def begin(
        self, request: web.BaseRequest, stream: Stream, head: Head, view: View
    ) -> tuple[Downstream, Subscription]:
        """Begin the response to the client that an event stream was begun for. Raises: ConnectionResetError."""
        downstream = begin_stream(request, head, self.found(stream.id), view)
        subscription = Subscription(
            stream, view, downstream, 0, self._heartbeat_s, keepalive_s=self._client_keepalive_s
        )
        stream.originator = subscription
        return downstream, subscription

    async def send(
        self,
        request: web.BaseRequest,
        stream: Stream,
        head: Head,
        view: View,
        joined: Joined | None = None,
        reading: Reading | None = None,
        begun: Downstream | None = None,
    ) -> web.StreamResponse:
        """Deliver a stream from its start; `head` is the head of the upstream's response.

        `joined`: how this request found the stream, if it was begun for another; else None. `reading` is given the
        subscription. `begun`: the response, if it has begun already. Raises: ConnectionResetError, if the client has
        disconnected; Overloaded, if there are too many followers; OffsetGone, if the stream's start is no longer held;
        StoreUnavailable.
        """
        if self._directory is not None:
            stream = await self._directory.stored(stream)
        late = joined is not None
        replayed = [] if joined is None else _JOINED[joined]
        first = not late or (joined == "retry" and stream.originator is None)
        if stream.kept_head is not None:
            view = View("raw")
        if late:
            await self._check_late(stream, view)
        if stream.kept_head is not None:
            downstream = begin_answer(request, stream.kept_head, self._kept(stream) + replayed)
        elif view == JSON:
            headers = self.found(stream.id) + replayed
            return await deliver_document(
                request, self._hub, stream, headers, first=first, keepalive_s=self._keepalive_s
            )
        else:
            downstream = begun or begin_stream(request, head, self.found(stream.id) + replayed, view)
        keepalive_s = 0 if stream.kept_head else self._client_keepalive_s
        subscription = Subscription(stream, view, downstream, 0, self._heartbeat_s, keepalive_s=keepalive_s)
        if reading is not None:
            reading.subscription = subscription
        if first:
            stream.originator = subscription
        return await deliver(self._hub, downstream, subscription)

    async def send_stored(
        self, request: web.BaseRequest, stream: Stream, generation: GenerationRequest
    ) -> web.StreamResponse:
        """Deliver the stream of another process, found by an Idempotency-Key. Raises: what `send` does."""
        options = generation.options
        if generation.background:
            return answer_object(stream)
        if options.respond_async:
            return self.accept(stream, options, late=True)
        return await self.send(request, stream, stream.kept_head or _EVENTS, options.view, "key")

    def early(
        self, request: web.BaseRequest, call: Call, generation: GenerationRequest, joined: Joined | None
    ) -> EarlyHead:
        """Return the response that may begin before that of the upstream."""
        ours = self.found(call.stream.id) + ([] if joined is None else _JOINED[joined])
        return EarlyHead(request, call, generation.options.view, ours, generation.keepalive_s)

    def accept(self, stream: Stream, options: GenerationOptions, *, late: bool) -> web.StreamResponse:
        """Respond 202 with the description of the stream (`respond-async`, RFC 7240 section 4.1)."""
        named = {"Stream-Id": stream.id, "Location": f"/v1/streams/{stream.id}", "Preference-Applied": "respond-async"}
        replayed = _JOINED["key"] if late and options.idempotency_key is not None else []
        more = replayed + self._links(stream.id)
        return answer(describe(stream), 202, named | {name.decode(): value.decode() for name, value in more})

    async def _check_late(self, stream: Stream, view: View) -> None:
        await self._admission.admit_follower(stream)
        log = stream.log
        if log.start:
            raise OffsetGone(f"the stream's start is gone, the earliest frame held is {log.start + 1}", log.start + 1)
        self._metrics.replayed[view.mode] += log.end_bytes

    def found(self, stream_id: str) -> Headers:
        """Return the headers that say where a stream can be followed."""
        ident = stream_id.encode()
        found = b"/v1/streams/" + ident
        headers = [(b"Stream-Id", ident), (b"Location", found), (b"Content-Location", found)]
        return headers + self._links(stream_id) if self._has_links else headers

    def _kept(self, stream: Stream) -> Headers:
        """Return the headers that say where a response that is not an event stream can be fetched, if it is kept."""
        return [(b"Stream-Id", stream.id.encode()), *self._links(stream.id)] if stream.info.retain_s else []

    def _links(self, stream_id: str) -> Headers:
        """Return the header with a URL to follow a stream without the caller's key, if tokens are configured."""
        return [(b"Stream-Follow-URL", self._grants.follow_url(stream_id).encode())] if self._has_links else []
