"""The dialect of WebSocket sessions: the events of the Realtime API, and the tasks of DashScope's own protocol.

A session may have several answers (responses, tasks). Its requests are messages of the client, which are not read here.
Binary messages, such as audio, are not frames. Sources: Model Studio's "Realtime API reference" (server events), which
uses the names of OpenAI's beta; and "WebSocket API for speech synthesis" (header.event).
"""

from typing import Any

from proxy.dialects.delta import json_object
from proxy.dialects.dialect import Dialect, Reader, TextKind, Usage
from proxy.dialects.failure import Failure
from proxy.dialects.plain import PlainDocuments, PlainFrames, PlainReader, PlainRequests
from proxy.dialects.reader import read_usage
from proxy.wire.sse import payload

_ARGUMENTS = "response.function_call_arguments.delta"


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
        told = json_object(payload(frame) or b"")
        kind, header = told.get("type"), told.get("header")
        self.has_content = True
        if isinstance(kind, str):
            return self._note_event(kind, told)
        return self._note_task(header, told) if isinstance(header, dict) else None

    def _note_event(self, kind: str, told: dict[str, Any]) -> TextKind | None:
        if kind.startswith("response.") and kind.endswith(".delta"):
            if not told.get("delta"):
                return None
            return TextKind.TOOL_CALL if kind == _ARGUMENTS else TextKind.CONTENT
        if kind == "response.created":
            self._begin()
        elif kind == "response.done":
            response = told.get("response")
            self._end(response if isinstance(response, dict) else {})
        elif kind in ("session.created", "session.updated"):
            session = told.get("session")
            if isinstance(session, dict) and isinstance(session.get("model"), str):
                self.model = session["model"]
        return None  # `error` is about one message of the client; the session goes on

    def _note_task(self, header: dict[str, Any], told: dict[str, Any]) -> TextKind | None:
        event, output = header.get("event"), told.get("payload")
        if event == "task-started":
            self._begin()
        elif event == "task-finished":
            self._end(output if isinstance(output, dict) else {})
        elif event == "task-failed":
            self._under_way -= 1
            message, code = header.get("error_message"), header.get("error_code")
            self._fail(Failure(str(message or "a task failed")[:500], str(code) if code else None))
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


REALTIME = Dialect("realtime", PlainRequests(), RealtimeFrames(), PlainDocuments())
