"""Where a key of the configuration was given: the line of the file, or the variable of the environment."""

import os
import tomllib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

PREFIX = "STREAMTEE_"
Key = Sequence[str | int]
"""The names on the way to a value; a number is its place in an array."""


class Places:
    """Finds where keys were given: the environment overrides the file, as it does when they are read."""

    def __init__(self, path: Path | None, environment: Mapping[str, str] = os.environ) -> None:
        """`path`: of the file, if there is one. A file that can't be read has no places."""
        self._path = path
        self._variables = {name.upper(): name for name in environment}
        try:
            self._lines = [] if path is None else path.read_text(encoding="utf-8").splitlines(keepends=True)
        except (OSError, UnicodeError):
            self._lines = []

    def find(self, key: Key) -> str | None:
        """Return where a key was given, in words; None, if nowhere."""
        variable = self._variables.get(PREFIX + "__".join(map(str, key)).upper())
        if variable is not None:
            return variable
        line = self.line(key)
        return None if line is None else f"{self._path}, line {line}"

    def nearest(self, key: Key) -> str | None:
        """Return where a key, or else the table or array that it belongs to, was given."""
        for length in range(len(key), 0, -1):
            place = self.find(key[:length])
            if place is not None:
                return place
        return None

    def line(self, key: Key) -> int | None:
        """Return the number of the line on which a key of the file begins, from 1; None, if the file lacks it."""
        return next((begins for begins, table in self._beginnings if _has(table, key)), None)

    @cached_property
    def _beginnings(self) -> list[tuple[int, dict[str, Any]]]:
        """What the file says up to each line up to which it is valid, and the number of the line after the one before.

        On that line begins what the one before does not have. So TOML's own parser finds tables, arrays, and texts of
        several lines.
        """
        found: list[tuple[int, dict[str, Any]]] = []
        whole = 0  # lines that are TOML by themselves
        for count in range(len(self._lines) + 1):
            try:
                table = tomllib.loads("".join(self._lines[:count]))
            except tomllib.TOMLDecodeError:
                continue
            found.append((whole + 1, table))
            whole = count
        return found


def _has(table: Any, key: Key) -> bool:
    for name in key:
        known = isinstance(table, dict) and name in table
        if not known and not (isinstance(table, list) and isinstance(name, int) and name < len(table)):
            return False
        table = table[name]
    return True
