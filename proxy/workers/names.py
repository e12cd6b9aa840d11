"""Names by which streams are found, and which worker each belongs to: all who use a name meet there.

Rendezvous hashing: a name belongs to the worker for which the hash of both is largest. So every process computes the
same owner, without asking anybody.
"""

import hashlib
from collections.abc import Iterable

_SIZE = 16


def name_of(kind: bytes, *parts: bytes) -> bytes:
    """Return the digest of a name: a kind of name, and what it consists of."""
    digest = hashlib.blake2b(kind, digest_size=_SIZE)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()


def owner_of(name: bytes, workers: Iterable[int]) -> int:
    """Return the worker that a name belongs to."""
    return max(workers, key=lambda number: hashlib.blake2b(b"%d" % number, key=name, digest_size=8).digest())
