"""Spans of a log with other texts in their frames: increments, merged increments, or the complete text so far.

Fields that need not change stay as they are, and so do frames that can't be rewritten. A frame has the number of the
last frame of the log that it contains, so that a client which resumes after it gets exactly the rest. Knows no API, no
endings and no followers. Keeps laws 5 (prefix) and 8 (resume): all it returns depends only on the frames before `end`.
"""

from collections.abc import Iterator
from typing import Final, Protocol

from proxy.dialects.dialect import Dialect, Reader
from proxy.dialects.documents.increment import Channel, Increment, Kind
from proxy.stream.info import StreamInfo
from proxy.stream.log import FrameLog
from proxy.stream.modes.channel import Pieces
from proxy.stream.modes.transcript import Transcript
from proxy.wire.event_id import prefix
from proxy.wire.sse import respell, stamp

_MARKS: Final[tuple[Kind, ...]] = (Kind.MARK, Kind.END)
Group = list[tuple[Channel, Pieces]]


class Source(Protocol):
    """What projections read of a Stream."""

    @property
    def log(self) -> FrameLog: ...

    @property
    def epoch(self) -> str: ...

    @property
    def info(self) -> StreamInfo: ...

    @property
    def dialect(self) -> Dialect: ...

    @property
    def reader(self) -> Reader: ...

    def transcript(self, end: int) -> Transcript:
        """Return the stream's one transcript, which has been fed the frames up to an offset, and perhaps more."""


class Rewriter:
    """Renders spans of one stream; each span begins at an offset and ends before another, start < end."""

    __slots__ = ("_id_prefix", "_log", "_source")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._log = source.log
        self._id_prefix = prefix(source.epoch)

    def increment(self, seq: int) -> bytes:
        """Return frame number `seq` with increments as its texts."""
        transcript, frame = self._source.transcript(seq), self._frame(seq)
        if not transcript.literal and (increment := transcript.read(frame, seq)):
            changed = increment.altered
            present = _joined(increment.texts)
            for channel, pieces in transcript.channels.items():
                if channel.part in increment.parts and channel.kind not in _MARKS:
                    text = pieces.text(seq - 1, seq)
                    if text != present.get(channel, ""):
                        increment.put(channel, text)
                        changed = True
            if changed:
                frame = _respelled(frame, increment) or frame
        return self._stamped(frame, seq)

    def coalesce(self, start: int, end: int) -> Iterator[bytes]:
        """Yield a frame for each group of channels, and each frame that can't be merged, in order."""
        for first, last in self._source.transcript(end).runs(start, end):
            if last - first == 1:
                yield self.increment(last)
            else:
                yield from self._merge(first, last) or map(self.increment, range(first + 1, last + 1))

    def state(self, start: int, end: int) -> Iterator[bytes]:
        """Yield a frame with the complete text of the parts that changed, and each frame that has no part."""
        transcript = self._source.transcript(end)
        for first, last in transcript.runs(start, end, walls=True):
            frame = self._frame(last)
            increment = transcript.read(frame, last)
            stated = None if increment is None else self._stated(transcript, increment, first, last)
            if stated is None:
                yield from (self._stamped(self._frame(seq), seq) for seq in range(first + 1, last))
            yield self._stamped(stated or frame, last)

    def _stated(self, transcript: Transcript, increment: Increment, start: int, end: int) -> bytes | None:
        """Return a span's last frame with the complete text of the parts that changed; None: it can't be written."""
        changed = {channel.part for channel, pieces in transcript.channels.items() if pieces.extent(start, end)}
        changed.update(increment.parts)
        present = _joined(increment.texts)
        for channel, pieces in transcript.channels.items():
            if channel.part in changed and pieces.begun(end):
                text = pieces.text(start, end) if channel.kind is Kind.ITEMS else pieces.so_far(end)
                if text != present.get(channel):
                    increment.put(channel, text)
        return _respelled(self._frame(end), increment)

    def _merge(self, start: int, end: int) -> list[bytes]:
        """Return one frame for each group of channels that has text in a run; an empty list: they can't be written."""
        transcript = self._source.transcript(end)
        groups: dict[tuple[int, str, int], Group] = {}
        for channel, pieces in transcript.channels.items():
            if channel.kind not in _MARKS:
                groups.setdefault(channel.group, []).append((channel, pieces))
        ordered = [(extent[1], extent[0], group) for group in groups.values() if (extent := _extent(group, start, end))]
        ordered.sort(key=lambda one: one[:2])
        if not ordered:
            return [self.increment(end)]
        merged = []
        for place, (last, _, group) in enumerate(ordered, 1):
            frame = self._group(transcript, group, start, end, last)
            if frame is None:
                return []
            if place == len(ordered):
                frame = self._stamped(frame, end)
            elif last < min(first for _, first, _ in ordered[place:]):
                frame = self._stamped(frame, last)
            merged.append(frame)
        return merged

    def _group(self, transcript: Transcript, group: Group, start: int, end: int, last: int) -> bytes | None:
        """Return the frames of a run that have text of a group of channels merged into the last of them."""
        frame = self._frame(last)
        increment = transcript.read(frame, last)
        if increment is None:
            return None
        present = _joined(increment.texts)
        increment.keep_only(group[0][0].group)
        for channel, pieces in group:
            text = pieces.text(start, end)
            if text != present.get(channel, ""):
                increment.put(channel, text)
        return _respelled(frame, increment)

    def _frame(self, seq: int) -> bytes:
        return self._log.frame(seq - 1)

    def _stamped(self, frame: bytes, seq: int) -> bytes:
        return stamp(frame, self._id_prefix + b"%d" % seq)


def _joined(texts: list[tuple[Channel, str]]) -> dict[Channel, str]:
    """Return a frame's text for each channel; a channel may occur several times in a frame."""
    present: dict[Channel, str] = {}
    for channel, text in texts:
        present[channel] = present[channel] + text if channel in present else text
    return present


def _extent(group: Group, start: int, end: int) -> tuple[int, int] | None:
    """Return the numbers of the first and the last frame between two offsets that have text of a group."""
    spans = [extent for _, pieces in group if (extent := pieces.extent(start, end))]
    return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None


def _respelled(frame: bytes, increment: Increment) -> bytes | None:
    """Return a frame with the texts that were put into its increment; None: they can't be written."""
    try:
        return respell(frame, increment.data())
    except ValueError:
        return None
