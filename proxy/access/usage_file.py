"""The file with what callers have used of the current day, so that a restart gives nobody a second day's worth.

Written every few seconds, if anything has changed, and at the end: a process that is killed forgets a few seconds. What
can't be written, because the disk is full, is tried again; requests go on meanwhile.
"""

import asyncio
import logging
import os
from pathlib import Path

from pydantic import ValidationError

from proxy.access.accounts import Accounts
from proxy.access.key_file import replace
from proxy.settings import Table

_log = logging.getLogger("streamtee")


class _Usage(Table):
    """The content of the file: a day, from 1970-01-01, and the requests and tokens of each caller, by name."""

    day: int
    used: dict[str, tuple[int, int]]


class UsageFile:
    """Keeps what callers have used of the current day in a file."""

    def __init__(self, path: Path, accounts: Accounts) -> None:
        """Read the file, if it is there. Raises: OSError; ValueError, if it is not one of ours, or can't be written."""
        self._path = path
        self._accounts = accounts
        self._written: _Usage | None = None
        self._fails = False
        try:
            before = _Usage.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            before = None
        except ValidationError:
            raise ValueError(f"{path} is not a usage file; without it, callers begin the day anew") from None
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise ValueError(f"auth.usage_file: no file can be made in the folder {path.parent}, where it is replaced")
        if before is not None:
            accounts.restore(before.day, before.used)

    async def save(self) -> None:
        """Write the file if anything has changed, without holding up the event loop."""
        usage = _Usage(day=self._accounts.day, used=self._accounts.used_today())
        if usage == self._written:
            return
        try:
            await asyncio.to_thread(replace, self._path, usage.model_dump_json().encode())
        except OSError as error:
            if not self._fails:
                _log.error("the usage file can't be written; it will be tried again: %s", error)
            self._fails = True
            return
        self._written, self._fails = usage, False
