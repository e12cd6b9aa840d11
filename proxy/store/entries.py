"""What a log is made of in a store: entries, whose ids carry the position in the stream.

The id of an entry of frames is `<number of its last frame>-<bytes up to its end>`. A store takes only ids above the
last one, so an entry that is sent twice, or by an owner that was taken for dead, is refused. A seal has the highest id
there is: only one can exist, and nothing comes after it. Where an entry begins (its end minus its bytes) must be where
the last one ended: so a reader notices whatever a store has lost.

Pure: no I/O.
"""

from bisect import bisect_right
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from proxy.stream.endings import ENDINGS, PRODUCER_LOST, Ending
from proxy.stream.info import StreamInfo
from proxy.wire import json_text
from proxy.wire.http import Head

ENTRY_BYTES = 64 * 1024  # of frames in one entry, or a single frame
ENTRY_FRAMES = 1024
_HIGHEST = 2**64 - 1


class EntryId(NamedTuple):
    """The position after an entry: the number of its last frame, and how many bytes all frames up to it have."""

    seq: int
    end_bytes: int

    def __str__(self) -> str:
        return f"{self.seq}-{self.end_bytes}"


START = EntryId(0, 0)
"""Before all entries."""
HEADER = EntryId(0, 1)
"""Of the entry with the record of the stream."""
ANSWERED = EntryId(0, 2)
"""Of the entry that says which upstream has responded."""
SEAL = EntryId(_HIGHEST, _HIGHEST)

Fields = dict[bytes, bytes]
ENCRYPTED = b"x"
"""The field that an entry has in place of all others, if it is encrypted and was not decrypted."""
WHY = b"why"
"""Beside it: why it could not be."""


class Entry(NamedTuple):
    """One entry of a log in a store."""

    id: EntryId
    fields: Fields


class GapError(Exception):
    """Entries are missing before this one, or it does not agree with those before."""


class UnreadableError(Exception):
    """An entry was written by another version, or by somebody else."""


def check_decrypted(entry: Entry) -> None:
    """Raises: UnreadableError, if the fields of an entry can't be read for want of a key."""
    if ENCRYPTED in entry.fields:
        why = entry.fields.get(WHY, b"it is encrypted, and this process has no key").decode()
        raise UnreadableError(f"the stream can't be read here: {why}")


def read_id(text: bytes) -> EntryId:
    """Parse the id of an entry. Raises: UnreadableError."""
    seq, _, end = text.partition(b"-")
    try:
        return EntryId(int(seq), int(end))
    except ValueError:
        raise UnreadableError(f"{text[:60]!r} is not the id of an entry") from None


@dataclass
class Record:
    """What is known of a stream when it begins: its StreamInfo, its dialect, and the node that owns it."""

    info: StreamInfo
    dialect: str
    model: str | None
    node: str

    def __bytes__(self) -> bytes:
        info = asdict(self.info)
        info["caller"] = self.info.caller.hex()
        return json_text.written({"info": info, "dialect": self.dialect, "model": self.model, "node": self.node})


def read_header(entry: Entry) -> Record:
    """Return the record that the first entry of a log has. Raises: UnreadableError."""
    check_decrypted(entry)
    return read_record(entry.fields.get(b"r", b""))


def read_record(data: bytes) -> Record:
    """Parse a record. Raises: UnreadableError."""
    try:
        read = json_text.read(data)
        info = read["info"]
        info["caller"] = bytes.fromhex(info["caller"])
        info["keys"] = tuple(info["keys"])
        return Record(StreamInfo(**info), read["dialect"], read["model"], read["node"])
    except (ValueError, KeyError, TypeError):
        raise UnreadableError("the record of a stream can't be read") from None


class Frames(NamedTuple):
    """Consecutive frames as an entry has them, and where they end."""

    id: EntryId
    frames: list[bytes]

    @property
    def first_offset(self) -> int:
        """How many frames come before."""
        return self.id.seq - len(self.frames)

    @property
    def start_bytes(self) -> int:
        """How many bytes come before."""
        return self.id.end_bytes - sum(map(len, self.frames))

    def entry(self) -> Entry:
        """Return the entry: the frames joined, and their lengths if there are several."""
        fields = {b"d": b"".join(self.frames)}
        if len(self.frames) > 1:
            fields[b"n"] = b",".join(b"%d" % len(frame) for frame in self.frames)
        return Entry(self.id, fields)

    def after(self, at: EntryId) -> list[bytes]:
        """Return the frames after a position, of which some may be known already.

        Raises: GapError, if frames are missing between, or the entry and the position don't agree.
        """
        first, start = self.first_offset, self.start_bytes
        if first == at.seq and start == at.end_bytes:  # as is usual
            return self.frames
        if first > at.seq or start > at.end_bytes:
            raise GapError(f"after frame {at.seq} comes frame {first + 1}")
        known = at.seq - first
        if sum(map(len, self.frames[:known])) != at.end_bytes - start:
            raise GapError(f"the entry up to frame {self.id.seq} does not agree with those before")
        return self.frames[known:]


def read_frames(entry: Entry) -> Frames:
    """Return the frames of an entry. Raises: UnreadableError."""
    check_decrypted(entry)
    data, lengths = entry.fields.get(b"d"), entry.fields.get(b"n")
    if data is None:
        raise UnreadableError("an entry has no frames")
    if lengths is None:
        return Frames(entry.id, [data])
    frames, at = [], 0
    for length in map(int, lengths.split(b",")):
        frames.append(data[at : at + length])
        at += length
    if at != len(data):
        raise UnreadableError("the frames of an entry are longer than its data")
    return Frames(entry.id, frames)


def fitting(frames: list[bytes], after: EntryId) -> Frames:
    """Return the first of the frames that come after a position: as many as fit into an entry."""
    size = sum(map(len, frames))
    if len(frames) > 1 and (size > ENTRY_BYTES or len(frames) > ENTRY_FRAMES):
        ends = list(accumulate(map(len, frames[:ENTRY_FRAMES])))
        count = max(1, bisect_right(ends, ENTRY_BYTES))
        frames, size = frames[:count], ends[count - 1]
    return Frames(EntryId(after.seq + len(frames), after.end_bytes + size), frames)


class Answer(NamedTuple):
    """Which upstream responded, its request id, and the head of its response if it is no event stream."""

    upstream: str
    request_id: str | None
    kept_head: Head | None

    def entry(self) -> Entry:
        head = self.kept_head
        kept = (
            None if head is None else [head.status, _text(head.reason), [[_text(n), _text(v)] for n, v in head.headers]]
        )
        return Entry(ANSWERED, {b"a": json_text.written([self.upstream, self.request_id, kept])})


def read_answer(entry: Entry) -> Answer:
    """Return what an entry says of the upstream's response. Raises: UnreadableError."""
    check_decrypted(entry)
    try:
        upstream, request_id, kept = json_text.read(entry.fields[b"a"])
        if kept is None:
            return Answer(upstream, request_id, None)
        status, reason, headers = kept
        head = Head(status, reason.encode("latin-1"), [(n.encode("latin-1"), v.encode("latin-1")) for n, v in headers])
        return Answer(upstream, request_id, head)
    except (ValueError, KeyError, TypeError):
        raise UnreadableError("the entry of an upstream's response can't be read") from None


class Seal(NamedTuple):
    """The last entry: how the log ended, and where; None, if whoever sealed it did not know how much there was.

    Then the ending is an imposed one to all who read it.
    """

    ending: Ending
    at: EntryId | None = None
    tail: bytes = b""
    summary: bytes = b""  # the description of the stream at its end, for lists
    kept: bool = True  # it is found after its end; if not, only those who follow it already are sent the rest

    def entry(self) -> Entry:
        ending = self.ending
        said: list[Any] = [ending.reason, ending.message, ending.retry_after_s, ending.clean, ending.unrecognised]
        fields = {b"e": json_text.written(said)}
        if self.at is not None:
            fields[b"at"] = str(self.at).encode()
        if self.tail:
            fields[b"t"] = self.tail
        if self.summary:
            fields[b"s"] = self.summary
        if not self.kept:
            fields[b"k"] = b"0"
        return Entry(SEAL, fields)


def read_seal(entry: Entry) -> Seal:
    """Return the seal that an entry is. Raises: UnreadableError."""
    check_decrypted(entry)
    try:
        reason, message, retry_after_s, clean, unrecognised = json_text.read(entry.fields[b"e"])
    except (ValueError, KeyError, TypeError):
        raise UnreadableError("the seal of a stream can't be read") from None
    at = entry.fields.get(b"at")
    ending = ENDINGS.get(reason, PRODUCER_LOST)._replace(
        message=message, retry_after_s=retry_after_s, clean=clean, unrecognised=unrecognised, imposed=at is None
    )
    tail, summary = entry.fields.get(b"t", b""), entry.fields.get(b"s", b"")
    return Seal(ending, None if at is None else read_id(at), tail, summary, entry.fields.get(b"k") != b"0")


def ending_of(entry: Entry) -> Ending:
    """Return how a seal says that its stream ended; one that can't be read is a loss."""
    try:
        return read_seal(entry).ending
    except UnreadableError as error:
        return PRODUCER_LOST.saying(str(error))


def is_kept(entry: Entry) -> bool:
    """Return whether a stream is found after its last entry; it is, too, if that can't be read: its end says so."""
    try:
        return entry.id != SEAL or read_seal(entry).kept
    except UnreadableError:
        return True


def _text(data: bytes) -> str:
    return data.decode("latin-1")
