"""What one frame adds to an answer, in any API: pieces of text for channels, and the frame written with other texts.

Knows no API, no order and no past. Modes that rewrite (stream/transcript.py, stream/rewriting.py) know an answer by
this alone.
"""

from enum import Enum
from typing import Any, NamedTuple, Protocol


class Kind(Enum):
    """What a text is, and so how those of one channel add up."""

    TEXT = "text"  # increments, or with every frame all so far
    LABEL = "label"  # what names something: said again it says nothing new
    DATA = "data"  # increments always, as of encoded sound
    ITEMS = "items"  # of a JSON array, each with a comma before it: increments always, also for who is told all so far
    MARK = "mark"  # what is so from now on, as a role: only who is told all so far is told it again
    END = "end"  # a mark after which its part says nothing more: a finish reason


class Channel(NamedTuple):
    """What a text belongs to."""

    part: int
    """Which choice, item or block of the answer."""
    name: str
    place: int = -1
    """Which of several of that name: of tool calls, say."""
    field: str = ""
    kind: Kind = Kind.TEXT

    @property
    def group(self) -> tuple[int, str, int]:
        """Return what all channels have in common that are merged into one frame: a tool call's id and arguments."""
        return self[:3]


class Increment(Protocol):
    """What one frame says, found in its data: texts that are put into it are written with it."""

    texts: list[tuple[Channel, str]]
    """In their order, also those that are ""; a channel may come several times."""
    parts: tuple[int, ...]
    """Of which parts of the answer it tells; none: it is a frame of its own in every mode, as it came."""
    alike: Any
    """Equal in frames that differ by nothing but texts, marks, and what changes with every frame."""
    alone: bool
    """It is not merged with others, though its texts add up with theirs."""
    altered: bool
    """It says of itself what it did not say when it came, as the number of a tool call, and is to be written anew."""
    whole: bool
    """Its texts are all that their channels said, though others were increments."""

    def put(self, channel: Channel, text: str) -> None:
        """Let it say a text; the place for it is made where there is none."""

    def keep_only(self, group: tuple[int, str, int]) -> None:
        """Take out all texts but those of a group of channels, and all parts but theirs."""

    def data(self) -> bytes:
        """Return the frame's data with the texts that were put. Raises: ValueError, when they can't be written."""


class Assembler(Protocol):
    """Reads the frames of one stream in their order, and makes the finished document."""

    unread: int
    """The number of the first frame whose data could not be read; 0: all could."""

    def take(self, frame: bytes, seq: int) -> Increment | None:
        """Take in frame number `seq`, the next one; None: it tells of no part of the answer."""

    def read(self, frame: bytes, seq: int) -> Increment | None:
        """Read a frame again that was taken before."""

    def document(self, texts: dict[Channel, str]) -> bytes:
        """Return the finished document: what a request without streaming would have been answered.

        Raises: ValueError, when it can't be written.
        """
