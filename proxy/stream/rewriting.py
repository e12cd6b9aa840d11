"""Spans of a log with other texts in their frames: increments, increments merged, or all so far.

What a frame says that need not change stays as it is. Each frame is numbered as the last of the log that it contains,
so that to resume after it gives exactly the rest. Knows no endings and no followers. Keeps laws 5 (prefix) and 8
(resume): all it returns depends on the frames before `end` alone.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from proxy.dialects.delta import Channel, Delta
from proxy.dialects.dialect import Dialect, spell
from proxy.stream.event_id import prefix
from proxy.stream.log import FrameLog
from proxy.stream.transcript import Transcript, Voice
from proxy.wire.sse import stamp


class Source(Protocol):
    """What is projected: a Stream."""

    @property
    def log(self) -> FrameLog: ...

    @property
    def epoch(self) -> str: ...

    @property
    def dialect(self) -> Dialect: ...

    def transcript(self, end: int) -> Transcript:
        """Return the one transcript of the stream, which has heard the frames up to an offset, and perhaps more."""


class Rewriter:
    """Renders spans of one stream; each span begins at an offset and ends before another, start < end."""

    __slots__ = ("_dialect", "_id_prefix", "_log", "_source")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._log = source.log
        self._id_prefix = prefix(source.epoch)
        self._dialect = source.dialect

    def increment(self, start: int, end: int) -> bytes:
        """Return the last frame of a span with what the span adds to its choices."""
        transcript, frame = self._source.transcript(end), self._frame(end)
        if not transcript.literal:
            document, deltas = self._read(end)
            changed = [transcript.choices[delta.index].increment(delta, start, end) for delta in deltas]
            if any(changed):
                frame = spell(frame, document)
        return self._stamped(frame, end)

    def coalesce(self, start: int, end: int) -> Iterator[bytes]:
        """Yield a frame for each channel, and each frame that can't be merged, in order."""
        for first, last in self._source.transcript(end).runs(start, end):
            if last - first == 1:
                yield self.increment(first, last)
            else:
                yield from self._merge(first, last)

    def state(self, start: int, end: int) -> Iterator[bytes]:
        """Yield a frame with all that was said by the choices that changed, and each frame without choices."""
        transcript = self._source.transcript(end)
        for first, last in transcript.runs(start, end, walls=True):
            document, deltas = self._read(last)
            frame = self._frame(last)
            if deltas:
                here = {delta.index: delta for delta in deltas}
                for index, voice in transcript.choices.items():
                    if index not in here and (seq := voice.last_seq(first, last)):
                        here[index] = self._part(seq, index)[1]
                for index, delta in here.items():
                    transcript.choices[index].state(delta, last)
                    if transcript.logprobs:
                        self._join_logprobs(delta, range(first + 1, last + 1))
                self._dialect.documents.select(document, [here[index] for index in sorted(here)])
                frame = spell(frame, document)
            yield self._stamped(frame, last)

    def _merge(self, start: int, end: int) -> Iterator[bytes]:
        """Yield one frame for each channel that said something in a run."""
        choices = self._source.transcript(end).choices
        groups = sorted(
            (spoken[1], spoken[0], index, channel)
            for index, voice in choices.items()
            for channel, pieces in voice.channels.items()
            if (spoken := pieces.spoken(start, end))
        )
        if not groups:
            yield self.increment(end - 1, end)
        for place, (last, _, index, channel) in enumerate(groups, 1):
            frame = self._group(choices[index], channel, start, end, last, index)
            if place == len(groups):
                yield self._stamped(frame, end)
            elif last < min(first for _, first, *_ in groups[place:]):
                yield self._stamped(frame, last)
            else:
                yield frame

    def _group(self, voice: Voice, channel: Channel, start: int, end: int, last: int, index: int) -> bytes:
        """Return one channel's frames of a run as one."""
        document, delta = self._part(last, index)
        pieces = voice.channels[channel]
        delta.silence(channel)
        delta.put(channel, pieces.text(start, end))
        voice.name(delta, channel, start, end)
        if self._source.transcript(end).logprobs:
            self._join_logprobs(delta, pieces.seqs(start, end))
        self._dialect.documents.select(document, [delta])
        return spell(self._frame(last), document)

    def _join_logprobs(self, delta: Delta, seqs: Iterable[int]) -> None:
        """Give a choice the logprobs of all of these frames."""
        joined: dict[str, Any] = {}
        for seq in seqs:
            for part in self._read(seq)[1]:
                found = part.choice.get("logprobs") if part.index == delta.index else None
                for field, values in found.items() if isinstance(found, dict) else ():
                    joined[field] = [*(joined.get(field) or []), *values] if values else joined.get(field)
        if joined:
            delta.choice["logprobs"] = joined

    def _frame(self, seq: int) -> bytes:
        return self._log.frames[seq - 1 - self._log.start]

    def _read(self, seq: int) -> tuple[dict[str, Any], list[Delta]]:
        document = self._dialect.documents.document(self._frame(seq))
        return ({}, []) if document is None else (document, self._dialect.documents.deltas(document))

    def _part(self, seq: int, choice: int) -> tuple[dict[str, Any], Delta]:
        """Read a frame for one choice of it, which must be there."""
        document, deltas = self._read(seq)
        return document, next(delta for delta in deltas if delta.index == choice)

    def _stamped(self, frame: bytes, seq: int) -> bytes:
        return stamp(frame, self._id_prefix + b"%d" % seq)
