"""The ids that upstreams give their responses and their items: whose each is, and which ids a caller may name.

If requests are sent upstream with a key of the proxy's own, all callers are one to the upstream: it would show and
continue anybody's response. So a caller may then name only the ids that it was given. And of several upstreams only the
one that made a response knows it.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, Protocol

from proxy.dialects.dialect import Dialect
from proxy.stream.stream import Stream
from proxy.wire.errors import BadRequest, UnknownResponse

_KEPT_S = 7 * 24 * 3600  # as long as Qwen stores responses
_KEPT = 100_000  # 20 MB
LONGEST = 256  # characters; a longer id is no response's


def response_id(stream: Stream) -> str | None:
    """Return the id that the upstream gave a response; None, if it is not known yet, or if the API has none."""
    objects, head, log = stream.dialect.objects, stream.kept_head, stream.log
    if objects is None:
        return None
    if head is None:
        return objects.ident(stream.reader)
    return objects.ident_of(log.content(log.start, log.end)) if 200 <= head.status < 300 else None


def item_ids(stream: Stream) -> Collection[str]:
    """Return the ids that the upstream gave the items of a response, as far as they have come."""
    objects, head, log = stream.dialect.objects, stream.kept_head, stream.log
    if objects is None:
        return ()
    if head is None:
        return objects.items(stream.reader)
    return objects.items_of(log.content(log.start, log.end)) if 200 <= head.status < 300 else ()


def find_response(
    streams: Iterable[Stream], caller: bytes, dialect: Dialect, ident: str, *, or_item: bool = False
) -> Stream | None:
    """Return the stream of a caller's response, by the stream's own id or by the upstream's.

    `or_item`: or by the upstream's id of one of its items.
    """
    for stream in streams:
        if stream.info.caller == caller and stream.dialect is dialect:
            if ident == stream.id or (_may_have(stream, ident) and ident == response_id(stream)):
                return stream
            if or_item and _may_have(stream, ident) and ident in item_ids(stream):
                return stream
    return None


def _may_have(stream: Stream, ident: str) -> bool:
    """Return whether a stream may be the response of this id: a kept document is searched before it is parsed.

    A caller may have thousands of them kept; to parse all would hold the event loop for seconds.
    """
    log = stream.log
    return stream.kept_head is None or ident.encode(errors="replace") in log.content(log.start, log.end)


class _Given(NamedTuple):
    """Until when an id is remembered, and which upstream made the response."""

    until: float  # seconds of the clock
    upstream: str


class GivenIds:
    """The ids of responses and their items that each caller was given, and the upstreams that know them.

    Bounded in number and time.
    """

    def __init__(
        self, streams: Callable[[], Iterable[Stream]], clock: Callable[[], float], *, restricts: bool = True
    ) -> None:
        """`streams` returns all that are running or kept; `clock` returns seconds.

        `restricts`: callers may name no other ids; else these serve only to find the upstream of each.
        """
        self._streams = streams
        self._clock = clock
        self._given: OrderedDict[tuple[bytes, str], _Given] = OrderedDict()  # the latest last
        self.restricts = restricts
        self.on_given: Callable[[bytes, str, str], object] = lambda caller, ident, upstream: None
        """Called with what is noted here, if others are to know it, too."""

    def ended(self, stream: Stream) -> None:
        """Note the ids of a response that has ended; until then, they are found in its stream."""
        ident = response_id(stream)
        if ident is not None:
            for one in (*item_ids(stream), ident):
                self.give(stream.info.caller, one, stream.upstream)

    def give(self, caller: bytes, ident: str, upstream: str) -> None:
        """Note that a caller was given an id by an upstream just now."""
        self.add(caller, ident, upstream)
        self.on_given(caller, ident, upstream)

    def add(self, caller: bytes, ident: str, upstream: str) -> None:
        """Note that a caller was given an id by an upstream."""
        if len(ident) > LONGEST:
            return
        self._note(caller, ident, _Given(self._clock() + _KEPT_S, upstream))

    def remove(self, caller: bytes, idents: Iterable[str]) -> None:
        """Forget ids: their response was deleted."""
        for ident in idents:
            self._given.pop((caller, ident), None)

    def told(self) -> list[tuple[str, str, str, float]]:
        """Return all of them, for another process: caller, id, upstream, and for how many seconds more; latest last."""
        now = self._clock()
        return [(caller.hex(), ident, one.upstream, one.until - now) for (caller, ident), one in self._given.items()]

    def learn(self, told: Iterable[tuple[str, str, str, float]]) -> None:
        """Note what another process has told."""
        now = self._clock()
        for caller, ident, upstream, left_s in told:
            self._note(bytes.fromhex(caller), ident, _Given(now + left_s, upstream))

    def _note(self, caller: bytes, ident: str, given: _Given) -> None:
        self._given[caller, ident] = given
        self._given.move_to_end((caller, ident))
        if len(self._given) > _KEPT:
            self._given.popitem(last=False)

    def made_by(self, caller: bytes, ident: str) -> str | None:
        """Return the upstream that made a response that has ended; None if the caller was not given this id by it."""
        given = self._given.get((caller, ident))
        return given.upstream if given is not None and given.until > self._clock() else None

    def find(self, caller: bytes, dialect: Dialect, ident: str) -> str | None:
        """Return the upstream that made the response or the item of an id; None if the caller was not given the id."""
        made_by = self.made_by(caller, ident)
        if made_by is None:
            stream = find_response(self._streams(), caller, dialect, ident, or_item=True)
            made_by = None if stream is None else stream.upstream
        return made_by

    def allowed(self, ident: str, made_by: str | None) -> str:
        """Return the upstream that made a response, as it was found; "" if it is not known.

        Raises: UnknownResponse, if the caller was not given the id, and may name no other.
        """
        if made_by is None and self.restricts:
            raise UnknownResponse(f"no response of yours has the id {ident[:100]!r}, nor an item of one")
        return made_by or ""


class Elsewhere(Protocol):
    """What knows the responses that were made by other processes."""

    async def made_by(self, caller: bytes, ident: str) -> str | None:
        """Return the upstream that made a caller's response; None if none is known. Raises: Overloaded."""


class ContinuedResponses:
    """Finds the upstream for a request whose body names earlier responses, and checks that its caller may name them."""

    def __init__(self, given: GivenIds, *elsewhere: Elsewhere | None) -> None:
        """`elsewhere`: asked in this order for ids that were not given here; None: there are no such processes."""
        self._given = given
        self._elsewhere = [one for one in elsewhere if one is not None]

    async def upstream(self, dialect: Dialect, caller: bytes, body: bytes) -> str:
        """Return the name of the upstream that made the response which a body continues; "" if none is known.

        Raises: UnknownResponse; BadRequest, if the body can't be read; Overloaded.
        """
        if dialect.objects is None:
            return ""
        try:
            idents = dialect.objects.continued(body)
        except BadRequest:
            if self._given.restricts:
                raise
            return ""
        upstreams = [
            self._given.allowed(ident, await self._made_by(dialect, caller, ident) if len(ident) <= LONGEST else None)
            for ident in idents
        ]
        return next(filter(None, upstreams), "")

    async def _made_by(self, dialect: Dialect, caller: bytes, ident: str) -> str | None:
        made_by = self._given.find(caller, dialect, ident)
        for elsewhere in self._elsewhere:
            if made_by is None:
                made_by = await elsewhere.made_by(caller, ident)
        return made_by
