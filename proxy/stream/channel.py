"""What was said in one channel of an answer: pieces of text, and the number of the frame that each came with.

Knows no API, no JSON and no frames. An upstream sends increments, or, with every frame, all the text so far; which of
the two is found out by reading, and the pieces are increments either way.
"""

from bisect import bisect_right

from proxy.dialects.increment import Kind

_EVIDENT = 8  # so many characters said again, and more after them, are no coincidence


class Pieces:
    """A text as increments, in the order of their frames; any span of frames is a slice found by bisection."""

    __slots__ = ("_listener", "_seqs", "_texts", "answers", "cumulative", "labels", "marks")

    def __init__(self, kind: Kind = Kind.TEXT, *, answers: bool = False) -> None:
        self.answers = answers  # it is answer text
        self.labels = kind is Kind.LABEL
        self.marks = kind in (Kind.MARK, Kind.END)
        self.cumulative: bool | None = None  # whether its texts turned out to be all so far; None: not known yet
        self._listener = Listener() if kind is Kind.TEXT else None
        self._seqs: list[int] = []
        self._texts: list[str] = []

    @property
    def last(self) -> str:
        """What was said last."""
        return self._texts[-1] if self._texts else ""

    def hear(self, text: str, expected: bool, *, whole: bool = False) -> str:
        """Return the increment that a text brings, which is to be added; `expected` as in Listener.hear."""
        listener = self._listener
        if self.cumulative is False or not text:
            return text
        if listener is not None:
            piece = listener.hear(text, expected)
            self.cumulative = listener.cumulative
            return piece
        return "" if self.labels and self._joined() == text else text

    def settle(self, expected: bool) -> str:
        """Return what is to be said yet: the part of the answer that it belongs to has ended."""
        if self._listener is None or self.cumulative is not None:
            return ""
        rest = self._listener.settle(expected)
        self.cumulative = self._listener.cumulative
        return rest

    def add(self, seq: int, text: str) -> None:
        """Append what frame number `seq`, not lower than any before, says."""
        self._seqs.append(seq)
        self._texts.append(text)

    def text(self, start: int, end: int) -> str:
        """Return what the frames between two offsets say."""
        seqs = self._seqs
        return "".join(self._texts[bisect_right(seqs, start) : bisect_right(seqs, end)])

    def so_far(self, end: int) -> str:
        """Return what is said in it up to an offset: all texts, or of what is so from now on the last."""
        if self.marks:
            last = bisect_right(self._seqs, end)
            return self._texts[last - 1] if last else ""
        return self.text(0, end)

    def spoken(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the numbers of the first and the last frame between two offsets that say something, if one does."""
        seqs = self._seqs
        first, last = bisect_right(seqs, start), bisect_right(seqs, end)
        return (seqs[first], seqs[last - 1]) if first < last else None

    def begun(self, end: int) -> bool:
        """Tell whether a frame before an offset says something."""
        return bool(self._seqs) and self._seqs[0] <= end

    def _joined(self) -> str:
        return "".join(self._texts)

    def locate(self, offset_bytes: int) -> tuple[int, int]:
        """Return the number of the frame that says a byte of the text in UTF-8, and the byte's place in the piece.

        Of the byte behind the last: (0, 0). Raises: IndexError, with the number of bytes there are, beyond that.
        """
        place = 0
        for seq, text in zip(self._seqs, self._texts, strict=True):
            size = len(text.encode())
            if offset_bytes < place + size:
                return seq, offset_bytes - place
            place += size
        if offset_bytes > place:
            raise IndexError(place)
        return 0, 0


class Listener:
    """Tells increments from texts that repeat all before them, and makes increments of either.

    A cumulative upstream begins each text with the whole one before; one text that does not, and it sends increments.
    The other way round a beginning can be chance ("ha", then "haha"), so two readings are kept until one is certain,
    and only what they agree on is said. Cumulative is certain when a text begins with the one before, goes on
    otherwise than by repeating it, and it was expected, or _EVIDENT characters long, or this is the second time.
    What can't be told when the choice finishes is as it was expected.
    """

    __slots__ = ("_doubted", "_joined", "_last", "_said", "cumulative")

    def __init__(self) -> None:
        self.cumulative: bool | None = None  # until it is certain
        self._last = ""  # all said so far, if the upstream is cumulative
        self._joined = ""  # all said so far, if it sends increments; kept while that is not certain
        self._said = 0  # characters of both that have been said; likewise
        self._doubted = False

    def hear(self, text: str, expected: bool) -> str:
        """Return the increment that a text brings; `expected` is whether the upstream is taken for cumulative."""
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
            self._last, self._said = text, len(text)
            return text
        return self._begins_with_the_last(text, expected)

    def settle(self, expected: bool) -> str:
        """Return what is to be said yet: the choice has finished."""
        if self.cumulative is not None or not self._last:
            return ""
        self.cumulative = expected
        whole = self._last if expected else self._joined
        return whole[self._said :]

    def _differs(self, text: str) -> str:
        if self.cumulative:  # it begins anew
            self.cumulative, self._doubted = None, False
            self._last = self._joined = text
            self._said = len(text)
            return text
        return self._increments(self._joined + text)

    def _begins_with_the_last(self, text: str, expected: bool) -> str:
        last, self._last = self._last, text
        if self._joined.startswith(text):  # by repeating it, if at all
            if text == last and not expected:
                return self._increments(self._joined)
            both = text
        elif expected or self._doubted or len(last) >= _EVIDENT:
            self.cumulative, self._joined = True, ""
            both = text
        else:
            self._doubted = True
            both = _common(text, self._joined)
        piece, self._said = both[self._said :], len(both)
        return piece

    def _increments(self, joined: str) -> str:
        self.cumulative = False
        self._last = self._joined = ""
        return joined[self._said :]


def _common(one: str, other: str) -> str:
    """Return what two texts begin with."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return one[:place]
    return min(one, other, key=len)
