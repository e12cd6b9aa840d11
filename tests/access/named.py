"""Callers with keys of ours, as `streamtee keys` makes them, for tests that send requests with these keys."""

import time
from pathlib import Path
from typing import Any

from proxy.access.key_file import CallerRecord, CallerRecords, new_key, write_records
from proxy.access.limits import CallerLimits
from tests.access.keys import UPSTREAMS


class NamedCallers:
    """A keys file, and the keys of its callers by their names."""

    def __init__(self, folder: Path, **limits: dict[str, Any]) -> None:
        """`limits`: those of each caller, by name."""
        self.file = folder / "keys.json"
        self.records = CallerRecords()
        self.keys: dict[str, str] = {}
        for name, given in limits.items():
            self.add(name, **given)

    def add(self, name: str, *, expires_at: int | None = None, subject: str = "", **limits: Any) -> str:
        """Add a caller with one key; return the key."""
        self.keys[name], made = new_key(time.time(), expires_at)
        record = CallerRecord(subject=subject, limits=CallerLimits(**limits), keys=(made,))
        self.put(name, record)
        return self.keys[name]

    def put(self, name: str, record: CallerRecord | None) -> None:
        """Replace the record of a caller in the file."""
        self.records = self.records.put(name, record)
        write_records(self.file, self.records)

    def header(self, name: str) -> str:
        """Return the header that a caller sends its key in."""
        return f"Authorization: Bearer {self.keys[name]}"

    def tables(self, **auth: Any) -> dict[str, Any]:
        """Return the tables of a configuration that accepts these keys."""
        table = {"mode": "keys", "keys_file": str(self.file), **auth}
        return {"auth": table, "upstream": {"key": UPSTREAMS}}
