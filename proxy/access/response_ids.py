"""The ids that upstreams give their responses: whose a response is, and which ids a caller may name.

If requests are sent upstream with a key of the proxy's own, all callers are one to the upstream: it would show and
continue anybody's response. So a caller may then name only the ids that it was given.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from proxy.dialects.dialect import Dialect
from proxy.stream.stream import Stream
from proxy.wire.errors import UnknownResponse

_KEPT_S = 7 * 24 * 3600  # as long as Qwen stores responses
_KEPT = 100_000  # 20 MB


def response_id(stream: Stream) -> str | None:
    """Return the id that the upstream gave a response; None, if it is not known yet, or if the API has none."""
    objects, head, log = stream.dialect.objects, stream.kept_head, stream.log
    if objects is None:
        return None
    if head is None:
        return objects.ident(stream.reader)
    return objects.ident_of(b"".join(log.span(log.start, log.end))) if 200 <= head.status < 300 else None


def find_response(streams: Iterable[Stream], caller: bytes, dialect: Dialect, ident: str) -> Stream | None:
    """Return the stream of a caller's response, by the stream's own id or by the upstream's."""
    for stream in streams:
        mine = stream.info.caller == caller and stream.dialect is dialect
        if mine and (ident == stream.id or (_may_have(stream, ident) and ident == response_id(stream))):
            return stream
    return None


def _may_have(stream: Stream, ident: str) -> bool:
    """Return whether a stream may be the response of this id: a kept document is searched before it is parsed.

    A caller may have thousands of them kept; to parse all would hold the event loop for seconds.
    """
    log = stream.log
    return stream.kept_head is None or ident.encode(errors="replace") in b"".join(log.span(log.start, log.end))


class GivenIds:
    """The ids of responses that each caller was given. Bounded in number and time."""

    def __init__(self, streams: Callable[[], Iterable[Stream]], clock: Callable[[], float]) -> None:
        """`streams` returns all that are running or kept; `clock` returns seconds."""
        self._streams = streams
        self._clock = clock
        self._until: OrderedDict[tuple[bytes, str], float] = OrderedDict()  # the latest last

    def ended(self, stream: Stream) -> None:
        """Note the id of a response that has ended; until then, it is found in its stream."""
        ident = response_id(stream)
        if ident is not None:
            self.add(stream.info.caller, ident)

    def add(self, caller: bytes, ident: str) -> None:
        """Note that a caller was given an id."""
        self._until[caller, ident] = self._clock() + _KEPT_S
        self._until.move_to_end((caller, ident))
        if len(self._until) > _KEPT:
            self._until.popitem(last=False)

    def remove(self, caller: bytes, ident: str) -> None:
        """Forget an id: its response was deleted."""
        self._until.pop((caller, ident), None)

    def has(self, caller: bytes, ident: str) -> bool:
        """Return whether a caller was given the id of a response that has ended."""
        return self._until.get((caller, ident), 0.0) > self._clock()

    def check(self, caller: bytes, dialect: Dialect, ident: str) -> None:
        """Raises: UnknownResponse, if the caller was not given the id."""
        if not self.has(caller, ident) and find_response(self._streams(), caller, dialect, ident) is None:
            raise UnknownResponse(f"no response of yours has the id {ident[:100]!r}")
