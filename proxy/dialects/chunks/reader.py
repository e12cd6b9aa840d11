"""Reads the chunks of a chat completion: parses those that earlier streams have not shown, and notes what they say."""

from typing import Any, Final

from proxy.dialects.chunks.known import Alike, KnownChunks, Said
from proxy.dialects.chunks.writer import CHUNKS, DONE
from proxy.dialects.dialect import TextKind
from proxy.dialects.documents.delta import index_of, json_object, record
from proxy.dialects.failure import FOREIGN, Failure, failure, foreign, names_error
from proxy.dialects.generated import generated
from proxy.dialects.reader import LearningReader
from proxy.wire.sse import fields, payload

_DONE_FRAME: Final = b"data: %b\n\n" % DONE
_DONE_WITHIN_S: Final = 5.0  # after the last finish reason


class ChatReader(LearningReader):
    """The Reader of the chunks of one chat completion."""

    __slots__ = ("_alike", "_chunks", "_has_text", "_mark")

    def __init__(self, chunks: KnownChunks) -> None:
        super().__init__()
        self._chunks = chunks
        self._alike: Alike | None = None  # what is known of such streams, once the first chunk has shown the mark
        self._mark = b""
        self._has_text = False  # the first text has come

    def note(self, frame: bytes) -> TextKind | None:
        if frame == _DONE_FRAME:
            self._end()
            return None
        said = self._known(frame) if self.finish_reason is None else None
        if said is None:
            return self._note(frame)
        self.has_content = True
        if self.model is None:
            self.model = said.model
        if said.reason is None:
            self._finished.setdefault(said.index, False)
        else:
            self._finish(said.index, said.reason)
        return said.kind

    def _known(self, frame: bytes) -> Said | None:
        """Return what a frame says, if earlier streams tell; None if it must be parsed."""
        alike = self._alike
        if alike is None:
            found = None if self.has_content else self._chunks.find(frame)
            if found is None:
                return None
            self._mark, alike = found
            self._alike = alike
        if not self._has_text and self._finished and alike.of_text is not None:
            head, tail = alike.surroundings(self._mark)
            if self._learn_first(frame, head, tail):
                self._has_text = True
                return alike.of_text
        return alike.said(frame, self._mark)

    def _end(self) -> None:
        """Note that the final event has come; what earlier chunks had alike is kept no longer, as the stream may be."""
        self.ended = True
        self._alike, self._mark = None, b""
        self.forget_surroundings()

    def _note(self, frame: bytes) -> TextKind | None:
        """Parse a frame, and note it."""
        data = payload(frame)
        plain = data is not None and len(frame) == len(data) + 8  # the frame is `data: `, the data, and two LFs
        named = not plain and self._note_fields(frame, data)
        if data is None and not named:
            return None
        if data is not None and data.startswith(DONE):  # SDKs compare the beginning only, and then stop reading
            self._end()
            return None
        chunk = json_object(data or b"")
        choices, usage = chunk.get("choices"), chunk.get("usage")
        if not usage and "x_groq" in chunk:
            usage = record(chunk["x_groq"]).get("usage")
        if named or not (choices or usage) or "error" in chunk:
            self._note_failure(frame, data or b"", chunk, named)
        if self.model is None and isinstance(model := chunk.get("model"), str):
            self.model = model
        if usage:
            self._take_usage(usage)
            self.has_content = True
        if not choices or type(choices) is not list:
            return None
        kind = self._note_choices(frame, choices)
        if plain and not usage and self._alike is not None and len(choices) == 1:
            self._remember(frame, self._alike, chunk.get("model"), choices[0], kind)
        self._has_text = self._has_text or kind is not None
        return kind

    def _remember(self, frame: bytes, alike: Alike, model: Any, choice: Any, kind: TextKind | None) -> None:
        """Have later streams know what a frame says that has no text, or the first one."""
        if self.failure is not None or self.ended or type(choice) is not dict or "usage" in choice:
            return
        reason = choice.get("finish_reason")
        if reason is not None and type(reason) is not str:
            return
        said = Said(model if type(model) is str else None, index_of(choice, 0), reason, kind)
        around = self.surroundings
        if kind is None:
            self._chunks.learn(alike, frame, self._mark, said)
        elif not self._has_text and around is not None:
            self._chunks.learn_surroundings(alike, frame, around, self._mark, said)

    @property
    def enough_after_s(self) -> float:
        """Only [DONE] says so at once; before it, the usage may be some time in coming."""
        return self._quiet_s(_DONE_WITHIN_S)

    def lacks_only_end(self, lines: bytes) -> bool:
        if DONE in lines and (fields(lines).data or b"").startswith(DONE):
            self.ended = True
        return self.ended

    def error_frame(
        self, message: str, code: str, ident: bytes, last: bytes | None = None, number: int | None = None
    ) -> bytes:
        return CHUNKS.fail(message, code, ident)

    def _note_fields(self, frame: bytes, data: bytes | None) -> bool:
        """Check a frame's fields besides its data; return whether the event is named error."""
        if frame.find(b"event") >= 0 and names_error(frame):
            return True
        if data is None or frame.startswith(FOREIGN):
            self._fail(foreign(frame))
        return False

    def _note_choices(self, frame: bytes, choices: list[Any]) -> TextKind | None:
        kind = None
        self.has_content = True
        for place, choice in enumerate(choices):
            if type(choice) is not dict:
                continue
            index, reason = index_of(choice, place), choice.get("finish_reason")
            delta = choice.get("delta") or choice.get("message")
            for part in (choice, delta):
                if type(part) is dict and "error" in part:
                    self._fail(_in_choice(failure(b"", b"", {"error": part["error"]}, named=False)))
            self._finish(index, reason)
            if "usage" in choice:
                self._take_usage(choice["usage"])
            found = generated(delta if type(delta) is dict else choice)
            if found is None:
                continue
            if kind is None or kind is TextKind.REASONING:  # content takes precedence over reasoning
                kind = found.kind
            if reason is None and found.text and len(choices) == 1 and self.failure is None:
                self._learn(frame, found.key, found.text, index)
        return kind

    def _note_failure(self, frame: bytes, data: bytes, chunk: dict[str, Any], named: bool) -> None:
        found = failure(frame, data, chunk, named=named)
        # OpenAI's SDKs ignore an event's name, and recognise an error only under the key "error".
        self._fail(found._replace(recognised=bool(chunk.get("error"))) if found is not None else None)

    def _read_numbers(self, frame: bytes) -> None:
        self._take_usage(chunk_in(frame).get("usage"))


def chunk_in(frame: bytes) -> dict[str, Any]:
    """Return the chunk in a frame; {} for comments, [DONE] and anything that is not a JSON object."""
    data = payload(frame)
    return {} if not data or data == DONE else json_object(data)


def _in_choice(found: Failure | None) -> Failure | None:
    return None if found is None else found._replace(recognised=False)
