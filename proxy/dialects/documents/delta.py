"""One choice's increment in a document of Qwen's two APIs: finds its texts, and replaces them.

Knows no frames and no earlier increments. Fields that it does not know by name stay unchanged.
"""

import re
from base64 import b64decode, b64encode
from functools import lru_cache
from typing import Any, Final, overload

from proxy.dialects.documents.increment import Channel, Kind
from proxy.wire import json_text

_TEXTS: Final = frozenset(["reasoning_content", "reasoning", "refusal"])  # `reasoning`: of vLLM, Ollama and OpenRouter
_AUDIO: Final[tuple[str, ...]] = ("id", "data", "transcript")
_CUSTOM: Final = "custom."
_BODIES: Final = {"function": ("", "arguments"), "custom": (_CUSTOM, "input")}  # of a tool call: hold its name and text
_KINDS: Final = {"role": Kind.MARK, "finish_reason": Kind.END, "id": Kind.LABEL, "name": Kind.LABEL, "data": Kind.DATA}
_KINDS[_CUSTOM + "name"] = Kind.LABEL
# DashScope writes the string "null" for an unfinished choice.
_NO_VALUE: Final[tuple[str | None, ...]] = (None, "", "null")
_LOGPROBS: Final = "logprobs."
_MARKS: Final[tuple[Kind, ...]] = (Kind.MARK, Kind.END)
_BESIDE: Final = frozenset(["index", "logprobs"])
_PADDED: Final = re.compile(r"[^=]+=*")  # base64 up to the end of its padding (RFC 4648 section 3.2)


@lru_cache(maxsize=1024)
def channel(part: int, name: str = "content", place: int = -1, field: str = "") -> Channel:
    """Return the channel of a choice's field, or of a field within it."""
    kind = Kind.ITEMS if field.startswith(_LOGPROBS) else _KINDS.get(field or name, Kind.TEXT)
    return Channel(part, name, place, field, kind)


class Delta:
    """A choice's increment in one chunk, as OpenAI calls it.

    `choice` is the object that has the finish_reason, `message` the one that has the texts, `content` the key of the
    content in it. `whole`: the message is complete, not an increment. `lone`: the document has no list of choices, and
    the other fields of `choice` do not belong to the choice.
    """

    __slots__ = (
        "beside", "call_rests", "calls", "choice", "content", "index", "logprobs", "lone", "message", "rest", "sounds",
        "texts", "whole",
    )  # fmt: skip

    def __init__(
        self,
        index: int,
        choice: dict[str, Any],
        message: dict[str, Any],
        content: str,
        *,
        whole: bool = False,
        lone: bool = False,
    ) -> None:
        self.index = index
        self.choice = choice
        self.message = message
        self.content = content
        self.whole = whole
        self.lone = lone
        if "tool_calls" in message and isinstance(message["tool_calls"], dict):
            message["tool_calls"] = _listed(message["tool_calls"])
        self.calls = _numbered(message["tool_calls"]) if "tool_calls" in message else []
        self.texts: list[tuple[Channel, str]] = []
        self.rest: dict[str, Any] = {}  # the fields of the message that are not texts
        self.beside: dict[str, Any] = {}  # the fields of the choice that are not texts
        self.call_rests: list[tuple[int, dict[str, Any]]] | None = None  # the same of tool calls, with their numbers
        self.logprobs: dict[str, Any] | None = None
        self.sounds = False  # it has encoded audio, each piece of which must be decoded by itself

    def find(self) -> None:
        """Find the texts and the other fields; the numbers in `calls` must have been corrected before."""
        index, texts = self.index, self.texts
        # Of a choice that is its own message, the other fields are those of a choice.
        own = self.message is self.choice and not self.lone
        for key, value in [(self.content, self.message[self.content])] if own else self.message.items():
            if value is None:
                continue
            if key == self.content:
                if type(value) is str:
                    texts.append((channel(index), value))
                elif (text := _joined(value)) is not None:
                    texts.append((channel(index), text))
                    if others := _beside_text(value):
                        self.rest[key] = others
                else:
                    self.rest[key] = value
            elif key in _TEXTS and type(value) is str:
                texts.append((channel(index, key), value))
            elif key == "role" or key == "finish_reason":
                self._mark(key, value)
            elif key == "tool_calls" and isinstance(value, list):
                self._find_calls()
            elif key == "audio" and isinstance(value, dict):
                self._find_audio(value)
            elif key == "function_call" and isinstance(value, dict):
                self._find_function_call(value)
            elif key not in _BESIDE:
                self.rest[key] = value
        if not self.lone:
            self._find_beside()
        elif self.choice is not self.message:
            self._mark("finish_reason", self.choice.get("finish_reason"))

    def _find_beside(self) -> None:
        message = self.message
        for key, value in self.choice.items():
            if value is None or value is message or (key == self.content and message is self.choice):
                continue
            if key == "finish_reason":
                self._mark(key, value)
            elif key == "logprobs" and isinstance(value, dict):
                self.logprobs = value
                for field, found in value.items():
                    if found and isinstance(found, list):
                        name = "refusal" if field == "refusal" else "content"
                        items = "," + json_text.written(found)[1:-1].decode()
                        self.texts.append((channel(self.index, name, -1, _LOGPROBS + field), items))
            elif key not in _BESIDE:
                self.beside[key] = value

    def _mark(self, key: str, value: Any) -> None:
        if isinstance(value, str) and value not in _NO_VALUE:
            self.texts.append((channel(self.index, key), value))

    def _find_audio(self, audio: dict[str, Any]) -> None:
        for field in _AUDIO:
            if isinstance(text := audio.get(field), str):
                self.texts.append((channel(self.index, "audio", -1, field), text))
                self.sounds = self.sounds or field == "data"
        if others := {key: value for key, value in audio.items() if key not in _AUDIO and value is not None}:
            self.rest["audio"] = others

    def _find_function_call(self, call: dict[str, Any]) -> None:
        """Find the texts of a `function_call`, which tool calls have replaced in OpenAI's API."""
        for field, text in (("name", call.get("name")), ("arguments", _arguments(call.get("arguments")))):
            if isinstance(text, str):
                self.texts.append((channel(self.index, "function_call", -1, field), text))
        if others := {key: value for key, value in call.items() if key not in _FUNCTION and value is not None}:
            self.rest["function_call"] = others

    def _find_calls(self) -> None:
        rest = []
        for number, fragment in self.calls:
            body, prefix, text_name = _body(fragment)
            found = {"id": fragment.get("id"), prefix + "name": body.get("name")}
            found[prefix + text_name] = _arguments(body.get(text_name))
            for field, text in found.items():
                if isinstance(text, str):
                    self.texts.append((channel(self.index, "tool_calls", number, field), text))
            if others := {key: value for key, value in fragment.items() if key not in _CALL and key not in _BODIES}:
                rest.append((number, others))
        if rest:
            self.call_rests = rest

    # Changing texts

    def put(self, where: Channel, text: str) -> None:
        """Set the text of a channel, and create its field if there is none."""
        name, field = where.name, where.field
        if field.startswith(_LOGPROBS):
            found = json_text.Written(f"[{text[1:]}]") if text else None
            self.choice["logprobs"] = record(self.choice.get("logprobs")) | {field.removeprefix(_LOGPROBS): found}
        elif name == "tool_calls":
            self._put_call(where, text)
        elif name == "finish_reason":
            self.choice[name] = text
        elif name == "audio":
            text = joined_base64(text) if where.kind is Kind.DATA else text
            self.message[name] = record(self.message.get(name)) | {field: text}
        elif name == "function_call":
            self.message[name] = _with_text(record(self.message.get(name)), field, text)
        elif name == "content":
            self._put_content(text)
        else:
            self.message[name] = text

    def _put_content(self, text: str) -> None:
        key = self.content
        parts = self.message.get(key)
        if isinstance(parts, dict):
            parts = [parts]
        if not isinstance(parts, list):
            self.message[key] = text
            return
        first = record(next(filter(_is_text, parts), {}))
        places = [place for place, part in enumerate(parts) if _is_text(part)]
        text_part = {**first, "text": text}
        others = [part for part in _beside_text(parts) if part != {**first, "text": ""}]
        others.insert(min(places[0], len(others)) if places else len(others), text_part)
        self.message[key] = others

    def _put_call(self, where: Channel, text: str) -> None:
        """Set a text in the first fragment of a call, and remove the call's other fragments."""
        number, field = where.place, where.field
        fragment = next((one for known, one in self.calls if known == number), None)
        if fragment is None:
            fragment = {"index": number, "id": "", "type": "function", "function": {}}
            self.calls = sorted([*self.calls, (number, fragment)], key=lambda call: call[0])
        else:
            self.calls = [call for call in self.calls if call[0] != number or call[1] is fragment]
        self.message["tool_calls"] = [one for _, one in self.calls]
        if field == "id":
            fragment["id"] = text
            return
        name = "custom" if field.startswith(_CUSTOM) else "function"
        field = field.removeprefix(_CUSTOM)
        if name not in fragment and not fragment.get("function"):  # the fragment was made before its type was known
            fragment.pop("function", None)
            fragment["type"] = name
        fragment[name] = _with_text(record(fragment.get(name)), field, text)

    def silence(self, group: tuple[int, str, int]) -> None:
        """Remove all texts except those of a group of channels."""
        calls = self.calls
        for where, text in self.texts:
            if text and where.group != group and where.kind not in _MARKS and where.name != "tool_calls":
                self.put(where, "")
        if "tool_calls" in self.message:
            self.calls = [call for call in calls if (self.index, "tool_calls", call[0]) == group]
            self.message["tool_calls"] = [fragment for _, fragment in self.calls]
            if not self.calls:
                del self.message["tool_calls"]
        if group[1] != "function_call":
            self.message.pop("function_call", None)


_FUNCTION: Final = frozenset(["name", "arguments"])
_CALL: Final = frozenset(["index", "id", "type"])


def _listed(calls: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tool calls in an object in place of a list: the only one, or one under each number."""
    if not all(key.isdecimal() and len(key) < 10 and isinstance(call, dict) for key, call in calls.items()):
        return [calls]
    return [{"index": int(key), **call} for key, call in calls.items()]


def _numbered(calls: Any) -> list[tuple[int, dict[str, Any]]]:
    return [(index_of(fragment, place), fragment) for place, fragment in enumerate(records(calls))]


@overload
def index_of(item: dict[str, Any]) -> int | None: ...
@overload
def index_of(item: dict[str, Any], place: int) -> int: ...
def index_of(item: dict[str, Any], place: int | None = None) -> int | None:
    """Return the index that a choice or a tool call states, some as a float or a string; `place` if it states none."""
    index = item.get("index")
    if type(index) is int:
        return index if index >= 0 else place
    if isinstance(index, float) and index.is_integer():
        index = str(int(index))
    return int(index) if isinstance(index, str) and index.isdecimal() and len(index) < 10 else place


def _body(fragment: dict[str, Any]) -> tuple[dict[str, Any], str, str]:
    """Return the object with a tool call's name, the prefix of its channels' fields, and the key of its text."""
    for key, (prefix, text_name) in _BODIES.items():
        if isinstance(body := fragment.get(key), dict):
            return body, prefix, text_name
    return {}, "", "arguments"


def _with_text(body: dict[str, Any], field: str, text: str) -> dict[str, Any]:
    """Return a function with its name or its text replaced; Qwen omits the name after the first fragment, too."""
    if field != "name":
        return {**body, field: text}
    unnamed = {key: value for key, value in body.items() if key != "name"}
    return {"name": text, **unnamed} if text else unnamed


def _arguments(stated: Any) -> Any:
    """Return a call's arguments as text; some servers send the value itself."""
    return stated if stated is None or isinstance(stated, str) else json_text.written(stated).decode()


_TEXT_PART: Final = frozenset(["text", "type"])
_TEXT_TYPES: Final[tuple[str, ...]] = ("text", "output_text")


def _is_text(part: Any) -> bool:
    if isinstance(part, str):
        return True
    if not isinstance(part, dict) or not isinstance(part.get("text", 0), str | None):
        return False
    return part.keys() <= _TEXT_PART or part.get("type") in _TEXT_TYPES


def _beside_text(parts: Any) -> list[Any]:
    """Return what content parts have beside text: other parts, and the annotations of texts, without the text."""
    found = []
    for part in [parts] if isinstance(parts, dict) else parts:
        if not _is_text(part):
            found.append(part)
        elif isinstance(part, dict) and any(says_anything(part[key]) for key in part.keys() - _TEXT_PART):
            found.append({**part, "text": ""})
    return found


def _joined(content: Any) -> str | None:
    """Return the text of a list of content parts, or of a single part; None if there is none."""
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list) and (not content or any(map(_is_text, content))):
        return "".join(
            [part if isinstance(part, str) else part.get("text") or "" for part in filter(_is_text, content)]
        )
    return None


def joined_base64(pieces: str) -> str:
    """Return data in base64 that came in pieces, each encoded by itself, as one text that can be decoded."""
    if "=" not in pieces.rstrip("="):
        return pieces
    try:
        return b64encode(b"".join([b64decode(piece, validate=True) for piece in _PADDED.findall(pieces)])).decode()
    except ValueError:  # not in base64
        return pieces


def json_object(data: bytes, *, exactly: bool = False) -> dict[str, Any]:
    """Return a JSON object, {} for anything else; only if `exactly`, it may be written, and that loses nothing."""
    try:
        value = json_text.read_exactly(data) if exactly else json_text.inspect(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def rewritten_body(asked: dict[str, Any]) -> bytes | None:
    """Return the body of a rewritten request; None, if it can't be written."""
    try:
        return json_text.written(asked)
    except ValueError:
        return None


def record(value: Any) -> dict[str, Any]:
    """Return a JSON object unchanged, and {} for anything else that an upstream may have sent in its place."""
    return value if isinstance(value, dict) else {}


def records(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a JSON array; an empty list for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def says_anything(value: Any) -> bool:
    """Return whether a JSON value is not empty; DashScope writes the string "null" for an unfinished choice."""
    if value is None:
        return False
    if isinstance(value, dict):
        return any(map(says_anything, value.values()))
    return value not in ("", "null", [])
