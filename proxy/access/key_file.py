"""The file of callers that have keys of ours: their names, digests of their keys, and their limits.

`streamtee keys` writes it; it can be edited by hand, too. It holds no key: of each only a salted digest. A key has 192
random bits, so the digest is that of a quick function; nobody can guess a key by trying. The file is replaced as a
whole, so that whoever reads it meanwhile reads the old one or the new one.
"""

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

from pydantic import Field, ValidationError, field_validator

from proxy.access.limits import CallerLimits
from proxy.objections import OBJECT, objection
from proxy.settings import Table

_KEY = re.compile(r"sk-st-([0-9a-f]{12})-[0-9a-f]{48}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HEX = r"^(?:[0-9a-f]{2})+$"


class KeyRecord(Table):
    """One key of a caller, by its salted digest."""

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    salt: str = Field(pattern=_HEX)
    digest: str = Field(pattern=_HEX)
    created_at: int
    expires_at: int | None = None

    def is_valid(self, unix_s: float) -> bool:
        """Return whether it has not expired."""
        return self.expires_at is None or unix_s < self.expires_at

    def matches(self, key: str) -> bool:
        """Return whether it is the record of a key; takes the same time for every key."""
        return hmac.compare_digest(_digest(self.salt, key), self.digest)


class CallerRecord(Table):
    """One caller: its keys, the subject of its certificate if it has one, and its limits."""

    disabled: bool = False
    subject: str = ""
    limits: CallerLimits = CallerLimits()
    keys: tuple[KeyRecord, ...] = ()

    def with_key(self, key: KeyRecord) -> "CallerRecord":
        """Return the record with one more key."""
        return self.model_copy(update={"keys": (*self.keys, key)})

    def expiring(self, expires_at: int) -> "CallerRecord":
        """Return the record with all its keys expiring at a time, unless they do so earlier."""
        keys = (
            key.model_copy(update={"expires_at": min(expires_at, key.expires_at or expires_at)}) for key in self.keys
        )
        return self.model_copy(update={"keys": tuple(keys)})


class CallerRecords(Table):
    """The content of a keys file: all callers by name."""

    callers: dict[str, CallerRecord] = Field(default_factory=dict)

    @field_validator("callers")
    @classmethod
    def _have_names(cls, callers: dict[str, CallerRecord]) -> dict[str, CallerRecord]:
        for name in callers:
            check_name(name)
        subjects = [record.subject for record in callers.values() if record.subject]
        if len(set(subjects)) < len(subjects):
            raise ValueError("two callers have the same subject")
        return callers

    def put(self, name: str, record: CallerRecord | None) -> "CallerRecords":
        """Return the records with that of a name replaced; with None, removed."""
        callers = {other: one for other, one in self.callers.items() if other != name}
        return CallerRecords(callers=callers if record is None else {**callers, name: record})


class Found(NamedTuple):
    """The key that was found, and the name of its caller."""

    name: str
    key: KeyRecord


class KeyIndex:
    """Finds the caller of a key, or of a certificate's subject, among the records of a file."""

    def __init__(self, records: CallerRecords) -> None:
        self._records = records.callers
        self._by_id = {key.id: Found(name, key) for name, one in records.callers.items() for key in one.keys}
        self._by_subject = {one.subject: name for name, one in records.callers.items() if one.subject}

    def of_key(self, key: str, unix_s: float) -> str | None:
        """Return the name of a key's caller; None if the key is unknown or expired, or its caller is disabled."""
        shown = _KEY.fullmatch(key)
        found = self._by_id.get(shown[1]) if shown else None
        if found is None or not found.key.matches(key) or not found.key.is_valid(unix_s):
            return None
        return None if self._records[found.name].disabled else found.name

    def of_subject(self, subject: str) -> str | None:
        """Return the name of the caller whose certificate has this subject: the subject itself if it is not listed.

        None if the caller is disabled.
        """
        name = self._by_subject.get(subject)
        if name is None:
            return subject
        return None if self._records[name].disabled else name

    @property
    def names(self) -> Iterable[str]:
        """The names of all callers."""
        return self._records.keys()

    def limits_of(self, name: str) -> CallerLimits | None:
        """Return the limits of a caller; None if it is not listed."""
        record = self._records.get(name)
        return None if record is None else record.limits

    def next_expiry(self, unix_s: float) -> float | None:
        """Return when the next key expires, in Unix seconds."""
        times = [one.key.expires_at for one in self._by_id.values() if one.key.expires_at is not None]
        return min((time for time in times if time > unix_s), default=None)


def new_key(unix_s: float, expires_at: int | None = None) -> tuple[str, KeyRecord]:
    """Make a key; return it, and its record, from which nobody can read it."""
    ident, salt = token_hex(6), token_hex(16)
    key = f"sk-st-{ident}-{token_hex(24)}"
    record = KeyRecord(id=ident, salt=salt, digest=_digest(salt, key), created_at=int(unix_s), expires_at=expires_at)
    return key, record


def check_name(name: str) -> str:
    """Return the name of a caller. Raises: ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name {name[:80]!r} is not 1 to 64 of A-Z, a-z, 0-9 and . _ @ -, a letter or digit first")
    return name


def read_records(path: Path) -> CallerRecords:
    """Read a file. Raises: OSError; ValueError, which says what is wrong and quotes no digest."""
    try:
        return CallerRecords.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {where or 'the file'}: {objection(first, OBJECT)}") from None


def write_records(path: Path, records: CallerRecords) -> None:
    """Replace a file. Raises: OSError.

    A new one can be read by its owner alone; one that is there keeps its permissions, and its owner if root writes it.
    """
    replace(path, records.model_dump_json(indent=2, exclude_defaults=True).encode() + b"\n")


def replace(path: Path, content: bytes) -> None:
    """Replace the content of a file at once: a reader finds the old one or the new one, also after a crash.

    Raises: OSError.
    """
    number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(number)
            with contextlib.suppress(FileNotFoundError):
                before = path.stat()
                os.fchmod(number, before.st_mode & 0o777)
                if os.geteuid() == 0:
                    os.fchown(number, before.st_uid, before.st_gid)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other writers of a file out meanwhile. Raises: OSError."""
    with open(path.parent / f".{path.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(salt: str, key: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + key.encode("utf-8", "surrogateescape")).hexdigest()
