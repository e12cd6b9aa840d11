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

from datetime import UTC, datetime
from typing import Any, Final

from proxy.dialects.allowance import Allowance
from proxy.dialects.dialect import Dialect, Reader, StreamedByBody, TextKind
from proxy.dialects.documents.blocks import (
    BLOCK,
    DELTA,
    MESSAGE,
    START,
    STOP,
    TEXTS,
    BlockDocuments,
    event_field,
    read_event,
)
from proxy.dialects.documents.delta import index_of, record
from proxy.dialects.failure import FOREIGN, failure, foreign
from proxy.dialects.question import Asking, Question
from proxy.dialects.reader import LearningReader
from proxy.dialects.usage import Usage, counted, read_usage
from proxy.wire import json_text
from proxy.wire.errors import Overloaded, ProxyError, RateLimited
from proxy.wire.http import Headers, RawHeaders
from proxy.wire.json_members import members
from proxy.wire.sse import COMMENT, fields, payload

_END, _PING = "message_stop", "ping"
_EVENTS: Final = frozenset([START, BLOCK, DELTA, STOP, MESSAGE, _END, _PING])
_KINDS: Final = {"text": TextKind.CONTENT, "thinking": TextKind.REASONING, "partial_json": TextKind.TOOL_CALL}
_CALLS: Final = "tool_use"  # ends the types of blocks whose name and input are generated, such as server_tool_use
_DELTAS: Final = {
    "text": "text_delta",
    "thinking": "thinking_delta",
    "tool_use": "input_json_delta",
}  # by type of block
_HEARTBEAT: Final = b'event: ping\ndata: {"type": "ping"}\n\n'
_STATUSES: Final = {  # source: Anthropic, "Errors"; these have no codes, and their types say as much as their statuses
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_TYPES: Final = {status: kind for kind, status in _STATUSES.items()} | {503: "overloaded_error"}
_MOST_TOKENS: Final = 4096  # of answers to questions that set no limit: the API demands one


class MessagesRequests(StreamedByBody):
    """What requests for messages contain."""

    names_model = True
    reads_body = False

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

    __slots__ = ("_begun", "_open", "_stated")

    def __init__(self) -> None:
        super().__init__()
        self._begun = False  # message_start has come
        self._open: tuple[int, str] | None = None  # the block that has not stopped: its index, and its type
        self._stated: dict[str, Any] = {}  # the last value of each field of usage

    @property
    def finished(self) -> bool:
        return self.ended

    @property
    def heartbeat(self) -> bytes:
        if self.ended:
            return b""
        return _HEARTBEAT if self._begun else COMMENT

    @property
    def empty_event(self) -> bytes:
        """A delta without text, of the block that is open; Claude Code counts no pings from version 2.1.193 on."""
        kind = None if self._open is None or self.ended else _DELTAS.get(self._open[1])
        if self._open is None or kind is None:
            return self.heartbeat
        delta = {"type": DELTA, "index": self._open[0], "delta": {"type": kind, TEXTS[kind]: ""}}
        return b"event: %b\ndata: %b\n\n" % (DELTA.encode(), json_text.written(delta))

    def lacks_only_end(self, lines: bytes) -> bool:
        if _END.encode() in lines:
            try:
                kind, event = read_event(lines)
            except ValueError:
                return False
            self.ended = self.ended or (kind == _END and bool(event))
        return self.ended

    def error_frame(
        self, message: str, code: str, ident: bytes, last: bytes | None = None, number: int | None = None
    ) -> bytes:
        status = None if self.failure is None else self.failure.status
        kind = _TYPES_OF_ENDINGS.get(code) or ("api_error" if status is None else _type_of(status))
        error = _error(kind, message, code)
        return b"event: error\ndata: %b\nid: %b\n\n" % (json_text.written(error), ident)

    def note(self, frame: bytes) -> TextKind | None:
        try:
            kind, event = read_event(frame)
        except ValueError:
            kind, event = event_field(frame), {}
        named = b"error" in frame and fields(frame).type == b"error"
        if named or kind not in _EVENTS or "error" in event:
            self._note_failure(frame, event, named)
        elif kind == _END:
            self.ended = True
        elif kind != _PING:
            self.has_content = True
            return self._note_event(frame, kind, event)
        return None

    def _note_event(self, frame: bytes, kind: str, event: dict[str, Any]) -> TextKind | None:
        if kind == DELTA:
            return self._note_delta(frame, event)
        if kind == BLOCK:
            block = record(event.get("content_block"))
            self._open = (index_of(event, 0), str(block.get("type")))
            return _generated(block)
        if kind == STOP:
            self._open = None
        if kind == START:
            self._begun = True
            message = record(event.get("message"))
            if isinstance(model := message.get("model"), str):
                self.model = model or None
            self._note_usage(message)
        elif kind == MESSAGE:
            self._finish(0, record(event.get("delta")).get("stop_reason"))
            self._note_usage(event)
        return None

    def _note_delta(self, frame: bytes, event: dict[str, Any]) -> TextKind | None:
        delta = record(event.get("delta"))
        key = TEXTS.get(str(delta.get("type")), "")
        text = delta.get(key)
        if not text or not isinstance(text, str):
            return None
        index = event.get("index")
        if type(index) is int and self.failure is None:
            self._learn(frame, key, text, index)
        return _KINDS[key]

    def _note_usage(self, holder: dict[str, Any]) -> None:
        """Record a usage: that of message_start is an estimate; message_delta may replace only some of its fields."""
        usage = record(holder.get("usage"))
        self._stated |= {key: value for key, value in usage.items() if value is not None}
        self._usage = _usage(self._stated)

    def _note_failure(self, frame: bytes, event: dict[str, Any], named: bool) -> None:
        data = payload(frame)
        if not named and (data is None or frame.startswith(FOREIGN)):
            self._fail(foreign(frame, _status_of))
            return
        found = failure(frame, data or b"", event, named=named, status_of=_status_of)
        known = named and data is not None  # SDKs skip errors without the name, and blocks without data
        self._fail(None if found is None else found._replace(recognised=known))
        self.ended = self.ended or known  # clients stop reading

    def _read_numbers(self, frame: bytes) -> None:
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


_TYPES_OF_ENDINGS: Final = {RateLimited.ending: "rate_limit_error", Overloaded.ending: "overloaded_error"}


def _status_of(kind: str) -> int | None:
    return _STATUSES.get(kind)


def _type_of(status: int) -> str:
    known = _TYPES.get(status)
    return known or ("invalid_request_error" if status < 500 else "api_error")


def _error(kind: str, message: str, code: str) -> dict[str, Any]:
    """Return an error in Anthropic's format, with one field more: the proxy's own code."""
    return {"type": "error", "error": {"type": kind, "message": message, "code": code}, "request_id": None}


def _usage(stated: dict[str, Any]) -> Usage | None:
    """Return a usage, with the tokens of a cache, and the calls of tools that the upstream ran, as they are called."""
    usage = read_usage(stated)
    if usage is None:
        return None
    ran = record(stated.get("server_tool_use"))  # {"web_search_requests": 1}
    cached = usage.cached or counted(stated, "cache_read_input_tokens")
    return usage._replace(cached=cached, tool_calls=sum([counted(ran, name) for name in ran]))


def _generated(block: dict[str, Any]) -> TextKind | None:
    """Return the kind of generated text that a block starts with: the name of a tool, or text."""
    if str(block.get("type")).endswith(_CALLS):
        return TextKind.TOOL_CALL
    return next((_KINDS[key] for key in ("text", "thinking") if block.get(key)), None)


def _limit_headers(requests: Allowance | None, tokens: Allowance | None, unix_s: float) -> Headers:
    """Return the headers that tell a client what its limits leave; a window ends at a time (RFC 3339)."""
    headers: Headers = []
    for what, one in ((b"requests", requests), (b"tokens", tokens)):
        if one is not None:
            ends_at = datetime.fromtimestamp(int(unix_s) + one.ends_in_s, UTC).isoformat().replace("+00:00", "Z")
            prefix = b"anthropic-ratelimit-" + what
            headers += [
                (prefix + b"-limit", b"%d" % one.limit),
                (prefix + b"-remaining", b"%d" % one.left),
                (prefix + b"-reset", ends_at.encode()),
            ]
    return headers


def _body(question: Question) -> dict[str, Any]:
    limit = {"max_tokens": question.max_tokens or _MOST_TOKENS}
    return {"model": question.model, "stream": True, "messages": question.messages, **limit}


MESSAGES: Final = Dialect(
    "anthropic",
    MessagesRequests(),
    MessagesFrames(),
    BlockDocuments(),
    cached_apart=True,
    limit_headers=_limit_headers,
    status_of=_status_of,
    events=("message_", "content_block_"),
)
ASK_MESSAGES: Final = Asking("Messages", "/messages", _body, ((b"anthropic-version", b"2023-06-01"),), by_name=True)
