"""Which requests may be sent with the proxy's own upstream key: only those that the table of APIs lists.

And of their bodies, those that refer to no file; and of the messages of a session, those about its own tasks.

The key gives access to more: to files, batches and tasks, whose owners the proxy doesn't know; to deployments; and to
temporary keys that work without the proxy.
"""

import re
from collections.abc import Iterable
from typing import Final

from proxy.dialects import table
from proxy.dialects.documents.delta import json_object, record
from proxy.wire.errors import FileNotAllowed, PathNotAllowed, TaskNotAllowed, UnsupportedMediaType

_CHARSET: Final = re.compile(r"charset[^=;]*=\s*\"?([^\s;,\"]*)", re.IGNORECASE)
_READABLE: Final = frozenset(["utf-8", "utf8", "us-ascii", "iso-8859-1"])  # all say in ASCII what is looked for here

# No escapes, no empty segments or dot segments, no path parameters: servers may interpret these differently.
SEGMENT: Final = r"(?!\.\.?(?:/|$))[A-Za-z0-9._~:@+,=-]+"
# White space of Unicode in a text, as bytes or escaped: whoever reads a reference may strip it, as `str.strip` does.
_BLANKS: Final = (
    rb"(?:\\[nrtfb]|\\u(?:00(?:09|0[a-d]|1[c-f]|20|85|a0)|1680|20(?:0[0-9a-f]|2[89f]|5f|60)|3000|feff)"
    rb"|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8f\xa8\xa9\xaf]|\xe2\x81[\x9f\xa0]|\xe3\x80\x80|\xef\xbb\xbf)*"
)
# What may be referred to only where a path is allowed at which its owner could reach it, and how a body without white
# space refers to it. Each follows a quotation mark: a text that begins so, or a member that has an id or a list of
# them. Not what is quoted within a text, where the quotation mark is escaped; nor another value under the same name,
# which tools of the client may have. A list that is too long to be looked through counts as one that has such an id.
_REFERENCES: Final = {
    # A system message, by which some models read a file of the key's account; parts of type input_file or document.
    "/v1/files/": _BLANKS + rb"""fileid:(?:\\?/){2}|[a-z_]{0,40}file_?ids?":(?:\[?|\[[^\[\]{}]{0,200})"file[-_]"""
    rb"""|[a-z_]{0,40}file_?ids?":\[[^\[\]{}]{200}""",
    "/v1/vector_stores/": rb"""vector_?store_?ids?":\[?\"""",
    "/api/v1/uploads": _BLANKS + rb"""oss:(?:\\?/){2}""",
}
_HOW: Final = "fileid://, file_id, vector_store_ids, oss://"
_BEGINS, _MOST_TASKS = "run-task", 10_000  # of one session
_WHITE_SPACE: Final = b" \t\r\n"
_LOOKED_AT_AGAIN_BYTES: Final = 2048  # of the pieces before: more than any reference has, all of it escaped
_ESCAPED: Final = re.compile(rb"\\u00(2[dDfF]|3[aA]|[46][0-9A-Fa-f]|[57][0-9aAfF])")  # letters, and - / : _


class AllowedPaths:
    """The requests that may be sent with the proxy's own key: those in the table, and any method at the `added` paths.

    An added path that ends with a slash allows everything below it. A path below an API's first prefix also allows
    the same path below its other prefixes: /v1/ those of /compatible-mode/v1/.
    """

    def __init__(self, added: Iterable[str]) -> None:
        self._always = _any(added)
        refused = b"|".join(how for path, how in _REFERENCES.items() if not self._lends(path))
        self._refused = re.compile(rb"""(?<!\\)"(?:%b)""" % refused, re.IGNORECASE) if refused else None
        self._by_method = {method: _any(paths) for method, paths in table.lent().items()}

    def _lends(self, path: str) -> bool:
        """Return whether a path is allowed, or those below it."""
        return bool(self._always.fullmatch(path.rstrip("/")) or self._always.fullmatch(f"{path.rstrip('/')}/a"))

    def looks_into(self, path: str) -> bool:
        """Return whether the bodies at a path that is allowed are checked: those of added paths may be anything."""
        return not self._always.fullmatch(path)

    def check(self, method: str, path: str) -> None:
        """Check a path, as the client wrote it. Raises: PathNotAllowed, if it is not listed for the method."""
        listed = self._by_method.get(method)
        if not (listed and listed.fullmatch(path)) and not self._always.fullmatch(path):
            raise PathNotAllowed(
                f"{method} {path[:100]} may not be requested with the key of this proxy; the setting upstream.paths"
                " can allow it, unless the path has escapes, empty segments or dot segments"
            )

    def check_coding(self, codings: Iterable[str], types: Iterable[str]) -> None:
        """Check that a body can be looked into, by its values of Content-Encoding and Content-Type.

        Raises: UnsupportedMediaType, for other codings and character sets.
        """
        coding = ", ".join(codings).strip().lower()
        if coding not in ("", "identity"):
            raise UnsupportedMediaType(
                f"a body that is sent with the key of this proxy must not be compressed, as by {coding[:100]!r}"
            )
        for charset in _CHARSET.findall(", ".join(types)):
            if charset.lower() not in _READABLE:
                raise UnsupportedMediaType(
                    f"a body that is sent with the key of this proxy must be in UTF-8, not in {charset[:100]!r}"
                )

    def body_check(self) -> "BodyCheck":
        """Return what checks one body, which may come in pieces."""
        return BodyCheck(self._refused)

    def check_body(self, body: bytes) -> None:
        """Check a complete body. Raises: as BodyCheck.check."""
        self.body_check().check(body)


class BodyCheck:
    """Looks in one body for references to files, and stores of files, that nobody may refer to with the proxy's key."""

    __slots__ = ("_before", "_refused")

    def __init__(self, refused: re.Pattern[bytes] | None) -> None:
        """`refused` matches the references; None: all are allowed."""
        self._refused = refused
        self._before = b""

    def check(self, piece: bytes) -> None:
        """Check the next piece of the body, together with the end of those before.

        Raises: FileNotAllowed, if it refers to a file, or a store of files; UnsupportedMediaType, if it is no text in
        UTF-8, as JSON in UTF-16 is, which some servers read.
        """
        if self._refused is None:
            return
        seen = self._before + piece.translate(None, _WHITE_SPACE)
        self._before = seen[-_LOOKED_AT_AGAIN_BYTES:]
        if b"\\u00" in seen:
            seen = _ESCAPED.sub(lambda escape: bytes.fromhex(escape[1].decode()), seen)
        if b"\0" in seen:
            raise UnsupportedMediaType("a body that is sent with the key of this proxy must be in UTF-8, without NUL")
        if self._refused.search(seen):
            raise FileNotAllowed(
                f"a file may not be referred to ({_HOW}) with the key of this proxy, which can't tell whose it is; the"
                f" setting upstream.paths can allow it, with {', '.join(_REFERENCES)}"
            )


class AllowedMessages:
    """What the client of one WebSocket session may send with the proxy's own key: no more than a body may have.

    And of the tasks of the key's account it may name only those that it has begun on the same WebSocket.
    """

    def __init__(self, allowed: AllowedPaths) -> None:
        self._allowed = allowed
        self._tasks: set[str] = set()

    def check(self, text: bytes) -> None:
        """Check a text message. Raises: as BodyCheck.check; TaskNotAllowed."""
        self._allowed.check_body(text)
        header = record(json_object(text).get("header"))
        task = header.get("task_id")
        if task is None:
            return
        if header.get("action") == _BEGINS and isinstance(task, str) and len(self._tasks) < _MOST_TASKS:
            self._tasks.add(task)
        elif not isinstance(task, str) or task not in self._tasks:
            raise TaskNotAllowed(
                f"a session with the key of this proxy may name only the tasks that it began, {_MOST_TASKS} at most"
            )


def _any(paths: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of these paths; without paths, one that matches nothing."""
    return re.compile("|".join(map(_pattern, paths)) or r"(?!)")


def _pattern(path: str) -> str:
    """Return a pattern for a path, in which {} stands for any segment, and a slash at the end for all paths below."""
    patterns = [re.sub(r"\\\{\w*\\\}", lambda _: SEGMENT, re.escape(one)) for one in table.spellings(path)]
    return f"(?:{'|'.join(patterns)})" + (f"(?:{SEGMENT}/)*(?:{SEGMENT})?" if path.endswith("/") else "")
