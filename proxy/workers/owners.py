"""Which worker a stream, a name or a new request belongs to: decided by one worker alone, without asking another.

A stream is in the worker that its id names. A name belongs to one worker by its hash (`names`), so all who use a name
meet there; what has no name begins where its connection is. A request with both a Stream-Key and a name that requests
share (an Idempotency-Key, its body) goes to the key's worker, where followers wait for the key; the worker of the
shared name notes that, and sends there whoever else comes with it. Does no I/O.
"""

from collections import OrderedDict

from proxy.workers.ids import worker_of
from proxy.workers.membership import Membership

_NOTED = 10_000  # names of which a worker remembers that another one has their stream


class Owners:
    """Decides which worker something belongs to, as one worker knows it."""

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        self._claims: OrderedDict[bytes, int] = OrderedDict()  # workers of requests that have a key, too, by their name
        self._newest: OrderedDict[bytes, int] = OrderedDict()  # workers of the newest stream under a key of this one
        self._next = 0

    def of_stream(self, ident: str) -> int | None:
        """Return the worker of a stream; None if there is no such worker, so that the stream is nowhere."""
        number = worker_of(ident)
        return number if number is not None and self.membership.is_there(number) else None

    def of_key(self, name: bytes, *, is_here: bool) -> tuple[int, bool]:
        """Return the worker of the newest stream under a key, and whether that is decided, or for it to decide.

        `is_here`: this worker has a stream under the key.
        """
        owner = self.membership.owner(name)
        if owner != self.membership.number:
            return owner, False
        newest = self._newest.get(name)
        if newest is None and not is_here:
            newest = self.membership.older_owner(name)
        return (owner, False) if newest is None or not self.membership.is_there(newest) else (newest, True)

    def of_generation(self, key: bytes | None, shared: bytes | None, *, held: bool) -> tuple[int, bool]:
        """Return the worker of a generation request, and whether that is decided, or for that worker to decide.

        `key`: the name of its Stream-Key. `shared`: the name by which requests share its call; `held`: this worker has
        such a call.
        """
        membership = self.membership
        if shared is None and key is None:
            return (self.another(), True) if membership.is_retired else (membership.number, True)
        if shared is None:
            assert key is not None
            return membership.owner(key), True
        owner = membership.owner(shared)
        if owner != membership.number or held:
            return owner, False
        return self._of_both(shared, key), True

    def having(self, name: bytes) -> tuple[int | None, ...]:
        """Return the workers that may have the newest stream under a key, the most likely first; None is no worker."""
        return self._newest.get(name), self.membership.owner(name), self.membership.older_owner(name)

    def another(self) -> int:
        """Return one of the workers that begin what is new, each in turn."""
        self._next += 1
        return self.membership.current[self._next % len(self.membership.current)]

    def note_newest(self, name: bytes, ident: str) -> None:
        """Note that a stream of another worker is the newest under a key that belongs to this one."""
        worker = self.of_stream(ident)
        if worker is not None:
            _keep(self._newest, name, worker)

    def note_begun_here(self, name: bytes) -> None:
        """Note that the newest stream under a key is in this worker."""
        self._newest.pop(name, None)

    def _of_both(self, shared: bytes, key: bytes | None) -> int:
        """Return the worker of a request whose shared name belongs to this worker, which has no call of that name."""
        membership = self.membership
        older, claimed = membership.older_owner(shared), self._claims.get(shared)
        if older is not None:
            return older
        if claimed is not None and membership.is_there(claimed):
            return claimed
        if key is None:
            return membership.number
        owner = membership.owner(key)
        if owner != membership.number:
            _keep(self._claims, shared, owner)
        return owner


def _keep(noted: "OrderedDict[bytes, int]", name: bytes, worker: int) -> None:
    """Note the worker of a name, and forget the oldest note if there are too many."""
    noted[name] = worker
    noted.move_to_end(name)
    if len(noted) > _NOTED:
        noted.popitem(last=False)
