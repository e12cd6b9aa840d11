"""The text of one channel of an answer: pieces, each with the number of the frame that it came in.

Knows no API, no JSON and no frames. An upstream sends increments, or the complete text so far with every frame. Which
of the two is detected from the texts; the pieces are increments either way.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

from proxy.dialects.documents.increment import Channel, Kind

_PIECE_BYTES: Final = 104  # of memory that a piece takes beside its characters: two objects, two pointers
_EVIDENT_TEXTS: Final = 8  # this many texts in a row, each beginning with the one before,
_EVIDENT_CHARACTERS: Final = 24  # the last at least this long, can't be increments
_DOUBTFUL_TEXTS: Final = 16  # after this many without certainty, they are taken for increments


class Pieces:
    """A text as increments, in the order of their frames; any span of frames is a slice found by bisection."""

    __slots__ = (
        "_detector",
        "_forgotten",
        "_seqs",
        "_texts",
        "answers",
        "cumulative",
        "in_chat",
        "labels",
        "marks",
        "size_bytes",
        "wholes",
    )

    def __init__(self, kind: Kind = Kind.TEXT, *, answers: bool = False) -> None:
        self.size_bytes = 0  # of memory
        self._forgotten = 0  # characters
        self.answers = answers  # it is answer text
        self.in_chat: Channel | None = None  # the channel of chunks that tells its texts
        self.labels = kind is Kind.LABEL
        self.marks = kind in (Kind.MARK, Kind.END)
        self.cumulative: bool | None = None  # whether its texts turned out to be all so far; None: not known yet
        self.wholes = False  # all its texts so far were complete ones
        self._detector = IncrementDetector() if kind is Kind.TEXT else None
        self._seqs: list[int] = []
        self._texts: list[str] = []

    @property
    def last(self) -> str:
        """The last piece."""
        return self._texts[-1] if self._texts else ""

    def read(self, text: str, expected: bool) -> str:
        """Return the increment that a text adds, to be given to `add`; `expected` as in IncrementDetector.read."""
        detector = self._detector
        if self.cumulative is False or not text:
            return text
        if detector is not None:
            piece = detector.read(text, expected)
            self.cumulative = detector.cumulative
            return piece
        known = self._joined() if self.labels else ""
        return text[len(known) :] if text.startswith(known) else text

    def read_whole(self, text: str) -> str:
        """Return what a text that the API declares complete adds to the pieces so far.

        If all texts of the channel came in that form, they are read by `read`: they may be increments after all.
        A text that contradicts earlier increments adds nothing, since those have been sent.
        """
        self.wholes = self.wholes or not self._texts
        if self.wholes and self._detector is not None:
            return self._detector.read(text, True)
        said, text = self._joined(), text[self._forgotten :]
        return text[len(said) :] if text.startswith(said) else ""

    def settle(self, expected: bool) -> str:
        """Return the text that was held back, because this part of the answer has ended."""
        if self._detector is None or self.cumulative is not None:
            return ""
        rest = self._detector.settle(expected)
        self.cumulative = self._detector.cumulative
        return rest

    def add(self, seq: int, text: str) -> None:
        """Append the piece that came in frame number `seq`, which must not be lower than the last one."""
        self._seqs.append(seq)
        self._texts.append(text)
        self.size_bytes += _memory_bytes(text)

    def forget(self, below: int) -> None:
        """Drop the pieces of the frames below an offset."""
        count = bisect_right(self._seqs, below)
        self.size_bytes -= sum(map(_memory_bytes, self._texts[:count]))
        self._forgotten += sum(map(len, self._texts[:count]))
        del self._seqs[:count], self._texts[:count]

    def text(self, start: int, end: int) -> str:
        """Return the text of the frames between two offsets."""
        seqs = self._seqs
        return "".join(self._texts[bisect_right(seqs, start) : bisect_right(seqs, end)])

    def between(self, start: int, end: int) -> Iterator[tuple[int, str]]:
        """Return the pieces of the frames between two offsets, each with the number of its frame."""
        seqs = self._seqs
        first, last = bisect_right(seqs, start), bisect_right(seqs, end)
        return zip(seqs[first:last], self._texts[first:last], strict=True)

    def so_far(self, end: int) -> str:
        """Return the text up to an offset; for marks, whose last value holds, only the last piece."""
        if self.marks:
            last = bisect_right(self._seqs, end)
            return self._texts[last - 1] if last else ""
        return self.text(0, end)

    def extent(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the numbers of the first and the last frame with a piece between two offsets; None: there is none."""
        seqs = self._seqs
        first, last = bisect_right(seqs, start), bisect_right(seqs, end)
        return (seqs[first], seqs[last - 1]) if first < last else None

    def begun(self, end: int) -> bool:
        """Return whether a frame before an offset has a piece."""
        return bool(self._seqs) and self._seqs[0] <= end

    def _joined(self) -> str:
        return "".join(self._texts)

    def locate(self, offset_bytes: int) -> tuple[int, int]:
        """Return the number of the frame whose piece holds a byte of the text in UTF-8, and the byte's place in it.

        (0, 0) for the end of the text. Raises: IndexError, with the size of the text in bytes, beyond that.
        """
        place = 0
        for seq, text in zip(self._seqs, self._texts, strict=True):
            size = len(utf8(text))
            if offset_bytes < place + size:
                return seq, offset_bytes - place
            place += size
        if offset_bytes > place:
            raise IndexError(place)
        return 0, 0


class IncrementDetector:
    """Detects whether texts are increments or cumulative (each is the complete text so far), and returns increments.

    Each text of a cumulative upstream begins with the text before; a single one that does not proves increments. But a
    text that does proves nothing: increments may be "ha", then "haha", or the lines of a table. So, unless cumulative
    texts are expected, both readings are kept, and only what they have in common is returned, until a text decides.
    Texts are taken for cumulative after _EVIDENT_TEXTS in a row that repeat no pattern and that, read as increments,
    would each continue the word or line before. What stays undecided is read as expected, by default as increments.
    """

    __slots__ = ("_continuing", "_joined", "_last", "_returned", "_texts", "cumulative")

    def __init__(self) -> None:
        self.cumulative: bool | None = None  # until it is certain
        self._last = ""  # the text so far, if the upstream is cumulative
        self._joined = ""  # the text so far, if it sends increments; kept while that is not certain
        self._returned = 0  # how many characters of both have been returned; likewise
        self._texts = 0  # that begin with the one before; likewise
        self._continuing = 0  # of these, the ones that would continue a word or line; likewise

    def read(self, text: str, expected: bool) -> str:
        """Return the increment that a text adds; `expected`: whether the upstream is expected to be cumulative."""
        if self.cumulative is False or not text:
            return text
        last = self._last
        if not text.startswith(last):
            return self._differs(text)
        if self.cumulative:
            self._last = text
            return text[len(last) :]
        self._joined += text
        if not last:
            self._last, self._returned = text, len(text)
            return text
        return self._begins_with_the_last(text, expected)

    def settle(self, expected: bool) -> str:
        """Return the text that was held back, because the choice has finished."""
        if self.cumulative is not None or not self._last:
            return ""
        self.cumulative = expected
        whole = self._last if expected else self._joined
        return whole[self._returned :]

    def _differs(self, text: str) -> str:
        if self.cumulative:  # it begins anew
            self.cumulative, self._texts, self._continuing = None, 0, 0
            self._last = self._joined = text
            self._returned = len(text)
            return text
        return self._increments(self._joined + text)

    def _begins_with_the_last(self, text: str, expected: bool) -> str:
        last, self._last = self._last, text
        common = text  # what both readings have in common
        if self._joined.startswith(text):  # by repeating it, if at all
            if text == last and not expected:
                return self._increments(self._joined)
        elif expected or self._is_evident(last, text):
            self.cumulative, self._joined = True, ""
        elif self._texts == _DOUBTFUL_TEXTS:
            return self._increments(self._joined)
        else:
            common = _common(text, self._joined)
        piece, self._returned = common[self._returned :], len(common)
        return piece

    def _is_evident(self, last: str, text: str) -> bool:
        """Return whether so many texts that begin with the one before can't be a coincidence."""
        self._texts += 1
        self._continuing += not (text[0].isspace() or last[-1] in "\r\n")
        return self._continuing >= _EVIDENT_TEXTS and len(text) >= _EVIDENT_CHARACTERS

    def _increments(self, joined: str) -> str:
        self.cumulative = False
        self._last = self._joined = ""
        return joined[self._returned :]


def _memory_bytes(text: str) -> int:
    """Return how much memory a piece takes."""
    return _PIECE_BYTES + len(text) * (1 if text.isascii() else 2)


def _common(one: str, other: str) -> str:
    """Return the common beginning of two texts."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return one[:place]
    return min(one, other, key=len)


def utf8(text: str) -> bytes:
    """Return a text in UTF-8; a surrogate without its pair becomes U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if 0xD800 <= ord(character) <= 0xDFFF else character for character in text).encode()
