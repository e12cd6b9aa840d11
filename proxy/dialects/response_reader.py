"""The Reader of OpenAI's Responses: follows the events of one response. The finish reason is made in `_end`."""

from collections.abc import Iterable
from typing import Any, Final

from proxy.dialects.dialect import TextKind
from proxy.dialects.documents.delta import json_object, record, records
from proxy.dialects.error_codes import trouble
from proxy.dialects.failure import FOREIGN, Failure, failure, foreign
from proxy.dialects.reader import LearningReader
from proxy.dialects.usage import calls_of
from proxy.wire import json_text
from proxy.wire.json_members import members
from proxy.wire.sse import fields, payload

# The status of the response, by its final event; None: it is in the event's snapshot (OpenRouter's).
_STATUSES: Final = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
    "response.done": None,
}
# Statuses; of two that are stated the later one counts.
_ENDS: Final[tuple[str, ...]] = ("completed", "incomplete", "cancelled", "failed")
_ERRORS: Final[tuple[str, ...]] = ("error", "response.error")
_ITEMS: Final[tuple[str, ...]] = ("response.output_item.added", "response.output_item.done")
_CALLS: Final = frozenset([  # types of items
    "function_call", "custom_tool_call", "mcp_call", "computer_call", "local_shell_call", "shell_call",
    "apply_patch_call",
])  # fmt: skip
_CALL_FIELDS: Final[tuple[str, ...]] = ("name", "arguments", "input", "action", "operation")  # the generated ones
_CLIENT_CALLS: Final = _CALLS - {"mcp_call"}  # those that the client runs
EMPTY: Final = {
    "id": "",
    "object": "response",
    "created_at": 0,
    "model": "",
    "output": [],
}  # stands for a missing snapshot
MOST_ITEMS: Final = 256  # of one response, whose ids are noted
_NO_RETRY: Final = (
    "invalid_prompt"  # Codex retries after all codes but a few; of those few, it shows the message of this one
)
# Codes that Codex treats in ways of its own, so they are passed on if the upstream's error has one of them.
_PASSED_ON: Final = frozenset([
    "context_length_exceeded", "insufficient_quota", "rate_limit_exceeded", "server_is_overloaded",
])  # fmt: skip


class ResponseReader(LearningReader):
    """The Reader of the events of one response."""

    __slots__ = ("_has_client_calls", "_number", "_seen_items", "_snapshot", "ident", "items")

    def __init__(self) -> None:
        super().__init__()
        self.ident: str | None = None  # the upstream's id of the response
        self.items: tuple[str, ...] = ()  # the ids of its items
        self._number = -1  # the last sequence number
        self._snapshot = b""  # the last frame with a snapshot
        self._seen_items: set[int] = set()  # the output indexes of items of which generated text has come
        self._has_client_calls = False  # the response calls tools that its client runs

    @property
    def finished(self) -> bool:
        return self.ended

    def note(self, frame: bytes) -> TextKind | None:
        data = payload(frame)
        if data is None or frame.startswith(FOREIGN):
            self._fail(foreign(frame))
        event = json_object(data or b"")
        name = _name(frame, event)
        if not name.startswith("response.") or name in _ERRORS:
            self._note_error(failure(frame, data or b"", event, named=name in _ERRORS))
            return None
        self.has_content = True
        if type(number := event.get("sequence_number")) is int:
            self._number, self._unread = number, None
        if isinstance(response := event.get("response"), dict):
            self._note_snapshot(frame, response)
        if name in _STATUSES and event:
            self._end(frame, data or b"", _STATUSES[name], record(response))
            return None
        if name in _ITEMS:
            return self._note_item(event)
        return self._note_delta(frame, name, event) if event.get("delta") else None

    def lacks_only_end(self, lines: bytes) -> bool:
        if b"response." not in lines:
            return False
        event = json_object(payload(lines) or b"")
        return bool(event) and _name(lines, event) in _STATUSES

    def error_frame(
        self, message: str, code: str, ident: bytes, last: bytes | None = None, number: int | None = None
    ) -> bytes:
        """Return a response.failed event that contains the last snapshot, marked as failed.

        Clients need all of it: openai-python compares the id with that of the first event, openai-node reads the
        output, the AI SDK refuses an event without a sequence number, Codex ignores errors in any other form. The
        sequence number is the next one, if none is given. A single follower that is ended (`last` is given) may resume
        after the number that it is sent, so it is sent the number of `last` once more.
        """
        self._catch_up()
        if number is None:
            number = self._number + 1 if last is None else number_of(last)
        snapshot = json_object(payload(self._snapshot) or b"", exactly=True)
        response = ended(record(snapshot.get("response")) or EMPTY, code)
        response["error"] = {"code": self.failure_code(code), "message": message}
        event = {"type": "response.failed", "sequence_number": -1 if number is None else number, "response": response}
        return b"event: response.failed\ndata: %b\nid: %b\n\n" % (json_text.written(event), ident)

    @property
    def snapshot(self) -> bytes | None:
        """The JSON text of the last snapshot."""
        event = members(payload(self._snapshot) or b"") if self._snapshot else None
        response = None if event is None else event.text("response")
        return None if response is None else json_text.in_utf8(response)

    def failure_code(self, code: str) -> str:
        """Return the error code that the client is sent, by which Codex decides whether to retry."""
        stated = self.failure
        if stated is None:
            return _NO_RETRY if code == "cancelled" else code
        if stated.code in _PASSED_ON:
            return stated.code
        return code if trouble(stated.status or 200, stated.code).transient else _NO_RETRY

    def _note_error(self, found: Failure | None) -> None:
        """Record an error that is not a response.failed event: not all clients recognise those."""
        self._fail(found._replace(recognised=False) if found is not None else None)

    def _note_snapshot(self, frame: bytes, response: dict[str, Any]) -> None:
        self._snapshot = frame
        if self.ident is None and isinstance(ident := response.get("id"), str) and ident:
            self.ident = ident
        if isinstance(model := response.get("model"), str) and model:
            self.model = model
        if usage := response.get("usage"):
            self._take_usage(usage)
            if self._usage is not None and (ran := calls_of(record(usage).get("x_tools"))):
                self._usage = self._usage._replace(tool_calls=ran)
        if output := response.get("output"):
            self._note_items(records(output))

    def _note_items(self, items: Iterable[dict[str, Any]]) -> None:
        self.items = tuple(dict.fromkeys((*self.items, *idents_of(items))))[:MOST_ITEMS]

    def _end(self, frame: bytes, data: bytes, status: Any, response: dict[str, Any]) -> None:
        if self.ended:
            return
        known = [one for one in (status, response.get("status")) if one in _ENDS]
        status = max(known, key=_ENDS.index) if known else response.get("status")
        if status == "completed":
            calls = self._has_client_calls or any(map(_is_for_client, records(response.get("output"))))
            self.finish_reason = "tool_calls" if calls else "stop"
        elif status == "incomplete":
            reason = record(response.get("incomplete_details")).get("reason")
            self.finish_reason = reason if isinstance(reason, str) and reason != "max_output_tokens" else "length"
        else:
            stated = {"error": response.get("error") or {"code": status, "message": f"the response is {status}"}}
            found = self.failure or failure(frame, data, stated, named=True)
            failed = _name(frame, json_object(data)) == "response.failed"
            # Without a body: this data is a response object, not the body of an error response.
            self.failure = found and found._replace(recognised=failed, body=None)
        self.ended = True

    def _note_item(self, event: dict[str, Any]) -> TextKind | None:
        """Return the kind of the generated text that an item contains, unless text of this item has come before."""
        item, index = record(event.get("item")), _index(event)
        self._note_items([item])
        kind = _generated(item)
        self._has_client_calls = self._has_client_calls or _is_for_client(item)
        if kind is None or index in self._seen_items:
            return None
        self._seen_items.add(index)
        return kind

    def _note_delta(self, frame: bytes, name: str, event: dict[str, Any]) -> TextKind:
        self._seen_items.add(_index(event))
        text = event["delta"]
        if type(text) is str and self.failure is None:
            self._learn(frame, "delta", text, _index(event), b"output_index")
        return _kind(name)

    def _read_numbers(self, frame: bytes) -> None:
        number = number_of(frame)
        self._number = self._number if number is None else number


def number_of(frame: bytes) -> int | None:
    """Return the sequence number of an event; None if it has none."""
    number = json_object(payload(frame) or b"").get("sequence_number")
    return number if type(number) is int else None


def ended(response: dict[str, Any], code: str) -> dict[str, Any]:
    """Return a response with the status of one that was cancelled or has failed, by the reason of its ending."""
    status = "cancelled" if code == "cancelled" else "failed"
    return response | {"status": status, "output": records(response.get("output"))}


def _name(frame: bytes, event: dict[str, Any]) -> str:
    """Return an event's type: the one in its data, or otherwise that of its `event` field."""
    stated = event.get("type")
    return stated if isinstance(stated, str) else fields(frame).type.decode("utf-8", "replace")


def idents_of(items: Iterable[dict[str, Any]]) -> list[str]:
    """Return the ids of those items that have one."""
    return [ident for item in items if isinstance(ident := item.get("id"), str) and ident]


def _index(event: dict[str, Any]) -> int:
    index = event.get("output_index")
    return index if type(index) is int else 0


def _kind(name: str) -> TextKind:
    """Return the kind of text in a delta, by the type of its event."""
    if "reasoning" in name:
        return TextKind.REASONING
    return TextKind.TOOL_CALL if "_call" in name else TextKind.CONTENT


def _is_for_client(item: dict[str, Any]) -> bool:
    """Return whether an item is a call that the client is to run."""
    kind = item.get("type")
    return isinstance(kind, str) and kind in _CLIENT_CALLS


def _generated(item: dict[str, Any]) -> TextKind | None:
    """Return the kind of the generated text that an item contains; None if it contains none yet."""
    kind = item.get("type")
    if isinstance(kind, str) and kind in _CALLS:
        return TextKind.TOOL_CALL if any(item.get(part) for part in _CALL_FIELDS) else None
    if kind == "reasoning":
        thoughts = [*records(item.get("content")), *records(item.get("summary"))]
        return TextKind.REASONING if any(part.get("text") for part in thoughts) else None
    parts = records(item.get("content"))
    return TextKind.CONTENT if any(part.get("text") or part.get("refusal") for part in parts) else None
