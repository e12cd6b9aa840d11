"""What a stream has said so far, by channel: the index from which rewriting modes take their text.

Fed every frame once, in order. Knows no API, log, clock or socket. It keeps the pieces of each channel with the number
of the frame they came with, and where runs of frames begin that may be merged: O(text), never O(text x frames). What it
returns for a span, or up to an offset, depends only on the frames before its end, even if it has been fed more; only
`document` depends on all frames.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Any, Final

from proxy.dialects.dialect import Dialect
from proxy.dialects.documents.increment import Channel, Increment, Kind
from proxy.stream.modes.channel import Pieces

_BACKSLASH: Final = 92
_HALF: Final = re.compile(
    rb"\\u[dD][89a-fA-F]"
)  # an escape of half a character, as a rule with the other half behind it


class Transcript:
    """What a stream has said so far, from offset `start` to `end`."""

    __slots__ = (
        "_alike", "_assembler", "_documents", "_ended", "_expected", "_feeding", "_halves", "_marks", "_places",
        "_seams", "_walls", "answer", "channels", "end", "literal", "start", "whole",
    )  # fmt: skip

    def __init__(self, dialect: Dialect, start: int = 0, *, cumulative: bool | None = None) -> None:
        """`cumulative`: whether the upstream was asked for all so far, or for increments; None: the dialect's way."""
        self.start = start
        self.end = start
        self.whole = not start  # it has been fed all frames, though it may have dropped texts since
        self.channels: dict[Channel, Pieces] = {}
        self.answer = Pieces()  # of all channels of answer text
        self.literal = True  # the texts of every frame were just the increments that they added
        self._documents = dialect.documents
        self._assembler = dialect.documents.assembler()
        self._expected = dialect.documents.cumulative if cumulative is None else cumulative
        self._seams: list[int] = []  # offsets before which a frame may not be merged with one after them
        self._walls: list[int] = []  # those of them where more than marks change
        self._alike: Any = None  # of the last frame: what makes two frames alike but for their texts
        self._marks: set[str] | None = None  # of the last frame
        self._ended = False
        self._feeding = False  # also when it failed within a frame
        self._places: dict[tuple[int, str], dict[int, int]] = {}  # of calls: where they were, and their numbers
        self._halves: dict[Channel, str] | None = None  # of characters that came in two; None: there were none

    @property
    def unread(self) -> int:
        """The number of the first frame whose data could not be read; 0: all could."""
        return self._assembler.unread

    @property
    def size_bytes(self) -> int:
        """Return how much memory its texts take."""
        return sum([pieces.size_bytes for pieces in self.channels.values()])

    def feed(self, frames: Iterable[bytes]) -> None:
        """Read the next frames. Raises: RuntimeError, if an earlier call failed, and so a frame is missing."""
        if self._feeding:
            raise RuntimeError("an earlier frame could not be read")
        self._feeding = True
        for frame in frames:
            self.end += 1
            if _BACKSLASH in frame and self._halves is None and _HALF.search(frame):
                self._halves = {}
            increment = self._assembler.take(frame, self.end)
            if increment is None or not increment.parts:
                self._cut(wall=True)
                self._alike, self._ended = None, True
            else:
                self._take(increment)
        self._feeding = False

    def read(self, frame: bytes, seq: int) -> Increment | None:
        """Return the increment of a frame that was fed, if it is of any part of the answer."""
        increment = self._assembler.read(frame, seq)
        return increment if increment is not None and increment.parts else None

    def _take(self, increment: Increment) -> None:
        seq, added, again = self.end, 0, False
        marks: list[tuple[Channel, str]] = []
        for channel, text in increment.texts:
            pieces = self.channels.get(channel) or self._open(channel)
            if pieces.marks:
                marks.append((channel, text))
                continue
            piece = pieces.read_whole(text) if increment.whole else pieces.read(text, self._expected)
            if self._halves is not None:
                piece = self._whole_characters(channel, piece)
            if piece:
                pieces.add(seq, piece)
                added += channel.kind is Kind.TEXT
                if pieces.answers:
                    self.answer.add(seq, piece)
            if piece != text:
                again = True
            if pieces.cumulative is not None and not increment.whole:
                self._expected = pieces.cumulative
        if again or increment.altered:
            self.literal = False
        if marks:
            self._mark(increment, marks, added)
        else:
            self._join(increment.alike, None, alone=increment.alone)

    def _mark(self, increment: Increment, marks: list[tuple[Channel, str]], added: int) -> None:
        """Note the marks of a frame: values that hold from now on, and finish reasons, which end a part."""
        begins = ends = False
        for channel, text in marks:
            pieces = self.channels[channel]
            new = pieces.last != text
            if new:
                pieces.add(self.end, text)
            if channel.kind is Kind.END:
                ends = True
                added += self._settle(channel.part) if new else 0
            else:
                begins = begins or new
        lasting = {text for channel, text in marks if channel.kind is Kind.MARK}
        alone = increment.alone or (begins and not added)
        self._join(
            increment.alike, lasting or None, alone=alone, ends=ends, last=added == 1 and len(increment.parts) == 1
        )

    def _join(self, alike: Any, marks: set[str] | None, *, alone: bool, ends: bool = False, last: bool = True) -> None:
        """Note whether the frame may be merged with the one before, and with the next."""
        if alike != self._alike:
            self._cut(wall=True)
        elif alone or self._ended or marks != self._marks or (ends and not last):
            self._cut(wall=False)
        self._alike, self._marks, self._ended = alike, marks, ends or alone

    def _open(self, channel: Channel) -> Pieces:
        documents = self._documents
        pieces = self.channels[channel] = Pieces(channel.kind, answers=documents.answers(channel))
        if channel.kind is Kind.TEXT and not documents.has_cumulative:
            pieces.cumulative = False  # this API has no cumulative texts: nothing is to be detected
        pieces.in_chat = self._numbered(documents.in_chat(channel))
        return pieces

    def _numbered(self, channel: Channel | None) -> Channel | None:
        """Return a channel of chunks with the number of its call: they are counted as they are named.

        None for the texts of a call without a name: a client can't run it.
        """
        if channel is None or channel.place < 0:
            return channel
        places = self._places.setdefault((channel.part, channel.name), {})
        if channel.kind is Kind.LABEL:
            places.setdefault(channel.place, len(places))
        number = places.get(channel.place)
        return None if number is None else channel._replace(place=number)

    def _settle(self, part: int) -> int:
        """Add the texts that were held back, because a part has ended; return how many channels had one."""
        settled = 0
        for channel, pieces in self.channels.items():
            rest = pieces.settle(self._expected) if channel.part == part else ""
            if self._halves and channel.part == part:
                rest += self._halves.pop(channel, "")
            if rest:
                pieces.add(self.end, rest)
                if pieces.answers:
                    self.answer.add(self.end, rest)
                self.literal = False
                settled += 1
        return settled

    def _whole_characters(self, channel: Channel, piece: str) -> str:
        """Join the halves of a surrogate pair; a first half at the end is held back until the second comes."""
        assert self._halves is not None
        piece = self._halves.pop(channel, "") + piece
        if piece and 0xD800 <= ord(piece[-1]) <= 0xDBFF:
            self._halves[channel] = piece[-1]
            piece = piece[:-1]
        return piece.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")

    def _cut(self, *, wall: bool) -> None:
        self._seams.append(self.end - 1)
        if wall:
            self._walls.append(self.end - 1)

    def in_chat(self, start: int, end: int) -> dict[int, list[tuple[Channel, str]]]:
        """Return, by the numbers of the frames between two offsets, what each says, in the channels of chunks."""
        found: dict[int, list[tuple[Channel, str]]] = {}
        for pieces in self.channels.values():
            if pieces.in_chat is not None:
                for seq, text in pieces.between(start, end):
                    found.setdefault(seq, []).append((pieces.in_chat, text))
        return found

    @property
    def finished(self) -> bool:
        """Whether a part of the answer has said that it has ended."""
        return any(channel.kind is Kind.END for channel in self.channels)

    def runs(self, start: int, end: int, *, walls: bool = False) -> Iterator[tuple[int, int]]:
        """Yield the spans into which the one between two offsets falls when only what is alike is merged.

        `walls`: frames that differ by texts and marks are alike, else those that differ by texts.
        """
        seams = self._walls if walls else self._seams
        inside = seams[bisect_right(seams, start) : bisect_right(seams, end - 1)]
        yield from zip([start, *inside], [*inside, end], strict=True)

    def forget(self, start: int) -> None:
        """Drop what is only needed for spans below an offset; texts are kept, since later frames repeat them."""
        for seams in (self._seams, self._walls):
            del seams[: bisect_left(seams, start)]

    def drop_texts(self, below: int) -> None:
        """Drop the texts of the frames below an offset; from now on, the whole text is not available."""
        self.start = max(self.start, below)
        for pieces in (self.answer, *self.channels.values()):
            if not (pieces.marks or pieces.labels):
                pieces.forget(below)

    def document(self) -> bytes:
        """Return the finished document of all frames so far, in JSON. Raises: ValueError, if it can't be written."""
        texts = {channel: pieces.so_far(self.end) for channel, pieces in self.channels.items()}
        for channel, half in (self._halves or {}).items():
            texts[channel] += half
        return self._assembler.document(texts)
