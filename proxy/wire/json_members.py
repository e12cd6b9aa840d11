"""The members of a JSON object, found in its text, so that some can be put there and all else stays byte for byte.

Nothing is lost that a parser would read in another way, or not at all: numbers of any size or precision, NaN, escapes
of half a character, bytes that are no UTF-8, a byte order mark.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from proxy.wire.sse import BOM

_SPACE = r"[ \t\r\n]*"
_OPENING = re.compile(f"(?:{BOM.decode('latin-1')})?{_SPACE}{{{_SPACE}")
_COLON = re.compile(f"{_SPACE}:{_SPACE}")
_NEXT = re.compile(f"{_SPACE}([,}}]){_SPACE}")
_PARSER = json.JSONDecoder(strict=False, parse_int=str, parse_float=str, parse_constant=str)


class Members:
    """A JSON object's text and where its members stand; of several of one name, the last counts, as in most parsers."""

    __slots__ = ("_found", "_text")

    def __init__(self, text: str) -> None:
        """Read the text of an object, a character for each byte. Raises: ValueError, when it is none."""
        self._text = text
        self._found: dict[str, tuple[int, int, Any]] = {}
        try:
            self._read()
        except RecursionError as error:
            raise ValueError("JSON has too many levels") from error

    def get(self, name: str) -> Any:
        """Return the value of a member, its numbers as text; None without one."""
        return self._found[name][2] if name in self._found else None

    def inner(self, name: str) -> "Members | None":
        """Return the members of the object that a member is: none of null, and without one; None: it is no object."""
        if self.get(name) is None:
            return Members("{}")
        start, end, value = self._found[name]
        return Members(self._text[start:end]) if isinstance(value, dict) else None

    def put(self, values: Mapping[str, bytes]) -> bytes:
        """Return the text with these values, each a JSON text, in place of those of their names."""
        text, known = self._text, [name for name in values if name in self._found]
        for name in sorted(known, key=lambda name: self._found[name][0], reverse=True):
            start, end, _ = self._found[name]
            text = text[:start] + values[name].decode("latin-1") + text[end:]
        added = [f'"{name}":{value.decode("latin-1")}' for name, value in values.items() if name not in self._found]
        at = _after(_OPENING, text, 0)
        more = "," if added and self._found else ""
        return (text[:at] + ",".join(added) + more + text[at:]).encode("latin-1")

    def _read(self) -> None:
        text = self._text
        at = _after(_OPENING, text, 0)
        if text.startswith("}", at):
            at += 1
        else:
            at = self._read_members(at)
        if text[at:].strip(" \t\r\n"):
            raise ValueError("something follows a JSON object")

    def _read_members(self, at: int) -> int:
        text, last = self._text, False
        while not last:
            if not text.startswith('"', at):
                raise ValueError("a member of a JSON object has no name")
            name, at = _PARSER.raw_decode(text, at)
            start = _after(_COLON, text, at)
            value, end = _PARSER.raw_decode(text, start)
            self._found[name] = start, end, value
            at = _after(_NEXT, text, end)
            last = "}" in text[end:at]
        return at


def members(body: bytes) -> Members | None:
    """Return the members of the JSON object that bytes are; None when they are none that can be read."""
    try:
        return Members(body.decode("latin-1"))
    except ValueError:
        return None


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    if found is None:
        raise ValueError(f"no JSON object: character {at} is unexpected")
    return found.end()
