"""The increments in the events of a response, and the finished response, which the last of them contains.

An event is of a delta, which may be merged with its neighbours of the same channel, or of what a client's own
accumulator needs: a response, an item or a part that begins or ends. These stay as they came, and where.
"""

from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects.documents.delta import channel as common
from proxy.dialects.documents.delta import json_object, record, records
from proxy.dialects.documents.increment import Assembler, Channel, Increment, Kind, Statement
from proxy.wire import json_text
from proxy.wire.json_members import members
from proxy.wire.sse import BOM, payload

_PREFIX, _DELTA = "response.", ".delta"
_ANSWER: Final = "output_text"
_SOUNDS: Final = "audio"  # base64, each piece of which must be decoded by itself
_VARIES: Final = frozenset(["sequence_number", "delta", "obfuscation"])  # differ in events that are alike
_PLACES: Final[tuple[str, ...]] = ("content_index", "summary_index")
_OPENS_JSON: Final[tuple[bytes, ...]] = (b"{", BOM + b"{")
_ADDED, _DONE = "response.output_item.added", "response.output_item.done"
_TEXT_DONE: Final = "response.output_text.done"
_ENDED: Final[tuple[str, ...]] = ("response.completed", "response.incomplete", "response.done")
_CALLS: Final = {  # of tools that the client runs, by type of item: the channel of their text, and its key in the item
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
}
_WHOLE: Final = {  # other items that have texts: the channels of these, and where they are in the item
    "message": ((_ANSWER, "content"),),
    "reasoning": (("reasoning_summary_text", "summary"), ("reasoning_text", "content")),
}
_RETOLD: Final = {  # channels of calls, and the fields in which chunks tell them; there clients expect functions only
    ("function_call", "id"): "id",
    ("function_call", "name"): "name",
    ("function_call_arguments", ""): "arguments",
    ("custom_tool_call", "id"): "id",
    ("custom_tool_call", "name"): "name",
    ("custom_tool_call_input", ""): "arguments",
}
_UNTOLD: Final = b'{"object":"response","status":"queued","output":[]}'


class ResponseIncrement:
    """The Increment of one event: its delta."""

    __slots__ = ("_event", "alike", "alone", "altered", "parts", "texts", "whole")

    def __init__(self, event: dict[str, Any], texts: list[tuple[Channel, str]], *, alone: bool) -> None:
        self._event = event
        self.texts = texts
        self.parts: tuple[int, ...] = (texts[0][0].part,)
        self.alike: Any = {key: value for key, value in event.items() if key not in _VARIES and _is_plain(value)}
        self.alone = alone
        self.altered = False
        self.whole = False

    def put(self, channel: Channel, text: str) -> None:
        self._event["delta"] = text

    def keep_only(self, group: tuple[int, str, int]) -> None:
        """Do nothing: an event that may be merged has one channel."""

    def data(self) -> bytes:
        return json_text.written(self._event)


class ResponseAssembler:
    """The Assembler of one response."""

    __slots__ = ("_named", "_snapshot", "_statements", "_told", "unread")

    def __init__(self) -> None:
        self.unread = 0
        self._snapshot: bytes | None = None  # the data of the last event with a response
        self._told: set[int] = set()  # items of which texts have come
        self._named: set[int] = set()  # items whose names have come
        self._statements: dict[int, list[tuple[Channel, str]]] = {}  # by frame: what it says of an item beside deltas

    def take(self, frame: bytes, seq: int) -> Increment | None:
        data = payload(frame)
        event = json_object(data or b"")
        if not event:
            if not self.unread and _is_unreadable(frame if data is None else data):
                self.unread = seq
            return None
        if isinstance(event.get("response"), dict):
            self._snapshot = data
        increment = _delta(data or b"", event)
        if increment is not None:
            (channel, text), *_ = increment.texts
            if text:
                self._told.add(channel.part)
        elif statement := self._stated(event):
            self._statements[seq] = statement
            return Statement(data or b"", statement)
        return increment

    def read(self, frame: bytes, seq: int) -> Increment | None:
        data = payload(frame) or b""
        if statement := self._statements.get(seq):
            return Statement(data, statement)
        return _delta(data, json_object(data))

    def document(self, texts: dict[Channel, str]) -> bytes:
        """Return the last snapshot as it came: the finished response, or what was said of it so far."""
        if self._snapshot is None:
            return _UNTOLD
        event = members(self._snapshot)
        response = None if event is None else event.text("response")
        if response is None:
            raise ValueError("the event with the response is nested too deeply")
        return json_text.in_utf8(response)

    def _stated(self, event: dict[str, Any]) -> list[tuple[Channel, str]]:
        """Return what an event says that no delta does: the name of a call, and texts that come whole."""
        kind = event.get("type")
        if kind in (_ADDED, _DONE):
            return self._of_item(record(event.get("item")), _part(event), ended=kind == _DONE)
        if kind == _TEXT_DONE:
            return self._untold([(Channel(_part(event), _ANSWER, 0), event.get("text"))])
        if kind in _ENDED and not self._told and not self._named:  # it says all, and nothing was said before
            items = enumerate(records(record(event.get("response")).get("output")))
            return [said for part, item in items for said in self._of_item(item, part, ended=True)]
        return []

    def _of_item(self, item: dict[str, Any], part: int, *, ended: bool) -> list[tuple[Channel, str]]:
        names = [] if part in self._named else _names(item, part)
        if names:
            self._named.add(part)
        return [*names, *self._untold(_texts(item, part))] if ended else names

    def _untold(self, texts: list[tuple[Channel, Any]]) -> list[tuple[Channel, str]]:
        """Return the texts of a part, unless some of them were told before; from now on, they are."""
        said = [(channel, text) for channel, text in texts if isinstance(text, str) and text]
        if any(channel.part in self._told for channel, _ in said):
            return []
        self._told.update(channel.part for channel, _ in said)
        return said


class ResponseDocuments:
    """The increments of a response. No event of it has the full text so far."""

    cumulative = False
    has_cumulative = False
    has_answer = True
    has_document = True
    chunks = False
    finish_reasons: Mapping[str, str] = {}

    def assembler(self) -> Assembler:
        return ResponseAssembler()

    def answers(self, channel: Channel) -> bool:
        return channel.name == _ANSWER

    def in_chat(self, channel: Channel) -> Channel | None:
        if channel.name == _ANSWER:
            return common(0)
        if channel.name == "refusal":
            return common(0, "refusal")
        if channel.name.startswith("reasoning"):
            return common(0, "reasoning_content")
        field = _RETOLD.get((channel.name, channel.field))
        return common(0, "tool_calls", channel.part, field) if field else None


def _delta(data: bytes, event: dict[str, Any]) -> ResponseIncrement | None:
    """Return the increment of an event of a delta."""
    name, text = event.get("type"), event.get("delta")
    if not isinstance(text, str) or not isinstance(name, str) or not name.endswith(_DELTA):
        return None
    name = name.removeprefix(_PREFIX).removesuffix(_DELTA)
    if name == _SOUNDS:
        return None
    place = next((event[key] for key in _PLACES if type(event.get(key)) is int), 0)
    # One that has more in it (logprobs, as a rule), or whose numbers are not certain to be written again as they were.
    alone = not all(map(_is_plain, event.values())) or json_text.may_lose_digits(data)
    return ResponseIncrement(event, [(Channel(_part(event), name, place), text)], alone=alone)


def _names(item: dict[str, Any], part: int) -> list[tuple[Channel, str]]:
    """Return the id and the name of an item that is a call of a tool of the client's."""
    kind = item.get("type")
    if kind not in _CALLS:
        return []
    found = {"id": item.get("call_id") or item.get("id"), "name": item.get("name")}
    return [(Channel(part, kind, -1, key, Kind.LABEL), text) for key, text in found.items() if isinstance(text, str)]


def _texts(item: dict[str, Any], part: int) -> list[tuple[Channel, Any]]:
    """Return the texts of a finished message or of finished reasoning, or that of a finished call."""
    name, key = _CALLS.get(str(item.get("type")), ("", ""))
    if name and isinstance(text := item.get(key), str) and text:
        return [(Channel(part, name, 0), text)]
    return [
        (Channel(part, channel, place), told.get("text"))
        for channel, key in _WHOLE.get(str(item.get("type")), ())
        for place, told in enumerate(records(item.get(key)))
    ]


def _is_unreadable(data: bytes) -> bool:
    """Return whether bytes look like an event's data and can't be read."""
    if not data.startswith(_OPENS_JSON):
        return False
    try:
        return not isinstance(json_text.read(data), dict)
    except ValueError:
        return True


def _is_plain(value: Any) -> bool:
    """Return whether a JSON value has no others in it."""
    return not (value and isinstance(value, dict | list))


def _part(event: dict[str, Any]) -> int:
    index = event.get("output_index")
    return index if type(index) is int else 0
