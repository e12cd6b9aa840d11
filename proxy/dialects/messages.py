"""The dialect of Anthropic's Messages, which Qwen's hosts serve, too: events with types, for a message in blocks.

    event: message_start        {"type":"message_start","message":{"id","model","content":[],"usage"}}
    event: content_block_start  {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}
    event: content_block_delta  {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}
    event: content_block_stop   {"type":"content_block_stop","index":0}
    event: message_delta        {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}
    event: message_stop         {"type":"message_stop"}

A ping may come anywhere, even before message_start and after message_stop. The type of an event is that in its data, or
else its event field; Anthropic's SDKs skip events without that field, errors included.
Sources: Anthropic, "Streaming Messages" and "Errors"; Model Studio, "Anthropic-compatible Messages".
"""

from functools import lru_cache
from typing import Any

import orjson

from proxy.dialects.delta import record
from proxy.dialects.dialect import Dialect, Reader, TextKind, model_of
from proxy.dialects.error_codes import TYPES_OF_STATUSES
from proxy.dialects.failure import FOREIGN, failure, foreign
from proxy.dialects.increment import Channel
from proxy.dialects.reader import LearningReader, read_usage
from proxy.wire import json_text
from proxy.wire.errors import ProxyError
from proxy.wire.http import RawHeaders
from proxy.wire.json_members import members
from proxy.wire.sse import fields, payload

_START, _BLOCK, _DELTA, _STOP = "message_start", "content_block_start", "content_block_delta", "content_block_stop"
_MESSAGE, _END, _PING = "message_delta", "message_stop", "ping"
_EVENTS = frozenset([_START, _BLOCK, _DELTA, _STOP, _MESSAGE, _END, _PING])
_TEXTS = {  # by type of delta: its field with the text
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
}
_KINDS = {"text": TextKind.CONTENT, "thinking": TextKind.REASONING, "partial_json": TextKind.TOOL_CALL}
_INPUT = "partial_json"
_CALLS = "tool_use"  # ends the types of blocks whose name and input are generated, such as server_tool_use
_NOT_OF_MESSAGES = ("type", "delta", "usage")  # members of message_delta that are no members of the message
_BLANK: dict[str, Any] = {"type": "message", "role": "assistant"}


class MessagesRequests:
    """What requests for messages contain."""

    names_model = True
    reads_body = False

    def model(self, body: bytes) -> str | None:
        return model_of(body)

    def asks_stream(self, headers: RawHeaders) -> bool:
        return False

    def as_stream(self, headers: RawHeaders, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        asked = members(body)
        if asked is None or not (asked.get("stream") is None or asked.get("stream") is False):
            return None
        rewritten = asked.put({"stream": b"true"})
        return None if rewritten is None else (list(headers), rewritten)

    def with_usage(self, body: bytes) -> bytes | None:
        return None  # usage is in every stream

    def asks_cumulative(self, body: bytes) -> bool | None:
        return None


class MessagesReader(LearningReader):
    """The Reader of the events of one message. Only message_stop ends it: without that, it was cut off."""

    __slots__ = ("_stated",)

    def __init__(self) -> None:
        super().__init__()
        self._stated: dict[str, Any] = {}  # the last value of each field of usage

    @property
    def finished(self) -> bool:
        return self.ended

    def note(self, frame: bytes) -> TextKind | None:
        try:
            kind, event = _read(frame)
        except ValueError:
            kind, event = _field(frame), {}
        named = b"error" in frame and fields(frame).type == b"error"
        if named or kind not in _EVENTS or "error" in event:
            self._note_failure(frame, event, named)
        elif kind == _END:
            self.ended = True
        elif kind != _PING:
            self.brought = True
            return self._note_event(frame, kind, event)
        return None

    def _note_event(self, frame: bytes, kind: str, event: dict[str, Any]) -> TextKind | None:
        if kind == _DELTA:
            return self._note_delta(frame, event)
        if kind == _BLOCK:
            return _generated(record(event.get("content_block")))
        if kind == _START:
            message = record(event.get("message"))
            if isinstance(model := message.get("model"), str):
                self.model = model or None
            self._note_usage(message)
        elif kind == _MESSAGE:
            self._finish(0, record(event.get("delta")).get("stop_reason"))
            self._note_usage(event)
        return None

    def _note_delta(self, frame: bytes, event: dict[str, Any]) -> TextKind | None:
        delta = record(event.get("delta"))
        key = _TEXTS.get(str(delta.get("type")), "")
        text = delta.get(key)
        if not text or not isinstance(text, str):
            return None
        index = event.get("index")
        if type(index) is int and self.failure is None:
            self._learn(frame, key, text, index)
        return _KINDS[key]

    def _note_usage(self, holder: dict[str, Any]) -> None:
        """Record a usage. The one of message_start is an estimate, of which message_delta may repeat only a part."""
        usage = record(holder.get("usage"))
        self._stated |= {key: value for key, value in usage.items() if value is not None}
        self._counted = read_usage(self._stated)

    def _note_failure(self, frame: bytes, event: dict[str, Any], named: bool) -> None:
        data = payload(frame)
        if not named and (data is None or frame.startswith(FOREIGN)):
            self._fail(foreign(frame))
            return
        found = failure(frame, data or b"", event, named=named)
        self._fail(None if found is None else found._replace(recognised=named))

    def _recount(self, frame: bytes) -> None:
        """Do nothing: an event with text has no usage."""


class MessagesFrames:
    """The frames of a message: an event field, and data with the same type."""

    has_text = True

    def reader(self) -> Reader:
        return MessagesReader()

    def only_counts(self, frame: bytes) -> bool:
        return False

    def error_body(self, error: ProxyError) -> dict[str, Any]:
        return _error(_type_of(error.status), error.message, error.code)

    def error_frame(self, message: str, code: str, ident: bytes) -> bytes:
        error = _error(_TYPES_OF_ENDINGS.get(code, "api_error"), message, code)
        return b"event: error\ndata: %b\nid: %b\n\n" % (orjson.dumps(error), ident)


_TYPES_OF_ENDINGS = {
    "rate_limited": "rate_limit_error",
    "overloaded": "overloaded_error",
    "drained": "overloaded_error",
}


def _type_of(status: int) -> str:
    known = TYPES_OF_STATUSES.get(status)
    return known or ("invalid_request_error" if status < 500 else "api_error")


def _error(kind: str, message: str, code: str) -> dict[str, Any]:
    """Return an error in Anthropic's format, with one field more: the proxy's own code."""
    return {"type": "error", "error": {"type": kind, "message": message, "code": code}, "request_id": None}


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
        self.alike: Any = {**event, "delta": {**holder, key: None}}
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

    __slots__ = ("_blocks", "_message", "unread")

    def __init__(self) -> None:
        self.unread = 0
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}  # as they started, and what deltas said that is no text

    def take(self, frame: bytes, seq: int) -> BlockIncrement | None:
        try:
            kind, event = _read(frame)
            self._note(kind, event)
            return _increment(kind, event)
        except (ValueError, RecursionError):
            self.unread = self.unread or seq
            return None

    def read(self, frame: bytes, seq: int) -> BlockIncrement | None:
        try:
            return _increment(*_read(frame))
        except (ValueError, RecursionError):
            return None

    def document(self, texts: dict[Channel, str]) -> bytes:
        blocks = {index: dict(block) for index, block in self._blocks.items()}
        for channel, text in texts.items():
            block = blocks.setdefault(channel.part, {"type": "tool_use" if channel.name == _INPUT else channel.name})
            if channel.name != _INPUT:
                block[channel.name] = text
            elif text:
                block["input"] = json_text.read_beginning(text)
        content = [blocks[index] for index in sorted(blocks)]
        return json_text.written({**(self._message or _BLANK), "content": content})

    def _note(self, kind: str, event: dict[str, Any]) -> None:
        """Record what an event says besides text. Raises: ValueError."""
        if kind == _START:
            self._message = dict(_object(event, "message"))
        elif kind == _BLOCK:
            self._blocks[_index(event)] = dict(_object(event, "content_block"))
        elif kind == _DELTA:
            self._note_delta(_index(event), _object(event, "delta"))
        elif kind == _MESSAGE:
            _update(
                self._message, {key: value for key, value in event.items() if key not in ("type", "delta", "usage")}
            )
            _update(self._message, _object(event, "delta"))
            usage = dict(record(self._message.get("usage")))
            _update(usage, record(event.get("usage")))
            self._message["usage"] = usage

    def _note_delta(self, index: int, delta: dict[str, Any]) -> None:
        if delta.get("type") == "signature_delta":
            self._blocks.setdefault(index, {"type": "thinking"})["signature"] = delta.get("signature")
        elif delta.get("type") == "citations_delta":
            block = self._blocks.setdefault(index, {"type": "text"})
            block["citations"] = [*(block.get("citations") or ()), delta.get("citation")]


def _read(frame: bytes) -> tuple[str, dict[str, Any]]:
    """Return a frame's event and its type; {} for a frame without an object, such as a comment or [DONE].

    Raises: ValueError, if there is an object that can't be read.
    """
    data = payload(frame)
    if data is None:
        if frame.startswith(b"{"):  # a line without a field name
            raise ValueError("JSON in place of an event")
        return "", {}
    if not data.lstrip().startswith(b"{"):
        return _field(frame), {}
    event: dict[str, Any] = json_text.read_exactly(data)
    kind = event.get("type")
    return (kind if isinstance(kind, str) else _field(frame)), event


def _field(frame: bytes) -> str:
    return fields(frame).type.decode(errors="replace")


def _increment(kind: str, event: dict[str, Any]) -> BlockIncrement | None:
    """Return the text that an event adds; None if it has none that may be rewritten. Raises: ValueError."""
    if kind == _DELTA:
        delta = _object(event, "delta")
        key = _TEXTS.get(str(delta.get("type")))
        if key is None:
            return None
        if not isinstance(delta.get(key), str):
            raise ValueError(f"a delta without {key}")
        return BlockIncrement(event, delta, key)
    if kind == _BLOCK:
        block = _object(event, "content_block")
        for key in ("text", "thinking"):
            if block.get(key) and isinstance(block[key], str):
                return BlockIncrement(event, block, key, alone=True)
    return None


def _generated(block: dict[str, Any]) -> TextKind | None:
    """Return the kind of generated text that a block starts with: the name of a tool, or text."""
    if str(block.get("type")).endswith(_CALLS):
        return TextKind.TOOL_CALL
    return next((_KINDS[key] for key in ("text", "thinking") if block.get(key)), None)


def _object(event: dict[str, Any], name: str) -> dict[str, Any]:
    value = event.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"an event without {name}")
    return value


def _index(event: dict[str, Any]) -> int:
    index = event.get("index")
    if type(index) is not int:
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


class MessagesDocuments:
    """The texts that events add to blocks, and the finished message. Every text is an increment."""

    cumulative = False
    states = False

    def assembler(self) -> MessageAssembler:
        return MessageAssembler()

    def answers(self, channel: Channel) -> bool:
        return channel.name == "text"


MESSAGES = Dialect("anthropic", MessagesRequests(), MessagesFrames(), MessagesDocuments())
