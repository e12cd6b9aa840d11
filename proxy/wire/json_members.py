"""Replaces members of a JSON object in its text, so that everything else stays the same byte for byte.

This keeps what parsing and writing again would change or refuse: numbers of any size or precision, NaN, unpaired
surrogate escapes, bytes that are not UTF-8, a byte order mark.
"""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import orjson

from proxy.wire.sse import BOM

_SPACE: Final = r"[ \t\r\n]*"
_OPENING: Final = re.compile(f"(?:{BOM.decode('latin-1')})?{_SPACE}{{{_SPACE}")
_COLON: Final = re.compile(f"{_SPACE}:{_SPACE}")
_NEXT: Final = re.compile(f"{_SPACE}([,}}]){_SPACE}")
_MOST: Final = 10_000  # members whose places are found: 2 us each
_PARSER: Final = json.JSONDecoder(strict=False, parse_int=str, parse_float=str, parse_constant=str)


class Members:
    """A JSON object's text and its members. Of several members with one name the last counts, as in most parsers."""

    __slots__ = ("_places", "_text", "_values")

    def __init__(self, data: bytes) -> None:
        """Parse an object. Raises: ValueError, if `data` is not one."""
        self._text = data.decode("latin-1")  # one character for each byte
        self._places: dict[str, tuple[int, int]] = {}  # found only when one is needed: that triples the parsing time
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            value = self._find()
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        self._values: dict[str, Any] = value

    def get(self, name: str) -> Any:
        """Return the value of a member, in which numbers may be strings; None if there is no such member."""
        return self._values.get(name)

    def inner(self, name: str) -> "Members | None":
        """Return the members of the object that is the value of a member; None if the value is not an object.

        A missing member and null count as an empty object.
        """
        value = self._values.get(name)
        if value is None:
            return Members(b"{}")
        text = self.text(name) if isinstance(value, dict) else None
        return None if text is None else members(text)

    def text(self, name: str) -> bytes | None:
        """Return the JSON text of a member's value as it is written; None, if there is none, or its place is unknown.

        The place can't be found if the JSON is nested too deeply.
        """
        if name not in self._values or not self._found(name):
            return None
        start, end = self._places[name]
        return self._text[start:end].encode("latin-1")

    def put(self, values: Mapping[str, bytes]) -> bytes | None:
        """Return the text with the members of these names set to these values, each of which is a JSON text.

        None, if the place of one can't be found because the JSON is nested too deeply, or has too many members.
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
        """Find the places of all members, and return their values; accepts what orjson refuses. Raises: ValueError."""
        try:
            found = list(islice(_members_of(self._text), _MOST + 1))
        except RecursionError as error:
            raise ValueError("the JSON is nested too deeply") from error
        if len(found) > _MOST:
            raise ValueError(f"the object has more than {_MOST} members")
        self._places = {name: (start, end) for name, _, start, end in found}
        return {name: value for name, value, _, _ in found}


def members(data: bytes) -> Members | None:
    """Return the members of a JSON object; None if `data` can't be read as one."""
    try:
        return Members(data)
    except ValueError:
        return None


def pairs(data: bytes) -> list[tuple[str, Any]] | None:
    """Return all members of a JSON object, also several with one name; None if `data` can't be read as an object.

    Text beyond ASCII in them is decoded as Latin-1. An object with very many members is not read.
    """
    try:
        found = list(islice(_members_of(data.decode("latin-1")), _MOST + 1))
    except (ValueError, RecursionError):
        return None
    return [(name, value) for name, value, _, _ in found] if len(found) <= _MOST else None


def _members_of(text: str) -> Iterator[tuple[str, Any, int, int]]:
    """Yield each member of an object: its name, its value, and the value's start and end. Raises: ValueError."""
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
        raise ValueError(f"not a JSON object: character {at} is unexpected")
    return found.end()
