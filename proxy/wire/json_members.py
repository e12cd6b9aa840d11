"""The members of a JSON object, found in its text, so that some can be put there and all else stays byte for byte.

Nothing is lost that a parser would read in another way, or not at all: numbers of any size or precision, NaN, escapes
of half a character, bytes that are no UTF-8, a byte order mark.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from proxy.wire.sse import BOM

_SPACE = r"[ \t\r\n]*"
_OPENING = re.compile(f"(?:{BOM.decode('latin-1')})?{_SPACE}{{{_SPACE}")
_COLON = re.compile(f"{_SPACE}:{_SPACE}")
_NEXT = re.compile(f"{_SPACE}([,}}]){_SPACE}")
_PARSER = json.JSONDecoder(strict=False, parse_int=str, parse_float=str, parse_constant=str)


class Members:
    """A JSON object's text and its members; of several of one name, the last counts, as in most parsers."""

    __slots__ = ("_places", "_text", "_values")

    def __init__(self, data: bytes) -> None:
        """Read an object. Raises: ValueError, when it is none."""
        self._text = data.decode("latin-1")  # a character for each byte
        self._places: dict[str, tuple[int, int]] = {}  # found when one is first needed: that takes 3 times as long
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            value = self._find()
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
        self._values: dict[str, Any] = value

    def get(self, name: str) -> Any:
        """Return the value of a member, in which numbers may be text; None without one."""
        return self._values.get(name)

    def inner(self, name: str) -> "Members | None":
        """Return the members of the object that a member is: none of null, and without one; None: it is no object."""
        value = self._values.get(name)
        if value is None:
            return Members(b"{}")
        if not isinstance(value, dict) or not self._found(name):
            return None
        start, end = self._places[name]
        return members(self._text[start:end].encode("latin-1"))

    def put(self, values: Mapping[str, bytes]) -> bytes | None:
        """Return the text with these values, each a JSON text, in place of those of their names.

        None: one has a place that can't be found, as there are too many levels.
        """
        text, known = self._text, [name for name in values if name in self._values]
        if not all(map(self._found, known)):
            return None
        for name in sorted(known, key=self._places.__getitem__, reverse=True):
            start, end = self._places[name]
            text = text[:start] + values[name].decode("latin-1") + text[end:]
        added = [f'"{name}":{value.decode("latin-1")}' for name, value in values.items() if name not in known]
        at = _after(_OPENING, text, 0)
        more = "," if added and self._values else ""
        return (text[:at] + ",".join(added) + more + text[at:]).encode("latin-1")

    def _found(self, name: str) -> bool:
        if not self._places:
            try:
                self._find()
            except ValueError:
                return False
        return name in self._places

    def _find(self) -> dict[str, Any]:
        """Find the places of all members, in what other parsers read, too; return their values. Raises: ValueError."""
        try:
            found = list(_members_of(self._text))
        except RecursionError as error:
            raise ValueError("JSON has too many levels") from error
        self._places = {name: (start, end) for name, _, start, end in found}
        return {name: value for name, value, _, _ in found}


def members(data: bytes) -> Members | None:
    """Return the members of the JSON object that bytes are; None when they are none that can be read."""
    try:
        return Members(data)
    except ValueError:
        return None


def _members_of(text: str) -> Iterator[tuple[str, Any, int, int]]:
    """Find each member of an object: its name, its value, and where the value stands. Raises: ValueError."""
    at = _after(_OPENING, text, 0)
    last = text.startswith("}", at)
    at += last
    while not last:
        if not text.startswith('"', at):
            raise ValueError("a member of a JSON object has no name")
        name, at = _PARSER.raw_decode(text, at)
        start = _after(_COLON, text, at)
        value, end = _PARSER.raw_decode(text, start)
        yield name, value, start, end
        at = _after(_NEXT, text, end)
        last = "}" in text[end:at]
    if text[at:].strip(" \t\r\n"):
        raise ValueError("something follows a JSON object")


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    if found is None:
        raise ValueError(f"no JSON object: character {at} is unexpected")
    return found.end()
