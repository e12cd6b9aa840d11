"""Which tool call each fragment in a stream of choices belongs to: servers number and name them in different ways."""

from typing import Any

from proxy.dialects.documents.delta import index_of, record
from proxy.wire import json_text


class Calls:
    """Finds out which tool call each fragment belongs to.

    The index decides; the id does if there is no index, or if the index belongs to a call with another id. A fragment
    with another id but without a name continues the call, since some servers make up an id for each. Without ids, a
    name begins another call if what the last one has is a whole JSON object, which further arguments can't continue.
    """

    __slots__ = ("_by_id", "_by_index", "_called", "_ids", "_last")

    def __init__(self) -> None:
        self._by_index: dict[int, int] = {}  # the latest call with each index
        self._by_id: dict[str, int] = {}
        self._ids: dict[int, str] = {}
        self._last = 0
        self._called: dict[int, tuple[str, str]] = {}  # the name and the arguments of calls without an id

    def number(self, calls: list[tuple[int, dict[str, Any]]]) -> list[int]:
        """Return the numbers of the calls that the fragments of a frame belong to."""
        return [self._number(fragment, place, len(calls)) for place, (_, fragment) in enumerate(calls)]

    def _number(self, fragment: dict[str, Any], place: int, among: int) -> int:
        ident, at = fragment.get("id"), index_of(fragment)
        name = ident if isinstance(ident, str) and ident else None
        if name is None and at is None:
            known = self._by_index.get(place) if among > 1 else self._last if self._ids else None
            at = place
        elif name is None:
            known = self._by_index.get(at or 0)
        elif at is None:
            known = self._by_id.get(name)
        else:
            known = self._by_index.get(at)
            if known is not None and self._ids[known] not in ("", name):
                known = self._by_id.get(name, known if _only_continues(fragment) else None)
        if known is not None and name is None and self._is_whole_before(known, fragment):
            known = None
        if known is None:
            wanted = len(self._ids) if at is None else at
            known = wanted if wanted not in self._ids else max(self._ids) + 1
            self._ids[known] = name or ""
        elif name is not None:
            self._ids[known] = name
        if name is not None:
            self._by_id[name] = known
        self._by_index[known if at is None else at] = known
        self._last = known
        if not self._ids[known]:
            self._note_called(known, fragment)
        return known

    def _is_whole_before(self, known: int, fragment: dict[str, Any]) -> bool:
        """Return whether a call is whole, and a fragment without an id is the beginning of another one."""
        name, arguments = _told(fragment)
        known_name, known_arguments = self._called.get(known, ("", ""))
        if (
            not name
            or (name, arguments) in ((known_name, ""), (known_name, known_arguments))
            or not known_arguments.endswith("}")
        ):
            return False
        try:
            return isinstance(json_text.read(known_arguments.encode("utf-8", "surrogatepass")), dict)
        except ValueError:
            return False

    def _note_called(self, known: int, fragment: dict[str, Any]) -> None:
        name, arguments = _told(fragment)
        known_name, known_arguments = self._called.get(known, ("", ""))
        self._called[known] = (known_name or name, known_arguments + arguments)


def _told(fragment: dict[str, Any]) -> tuple[str, str]:
    """Return the name and the arguments in a fragment of a call of a function."""
    function = record(fragment.get("function"))
    name, arguments = function.get("name"), function.get("arguments")
    if isinstance(arguments, dict):
        arguments = json_text.written(arguments).decode()
    return name if isinstance(name, str) else "", arguments if isinstance(arguments, str) else ""


def _only_continues(fragment: dict[str, Any]) -> bool:
    """Return whether a fragment has arguments of a call, but no name."""
    name, arguments = _told(fragment)
    return bool(arguments) and not name
