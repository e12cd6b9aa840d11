"""Reads and writes JSON as upstreams really send it: with orjson where possible, with the standard library otherwise.

orjson refuses some of what Python's own parser, and therefore Python clients, accept: NaN and Infinity, unpaired
surrogate escapes (\\ud83d, whose other half may be in the next frame), a byte order mark. It turns integers beyond
64 bits into floats, reads at most 1,024 levels, and writes few safely. This module reads all of that and writes it as
it was received.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from secrets import token_hex
from typing import Any, Final

import orjson

from proxy.wire.sse import BOM

_ZEROS: Final = bytes(
    48 if 48 <= byte <= 57 else 32 for byte in range(256)
)  # every digit as 0: half the time of a regex
_LONG_NUMBER: Final = b"0" * 19  # this many digits may be an integer beyond 64 bits
_TOKEN: Final = re.compile(
    r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[][{},]', re.DOTALL
)  # strings are found so that they are skipped
_DEEPEST: Final = 32  # levels; more are written unchanged
_DOUBTFUL: Final = 16  # pairs of levels; of more, some may be deeper than that
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_CLOSERS: Final = {"{": "}", "[": "]"}
# Stands for an Exactly while the rest is written: no text has it by chance.
_STANDS_IN: Final = f"exactly {token_hex(16)}"
_STOOD_IN: Final = re.compile(f'"{_STANDS_IN}"')
_LINE_SEPARATORS: Final = (("\u0085", b"\\u0085"), ("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"))


class Exactly:
    """A JSON text to be written unchanged: a number that orjson can't read, or a value that is nested deeply."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exactly) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


class Written(Exactly):
    """A JSON text that was written before, to be written again by orjson, so it must have few levels around it."""

    __slots__ = ()


def read(data: bytes) -> Any:
    """Return the value of a JSON text; integers beyond 64 bits may have become floats. Raises: ValueError."""
    if data.count(b"]") + data.count(b"}") >= _DOUBTFUL and is_deep(data):  # seldom: saves a call
        return _read_leniently(data)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _read_leniently(data)


def inspect(data: bytes) -> Any:
    """Return the value of a JSON text that is only looked at: it must not be written. Raises: ValueError."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _read_leniently(data)


def in_utf8(data: bytes) -> bytes:
    """Return a JSON text with U+FFFD for what is not UTF-8, as readers of event streams have it (WHATWG, 9.2.6)."""
    return data if data.isascii() else data.decode("utf-8", "replace").encode()


def read_exactly(data: bytes) -> Any:
    """Return the value of a JSON text, with all digits of its numbers. Raises: ValueError."""
    return _read_leniently(data) if may_lose_digits(data) else read(data)


def read_beginning(text: str) -> Any:
    """Return the value of a JSON text that may have been cut off, without an incomplete last member or item.

    Raises: ValueError.
    """
    closers: list[str] = []  # the brackets that would close the arrays and objects which are open, in reverse
    end = 0  # the last point where no member or item is incomplete
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark == ",":
            end = token.start()
        elif mark in _CLOSERS:
            closers.append(_CLOSERS[mark])
            end = token.end()
        elif mark in "}]":
            del closers[-1:]
            end = token.end()
    closing = "".join(reversed(closers))
    try:
        return _read_text(text + closing)
    except ValueError:
        return _read_text(text[:end] + closing)


def _read_text(text: str) -> Any:
    return read_exactly(text.encode("utf-8", "surrogatepass"))


def is_deep(data: bytes) -> bool:
    """Return whether the values of a JSON text may be nested so deeply that orjson must not write them; True in doubt.

    orjson 3.13.0 writes beyond the end of its buffer when much is written after nested lists have ended: 64 brackets in
    a row, or fewer with a null after each.
    """
    if data.count(b"]") + data.count(b"}") < _DOUBTFUL:
        return False
    brackets = data.translate(None, _NO_BRACKETS)
    for _ in range(_DOUBTFUL):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if not brackets:
            return False
    return True


def may_lose_digits(data: bytes) -> bool:
    """Return whether a JSON text may contain a number that `read` changes."""
    return _LONG_NUMBER in data.translate(_ZEROS)


def written(value: Any) -> bytes:
    """Return a value as compact JSON; characters that some clients treat as line ends are escaped.

    Raises: ValueError.
    """
    try:
        text = orjson.dumps(value, default=_fragment)
    except TypeError:  # an Exactly, an unpaired surrogate, or nested too deeply
        text = _write_leniently(value)
    if text.isascii():
        return text
    for separator, escaped in _LINE_SEPARATORS:
        raw = separator.encode()
        if raw in text:
            text = text.replace(raw, escaped)
    return text


def _fragment(value: Any) -> Any:
    if isinstance(value, Written):
        return orjson.Fragment(value.text)
    raise TypeError


def _read_leniently(data: bytes) -> Any:
    text = data.removeprefix(BOM).decode(errors="replace")  # as event streams are decoded
    if not is_deep(data):
        with contextlib.suppress(RecursionError):
            return json.loads(text, parse_constant=Exactly, parse_int=_integer, strict=False)
    return _read_deep(text)


def _read_deep(text: str) -> Any:
    """Return the value of a JSON text of any depth: what is nested deeper than _DEEPEST is not parsed, but an Exactly.

    In the text that is parsed, a number that does not occur otherwise stands for each such value. Raises: ValueError.
    """
    mark = "1" + 30 * "0"
    while mark in text:
        mark += "0"
    found: dict[str, Exactly] = {}
    pieces, end = [], 0
    for start, stop in _deep_values(text):
        name = f"{mark}{len(found)}"
        found[name] = Exactly(_in_one_line(text[start:stop]))
        pieces += [text[end:start], f" {name} "]  # with spaces, so that it never becomes a part of another token
        end = stop

    def read_integer(digits: str) -> Any:
        return found.get(digits) or _integer(digits)

    shallow = "".join([*pieces, text[end:]])
    try:
        return json.loads(shallow, parse_constant=Exactly, parse_int=read_integer, strict=False)
    except RecursionError as error:  # what is nested has no end
        raise ValueError("the JSON is nested too deeply") from error


def _in_one_line(text: str) -> str:
    """Return a JSON text without line ends, which the data of several lines has between them."""
    if "\n" not in text and "\r" not in text:
        return text
    text = _TOKEN.sub(lambda token: token[0].replace("\n", "\\n").replace("\r", "\\r"), text)  # in strings
    return text.replace("\n", " ").replace("\r", " ")


def _deep_values(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each array or object begins and ends that has _DEEPEST others around it."""
    depth = start = 0
    for token in _TOKEN.finditer(text):
        if token[0] in _CLOSERS:
            depth += 1
            start = token.start() if depth == _DEEPEST + 1 else start
        elif token[0] in "}]":
            if depth == _DEEPEST + 1:
                yield start, token.end()
            depth -= 1


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) < 19 else Exactly(digits)


def _write_leniently(value: Any) -> bytes:
    """Write with the standard library; an Exactly, which may be anywhere, is no Fragment of orjson's: see `is_deep`."""
    exact: list[str] = []

    def stand_in(one: Any) -> str:
        if not isinstance(one, Exactly):
            raise TypeError
        exact.append(one.text)
        return _STANDS_IN

    try:
        text = json.dumps(value, separators=(",", ":"), default=stand_in, ensure_ascii=False)
        if not _is_unicode(text):
            exact.clear()
            text = json.dumps(value, separators=(",", ":"), default=stand_in)
    except (RecursionError, TypeError) as error:
        raise ValueError("the JSON is nested too deeply") from error
    pieces = _STOOD_IN.split(text)
    if len(pieces) != len(exact) + 1:
        raise ValueError("the JSON has a text that stands for something else")
    whole = [part for pair in zip(pieces, [*exact, ""], strict=True) for part in pair]
    return "".join(whole).encode()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
