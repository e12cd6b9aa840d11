"""The dialect of WebSocket sessions: the events of the Realtime API, and the tasks of DashScope's own protocol.

A session may have several answers (responses, tasks). Its requests are messages of the client, which are not read here.
Binary messages, such as audio, are not frames. Sources: Model Studio's "Realtime API reference" (server events), which
uses the names of OpenAI's beta; and "WebSocket API for speech synthesis" (header.event).
"""

from typing import Any, Final

from proxy.dialects.dialect import Dialect, Reader, TextKind
from proxy.dialects.documents.delta import json_object, record
from proxy.dialects.documents.increment import Assembler, Channel, Increment, Statement
from proxy.dialects.failure import Failure
from proxy.dialects.plain import PlainDocuments, PlainFrames, PlainReader, PlainRequests
from proxy.dialects.usage import Usage, read_usage
from proxy.wire.sse import payload

_TEXT_DELTAS: Final = frozenset(
    f"response.{kind}.delta" for kind in ("text", "output_text", "audio_transcript", "output_audio_transcript")
)
_TEXT: Final = Channel(0, "text")
_ARGUMENTS: Final = "response.function_call_arguments.delta"


class RealtimeReader(PlainReader):
    """The Reader of the text messages of one session. It is finished while no answer is under way."""

    __slots__ = ("_begun", "_under_way")

    def __init__(self) -> None:
        super().__init__()
        self._begun = 0
        self._under_way = 0

    @property
    def answers_begun(self) -> int:
        return self._begun

    @property
    def finished(self) -> bool:
        return self._under_way <= 0

    def note(self, frame: bytes) -> TextKind | None:
        message = json_object(payload(frame) or b"")
        kind, header = message.get("type"), message.get("header")
        self.has_content = True
        if isinstance(kind, str):
            return self._note_event(kind, message)
        return self._note_task(header, message) if isinstance(header, dict) else None

    def _note_event(self, kind: str, message: dict[str, Any]) -> TextKind | None:
        if kind.startswith("response.") and kind.endswith(".delta"):
            if not message.get("delta"):
                return None
            return TextKind.TOOL_CALL if kind == _ARGUMENTS else TextKind.CONTENT
        if kind == "response.created":
            self._begin()
        elif kind == "response.done":
            response = message.get("response")
            self._end(response if isinstance(response, dict) else {})
        elif kind in ("session.created", "session.updated"):
            session = message.get("session")
            if isinstance(session, dict) and isinstance(session.get("model"), str):
                self.model = session["model"]
        return None  # `error` is about one message of the client; the session goes on

    def _note_task(self, header: dict[str, Any], message: dict[str, Any]) -> TextKind | None:
        event, output = header.get("event"), message.get("payload")
        if event == "task-started":
            self._begin()
        elif event == "task-finished":
            self._end(output if isinstance(output, dict) else {})
        elif event == "task-failed":
            self._under_way -= 1
            reason, code = header.get("error_message"), header.get("error_code")
            self._fail(Failure(str(reason or "a task failed")[:500], str(code) if code else None))
        return TextKind.CONTENT if event == "result-generated" else None

    def _begin(self) -> None:
        self._begun += 1
        self._under_way += 1

    def _end(self, answer: dict[str, Any]) -> None:
        """Note the end of an answer, and add its usage to that of the session."""
        self._under_way -= 1
        if isinstance(status := answer.get("status"), str):
            self.finish_reason = status
        usage = read_usage(answer.get("usage"))
        if usage is not None:
            self._usage = Usage(*map(sum, zip(self._usage or Usage(), usage, strict=True)))


class RealtimeFrames(PlainFrames):
    """Messages as frames: `data: {event}`."""

    def reader(self) -> Reader:
        return RealtimeReader()


class RealtimeAssembler:
    """The Assembler of one session: finds the answers' texts. A session has no finished document."""

    __slots__ = ("_line_ends", "_speaks", "unread")

    def __init__(self) -> None:
        self.unread = 0
        self._speaks = False  # text of an answer that has not ended has come
        self._line_ends: set[int] = set()  # the numbers of frames that end an answer with text

    def take(self, frame: bytes, seq: int) -> Increment | None:
        message = json_object(payload(frame) or b"")
        if message.get("type") == "response.done" and self._speaks:
            self._line_ends.add(seq)
        said = _text(message)
        self._speaks = bool(said) or (self._speaks and seq not in self._line_ends)
        return self._statement(frame, "\n" if seq in self._line_ends else said)

    def read(self, frame: bytes, seq: int) -> Increment | None:
        said = "\n" if seq in self._line_ends else _text(json_object(payload(frame) or b""))
        return self._statement(frame, said)

    def document(self, texts: dict[Channel, str]) -> bytes:
        raise ValueError("a session has no document")

    def _statement(self, frame: bytes, said: str) -> Increment | None:
        return Statement(payload(frame) or b"", [(_TEXT, said)]) if said else None


def _text(message: dict[str, Any]) -> str:
    """Return the text that a message adds: a delta of text or of a transcript, or a sentence that was recognised."""
    if message.get("type") in _TEXT_DELTAS:
        delta = message.get("delta")
        return delta if isinstance(delta, str) else ""
    if record(message.get("header")).get("event") != "result-generated":
        return ""
    sentence = record(record(record(message.get("payload")).get("output")).get("sentence"))
    text = sentence.get("text")  # all of the sentence so far, so it counts when the sentence has ended
    return f"{text}\n" if isinstance(text, str) and text and sentence.get("sentence_end") else ""


class RealtimeDocuments(PlainDocuments):
    """The texts in the messages of a session, an answer a line."""

    has_cumulative = False
    has_answer = True

    def assembler(self) -> Assembler:
        return RealtimeAssembler()

    def answers(self, channel: Channel) -> bool:
        return channel is _TEXT


REALTIME: Final = Dialect("realtime", PlainRequests(), RealtimeFrames(), RealtimeDocuments())
