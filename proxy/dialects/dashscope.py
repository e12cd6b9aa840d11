"""The dialect of DashScope's native API: frames with id, event and status lines, and data with output and usage."""

import re
from typing import Any, Final

from proxy.dialects.dialect import Dialect, Reader, TextKind, choices_of, model_of
from proxy.dialects.documents.choices import ChoiceDocuments
from proxy.dialects.documents.delta import Delta, index_of, json_object, record, records
from proxy.dialects.failure import FOREIGN, Failure, failure, foreign, stated_status
from proxy.dialects.generated import generated
from proxy.dialects.reader import STOPPED, LearningReader, stated_reason
from proxy.wire import json_text
from proxy.wire.errors import ProxyError
from proxy.wire.http import RawHeaders
from proxy.wire.json_members import members
from proxy.wire.sse import fields, payload

_SSE: Final = b"X-DashScope-SSE"
_ENDS_WITHIN_S: Final = 0.75  # after the last finish reason
_ANSWERED_AFTER_S: Final = 0.25
_INCREMENTAL: Final = re.compile(rb'"incremental_output"\s*:\s*(true|false)')


class DashScopeRequests:
    """What requests to the native API contain."""

    names_model = False
    reads_body = True

    def model(self, body: bytes) -> str | None:
        return model_of(body)

    def asks_stream(self, headers: RawHeaders) -> bool:
        for name, value in headers:
            lower = name.lower()
            if lower == _SSE.lower() and value.lower() == b"enable":
                return True
            if lower == b"accept" and b"text/event-stream" in value.lower():
                return True
        return False

    def asks_events(self, headers: RawHeaders, body: bytes) -> bool:
        return self.asks_stream(headers)

    def as_stream(self, headers: RawHeaders, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        rewritten = None if self.asks_stream(headers) else _in_increments(body)
        if rewritten is None:
            return None
        kept = [header for header in headers if header[0].lower() not in (b"accept", _SSE.lower())]
        return [*kept, (b"Accept", b"text/event-stream"), (_SSE, b"enable")], rewritten

    def with_usage(self, body: bytes) -> bytes | None:
        return None  # usage is in every event

    def asks_cumulative(self, body: bytes) -> bool | None:
        asked = _INCREMENTAL.search(body)
        return None if asked is None else asked[1] == b"false"

    def choices(self, body: bytes) -> int:
        return choices_of(body)


def _in_increments(body: bytes) -> bytes | None:
    """Return a request's body with `incremental_output` set, unless the client has set it.

    None, if the body can't be read, or its `parameters` are neither missing, nor null, nor an object.
    """
    asked = members(body)
    parameters = None if asked is None else asked.inner("parameters")
    if asked is None or parameters is None:
        return None
    if parameters.get("incremental_output") is not None:
        return body
    incremental = parameters.put({"incremental_output": b"true"})
    return None if incremental is None else asked.put({"parameters": incremental})


class DashScopeReader(LearningReader):
    """The Reader of the results of one native stream. It has no final event: the stream ends with its body."""

    __slots__ = ("_done",)

    def __init__(self) -> None:
        super().__init__()
        self._done = False  # the flag by which responses without a finish reason say that they are finished

    @property
    def finished(self) -> bool:
        return self._done or (bool(self._finished) and all(self._finished.values()))

    def note(self, frame: bytes) -> TextKind | None:
        data = payload(frame)
        named = b"error" in frame and fields(frame).type == b"error"
        if not named and (data is None or frame.startswith(FOREIGN)):
            self._fail(foreign(frame))
        if data is None and not named:
            return None
        result = json_object(data or b"")
        if not result and not named and data is not None and b"\n" in data:
            # Blocks that lost the blank lines between them: the SDK reads by lines, and finds a result in each.
            kinds = [self.note(b"data:%b\n\n" % line) for line in data.split(b"\n")]
            return next(filter(None, kinds), None)
        output = result.get("output")
        refuses = named or _says_status(frame)
        if refuses or not output or "error" in result:
            found = failure(frame, data or b"", result, named=refuses)
            # The SDK recognises errors by the event's name, but only when the event has data.
            self._fail(found._replace(recognised=named and data is not None) if found is not None else None)
        if self.model is None:
            self.model = _model(result)
        if self.request_id is None and isinstance(ident := result.get("request_id"), str):
            self.request_id = ident or None
        if usage := result.get("usage"):
            self._take_usage(usage)
        return self._note_output(frame, output) if isinstance(output, dict) else None

    @property
    def enough_after_s(self) -> float:
        """Soon: a finish reason is the last word of this API."""
        return self._quiet_s(_ENDS_WITHIN_S)

    @property
    def answered_after_s(self) -> float:
        """Sooner: every event has the usage."""
        return _ANSWERED_AFTER_S if self._has_stopped() and self._usage is not None else 0.0

    def lacks_only_end(self, lines: bytes) -> bool:
        if self.choices > 1:
            return False
        output = _result(lines).get("output") if b"finish_reason" in lines else None
        reasons = [message.get("finish_reason") for message in _messages(output)] if isinstance(output, dict) else []
        return bool(reasons) and all(stated_reason(reason) in STOPPED for reason in reasons)

    def error_frame(
        self, message: str, code: str, ident: bytes, last: bytes | None = None, number: int | None = None
    ) -> bytes:
        # No space after "event:": the DashScope SDK crashes on one. It reads the status from a line of its own.
        error = {"code": code, "message": message, "request_id": ""}
        return b"event:error\nstatus:502\ndata:%b\nid:%b\n\n" % (json_text.written(error), ident)

    def _note_output(self, frame: bytes, output: dict[str, Any]) -> TextKind | None:
        self.has_content = self.has_content or bool(output)
        if "code" in output or "error_code" in output:  # as tasks have it
            self._fail_unseen(failure(b"", b"", output, named=False))
        self._done = _is_finished(output)
        kind, messages = None, _messages(output)
        choices = isinstance(output.get("choices"), list)
        for place, message in enumerate(messages):
            index = index_of(message, place) if choices else place
            if "error" in message:
                self._fail_unseen(failure(b"", b"", {"error": message["error"]}, named=False))
            if choices or "finish_reason" in message:
                self._finish(index, message.get("finish_reason"))
            found = generated(message)
            if found is None:
                continue
            if kind is None or kind is TextKind.REASONING:
                kind = found.kind
            finished = self._done or self._finished.get(index)
            if found.text and len(messages) == 1 and not finished and self.failure is None:
                self._learn(frame, found.key, found.text, index)
        return kind

    def _fail_unseen(self, found: Failure | None) -> None:
        """Record an error that the SDK does not recognise."""
        self._fail(None if found is None else found._replace(recognised=False))

    def _read_numbers(self, frame: bytes) -> None:
        self._take_usage(_result(frame).get("usage"))


class DashScopeFrames:
    """The frames of the native API: fields `id`, `event` and `data`, and the HTTP status in a comment."""

    has_text = True

    def reader(self) -> Reader:
        return DashScopeReader()

    def only_counts(self, frame: bytes) -> bool:
        return False

    def error_body(self, error: ProxyError) -> dict[str, Any]:
        return {"code": error.code, "message": error.message, "request_id": ""}


class DashScopeDocuments(ChoiceDocuments):
    """The increments in native results, and the finished result that they add up to."""

    cumulative = True  # as the results of older models are, unless the request asks for increments
    has_cumulative = True

    def tells(self, document: dict[str, Any]) -> bool:
        return isinstance(document.get("output"), dict)

    def deltas(self, document: dict[str, Any]) -> list[Delta]:
        output = document["output"]
        if isinstance(choices := output.get("choices"), list):
            return [
                Delta(index_of(choice, place), choice, message, "content")
                for place, choice in enumerate(records(choices))
                if isinstance(message := choice.get("message") or choice.get("delta"), dict)
            ]
        message = _message(output)
        for key in ("text", "content"):
            if isinstance(output.get(key), str) and (key == "text" or message is None):
                return [Delta(0, output, output, key, lone=True)]
        return [] if message is None else [Delta(0, output, message, "content", lone=True)]

    def select(self, document: dict[str, Any], deltas: list[Delta]) -> None:
        if not deltas[0].lone:
            document["output"]["choices"] = [delta.choice for delta in deltas]

    def beside(self, document: dict[str, Any]) -> dict[str, Any]:
        known = {key: value for key, value in document.items() if key not in ("output", "usage")}
        return known | {"output": _beside(document["output"])}

    def envelope(self, document: dict[str, Any]) -> dict[str, Any]:
        known = {key: document[key] for key in _ENVELOPE if key in document}
        return known | {"output": _beside(document["output"])}

    def accumulate(self, message: dict[str, Any], key: str, value: Any) -> None:
        message[key] = value

    def blank(self, index: int, shape: Delta, *, streamed: bool = False) -> Delta:
        if shape.choice is shape.message:
            output: dict[str, Any] = {"finish_reason": "null", "text": ""}
            return Delta(0, output, output, "text", lone=True)
        in_parts = isinstance(shape.message.get("content"), list)
        message: dict[str, Any] = {"content": [] if in_parts else "", "role": "assistant"}
        choice: dict[str, Any] = {"message": message, "finish_reason": "null"}
        if shape.lone:
            if "message" not in shape.choice:
                choice = {_WORKFLOW: {"message": message}, "finish_reason": "null"}
            return Delta(0, choice, message, "content", lone=True)
        numbered = {"index": index} if "index" in shape.choice else {}
        return Delta(index, choice | numbered, message, "content")

    def whole(self, envelope: dict[str, Any], usage: Any, choices: list[Delta]) -> dict[str, Any]:
        listed = [choice.choice for choice in choices]
        output: dict[str, Any] = listed[0] if choices and choices[0].lone else {"choices": listed}
        beside = dict(record(envelope.get("output")))
        if _WORKFLOW in output:
            output[_WORKFLOW] = record(beside.pop(_WORKFLOW, None)) | record(output[_WORKFLOW])
        return {"output": output | beside, "usage": usage} | {
            key: value for key, value in envelope.items() if key != "output"
        }


_WORKFLOW: Final = "workflow_message"  # of workflow applications; the text is in its `message`
_ENVELOPE: Final[tuple[str, ...]] = ("request_id",)
_TEXTS: Final = frozenset(
    ["choices", "finish_reason", "text", "content", "reasoning_content", "tool_calls", "role", "message"]
)


def _message(output: dict[str, Any]) -> dict[str, Any] | None:
    """Return the message of an output without choices, as deep research and workflow applications send it."""
    found = output["message"] if "message" in output else record(output.get(_WORKFLOW)).get("message")
    return found if isinstance(found, dict) else None


def _beside(output: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an output besides its texts."""
    found = {key: value for key, value in output.items() if key not in _TEXTS}
    if _WORKFLOW in found:
        found[_WORKFLOW] = {key: value for key, value in record(found[_WORKFLOW]).items() if key != "message"}
    return found


def _result(frame: bytes) -> dict[str, Any]:
    return json_object(payload(frame) or b"")


def _model(result: dict[str, Any]) -> str | None:
    """Return the model that a result names; only results of applications do so, in their usage."""
    models = records(record(result.get("usage")).get("models"))
    model = models[0].get("model_id") if models else None
    return model if isinstance(model, str) else None


def _messages(output: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects with text: choices merged with their messages, or the output, merged with its message."""
    choices = output.get("choices")
    if isinstance(choices, list):
        return [choice | record(choice.get("message") or choice.get("delta")) for choice in records(choices)]
    message = output.get("message")  # of deep research
    if not isinstance(message, dict):
        message = record(output.get("workflow_message")).get("message")  # of a workflow application
    return [output | message if isinstance(message, dict) else output]


def _is_finished(output: dict[str, Any]) -> bool:
    """Return whether an output without finish reasons is marked as finished; deep research misspells the word."""
    status = record(output.get("message")).get("status")
    return status == "finished" or output.get("finished") is True or output.get("fininshed") is True


def _says_status(frame: bytes) -> bool:
    """Return whether a frame has the HTTP status of an error besides its data."""
    return b"HTTP_STATUS/" in frame and b"HTTP_STATUS/200" not in frame and stated_status(frame) is not None


DASHSCOPE: Final = Dialect("dashscope", DashScopeRequests(), DashScopeFrames(), DashScopeDocuments())
