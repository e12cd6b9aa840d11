"""Which node makes the upstream call of a name that several were asked for: exactly one.

A claim is a value that is set only if there is none. Whoever finds one follows the stream that it names. If that stream
has failed or is gone, whoever comes next claims the name's successor, which is called after the stream that failed: so
of several that see it fail, again only one makes a call, and no claim is ever deleted.
"""

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any

import orjson

from proxy.store.leases import Leases
from proxy.store.store import Put, Store, StoreError
from proxy.stream.stream import Stream
from proxy.wire.errors import KeyReused, Overloaded

CLAIM_S = 3600.0
_MOST = 100  # claims of one name, each the successor of one whose stream failed
_BEGIN_S = 3.0  # from a claim to the beginning of its stream, at most
_POLL_S = 0.02


class Claims:
    """The names for which a node makes the upstream call."""

    def __init__(
        self, store: Store, node: str, leases: Leases, find: Callable[[str], Awaitable[Stream | None]]
    ) -> None:
        """`find` returns a stream of another node, by its id."""
        self._store = store
        self._node = node
        self._leases = leases
        self._find = find
        self._locks: dict[bytes, asyncio.Lock] = {}

    def alone(self, name: bytes) -> asyncio.Lock:
        """Return the lock of a name: requests of this node wait for each other."""
        if len(self._locks) > 1000:
            self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(name, asyncio.Lock())

    async def claim(self, name: bytes, asked: bytes, ident: str) -> Stream | None:
        """Claim a name for the stream `ident`: None, if it is this node's, else the stream of another node to follow.

        `asked` is a digest of the request. Raises: KeyReused, if the name was claimed for another; StoreError;
        Overloaded.
        """
        base = at = "idem:" + blake2b(name, digest_size=16).hexdigest()
        # Nobody who reads the store can try what was asked: that takes the client's key, too.
        digest = blake2b(asked, key=blake2b(name).digest(), digest_size=16).hexdigest()
        mine = orjson.dumps({"id": ident, "asked": digest, "node": self._node})
        for _ in range(_MOST):
            (outcome,) = await self._store.write([Put(at, mine, CLAIM_S, absent=True)])
            if isinstance(outcome, StoreError):
                raise outcome
            if outcome.value is None:  # it expired in this moment
                continue
            held = orjson.loads(outcome.value)
            if held["id"] == ident:
                return None
            if held["asked"] != digest:
                raise KeyReused(
                    "this Idempotency-Key was used for a request with another body or target; a new request needs a new"
                    " key"
                )
            stream = await self._stream_of(held, CLAIM_S - outcome.left_s)
            if stream is not None:
                return stream
            at = f"{base}:{held['id']}"
        raise Overloaded(f"the request of this Idempotency-Key has failed {_MOST} times")

    async def _stream_of(self, held: dict[str, Any], age_s: float) -> Stream | None:
        """Return the stream of a claim, if it can be shared; wait for it to begin, as long as its node may begin it.

        `age_s`: of the claim, by the clock of the store. Those of nodes may differ by any time.
        """
        if held["node"] == self._node:
            return None  # it would have been found here
        loop = asyncio.get_running_loop()
        until = loop.time() + _BEGIN_S - age_s
        while (stream := await self._find(held["id"])) is None:
            if loop.time() >= until or not await self._leases.alive(held["node"]):
                return None
            await asyncio.sleep(_POLL_S)
        while not stream.upstream and not stream.sealed:
            await asyncio.sleep(_POLL_S)
        return stream if is_shared(stream) else None


def is_shared(stream: Stream) -> bool:
    """Return whether a later request with the same key reads a stream, rather than being sent upstream."""
    ending, head = stream.log.ending, stream.kept_head
    is_refusal = head is not None and not 200 <= head.status < 300
    return not is_refusal and not stream.log.start and (ending is None or ending.replayed)
