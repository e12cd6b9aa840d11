"""Responses that consist of choices, as in both of Qwen's APIs: one frame's increment, and the finished document.

Finds texts and replaces them, but does not keep them: the caller (stream/modes/transcript.py) does.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

from proxy.dialects.documents.calls import Calls
from proxy.dialects.documents.delta import Delta, record, says_anything
from proxy.dialects.documents.increment import Assembler, Channel, Increment
from proxy.wire import json_text
from proxy.wire.sse import BOM, payload

_ANSWER: Final = (("content", ""), ("audio", "transcript"))
_TEXTS: Final[tuple[str, ...]] = ("delta", "message")  # the members of a choice that contain its texts
_OPENS_JSON: Final[tuple[bytes, ...]] = (b"{", BOM + b"{")


class ChoiceDocuments(ABC):
    """The part of ChoiceIncrement and ChoiceAssembler that differs between dialects."""

    cumulative: bool
    chunks = False
    has_answer = True
    has_document = True
    finish_reasons: Mapping[str, str] = {}

    def assembler(self) -> Assembler:
        """Return an assembler for one stream."""
        return ChoiceAssembler(self)

    def answers(self, channel: Channel) -> bool:
        """Return whether the texts of a channel are content of the first choice."""
        return channel.part == 0 and (channel.name, channel.field) in _ANSWER

    def in_chat(self, channel: Channel) -> Channel | None:
        """Return the channel itself: chunks consist of choices, too."""
        return channel

    @abstractmethod
    def tells(self, document: dict[str, Any]) -> bool:
        """Return whether a JSON object is a document of this dialect, and not an error."""

    @abstractmethod
    def deltas(self, document: dict[str, Any]) -> list[Delta]:
        """Return the increments of the choices in a document. They share its objects: a change is seen in both."""

    @abstractmethod
    def select(self, document: dict[str, Any], deltas: list[Delta]) -> None:
        """Replace the choices of a document with these."""

    @abstractmethod
    def beside(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a document besides its choices and its usage."""

    @abstractmethod
    def envelope(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return those of these fields that the finished document also has: the ones that the dialect defines."""

    @abstractmethod
    def accumulate(self, message: dict[str, Any], key: str, value: Any) -> None:
        """Add a field of a delta that is not text to the complete message."""

    @abstractmethod
    def blank(self, index: int, shape: Delta, *, streamed: bool = False) -> Delta:
        """Return a choice without text, in the format of `shape`: for a chunk if `streamed`, else for a document."""

    @abstractmethod
    def whole(self, envelope: dict[str, Any], usage: Any, choices: list[Delta]) -> dict[str, Any]:
        """Return the finished document, as in the response to a request without streaming."""


class ChoiceIncrement:
    """The Increment of a frame whose document has choices."""

    __slots__ = ("_documents", "alike", "alone", "altered", "deltas", "document", "parts", "texts", "whole")

    def __init__(self, documents: ChoiceDocuments, document: dict[str, Any], deltas: list[Delta]) -> None:
        self._documents = documents
        self.document = document
        self.deltas = deltas
        self.alike: Any = None  # set when the frame is taken
        self.altered = False
        self.parts: tuple[int, ...]
        self.texts: list[tuple[Channel, str]]
        for delta in deltas:
            delta.find()
        if len(deltas) == 1:
            only = deltas[0]
            self.parts, self.texts, self.whole, self.alone = (only.index,), only.texts, only.whole, only.sounds
        else:
            self.parts = tuple(dict.fromkeys([delta.index for delta in deltas]))
            self.texts = [text for delta in deltas for text in delta.texts]
            self.whole = bool(deltas) and deltas[0].whole
            self.alone = any(delta.sounds for delta in deltas)

    def put(self, where: Channel, text: str) -> None:
        self._delta(where.part).put(where, text)

    def keep_only(self, group: tuple[int, str, int]) -> None:
        delta = self._delta(group[0])
        delta.silence(group)
        self.deltas = [delta]

    def data(self) -> bytes:
        self._documents.select(self.document, sorted(self.deltas, key=lambda delta: delta.index))
        return json_text.written(self.document)

    def _delta(self, index: int) -> Delta:
        """Return the only increment of a choice: the first one, or a new one if there is none."""
        found = [delta for delta in self.deltas if delta.index == index]
        if not found:
            found = [self._documents.blank(index, self.deltas[0], streamed=True)]
            self.deltas.append(found[0])
        elif len(found) > 1:
            self.deltas = [delta for delta in self.deltas if delta.index != index or delta is found[0]]
        return found[0]


class ChoiceAssembler:
    """The Assembler of a stream of documents with choices."""

    __slots__ = (
        "_alike", "_beside", "_calls", "_documents", "_envelope", "_exact", "_fragments", "_logprobs", "_messages",
        "_numbers", "_shapes", "_usage", "unread",
    )  # fmt: skip

    def __init__(self, documents: ChoiceDocuments) -> None:
        self.unread = 0
        self._documents = documents
        self._alike: Any = None  # of the last frame
        self._exact = False  # some numbers lose digits when they are read the fast way
        self._envelope: dict[str, Any] = {}
        self._usage: Any = None
        # By the index of the choice:
        self._shapes: dict[int, Delta] = {}  # the first increment
        self._messages: dict[int, dict[str, Any]] = {}  # fields of the message that are not text
        self._beside: dict[int, dict[str, Any]] = {}  # fields of the choice
        self._fragments: dict[
            tuple[int, int], dict[str, Any]
        ] = {}  # unknown fields of tool calls; also by their number
        self._logprobs: dict[int, dict[str, None]] = {}  # the names of the fields of logprobs
        self._calls: dict[int, Calls] = {}
        self._numbers: dict[int, list[list[int]]] = {}  # by frame: call numbers that differ from the calls' indexes

    def take(self, frame: bytes, seq: int) -> Increment | None:
        data = payload(frame)
        try:
            increment = None if data is None else self._taken(frame, data, seq)
        except (ValueError, RecursionError):  # not JSON, or nested too deeply to be compared or written
            increment = None
        if increment is None and not self.unread and self._is_lost(frame, data):
            self.unread = seq
        return increment

    def _taken(self, frame: bytes, data: bytes, seq: int) -> Increment | None:
        document = json_text.read(data)
        if not isinstance(document, dict) or not self._documents.tells(document):
            return None
        deltas = self._documents.deltas(document)
        for delta in deltas:
            if delta.calls:
                self._number(deltas, seq)
                break
        increment = ChoiceIncrement(self._documents, document, deltas)
        increment.altered = seq in self._numbers
        increment.alike = self._like(increment)
        new = increment.alike != self._alike
        if new or (deltas and deltas[0].logprobs):
            self._exact = self._exact or json_text.may_lose_digits(data)
            if self._exact and (exact := self.read(frame, seq)):
                increment = exact
                increment.alike = self._like(increment)
        if new:
            self._note_envelope(increment)
        self._note(increment)
        return increment

    def read(self, frame: bytes, seq: int) -> ChoiceIncrement | None:
        try:
            data = payload(frame) or b""
            document = record(json_text.read_exactly(data) if self._exact else json_text.read(data))
            if not self._documents.tells(document):
                return None
            deltas = self._documents.deltas(document)
            if numbers := self._numbers.get(seq):
                _renumber(deltas, numbers)
            increment = ChoiceIncrement(self._documents, document, deltas)
        except (ValueError, RecursionError):
            return None
        increment.altered = bool(numbers)
        return increment

    def document(self, texts: dict[Channel, str]) -> bytes:
        choices = [self._choice(index, texts) for index in sorted(self._shapes)]
        return json_text.written(self._documents.whole(self._envelope, self._usage, choices))

    def _is_lost(self, frame: bytes, data: bytes | None) -> bool:
        """Return whether a frame that gave no increment should have given one."""
        if data is None:
            return frame.startswith(_OPENS_JSON)  # a line without a field name
        if not data.startswith(_OPENS_JSON):
            return False
        try:
            return self._documents.tells(record(json_text.read(data)))
        except ValueError:
            return True

    def _like(self, increment: ChoiceIncrement) -> Any:
        """Return what a frame contains besides its texts, to be compared with other frames."""
        deltas, document = increment.deltas, increment.document
        rests: list[Any] = []
        for delta in deltas:
            if delta.rest or delta.beside or delta.call_rests or len(deltas) > 1:
                rest = delta.rest, delta.beside, delta.call_rests
                if rest not in rests:
                    rests.append(rest)
        return bool(document.get("usage")), increment.whole, rests, self._documents.beside(document)

    def _number(self, deltas: list[Delta], seq: int) -> None:
        numbers = [self._calls.setdefault(delta.index, Calls()).number(delta.calls) for delta in deltas]
        if numbers != [[fragment.get("index") for _, fragment in delta.calls] for delta in deltas]:
            self._numbers[seq] = numbers
            _renumber(deltas, numbers)

    def _note_envelope(self, increment: ChoiceIncrement) -> None:
        """Record the fields of a document besides its choices.

        The first id, model and time are kept, as OpenAI's clients do: some services send the usage with others.
        """
        self._alike = increment.alike
        known = self._envelope
        for key, value in self._documents.envelope(increment.document).items():
            if isinstance(value, dict) and isinstance(known.get(key), dict):
                known[key] = known[key] | {field: given for field, given in value.items() if says_anything(given)}
            elif not known.get(key) or (says_anything(value) and isinstance(value, dict | list)):
                known[key] = value

    def _note(self, increment: ChoiceIncrement) -> None:
        """Record what choices contain besides their texts."""
        usage = increment.document.get("usage")
        for delta in increment.deltas:
            if delta.index not in self._shapes:
                self._shapes[delta.index] = delta
            if delta.rest:
                self._note_rest(delta)
            for number, fields in delta.call_rests or ():
                self._fragments.setdefault((delta.index, number), {}).update(fields)
            if delta.beside:
                usage = usage or delta.beside.get("usage")
                self._note_beside(delta)
            if delta.logprobs:
                self._logprobs.setdefault(delta.index, {}).update(dict.fromkeys(delta.logprobs))
        if usage and says_anything(usage):
            self._usage = usage

    def _note_rest(self, delta: Delta) -> None:
        message = self._messages.setdefault(delta.index, {})
        for key, value in delta.rest.items():
            if delta.whole:
                message[key] = value
            else:
                self._documents.accumulate(message, key, value)

    def _note_beside(self, delta: Delta) -> None:
        known = self._beside.setdefault(delta.index, {})
        for key, value in delta.beside.items():
            if key not in _TEXTS and (says_anything(value) or key not in known):
                known[key] = value

    def _choice(self, index: int, texts: dict[Channel, str]) -> Delta:
        """Return a finished choice."""
        delta = self._documents.blank(index, self._shapes[index])
        delta.message.update(self._messages.get(index, {}))
        delta.choice.update(self._beside.get(index, {}))
        if fields := self._logprobs.get(index):
            delta.choice["logprobs"] = dict(fields)
        for where, text in texts.items():
            if where.part == index:
                delta.put(where, text)
        for number, fragment in delta.calls:
            fragment.update(self._fragments.get((index, number), {}))
        return delta


def _renumber(deltas: list[Delta], numbers: list[list[int]]) -> None:
    """Set the indexes of tool call fragments, also in the document, to the numbers of their calls."""
    for delta, places in zip(deltas, numbers, strict=True):
        fragments = [fragment for _, fragment in delta.calls]
        delta.calls = list(zip(places, fragments, strict=True))
        for number, fragment in delta.calls:
            fragment["index"] = number
