"""Messages that consist of content blocks, as Anthropic streams them: one event's increment, and the finished message.

Texts come as deltas of blocks; whatever else a message has comes in the events that start it, start a block, or end it.
Knows nothing of errors, tokens and endings.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from proxy.dialects.documents.delta import channel as common
from proxy.dialects.documents.delta import index_of, record, records
from proxy.dialects.documents.increment import Channel, Increment, Kind, Statement
from proxy.wire import json_text
from proxy.wire.sse import fields, payload

START, BLOCK, DELTA, MESSAGE = "message_start", "content_block_start", "content_block_delta", "message_delta"
STOP: Final = "content_block_stop"
"""The types of the events with a part of the message."""
TEXTS: Final = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
}
"""The fields of deltas that have text, by type of delta."""
_INPUT: Final = "partial_json"
_CALL: Final = "tool_use"
"""The type of blocks that call a tool of the client's; others call tools that the upstream runs."""
_RETOLD: Final = {  # channels, and in which ones chunks tell them
    ("text", ""): ("content", ""),
    ("thinking", ""): ("reasoning_content", ""),
    (_INPUT, ""): ("tool_calls", "arguments"),
    (_CALL, "id"): ("tool_calls", "id"),
    (_CALL, "name"): ("tool_calls", "name"),
}
_WHOLE: Final[tuple[str, ...]] = ("text", "thinking")
"""The fields of blocks that have text."""
# Members of message_delta that are no members of the message.
_NOT_OF_MESSAGES: Final[tuple[str, ...]] = ("type", "delta", "usage")
_BLANK: Final[dict[str, Any]] = {"type": "message", "role": "assistant"}


class BlockIncrement:
    """The Increment of an event that adds text to a block: a delta, or the start of a block that has text already."""

    __slots__ = ("_event", "_holder", "_key", "alike", "alone", "altered", "parts", "texts", "whole")

    def __init__(self, event: dict[str, Any], holder: dict[str, Any], key: str, *, alone: bool = False) -> None:
        """`holder` is the object in the event that has the text, under `key`."""
        index = _index(event)
        self._event = event
        self._holder = holder
        self._key = key
        self.texts = [(_channel(index, key), str(holder[key]))]
        self.parts: tuple[int, ...] = (index,)
        # As text: it is compared at any depth, and what is nested too deeply to be written is refused here.
        self.alike: Any = json_text.written({**event, "delta": {**holder, key: None}})
        self.alone = alone
        self.altered = self.whole = False

    def put(self, channel: Channel, text: str) -> None:
        self._holder[self._key] = text

    def keep_only(self, group: tuple[int, str, int]) -> None:
        """Do nothing: it has only one text."""

    def data(self) -> bytes:
        return json_text.written(self._event)


class MessageAssembler:
    """The Assembler of a message: adds events up as Anthropic's own clients do."""

    __slots__ = ("_blocks", "_message", "_statements", "_told", "unread")

    def __init__(self) -> None:
        self.unread = 0
        self._statements: dict[int, list[tuple[Channel, str]]] = {}  # by frame: what it says of a call
        self._told: set[int] = set()  # blocks whose input came in deltas, or was stated
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}  # as they started, and what deltas said that is no text

    def take(self, frame: bytes, seq: int) -> Increment | None:
        try:
            kind, event = read_event(frame)
            self._note(kind, event)
            increment = _increment(kind, event)
            if increment is None and (statement := self._stated(kind, event)):
                self._statements[seq] = statement
                return Statement(payload(frame) or b"", statement)
            return increment
        except (ValueError, RecursionError):
            self.unread = self.unread or seq
            return None

    def read(self, frame: bytes, seq: int) -> Increment | None:
        if statement := self._statements.get(seq):
            return Statement(payload(frame) or b"", statement)
        try:
            return _increment(*read_event(frame))
        except (ValueError, RecursionError):
            return None

    def document(self, texts: dict[Channel, str]) -> bytes:
        blocks = {index: dict(block) for index, block in self._blocks.items()}
        for channel, text in texts.items():
            if channel.kind is not Kind.TEXT or channel.field:
                continue  # what blocks said as they started
            block = blocks.setdefault(channel.part, {"type": "tool_use" if channel.name == _INPUT else channel.name})
            if channel.name != _INPUT:
                block[channel.name] = text
            elif text:
                block["input"] = json_text.read_beginning(text)
        content = [blocks[index] for index in sorted(blocks)]
        return json_text.written({**(self._message or _BLANK), "content": content})

    def _stated(self, kind: str, event: dict[str, Any]) -> list[tuple[Channel, str]]:
        """Return what an event says beside deltas: of a call its id and name, its input, and texts that came whole."""
        if kind == START and not self._blocks:  # nor has it any, as a rule
            self._blocks = dict(enumerate(map(dict, records(self._message.get("content")))))
            known = self._blocks.items()
            return [(_channel(index, key), block[key]) for index, block in known for key in _WHOLE if _says(block, key)]
        if kind == BLOCK and (block := _object(event, "content_block")).get("type") == _CALL:
            index = _index(event)
            found = [(Channel(index, _CALL, -1, key, Kind.LABEL), block.get(key)) for key in ("id", "name")]
            return [(channel, text) for channel, text in found if isinstance(text, str)]
        if kind == STOP and (index := _index(event)) not in self._told:
            self._told.add(index)
            block = self._blocks.get(index, {})
            if block.get("type") == _CALL and block.get("input"):
                text = json_text.written(block["input"]).decode()
                return [(Channel(index, _INPUT, -1, "whole"), text)]
        return []

    def _note(self, kind: str, event: dict[str, Any]) -> None:
        """Record what an event says besides text. Raises: ValueError."""
        if kind == START:
            self._message = dict(_object(event, "message"))
        elif kind == BLOCK:
            self._blocks[_index(event)] = dict(_object(event, "content_block"))
        elif kind == DELTA:
            self._note_delta(_index(event), _object(event, "delta"))
        elif kind == MESSAGE:
            beside = {key: value for key, value in event.items() if key not in _NOT_OF_MESSAGES}
            _update(self._message, beside | _object(event, "delta"))
            if usage := record(event.get("usage")):
                known = self._message["usage"] = dict(record(self._message.get("usage")))
                _update(known, usage)

    def _note_delta(self, index: int, delta: dict[str, Any]) -> None:
        if delta.get(_INPUT):
            self._told.add(index)
        if delta.get("type") == "signature_delta":
            self._blocks.setdefault(index, {"type": "thinking"})["signature"] = delta.get("signature")
        elif delta.get("type") == "citations_delta":
            block = self._blocks.setdefault(index, {"type": "text"})
            if not isinstance(block.get("citations"), list):
                block["citations"] = []
            block["citations"].append(delta.get("citation"))


def read_event(frame: bytes) -> tuple[str, dict[str, Any]]:
    """Return a frame's event and its type; {} for a frame without an object, such as a comment or [DONE].

    Raises: ValueError, if there is an object that can't be read.
    """
    data = payload(frame)
    if data is None:
        if frame.startswith(b"{"):  # a line without a field name
            raise ValueError("JSON in place of an event")
        return "", {}
    if not data.lstrip().startswith(b"{"):
        return event_field(frame), {}
    event: dict[str, Any] = json_text.read_exactly(data)
    kind = event.get("type")
    return (kind if isinstance(kind, str) else event_field(frame)), event


def event_field(frame: bytes) -> str:
    """Return the event field of a frame."""
    return fields(frame).type.decode(errors="replace")


def _increment(kind: str, event: dict[str, Any]) -> BlockIncrement | None:
    """Return the text that an event adds; None if it has none that may be rewritten. Raises: ValueError."""
    if kind == DELTA:
        delta = _object(event, "delta")
        key = TEXTS.get(str(delta.get("type")))
        if key is None:
            return None
        if not isinstance(delta.get(key), str):
            raise ValueError(f"a delta without {key}")
        return BlockIncrement(event, delta, key)
    if kind == BLOCK:
        block = _object(event, "content_block")
        for key in _WHOLE:
            if _says(block, key):
                return BlockIncrement(event, block, key, alone=True)
    return None


def _says(block: dict[str, Any], key: str) -> bool:
    """Return whether a block has a text under a key."""
    return bool(block.get(key)) and isinstance(block[key], str)


def _object(event: dict[str, Any], name: str) -> dict[str, Any]:
    value = event.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"an event without {name}")
    return value


def _index(event: dict[str, Any]) -> int:
    index = index_of(event)
    if index is None:
        raise ValueError("an event of a block without its index")
    return index


def _update(known: dict[str, Any], stated: dict[str, Any]) -> None:
    """Replace the values that are stated; null replaces nothing."""
    for key, value in stated.items():
        if value is not None or key not in known:
            known[key] = value


@lru_cache(maxsize=1024)
def _channel(index: int, key: str) -> Channel:
    return Channel(index, key)


class BlockDocuments:
    """The texts that events add to blocks, and the finished message. Every text is an increment."""

    cumulative = False
    has_cumulative = False
    has_answer = True
    has_document = True
    chunks = False
    finish_reasons: Mapping[str, str] = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "pause_turn": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
    }

    def assembler(self) -> MessageAssembler:
        return MessageAssembler()

    def answers(self, channel: Channel) -> bool:
        return channel.name == "text"

    def in_chat(self, channel: Channel) -> Channel | None:
        name, field = _RETOLD.get((channel.name, channel.field.replace("whole", "")), ("", ""))
        if not name:
            return None
        return common(0, name, channel.part, field) if field else common(0, name)
