"""What one frame adds to a response, in any API: pieces of text for channels. Their texts can be replaced.

Knows no API and no earlier frames. Modes that rewrite frames (stream/modes/: transcript.py, rewriting.py) see them only
through these protocols. The channels of choices (`delta`) are the common ones: mode chat translates those of any other
API into them.
"""

from enum import Enum
from typing import Any, NamedTuple, Protocol


class Kind(Enum):
    """What a text is, which decides how the texts of one channel add up."""

    TEXT = "text"  # increments, or in each frame the full text so far
    LABEL = "label"  # an identifier or a name: repeating it adds nothing
    DATA = "data"  # always increments, such as encoded audio
    ITEMS = "items"  # items of a JSON array, each after a comma: always increments, also where texts are cumulative
    MARK = "mark"  # a value that holds from now on, such as a role: repeated only where texts are cumulative
    END = "end"  # a mark after which its part has no more texts: a finish reason


class Channel(NamedTuple):
    """The place in a response that a text belongs to."""

    part: int
    """The number of the choice, item or block."""
    name: str
    place: int = -1
    """The number among several of that name, such as tool calls."""
    field: str = ""
    kind: Kind = Kind.TEXT

    @property
    def group(self) -> tuple[int, str, int]:
        """What channels have in common that may be merged into one frame, such as a tool call's id and arguments."""
        return self[:3]


class Increment(Protocol):
    """The texts in the data of one frame, which can be replaced before the data is written again."""

    texts: list[tuple[Channel, str]]
    """The texts in order, including empty ones; a channel may occur several times."""
    parts: tuple[int, ...]
    """The parts of the response that it contains; if empty, every mode sends the frame unchanged and by itself."""
    alike: Any
    """For comparison: equal in frames that differ only in texts, marks, and values that change with every frame."""
    alone: bool
    """It must not be merged with other frames, although its texts continue theirs."""
    altered: bool
    """The increment differs from the frame it was read from (in the number of a tool call, say): it must be written."""
    whole: bool
    """Its texts are the complete texts of their channels, even if earlier ones were increments."""

    def put(self, channel: Channel, text: str) -> None:
        """Set the text of a channel, and create its field if there is none."""

    def keep_only(self, group: tuple[int, str, int]) -> None:
        """Remove all texts except those of a group of channels, and all parts except theirs."""

    def data(self) -> bytes:
        """Return the frame's data with its current texts. Raises: ValueError, if it can't be written."""


class Statement:
    """The Increment of a frame that is sent as it came: what it says counts in modes that write other frames."""

    __slots__ = ("_data", "alike", "alone", "altered", "parts", "texts", "whole")

    def __init__(self, data: bytes, texts: list[tuple[Channel, str]]) -> None:
        self._data = data
        self.texts = texts
        self.parts: tuple[int, ...] = tuple(dict.fromkeys(channel.part for channel, _ in texts))
        self.alike: Any = None
        self.alone = True
        self.altered = self.whole = False

    def put(self, channel: Channel, text: str) -> None:
        """Do nothing."""

    def keep_only(self, group: tuple[int, str, int]) -> None:
        """Do nothing."""

    def data(self) -> bytes:
        """Return the data as it came."""
        return self._data


class Assembler(Protocol):
    """Reads the frames of one stream in order, and assembles the finished document."""

    unread: int
    """The number of the first frame whose data could not be read; 0 if there is none."""

    def take(self, frame: bytes, seq: int) -> Increment | None:
        """Read the next frame, number `seq`, for the first time; None if it has no part of the response."""

    def read(self, frame: bytes, seq: int) -> Increment | None:
        """Read a frame again that was taken before."""

    def document(self, texts: dict[Channel, str]) -> bytes:
        """Return the finished document, as in the response to a request without streaming.

        Raises: ValueError, if it can't be written.
        """
