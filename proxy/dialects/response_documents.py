"""The increments in the events of a response, and the finished response, which the last of them contains.

An event is of a delta, which may be merged with its neighbours of the same channel, or of what a client's own
accumulator needs: a response, an item or a part that begins or ends. These stay as they came, and where.
"""

from typing import Any

from proxy.dialects.delta import json_object, record, records
from proxy.dialects.increment import Assembler, Channel
from proxy.wire import json_text
from proxy.wire.json_members import members
from proxy.wire.sse import BOM, payload

_PREFIX, _DELTA = "response.", ".delta"
_ANSWER = "output_text"
_SOUNDS = "audio"  # base64, each piece of which must be decoded by itself
_VARIES = frozenset(["sequence_number", "delta", "obfuscation"])  # differ in events that are alike
_PLACES = ("content_index", "summary_index")
_OPENS_JSON = (b"{", BOM + b"{")
_UNTOLD = b'{"object":"response","status":"queued","output":[]}'


class ResponseIncrement:
    """The Increment of one event: its delta, or the texts of a message of which there was no delta."""

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

    __slots__ = ("_snapshot", "_told", "_whole", "unread")

    def __init__(self) -> None:
        self.unread = 0
        self._snapshot: bytes | None = None  # the data of the last event with a response
        self._told: set[tuple[int, int]] = set()  # texts of messages of which deltas have come
        self._whole: set[int] = set()  # frames with texts of messages of which none have

    def take(self, frame: bytes, seq: int) -> ResponseIncrement | None:
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
            (channel, _), *_ = increment.texts
            self._told.add((channel.part, channel.place))
        elif event.get("type") == "response.output_item.done":
            increment = self._message(event)
            if increment is not None:
                self._whole.add(seq)
        return increment

    def read(self, frame: bytes, seq: int) -> ResponseIncrement | None:
        data = payload(frame) or b""
        event = json_object(data)
        if seq in self._whole:
            return ResponseIncrement(event, _texts(event), alone=True)
        return _delta(data, event)

    def document(self, texts: dict[Channel, str]) -> bytes:
        """Return the last snapshot as it came: the finished response, or what was said of it so far."""
        if self._snapshot is None:
            return _UNTOLD
        event = members(self._snapshot)
        response = None if event is None else event.text("response")
        if response is None:
            raise ValueError("the event with the response is nested too deeply")
        return response

    def _message(self, event: dict[str, Any]) -> ResponseIncrement | None:
        """Return the increment of a message that comes whole."""
        texts = _texts(event)
        if not texts or any((channel.part, channel.place) in self._told for channel, _ in texts):
            return None
        return ResponseIncrement(event, texts, alone=True)


class ResponseDocuments:
    """The increments of a response. No event of it has the full text so far."""

    cumulative = False
    states = False

    def assembler(self) -> Assembler:
        return ResponseAssembler()

    def answers(self, channel: Channel) -> bool:
        return channel.name == _ANSWER


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


def _texts(event: dict[str, Any]) -> list[tuple[Channel, str]]:
    """Return the texts of a finished message."""
    item, part = record(event.get("item")), _part(event)
    return [
        (Channel(part, _ANSWER, place), content["text"])
        for place, content in enumerate(records(item.get("content")))
        if item.get("type") == "message" and isinstance(content.get("text"), str) and content["text"]
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
