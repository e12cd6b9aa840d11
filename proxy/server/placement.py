"""What the routes ask where several workers serve one machine (room `workers`): does a request belong to another one?

The answer comes before anything is done for a request. With one process there is no Placement, and no request is asked
about.
"""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import NamedTuple, Protocol

from aiohttp import web

from proxy.access.accounts import NewAccount
from proxy.stream.hub import Hub
from proxy.wire.event_id import EventId

SUBJECT_HEADER = "Streamtee-Certificate-Subject"
"""What a worker tells another one of the certificate of its client, for whom it asks; a client's own is dropped."""
Handler = Callable[..., Awaitable[web.StreamResponse]]


class Belongs(Enum):
    """By what the requests of a route belong to a worker."""

    ANYWHERE = auto()
    """By nothing: any worker serves them."""
    GENERATION = auto()
    """By the names in their headers and bodies; `Placement.of_generation` is asked when they have been read."""
    URL = auto()
    """By their URL and body; `Placement.of_generation` is asked when they have been read."""
    STREAM = auto()
    """By the id of a stream in their path."""
    KEY = auto()
    """By the key in their path, and their caller."""
    RESPONSE = auto()
    """By the id of a response in their path, which the upstream may have given."""
    SEVERAL = auto()
    """By the streams and keys in their query, which may be of several workers."""
    ALL = auto()
    """To all: the list of a caller's streams."""


class Responses(Protocol):
    """Knows the responses of callers that were made in this worker, by their ids."""

    def knows(self, caller: bytes, ident: str) -> bool:
        """Return whether a caller's response of this id runs, is kept or was deleted here, or was given to the caller.

        Or one with an item of this id.
        """

    def made_by(self, caller: bytes, ident: str) -> str | None:
        """Return the upstream that made a caller's response, or an item of it; "" if that is not known yet.

        None, if nothing of this id was made here.
        """


class Placement(Protocol):
    """Knows which worker a request belongs to, and hands it over if that is another one."""

    def attach(self, hub: Hub, responses: Responses) -> None:
        """Take what is asked about this worker."""

    def placed(self, handler: Handler, belongs: Belongs) -> Handler:
        """Return a handler that serves a request here or hands it over."""

    async def of_generation(
        self, request: web.BaseRequest, caller: bytes, key: str | None, shared: tuple[bytes, ...] | None, *, held: bool
    ) -> web.StreamResponse | None:
        """Hand a generation request over, if it belongs elsewhere; return None if it is to be served here.

        `key`: its Stream-Key. `shared`: by what requests share its call; `held`: this worker has such a call.
        Raises: Overloaded, if the other worker does not take it.
        """

    def is_busy(self) -> bool:
        """Return whether bytes are carried here between clients and other workers."""

    async def named(self, caller: bytes, key: str, ident: str) -> None:
        """Tell the worker of a key that a stream of this worker has it, too, from now on. Raises: Overloaded."""

    async def last_id_before(self, name: tuple[bytes, str, str | bytes], last: EventId) -> bytes:
        """Return the upstream's id of the last event up to `last`, of a shared call that an older worker had.

        b"", if it is not known.
        """

    async def made_by(self, caller: bytes, ident: str) -> str | None:
        """Return the upstream that made a caller's response, as another worker knows it; None if none does.

        Raises: Overloaded, if one hangs.
        """


class Member(NamedTuple):
    """What makes a proxy one of several workers."""

    id_ending: str  # of the ids of its streams
    secret: bytes  # of the callers' digests, on which all workers agree
    placement: Placement
    new_account: NewAccount  # of a caller whose use all workers count together


# The parts of names that belong to workers, each a kind and what it consists of.


def key_name(caller: bytes, key: str) -> tuple[bytes, ...]:
    """Return the name of a caller's Stream-Key."""
    return b"key", caller, key.encode("utf-8", "surrogateescape")


def call_name(caller: bytes, route: str, which: str | bytes) -> tuple[bytes, ...]:
    """Return the name of a call that requests share, of the parts of `Identity.name`."""
    return b"call", caller, route.encode(), which.encode() if isinstance(which, str) else which


def retry_name(meaning: bytes) -> tuple[bytes, ...]:
    """Return the name of a call that a retry of this meaning continues."""
    return b"retry", meaning
