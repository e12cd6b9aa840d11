"""DashScope's own words: frames with id, event and status lines; output, usage and request_id in the data."""

from typing import Any

import orjson

from proxy.dialects.choices import ChoiceDocuments
from proxy.dialects.delta import Delta, json_object, record, records, rewritten_body
from proxy.dialects.dialect import Dialect, Summary, TextKind, Usage, count
from proxy.wire.errors import ProxyError
from proxy.wire.http import RawHeaders
from proxy.wire.sse import fields, payload

_SSE = b"X-DashScope-SSE"
_UNFINISHED = (None, "", "null")  # DashScope writes the string "null" until the end


class DashScopeRequests:
    """How a native generation is asked for."""

    def streamed(self, headers: RawHeaders, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        asked, named = json_object(body, exactly=True), {name.lower(): value.lower() for name, value in headers}
        if not asked or named.get(_SSE.lower()) == b"enable" or b"text/event-stream" in named.get(b"accept", b""):
            return None
        asked["parameters"] = {"incremental_output": True} | record(asked.get("parameters"))
        kept = [header for header in headers if header[0].lower() not in (b"accept", _SSE.lower())]
        rewritten = rewritten_body(asked)
        return None if rewritten is None else ([*kept, (b"Accept", b"text/event-stream"), (_SSE, b"enable")], rewritten)

    def counted(self, body: bytes) -> bytes | None:
        return None  # usage is in every event


class DashScopeFrames:
    """What a native frame says. There is no [DONE]: the stream ends with its body."""

    has_text = True

    def generated(self, frame: bytes, known: str | None = None) -> tuple[str | None, TextKind | None]:
        result = _result(frame)
        return known or _model(result), _first_kind(_messages(result))

    def thinking(self, frame: bytes) -> bool:
        return b'"content":""' in frame or b'"content":[]' in frame

    def terminal(self, frame: bytes) -> bool:
        return False

    def summary(self, frames: list[bytes]) -> Summary:
        finish, usage, ident = None, None, None
        last_text = -1
        for place in range(len(frames) - 1, -1, -1):
            frame = frames[place]
            result = _result(frame)
            messages = _messages(result)
            for message in messages if finish is None else ():
                reason = message.get("finish_reason")
                finish = finish if reason in _UNFINISHED else reason
            ident = ident or result.get("request_id") or None
            usage = usage or _usage(result.get("usage"))
            if last_text < 0 and _first_kind(messages):
                last_text = place
            if finish is not None and ident and usage and last_text >= 0:
                break
        failed = any(map(self.reports, frames))
        return Summary(finish, usage, failed, ident if isinstance(ident, str) else None, last_text)

    def reports(self, frame: bytes) -> bool:
        return b"error" in frame and fields(frame).type == b"error"

    def only_counts(self, frame: bytes) -> bool:
        return False

    def error_body(self, error: ProxyError) -> dict[str, Any]:
        return {"code": error.code, "message": error.message, "request_id": ""}

    def error_frame(self, message: str, code: str, ident: bytes) -> bytes:
        # No space after "event:": the DashScope SDK crashes on one. The status travels as a line of its own.
        error = {"code": code, "message": message, "request_id": ""}
        return b"event:error\nstatus:502\ndata:%b\nid:%b\n\n" % (orjson.dumps(error), ident)


class DashScopeDocuments(ChoiceDocuments):
    """The increments in native results, and the finished result."""

    cumulative = True  # that is what its older models do unless asked for increments
    states = True

    def tells(self, document: dict[str, Any]) -> bool:
        return isinstance(document.get("output"), dict)

    def deltas(self, document: dict[str, Any]) -> list[Delta]:
        output = document["output"]
        if isinstance(choices := output.get("choices"), list):
            return [
                Delta(index if type(index := choice.get("index")) is int else place, choice, message, "content")
                for place, choice in enumerate(records(choices))
                if isinstance(message := choice.get("message"), dict)
            ]
        if isinstance(output.get("text"), str):
            return [Delta(0, output, output, "text", lone=True)]
        message = _message(output)
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
        told = [choice.choice for choice in choices]
        output: dict[str, Any] = told[0] if choices and choices[0].lone else {"choices": told}
        beside = dict(record(envelope.get("output")))
        if _WORKFLOW in output:
            output[_WORKFLOW] = record(beside.pop(_WORKFLOW, None)) | record(output[_WORKFLOW])
        return {"output": output | beside, "usage": usage} | {
            key: value for key, value in envelope.items() if key != "output"
        }


_WORKFLOW = "workflow_message"  # of applications; a text is in its message
_ENVELOPE = ("request_id",)
_TEXTS = frozenset(["choices", "finish_reason", "text", "reasoning_content", "tool_calls", "role", "message"])


def _message(output: dict[str, Any]) -> dict[str, Any] | None:
    """Return the message of an output without choices: of deep research, or of a workflow."""
    found = output["message"] if "message" in output else record(output.get(_WORKFLOW)).get("message")
    return found if isinstance(found, dict) else None


def _beside(output: dict[str, Any]) -> dict[str, Any]:
    """Return what an output says besides its texts."""
    found = {key: value for key, value in output.items() if key not in _TEXTS}
    if _WORKFLOW in found:
        found[_WORKFLOW] = {key: value for key, value in record(found[_WORKFLOW]).items() if key != "message"}
    return found


def _result(frame: bytes) -> dict[str, Any]:
    return json_object(payload(frame) or b"")


def _model(result: dict[str, Any]) -> str | None:
    """Return the model; native answers name none, applications do in their usage."""
    models = records(record(result.get("usage")).get("models"))
    model = models[0].get("model_id") if models else None
    return model if isinstance(model, str) else None


def _usage(stated: Any) -> Usage | None:
    if not stated:
        return None
    return Usage(
        count(stated, "input_tokens"),
        count(stated, "output_tokens"),
        count(stated, "output_tokens_details", "reasoning_tokens"),
        count(stated, "prompt_tokens_details", "cached_tokens"),
    )


def _first_kind(messages: list[dict[str, Any]]) -> TextKind | None:
    for message in messages:
        if kind := _kind(message):
            return kind
    return None


def _kind(message: dict[str, Any]) -> TextKind | None:
    content = message.get("content")
    if isinstance(content, list):  # of multimodal models
        content = any(part.get("text") or part.get("image") or part.get("audio") for part in records(content))
    if content or message.get("text"):
        return TextKind.CONTENT
    if message.get("reasoning_content"):
        return TextKind.REASONING
    return TextKind.TOOL_CALL if message.get("tool_calls") else None


def _messages(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what carries text: the output itself (result_format text) or its choices' messages."""
    output = record(result.get("output"))
    choices = output.get("choices")
    if not isinstance(choices, list):
        return [output]
    return [choice | record(choice.get("message")) for choice in records(choices)]


DASHSCOPE = Dialect("dashscope", DashScopeRequests(), DashScopeFrames(), DashScopeDocuments())
