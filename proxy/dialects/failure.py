"""Finds errors that upstreams report, within a stream or as their response, in every known format.

Errors come with a top-level `error` (OpenAI), as an event named `error` (DashScope, Anthropic), flat (`code` and
`message`, vLLM's `object`, FastAPI's `detail`, RFC 9457), and as JSON, HTML or plain text in place of an event.
Each dialect decides which of these the clients of its API recognise as an error.

An error response may be framed as SSE, too: with `stream: true` Qwen's compatible mode responds with HTTP 400 and a
body that is one SSE frame, in which OpenAI's SDKs find no error code; the native API responds with HTTP 200 and one
`event:error` frame, its status in a comment.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from proxy.dialects.documents.delta import json_object, record, records
from proxy.wire import json_text
from proxy.wire.sse import BOM, Splitter, fields

_STATUS: Final = re.compile(rb"^(?::HTTP_STATUS/|status: ?)([1-5][0-9]{2})\s*$", re.MULTILINE)
# Source: Model Studio's error messages, as recorded in reports of their users.
_STREAM_ONLY: Final[tuple[bytes, ...]] = (
    b"only support stream mode",
    b"must be set to false for non-streaming calls",
    b"enable_thinking only support stream call",
    b"only support with stream=true",
    b"does not support http call",
)
_FRAMED: Final = re.compile(rb"(?:\xef\xbb\xbf)?(?::|(?:data|event|id|retry|status):)")
_TITLE: Final = re.compile(rb"<title>\s*(.*?)\s*</title>", re.IGNORECASE | re.DOTALL)
_DATA: Final = re.compile(rb"[\r\n]data:")
_FIELD_NAME: Final = re.compile(rb"[\w-]*")
_LINE_ENDS: Final[tuple[bytes, ...]] = (b"\n", b"\r")
_LONGEST: Final = 500  # characters of a message
# Fields of errors, as `_spelled` spells them.
_MESSAGES: Final[tuple[str, ...]] = (
    "message",
    "msg",
    "errormsg",
    "errormessage",
    "errmsg",
    "errmessage",
    "detail",
    "statusmsg",
    "title",
)
_CODES: Final[tuple[str, ...]] = ("code", "errorcode", "errcode", "statuscode", "retcode", "errno", "errortype")
_REASONS: Final[tuple[str, ...]] = ("err", "exception", "errormessage", "errmsg")  # which only errors have, with a text
_FAILED: Final[tuple[str, ...]] = ("error", "failed", "failure")  # as a status
# The name of an event, of the type of an object, or of a field: `error`, `Exception`, `internalServerException`.
# Not `tool_failed`, say: the answer goes on.
_ERROR_NAME: Final = re.compile(
    r"\w*(?:error|exception)|(?:(?:response|message|stream|chat|run|completion|generation|request)_)?(?:failed|failure)|fatal",
    re.IGNORECASE,
)
_NO_CODES: Final[tuple[object, ...]] = (None, "", 0, 200, "0", "200", "null", "ok", "OK", "success", "Success")
FOREIGN: Final[tuple[bytes, ...]] = (b"{", b"<", b"[")  # no field of an event begins with these
_ANSWERS: Final[tuple[str, ...]] = ("choices", "output")  # a frame that is no error has one of these
StatusOf = Callable[[str], int | None]
"""Returns the HTTP status that an API's type of error stands for; None: for none."""


class Failure(NamedTuple):
    """An error that an upstream reported within a stream."""

    message: str
    code: str | None = None
    status: int | None = None  # the HTTP status that an error response would have had; None: not stated
    body: bytes | None = None  # the JSON object with the error
    recognised: bool = True  # whether clients of the API recognise it as an error

    @property
    def reason(self) -> str:
        """The description that followers receive."""
        return ": ".join(part for part in (self.code, self.message) if part)


def no_status(kind: str) -> None:
    """Return None: the types of an API's errors stand for no statuses."""


def reported(frame: bytes, status_of: StatusOf = no_status) -> Failure | None:
    """Return the error that a frame, or bytes in place of a frame, report. `status_of`: as in `failure`."""
    event, named = fields(frame), names_error(frame)
    if not named and (event.data is None or frame.startswith(FOREIGN)):
        return foreign(frame, status_of)
    return failure(frame, event.data or b"", json_object(event.data or b""), named=named, status_of=status_of)


def names_error(frame: bytes) -> bool:
    """Return whether the name of an event says that it is an error, whatever clients of the API think of it."""
    name = fields(frame).type
    return name == b"error" or (bool(name) and _says_error(name.decode("latin-1")))


def failure(
    frame: bytes, data: bytes, document: dict[str, Any], *, named: bool, status_of: StatusOf = no_status
) -> Failure | None:
    """Return the error that a frame reports; `named`: the event is named `error`.

    `document` is the JSON object in the frame's data; {} if the data is not one, and so no client can read it.
    `status_of`: for errors of which only the type says what status they would have.
    """
    read, document = document, _spelled(document)
    error = document.get("error") or _named_so(document)
    if not named and not _says(error) and not _is_flat(document):
        if names_error(frame):
            return failure(frame, data, read, named=True, status_of=status_of)
        return None if document or not frame.endswith(_LINE_ENDS) else _unreadable(data)  # else it may be cut off
    inner = _inner(error)
    message = (
        _first(_texts((inner, document), (*_MESSAGES, *_REASONS)))
        or (error if isinstance(error, str) else None)
        or _detail(document)
    )
    if message is None and not document:
        message = data.decode("utf-8", "replace")
    codes = list(_values((inner, document), (*_CODES, "status")))
    code = _first(value for value in codes if isinstance(value, str) and not value.isdecimal() and value not in _FAILED)
    return Failure(
        (message or "no reason was given")[:_LONGEST],
        code or _first(_texts((inner, document), ("type",))),
        stated_status(frame) or _first(filter(None, map(_status, codes))) or status_of(str(inner.get("type"))),
        data if document else None,
    )


def _inner(error: Any) -> dict[str, Any]:
    """Return the object that describes an error: the member `error`, one within it, or one in a list."""
    found = _spelled(error if isinstance(error, dict) else next(iter(records(error)), {}))
    return _spelled(record(found.get("error"))) or found


def _spelled(document: dict[str, Any]) -> dict[str, Any]:
    """Return an object with its fields spelled alike: in lower case, without separators."""
    return {re.sub(r"[_-]", "", key).lower(): value for key, value in document.items()}


def _says_error(name: str) -> bool:
    return _ERROR_NAME.fullmatch(re.sub(r"[.-]", "_", name)) is not None


def _named_so(document: dict[str, Any]) -> Any:
    """Return the error in a field that is named after the kind of the error, as AWS does."""
    for name, value in document.items():
        if isinstance(value, dict) and _says_error(name) and _first(_texts((_spelled(value),), _MESSAGES)):
            return value
    return None


def foreign(frame: bytes, status_of: StatusOf = no_status) -> Failure | None:
    """Return the error in bytes that are not an event at all: JSON, HTML, or a line of text.

    Clients of an event stream do not see it. An event may follow without a blank line in between.
    """
    text = _DATA.split(frame.removeprefix(BOM), maxsplit=1)[0].strip()
    if text.startswith(b"<"):
        title = _TITLE.search(text)
        return _unseen("the upstream sent HTML in place of events" + (f": {_cut(title[1])}" if title else ""))
    if text.startswith((b"{", b"[")):
        document = json_object(text)
        found = failure(b"", text, document, named=False, status_of=status_of) if document else None
        return found._replace(recognised=False) if found else _unseen("the upstream sent JSON in place of events")
    line = re.split(rb"[\r\n]", text, maxsplit=1)[0]
    name, colon, _ = line.partition(b":")
    is_field = not name or _FIELD_NAME.fullmatch(name.rstrip() if colon else name) is not None
    if is_field and not (colon and name.lower() == b"error"):
        return None
    return _unseen(f"the upstream sent text in place of events: {_cut(line)}")


def _unreadable(data: bytes) -> Failure | None:
    """Return the error in data that is not a JSON object but a list, plain text or HTML; None if there is none.

    A single word, or what looks like a comment, is no error: upstreams send these to keep the connection alive.
    """
    text = data.strip()
    try:
        value = json_text.read(text)
    except ValueError:
        if text.startswith(b"<"):
            return foreign(text)
        if b"{" in text:  # it may quote the answer
            return _unseen("the upstream sent an event that is not JSON")
        is_text = b" " in text and not text.startswith(b":")
        return _unseen(f"the upstream sent an event that is not JSON: {_cut(text)}") if is_text else None
    errors = (failure(b"", data, one, named=False) for one in records(value) if one)
    found = next(filter(None, errors), None)
    return found and found._replace(recognised=False)


def _unseen(message: str) -> Failure:
    return Failure(message, recognised=False)


def _is_flat(document: dict[str, Any]) -> bool:
    """Return whether an object is an error although it has no member `error`."""
    kind = document.get("type")
    if document.get("object") == "error" or kind == "error":
        return True
    if any(document.get(name) for name in _ANSWERS):
        return False
    if isinstance(kind, str) and _says_error(kind) and _first(_texts((document,), _MESSAGES)):
        return True
    if document.get("detail") or (document.get("errors") and isinstance(document["errors"], list | dict)):
        return True
    if _has_reason(document):
        return True
    nested = document.get("baseresp")  # of MiniMax
    if isinstance(nested, dict) and _is_flat(_spelled(nested)):
        return True
    status = document.get("status")
    failed = document.get("success") is False or status in _FAILED or bool(_status(status))
    failed = failed or any(value not in _NO_CODES for value in _values((document,), _CODES))
    return failed and _first(_texts((document,), _MESSAGES)) is not None


def _has_reason(document: dict[str, Any]) -> bool:
    """Return whether an object has a field that only errors have, and no code of a success."""
    reason = _first(_texts((document,), _REASONS))
    return reason not in _NO_CODES and not any(code in _NO_CODES for code in _values((document,), _CODES))


def _detail(document: dict[str, Any]) -> str | None:
    """Return the first message of a list of errors: FastAPI's `detail`, `errors` of others."""
    for name in ("detail", "errors", "baseresp"):
        listed = document.get(name)
        first = listed[0] if isinstance(listed, list) and listed else listed
        if isinstance(first, dict):
            return next(iter(_texts((_spelled(first),), _MESSAGES)), None)
        if isinstance(first, str):
            return str(first)
    return None


def _says(error: Any) -> bool:
    if isinstance(error, dict):
        return any(value not in (None, "", "null") for value in error.values())
    return bool(error) and error != "null"


def _values(objects: Iterable[dict[str, Any]], names: tuple[str, ...]) -> Iterable[Any]:
    for document in objects:
        for name in names:
            value = document.get(name)
            if isinstance(value, str | int) and not isinstance(value, bool):
                yield value


def _texts(objects: Iterable[dict[str, Any]], names: tuple[str, ...]) -> Iterable[str]:
    return (value for value in _values(objects, names) if isinstance(value, str) and value)


def _first(values: Iterable[Any]) -> Any:
    return next(iter(values), None)


def stated_status(frame: bytes) -> int | None:
    """Return the HTTP status of an error that a frame contains outside its data, as DashScope's frames do."""
    stated = _STATUS.search(frame)
    return int(stated[1]) if stated and stated[1] >= b"400" else None


def _status(code: Any) -> int | None:
    """Return a code as an HTTP status, if it is the status of an error."""
    if isinstance(code, str):
        code = int(code) if code.isdecimal() and len(code) == 3 else 0
    return code if isinstance(code, int) and 400 <= code < 600 else None


def _cut(text: bytes) -> str:
    return text.decode("utf-8", "replace")[:200]


class Refusal(NamedTuple):
    """The status and code of an error response, as its body states them; `body` is its JSON, without SSE framing."""

    status: int
    code: str | None
    body: bytes | None
    framed: bool  # the body was an SSE frame


def read_refusal(status: int, body: bytes) -> Refusal:
    """Read an error response: JSON, framed as SSE or not, with a nested `error` or flat; anything else has no code.

    If the status is 200, the status in the frame is used, if it has one.
    """
    framed = _FRAMED.match(body) is not None
    data = _first_data(body) if framed else body.removeprefix(BOM).strip()
    try:
        document = json_text.read(data or b"")
    except ValueError:
        return Refusal(status, None, None, framed)
    if not isinstance(document, dict):
        return Refusal(status, None, None, framed)
    stated = _STATUS.search(body) if framed and status == 200 else None
    return Refusal(int(stated[1]) if stated else status, _refusal_code(document), data, framed)


def asks_for_stream(body: bytes) -> bool:
    """Return whether an error response says that a model, or its thinking mode, supports only streaming."""
    return any(words in body for words in _STREAM_ONLY)


def _first_data(body: bytes) -> bytes | None:
    """Return the data of the first frame that has any; [DONE] may follow it."""
    splitter = Splitter(len(body) + 1)
    frames = [*splitter.feed(body), splitter.tail]
    return next((data for frame in frames if (data := fields(frame).data)), None)


def _refusal_code(document: dict[str, object]) -> str | None:
    error = document.get("error")
    code = record(error).get("code") if error else document.get("code")
    return code if isinstance(code, str) else None
