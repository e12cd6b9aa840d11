"""The callers that the proxy knows by name: from the keys file, from client certificates, and from a hook.

Reads the keys file again when it has changed, so that keys are added, disabled and expire while everything runs on.
"""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from proxy.access.identity_hook import IdentityHook
from proxy.access.key_file import CallerRecords, KeyIndex, read_records
from proxy.access.limits import CallerLimits

_log = logging.getLogger("streamtee")


class KnownCallers:
    """The callers that the proxy knows by name, and their limits."""

    def __init__(
        self, file: Path | None, hook: IdentityHook | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Read the file, if there is one. `clock` returns Unix seconds. Raises: OSError, ValueError."""
        self.hook = hook
        self._file = file
        self._clock = clock
        self._version: tuple[int, ...] | None = None
        self._index = KeyIndex(CallerRecords())
        self._expires_at: float | None = None
        if file is not None:
            self._read(file)

    def of_key(self, key: str) -> str | None:
        """Return the name of a key's caller, if it is known; from the hook, if that was asked before."""
        name = self._index.of_key(key, self._clock())
        return self.hook.name_of(key) if name is None and self.hook is not None else name

    def is_in_file(self, key: str) -> bool:
        """Return whether the file has the caller of a key, so that the hook need not be asked."""
        return self._index.of_key(key, self._clock()) is not None

    def of_subject(self, subject: str) -> str | None:
        """Return the name of the caller with a certificate; None if it is disabled."""
        return self._index.of_subject(subject)

    @property
    def names(self) -> Iterable[str]:
        """The names of the callers in the file."""
        return self._index.names

    def limits_of(self, name: str) -> CallerLimits:
        """Return the limits of a caller: those in the file, else what the hook said."""
        limits = self._index.limits_of(name)
        if limits is None and self.hook is not None:
            limits = self.hook.limits_of(name)
        return limits or CallerLimits()

    def refresh(self) -> bool:
        """Read the file again if it has changed; return whether any caller may have. A bad file changes nothing."""
        changed = self._read_again(self._file) if self._file is not None else False
        expired = self._expires_at is not None and self._clock() >= self._expires_at
        if changed or expired:
            self._expires_at = self._index.next_expiry(self._clock())
        return changed or expired

    def _read_again(self, file: Path) -> bool:
        try:
            if self._version_of(file) == self._version:
                return False
            self._read(file)
        except (OSError, ValueError) as error:
            self._complain(file, error)
            return False
        _log.info("the keys file was read again: %s", file)
        return True

    def _read(self, file: Path) -> None:
        version = self._version_of(file)
        self._index = KeyIndex(read_records(file))
        self._version = version
        self._expires_at = self._index.next_expiry(self._clock())

    def _complain(self, file: Path, error: Exception) -> None:
        """Log once for each state of the file why it can't be used."""
        try:
            version = self._version_of(file)
        except OSError:
            version = ()
        if version != self._version:
            self._version = version
            _log.error("the keys file can't be used; what was read before stays in force: %s", error)

    @staticmethod
    def _version_of(file: Path) -> tuple[int, ...]:
        status = file.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size
