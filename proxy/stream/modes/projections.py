"""The modes: each a pure projection of a span of the log to bytes, plus what an Ending looks like in it.

A new mode is one class here and one row in MODES. `projection` has what all of them have. Modes that rewrite take their
text from the stream's Transcript. Keeps laws 5 (prefix), 7 (one ending) and 8 (resume).
"""

import contextlib
from typing import Final

from proxy.dialects.dialect import Chunks, Dialect, Origin
from proxy.dialects.table import CHUNKS
from proxy.stream.endings import COMPLETE, GARBLED, Ending
from proxy.stream.log import NO_FRAME
from proxy.stream.modes.channel import utf8
from proxy.stream.modes.projection import SPAN_BYTES, Projection, View
from proxy.stream.modes.rewriting import Rewriter, Source
from proxy.wire.errors import BadRequest, Garbled, OffsetBeyond, OffsetGone, UnknownMode
from proxy.wire.sse import COMMENT, spaced, stamp

MERGED_BYTES: Final = 16 * SPAN_BYTES  # the same where frames are merged, and become a twentieth

FLUSH_MS, FLUSH_BYTES = 50, 4096  # defaults of paced modes


class Raw(Projection):
    """The exact bytes. A failure is an aborted connection, after the tail as it came."""

    __slots__ = ()

    heartbeat = False
    spans_a_turn = 64  # rendering costs next to nothing
    in_bytes = True

    def reuse_chunks(self, frames: list[bytes], chunks: bytes) -> None:
        """Take over the log's last frames, which came as these chunks: they are sent as they came, without a copy."""
        self.end = end = self._log.end
        self.start = end - len(frames)
        self.plain = plain = frames[0] if len(frames) == 1 else b"".join(frames)
        self.size = len(plain)
        self.chunked = chunks

    def render(self, start: int, end: int) -> bytes:
        return self._log.content(start, end)

    def ending(self, ending: Ending, offset: int) -> tuple[bytes, bool]:
        log = self._log
        tail = log.tail if offset == log.end and log.ending is not None else b""
        return tail, ending.clean

    def locate(self, offset_bytes: int) -> tuple[int, int]:
        log = self._log
        if offset_bytes < log.trimmed_bytes:
            earliest = log.trimmed_bytes
            raise OffsetGone(f"offset {offset_bytes} is gone, the earliest byte held is {earliest}", earliest)
        there_are = log.end_bytes + len(log.tail)
        if offset_bytes > there_are:
            raise OffsetBeyond(f"offset {offset_bytes} is beyond the {there_are} bytes there are")
        if offset_bytes > log.end_bytes:
            return log.end, offset_bytes - log.end_bytes
        return log.locate(offset_bytes)


class Events(Projection):
    """Each frame unchanged but for one line `id: <epoch>-<seq>`. A failure is an error event."""

    __slots__ = ()

    def render(self, start: int, end: int) -> bytes:
        before = self._id_prefix
        frames = self._log.span(start, end)
        return b"".join([stamp(frame, before + b"%d" % seq) for seq, frame in enumerate(frames, start + 1)])

    def ending(self, ending: Ending, offset: int) -> tuple[bytes, bool]:
        if ending.clean and not ending.unrecognised:
            return b"", True
        log, last = self._log, None
        if ending is not log.ending:
            last = log.frame(offset - 1) if log.start < offset else b""
        ident = self._id_prefix + b"%d" % log.seq_of(ending, offset)
        number = NO_FRAME if last is None and ending.imposed else None
        return self._source.reader.error_frame(ending.message, ending.reason, ident, last, number), True


class Spaced(Events):
    """As mode events, with a space after each field's colon: some clients need one where the upstream has none."""

    __slots__ = ()

    def render(self, start: int, end: int) -> bytes:
        before = self._id_prefix
        frames = self._log.span(start, end)
        return b"".join([spaced(stamp(frame, before + b"%d" % seq)) for seq, frame in enumerate(frames, start + 1)])


class Incremental(Events):
    """Each frame with increments as its texts, whether the upstream sends increments or cumulative texts.

    Frames without choices (comments, errors, usage, [DONE], anything that is no JSON) are as in mode events, and so are
    frames that hold increments already. The name of a tool call is sent once.
    """

    __slots__ = ("_rewriter",)

    restates = True
    rewrites = True

    def __init__(self, source: Source) -> None:
        """Raises: BadRequest, when the mode has no meaning for the stream's API."""
        super().__init__(source)
        self._rewriter = Rewriter(source)
        _require_meaning(type(self), source.dialect)
        source.transcript(source.log.start)

    def render(self, start: int, end: int) -> bytes:
        return b"".join([self._rewriter.increment(seq) for seq in range(start + 1, end + 1)])


class Coalesced(Incremental):
    """The increments of a span merged, one frame for each channel of each choice that has text in it.

    Nothing is merged across a role, a finish reason, usage, a frame without choices, or a change of any field that
    is no text; a finish reason in the frame of the last text stays there. A merged frame is the last of its frames,
    with the text of all. Channels come in the order in which they end; if they overlap, the first has no id, since a
    client that resumed after it would miss a part of the other.
    """

    __slots__ = ()

    restates = False
    paced = True
    span_bytes = MERGED_BYTES

    def render(self, start: int, end: int) -> bytes:
        return b"".join(self._rewriter.coalesce(start, end))


class Cumulative(Incremental):
    """The complete text so far of the choices that changed in a span, in one frame for the span.

    It is the last frame of the span with all of each choice so far: every channel, role, names, finish reason.
    Logprobs are those of the span. Frames without choices are kept in their place, and so is a frame before a change
    of any other field.
    """

    __slots__ = ()

    paced = True
    tells_all = True
    span_bytes = MERGED_BYTES

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        _require_all(source)

    def render(self, start: int, end: int) -> bytes:
        return b"".join(self._rewriter.state(start, end))


class Chat(Events):
    """What a stream says, whatever its API, in chunks of chat completions, each with the id of the frame that said it.

    Nothing is sent for a frame that says nothing of that kind, but for the first, whose chunk has the role. If the
    stream itself consists of such chunks, or of data of which nothing is known, it is mode events.
    """

    __slots__ = ("_chunks", "_origin")

    rewrites = True

    def __init__(self, source: Source) -> None:
        """Raises: OffsetGone, when it can't be known any more which number a call has."""
        super().__init__(source)
        self._chunks: Chunks | None = None if source.dialect.documents.chunks else CHUNKS
        self._origin = Origin(source.info.id, source.info.created_at)
        if self._chunks is not None and not source.transcript(self._log.start).whole:
            start = self._log.start
            raise OffsetGone(f"the first {start} frames are gone, and this mode counts the calls in them", start + 1)

    def sign_of_life(self) -> bytes:
        return super().sign_of_life() if self._chunks is None else COMMENT

    def render(self, start: int, end: int) -> bytes:
        chunks = self._chunks
        if chunks is None:
            return super().render(start, end)
        texts = self._source.transcript(end).in_chat(start, end)
        if not start:
            texts.setdefault(1, [])
        return b"".join([chunks.chunk(self._origin, texts[seq], self._ident(seq), seq == 1) for seq in sorted(texts)])

    def ending(self, ending: Ending, offset: int) -> tuple[bytes, bool]:
        chunks, log = self._chunks, self._log
        if chunks is None:
            return super().ending(ending, offset)
        seq = self._ident(log.seq_of(ending, offset))
        if ending.reason != COMPLETE.reason:
            return chunks.fail(ending.message or ending.reason, ending.reason, seq), True
        transcript, reader = self._source.transcript(log.end), self._source.reader
        if transcript.unread:
            return chunks.fail(f"event {transcript.unread} of the stream can't be read", GARBLED.reason, seq), False
        reason = reader.finish_reason or "stop"
        reason = "" if transcript.finished else self._source.dialect.documents.finish_reasons.get(reason, reason)
        return chunks.complete(self._origin, reason, reader, seq), True

    def _ident(self, seq: int) -> bytes:
        return self._id_prefix + b"%d" % seq


class Text(Projection):
    """The answer text, plain. A failure, or a frame that can't be parsed, is an aborted connection."""

    __slots__ = ()

    content_type = b"text/plain;charset=UTF-8"
    ends_with_answer = True
    heartbeat = False
    rewrites = True
    in_bytes = True

    def __init__(self, source: Source) -> None:
        """Raises: BadRequest, when nothing is known of the text in the stream's events."""
        super().__init__(source)
        _require_meaning(type(self), source.dialect)
        source.transcript(source.log.start)

    def render(self, start: int, end: int) -> bytes:
        return utf8(self._source.transcript(end).answer.text(start, end))

    def ending(self, ending: Ending, offset: int) -> tuple[bytes, bool]:
        return b"", ending.reason == COMPLETE.reason and not self._source.transcript(self._log.end).unread

    def locate(self, offset_bytes: int) -> tuple[int, int]:
        _require_all(self._source)
        end = self._log.end
        try:
            seq, place = self._source.transcript(end).answer.locate(offset_bytes)
        except IndexError as there_are:
            raise OffsetBeyond(f"offset {offset_bytes} is beyond the {there_are} bytes of text there are") from None
        return (seq - 1, place) if seq else (end, 0)


class Json(Projection):
    """The JSON document of the complete answer: nothing is sent before the end, and nothing of a failed answer."""

    __slots__ = ("_document", "_document_end", "_read_bytes")

    content_type = b"application/json"
    is_document = True
    ends_with_answer = True
    heartbeat = False
    rewrites = True
    tells_all = True

    def __init__(self, source: Source) -> None:
        """Raises: BadRequest, when nothing is known of the text in the stream's events."""
        super().__init__(source)
        self._read_bytes = 0  # of the log, by its transcript, as far as this projection had it read
        self._document = b""  # that was made last, for all followers
        self._document_end = -1  # of the log then
        _require_meaning(type(self), source.dialect)
        _require_all(source)

    def render(self, start: int, end: int) -> bytes:
        """Return nothing; a long answer is read as it comes, so that its end, which needs all of it, takes not long."""
        log = self._log
        if log.end_bytes - self._read_bytes > SPAN_BYTES:
            self._source.transcript(end)
            self._read_bytes = log.position(end)
        return b""

    def ending(self, ending: Ending, offset: int) -> tuple[bytes, bool]:
        if ending.reason == COMPLETE.reason:
            with contextlib.suppress(Garbled):
                return self.so_far(), True
        return b"", False

    def so_far(self) -> bytes:
        """Return the document that what there is would make if it were all.

        Raises: OffsetGone, when what was said at first has been dropped; Garbled, when something that it should say
        can't be read or written.
        """
        _require_all(self._source)
        end = self._log.end
        if self._document_end != end:
            self._document = self._make(end)
            self._document_end = end
        return self._document

    def _make(self, end: int) -> bytes:
        transcript = self._source.transcript(end)
        if transcript.unread:
            raise Garbled(f"event {transcript.unread} of the stream can't be read, and the document would lack it")
        try:
            return transcript.document()
        except ValueError as error:
            raise Garbled(f"the document can't be written: {error}") from error


def _require_meaning(mode: type[Projection], dialect: Dialect) -> None:
    """Raises: BadRequest, when a mode has no meaning for an API."""
    objection = _objection(mode, dialect)
    if objection:
        others = ", ".join(name for name, other in MODES.items() if not _objection(other, dialect))
        raise BadRequest(f"{objection}: its streams have the modes {others}")


def _objection(mode: type[Projection], dialect: Dialect) -> str:
    """Return why a mode has no meaning for an API; empty if it has one."""
    if mode.restates and not dialect.documents.has_cumulative:
        return "the events of this API are increments always"
    if mode.ends_with_answer and not dialect.documents.has_answer:
        return "nothing is known of the text in the events of this API"
    if mode.is_document and not dialect.documents.has_document:
        return "the streams of this API have no finished document"
    return ""


def check_view(view: View, dialect: Dialect) -> None:
    """Check that a view has a meaning for an API. Raises: BadRequest."""
    _require_meaning(MODES[view.mode], dialect)


def _require_all(source: Source) -> None:
    """Raises: OffsetGone, when what the stream said at first is not known any more."""
    start = source.transcript(source.log.start).start
    if start:
        raise OffsetGone(f"the first {start} frames are gone, and this mode tells of them", start + 1)


MODES: Final[dict[str, type[Projection]]] = {
    "raw": Raw,
    "events": Events,
    "spaced": Spaced,
    "coalesced": Coalesced,
    "incremental": Incremental,
    "cumulative": Cumulative,
    "chat": Chat,
    "text": Text,
    "json": Json,
}


def view_of(mode: str, flush_ms: str | None = None, flush_bytes: str | None = None) -> View:
    """Return the view of a mode, with its pace if it has one. Raises: UnknownMode, BadRequest."""
    if mode not in MODES:
        raise UnknownMode(f"mode {mode!r} is not one of: {', '.join(MODES)}")
    if MODES[mode].paced:
        at_most_ms = _number(flush_ms, "flush_ms", FLUSH_MS, 60_000)
        return View(mode, at_most_ms, _number(flush_bytes, "flush_bytes", FLUSH_BYTES, 1 << 20) if at_most_ms else 0)
    if flush_ms is not None or flush_bytes is not None:
        paced = ", ".join(name for name, projection in MODES.items() if projection.paced)
        raise BadRequest(f"flush_ms and flush_bytes go with the modes {paced}; mode {mode} sends every frame at once")
    return View(mode)


def _number(text: str | None, name: str, default: int, most: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal()) or int(text[:12]) > most:
        raise BadRequest(f"{name} {text[:60]!r} is not a number from 0 to {most}")
    return int(text)
