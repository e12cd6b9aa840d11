"""What a worker tells the other workers and the supervisor, over its Unix socket: GET requests, answered in JSON."""

from collections.abc import Callable, Sequence

from aiohttp import web

from proxy.access.callers import Caller
from proxy.server.following.control import streams_of
from proxy.server.following.shared_routes import last_id_before
from proxy.server.generations.shared_calls import Calls, Identity
from proxy.server.json_responses import answer
from proxy.server.routes import Handler
from proxy.stream.hub import ANYONE, Hub
from proxy.wire.event_id import read_event_id
from proxy.workers.merged_page import Families
from proxy.workers.placement import Placement


class Inner:
    """The handlers of what one worker is asked by others."""

    def __init__(self, hub: Hub, calls: Calls, placement: Placement, families: Callable[[], Families]) -> None:
        """`families` returns the metrics."""
        self._hub = hub
        self._calls = calls
        self._placement = placement
        self._families = families

    def endpoints(self) -> Sequence[tuple[str, Handler]]:
        """Return the paths, and what answers there."""
        return (
            ("/inner/metrics", self._metrics),
            ("/inner/streams", self._streams),
            ("/inner/key", self._key),
            ("/inner/named", self._named),
            ("/inner/response", self._response),
            ("/inner/before", self._before),
        )

    async def _metrics(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        return answer(self._families())

    async def _streams(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """Tell a caller's streams: when each began, and its description."""
        return answer(streams_of(self._hub, bytes.fromhex(request.query["caller"])))

    async def _key(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """Tell the id of a caller's newest stream under a key."""
        stream = self._hub.keys.find(request.query["key"], bytes.fromhex(request.query["caller"]))
        return answer({"id": None if stream is None else stream.id})

    async def _named(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """Note that another worker's stream is the newest under a caller's key."""
        query = request.query
        self._placement.note_named(bytes.fromhex(query["caller"]), query["key"], query["ident"])
        return answer({})

    async def _response(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """Tell whether a caller's response of an id is known here, and which upstream made it."""
        responses, mine = self._placement.responses, (bytes.fromhex(request.query["caller"]), request.query["ident"])
        return answer({"known": responses.knows(*mine), "made_by": responses.made_by(*mine)})

    async def _before(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """Tell the upstream's id of an event of a shared route's last stream here."""
        query, last = request.query, read_event_id(request.query["last"])
        asked = bytes.fromhex(query["asked"])
        identity = Identity((ANYONE, query["route"], asked), asked)
        last_id = None if last is None else last_id_before(self._calls, identity, last)
        return answer({"last_id": None if last_id is None else last_id.hex()})
