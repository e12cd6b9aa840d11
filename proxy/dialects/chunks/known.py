"""Chunks that need no parsing, since those of earlier streams were the same but for their id and time of creation.

Streams of one model begin and end with the same chunks, and have the same around their first text, except for these
two, which as a rule are the same in all chunks of a stream. They stand beside each other at one end of each frame: the
bytes from there to the farther one are called the stream's mark, and found in its first chunk. Both are written
plainly, so with another mark a chunk is as valid and says the same, as no reader reads them. Only chunks without text
are kept.
"""

from typing import Final

from proxy.dialects.dialect import TextKind

_ID: Final = b'"id":"'
_ID_FIRST: Final = b'data: {"id":"'
_CREATED: Final = b'"created":'
_CREATED_DIGITS: Final = 10  # from 2001 to 2286
_ZERO: Final = 48
_MOST_ALIKE: Final = 64  # streams of different models, or from different services
_MOST_CHUNKS: Final = 16  # of each of them
_LONGEST_BYTES: Final = 2048  # of a chunk


class Said:
    """What a chunk with one choice says: the model, and of the choice its index, finish reason, and kind of text."""

    __slots__ = ("index", "kind", "model", "reason")

    def __init__(self, model: str | None, index: int, reason: str | None, kind: TextKind | None) -> None:
        self.model = model
        self.index = index
        self.reason = reason
        self.kind = kind


class Alike:
    """What is known of streams that are alike but for their marks."""

    __slots__ = ("_chunks", "_head", "_tail", "leads", "of_text", "unmarked")

    def __init__(self, unmarked: bytes, leads: bool) -> None:
        self.unmarked = unmarked  # the mark, without the id and the time of creation
        self.leads = leads  # whether frames begin with the mark; otherwise they end with it
        self.of_text: Said | None = None  # what the first chunk with text says; None: not known
        self._chunks: dict[bytes, Said] = {}  # without text, by the frame without its mark
        self._head = self._tail = b""  # what surrounds the first text, without the mark

    def said(self, frame: bytes, mark: bytes) -> Said | None:
        """Return what a frame says that has no text; None if it is not known."""
        size = len(mark)
        if self.leads:
            return self._chunks.get(frame[size:]) if frame[:size] == mark else None
        return self._chunks.get(frame[:-size]) if frame[-size:] == mark else None

    def surroundings(self, mark: bytes) -> tuple[bytes, bytes]:
        """Return what precedes and follows the first text of a stream with this mark, if `of_text` is known."""
        return (mark + self._head, self._tail) if self.leads else (self._head, self._tail + mark)

    def keep(self, frame: bytes, mark: bytes, said: Said) -> None:
        """Keep what a frame without text says."""
        if len(self._chunks) >= _MOST_CHUNKS:
            self._chunks.clear()
        self._chunks[frame[len(mark) :] if self.leads else frame[: -len(mark)]] = said

    def keep_surroundings(self, head: bytes, tail: bytes, mark: bytes, said: Said) -> None:
        """Keep what precedes and follows the first text of a stream, and what its frame says."""
        if self.leads:
            self._head, self._tail = head[len(mark) :], tail
        else:
            self._head, self._tail = head, tail[: -len(mark)]
        self.of_text = said


class KnownChunks:
    """The streams whose chunks are known, by what their marks have besides the id and the time of creation."""

    __slots__ = ("_alike",)

    def __init__(self) -> None:
        self._alike: dict[bytes, Alike] = {}

    def find(self, frame: bytes) -> tuple[bytes, Alike] | None:
        """Return the mark in a stream's first chunk, and what is known of such streams; None if it has no mark."""
        leads = frame.startswith(_ID_FIRST)
        if leads:
            ident, _, rest = frame[len(_ID_FIRST) :].partition(b'"')
            between, _, rest = rest.partition(_CREATED)
            mark, unmarked = frame[: len(frame) - len(rest) + _CREATED_DIGITS], b'"' + between
        else:
            _, _, rest = frame.partition(_CREATED)
            between, _, end = rest.partition(_ID)
            ident, _, end = end.partition(b'"')
            mark, unmarked = _CREATED + rest, between[_CREATED_DIGITS:] + _ID + end
        # Another value of either must not make a chunk invalid, as a zero at the beginning or a line end would.
        created = rest[:_CREATED_DIGITS]
        if not created.isdigit() or created[0] == _ZERO or not ident.translate(None, b"-_").isalnum():
            return None
        alike = self._alike.get(unmarked)
        return mark, Alike(unmarked, leads) if alike is None else alike

    def learn(self, alike: Alike, frame: bytes, mark: bytes, said: Said) -> None:
        """Learn what a chunk without text says."""
        if self._may_keep(alike, frame, mark):
            alike.keep(frame, mark, said)

    def learn_surroundings(
        self, alike: Alike, frame: bytes, surroundings: tuple[bytes, bytes], mark: bytes, said: Said
    ) -> None:
        """Learn what surrounds the first text of a stream, in this frame, and what the frame says."""
        head, tail = surroundings
        is_whole = head.startswith(mark) if alike.leads else tail.endswith(mark)
        if is_whole and self._may_keep(alike, frame, mark):
            alike.keep_surroundings(head, tail, mark, said)

    def _may_keep(self, alike: Alike, frame: bytes, mark: bytes) -> bool:
        """Return whether what a frame says may be kept, as it has its stream's mark, and make room for it."""
        if len(frame) > _LONGEST_BYTES or not (frame.startswith(mark) if alike.leads else frame.endswith(mark)):
            return False
        if alike.unmarked not in self._alike:
            if len(self._alike) >= _MOST_ALIKE:
                self._alike.clear()
            self._alike[alike.unmarked] = alike
        return True
