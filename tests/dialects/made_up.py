"""An API that nobody has, with typed events: to hold the rest of the proxy to knowing none.

    event: item.begun     {"type":"item.begun","seq":1,"item":0,"kind":"text"}
    event: item.delta     {"type":"item.delta","seq":2,"item":0,"delta":"Hel"}
    event: item.ended     {"type":"item.ended","seq":4,"item":0,"text":"Hello"}
    event: answer.ended   {"type":"answer.ended","seq":5,"answer":{"id":"a","items":[{"kind":"text","text":"Hello"}]}}
    event: answer.failed  {"type":"answer.failed","seq":5,"reason":"...","message":"..."}

Items are of kind text, thought or call. Its Dialect is all there is of it; no module of the proxy names it.
"""

import json
from collections.abc import Mapping
from typing import Any

from proxy.dialects.dialect import Dialect, TextKind
from proxy.dialects.documents.increment import Channel
from proxy.dialects.failure import Failure
from proxy.dialects.usage import Usage
from proxy.wire import json_text
from proxy.wire.errors import ProxyError
from proxy.wire.http import RawHeaders
from proxy.wire.json_members import members
from proxy.wire.sse import COMMENT, payload

KINDS = {"text": TextKind.CONTENT, "thought": TextKind.REASONING, "call": TextKind.TOOL_CALL}
Group = tuple[int, str, int]


def told(frame: bytes) -> dict[str, Any]:
    """Return the event in a frame; {} for whatever else it is."""
    try:
        event = json_text.read(payload(frame) or b"")
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


class MadeUpRequests:
    """How it is asked: for a stream with `live`."""

    names_model = False
    reads_body = True

    def model(self, body: bytes) -> str | None:
        asked = members(body)
        engine = asked and asked.get("engine")
        return engine if isinstance(engine, str) else None

    def asks_stream(self, headers: RawHeaders) -> bool:
        return False

    def asks_events(self, headers: RawHeaders, body: bytes) -> bool:
        asked = members(body)
        return asked is not None and asked.get("live") is True

    def as_stream(self, headers: RawHeaders, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        asked = members(body)
        live = None if asked is None or asked.get("live") else asked.put({"live": b"true"})
        return None if live is None else (list(headers), live)

    def with_usage(self, body: bytes) -> bytes | None:
        return None

    def asks_cumulative(self, body: bytes) -> bool | None:
        return None

    def choices(self, body: bytes) -> int:
        return 1


class MadeUpReader:
    """What one stream said, by the types of its events."""

    model: str | None = None
    finish_reason: str | None = None
    request_id: str | None = None
    usage: Usage | None = None
    answers_begun = 0
    enough_after_s = answered_after_s = 0.0
    choices = 1

    def __init__(self) -> None:
        self.failure: Failure | None = None
        self.ended = False
        self.has_content = False
        self.seq = 0

    @property
    def heartbeat(self) -> bytes:
        return b'event: still.here\ndata: {"type":"still.here"}\n\n' if self.has_content else COMMENT

    @property
    def empty_event(self) -> bytes:
        return self.heartbeat

    @property
    def finished(self) -> bool:
        return self.ended

    @property
    def surroundings(self) -> tuple[bytes, bytes] | None:
        return None

    def lacks_only_end(self, lines: bytes) -> bool:
        return False

    def ordinary(self, frame: bytes) -> bool:
        return False

    def note(self, frame: bytes) -> TextKind | None:
        event = told(frame)
        kind = event.get("type")
        if kind == "answer.failed":
            self.failure = Failure(str(event.get("message")), str(event.get("reason")))
        if kind in ("answer.ended", "answer.failed"):
            self.ended = True
            self.finish_reason = "ended"
        self.has_content = self.has_content or kind is not None
        self.seq = event.get("seq", self.seq)
        return TextKind.CONTENT if kind == "item.delta" and event.get("delta") else None

    def error_frame(
        self, message: str, code: str, ident: bytes, last: bytes | None = None, number: int | None = None
    ) -> bytes:
        event = json.dumps({"type": "answer.failed", "seq": self.seq + 1, "reason": code, "message": message})
        return b"event: answer.failed\ndata: %b\nid: %b\n\n" % (event.encode(), ident)


class MadeUpFrames:
    """What a frame says by its type."""

    has_text = True

    def reader(self) -> MadeUpReader:
        return MadeUpReader()

    def only_counts(self, frame: bytes) -> bool:
        return False

    def error_body(self, error: ProxyError) -> dict[str, Any]:
        return {"reason": error.code, "message": error.message}


class MadeUpIncrement:
    """A delta of one item."""

    altered = whole = alone = False

    def __init__(self, event: dict[str, Any], kind: str) -> None:
        self._event = event
        channel = Channel(event["item"], kind)
        self.texts = [(channel, event["delta"])]
        self.parts: tuple[int, ...] = (event["item"],)
        self.alike: Any = {key: value for key, value in event.items() if key not in ("seq", "delta")}

    def put(self, channel: Channel, text: str) -> None:
        self._event["delta"] = text

    def keep_only(self, group: Group) -> None:
        """There is one."""

    def data(self) -> bytes:
        return json_text.written(self._event)


class MadeUpAssembler:
    """The reader of one stream: which item is of which kind, and the last word."""

    def __init__(self) -> None:
        self.unread = 0
        self._kinds: dict[int, str] = {}
        self._answer: Any = None

    def take(self, frame: bytes, seq: int) -> MadeUpIncrement | None:
        event = told(frame)
        if event.get("type") == "item.begun":
            self._kinds[event["item"]] = event["kind"]
        if event.get("type") == "answer.ended":
            self._answer = event["answer"]
        return self.read(frame, seq)

    def read(self, frame: bytes, seq: int) -> MadeUpIncrement | None:
        event = told(frame)
        if event.get("type") != "item.delta":
            return None
        return MadeUpIncrement(event, self._kinds.get(event["item"], "text"))

    def document(self, texts: dict[Channel, str]) -> bytes:
        items = [{"kind": channel.name, "text": text} for channel, text in sorted(texts.items())]
        return json_text.written(self._answer or {"id": None, "items": items})


class MadeUpDocuments:
    """Its increments; no frame of it tells of all so far."""

    cumulative = False
    has_cumulative = False
    has_answer = has_document = True
    chunks = False
    finish_reasons: Mapping[str, str] = {"ended": "stop"}

    def assembler(self) -> MadeUpAssembler:
        return MadeUpAssembler()

    def answers(self, channel: Channel) -> bool:
        return channel.name == "text"

    def in_chat(self, channel: Channel) -> Channel | None:
        names = {"text": "content", "thought": "reasoning_content"}
        return Channel(0, names[channel.name]) if channel.name in names else None


MADE_UP = Dialect("made up", MadeUpRequests(), MadeUpFrames(), MadeUpDocuments())
