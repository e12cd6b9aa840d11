"""Begins the response to a client before the upstream has responded: status 200, and a comment at regular intervals.

The response is then a stream. If there is none after all, mostly because the upstream responds with an error, the
client is sent an error event of the dialect. So it is in mode raw, too, as nothing of the upstream's has been sent.
"""

import asyncio

from aiohttp import web

from proxy.dialects.failure import Failure, reported
from proxy.downstream.response import Downstream
from proxy.server.delivery import CACHING, refusal
from proxy.server.generations.shared_calls import AWAITING_HEAD, Call
from proxy.stream.endings import REFUSED, Ending, ending_of
from proxy.stream.modes.projection import Heartbeat, View
from proxy.stream.modes.projections import MODES
from proxy.timers import wait
from proxy.wire.errors import Overloaded, ProxyError, RateLimited
from proxy.wire.http import Headers
from proxy.wire.sse import COMMENT

_REFUSAL_S = 5.0  # for the body of the upstream's error response


class EarlyHead:
    """The response to a client that waits for the head of a call's response; it begins only if that takes long."""

    __slots__ = ("_call", "_every_s", "_ours", "_request", "_view", "downstream")

    def __init__(self, request: web.BaseRequest, call: Call, view: View, ours: Headers, every_s: float) -> None:
        """`ours`: the proxy's own headers. `every_s`: seconds before the head is sent, and between two comments."""
        self._request = request
        self._call = call
        self._view = view
        self._ours = ours
        self._every_s = every_s
        self.downstream: Downstream | None = None  # the response, once it has begun

    async def wait(self) -> None:
        """Wait until the upstream has responded, or failed to. Raises: ConnectionResetError, if the client left."""
        stream = self._call.stream
        stream.hold(AWAITING_HEAD)
        try:
            while not (await asyncio.wait([self._call.opening], timeout=self._every_s))[0]:
                self.downstream = self.downstream or self._begin()
                self.downstream.write(Heartbeat(COMMENT))
        finally:
            asyncio.get_running_loop().call_soon(stream.release, AWAITING_HEAD)  # the client follows at once, if at all

    def fail(self, error: ProxyError) -> web.StreamResponse:
        """End the response with the error that prevented the stream, or kept this client from following it."""
        ending = ending_of(error) if isinstance(error, Overloaded | RateLimited) else REFUSED.saying(error.message)
        return self._end(self._call.stream.log.ending or ending)

    async def refuse(self) -> web.StreamResponse:
        """End the response with the error in the upstream's response, which is not a stream."""
        stream, head = self._call.stream, self._call.stream.kept_head
        assert head is not None
        stream.hold(AWAITING_HEAD)
        try:
            if not stream.sealed:
                sealed: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
                stream.when_sealed(sealed.set_result)
                await wait(sealed, _REFUSAL_S)
            found = reported(stream.log.content(stream.log.start, stream.log.end), stream.dialect.status_of)
            plain = refusal(head)
        finally:
            stream.release(AWAITING_HEAD)
        failure = found or Failure(plain.message)
        stream.reader.failure = failure._replace(status=failure.status or head.status)  # says whether to ask again
        return self._end(plain if found is None else plain.saying(f"{plain.message}: {found.reason}"))

    def _begin(self) -> Downstream:
        mode = self._view.mode
        named = [] if mode == "raw" else [(b"Stream-Mode", mode.encode())]
        downstream = Downstream(self._request)
        downstream.start(b"OK", [(b"Content-Type", MODES[mode].content_type), *CACHING, *named, *self._ours])
        return downstream

    def _end(self, ending: Ending) -> web.StreamResponse:
        assert self.downstream is not None
        view = View("events") if self._view.mode == "raw" else self._view
        last, _ = self._call.stream.projection(view).ending(ending, 0)
        self.downstream.close(last)
        return self.downstream.response
