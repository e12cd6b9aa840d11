"""Server-sent events as bytes: cutting a body into frames, reading a frame's fields, writing an id into it.

Knows nothing of chat completions, sockets or streams. Keeps laws 1 (fidelity) and 2 (cut-independence).
Source: WHATWG HTML, 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an event stream".
"""

import re
from typing import NamedTuple

from proxy.wire.errors import TooLarge

# The ends of a blank line, that is of two line terminators (CRLF, LF or CR) in a row. CRLF CRLF is found
# by its last three bytes. Not CR CR LF as a whole: the frame ends at CR CR, so that a stream of bare CRs is
# never held back to see whether an LF follows; that LF leads the next frame, where it is an empty line more.
_BLANK_LINE = re.compile(rb"\n\n|\r\r|\n\r\n|\n\r(?=[^\n])")
_LONGEST_BLANK_LINE = 3
_LINE_END = re.compile(rb"\r\n|\n|\r")
_LINE_ENDS = b"\r\n"
_UNSAID = re.compile(rb"(?:(?<=[\r\n])|\A)((?:event|id)(?=[:\r\n]))")
_JSON_LINE = re.compile(rb"(?:\xef\xbb\xbf)?(?:data: ?)?\{[^\r\n]*\}\r?")
_JSON_BEGINNINGS = (b"data: {", b"data:{", b"data: [DONE]", b"data:[DONE]", b"{")
_LONGEST_JSON_BEGINNING = 12
_CR = 13
_COLON = 58  # begins a comment
BOM = b"\xef\xbb\xbf"
_BEGINNINGS = (b":", b"data:", b"event:", b"id:", b"retry:")


class Splitter:
    """Cuts data, however it was cut into reads, into frames.

    A Frame is one complete SSE block as received, blank line included; a frame *is* its bytes. Where the first line is
    JSON, and the next one JSON again without a blank line between them, each line is a frame: that is no SSE, but
    clients that go by lines read it.
    """

    __slots__ = ("_by_lines", "_held", "max_frame_bytes")

    def __init__(self, max_frame_bytes: int) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._held: bytearray | None = None  # the beginning of a frame
        self._by_lines: bool | None = None  # each line is a frame; None: that is not known yet

    @property
    def tail(self) -> bytes:
        """The bytes after the last complete frame."""
        return bytes(self._held or b"")

    @property
    def holds(self) -> bool:
        """True while a frame has begun and not ended, and where nothing tells the beginning of one."""
        return self._held is not None or self._by_lines is True

    @property
    def held_bytes(self) -> int:
        """How much of a frame that has not ended is held."""
        return 0 if self._held is None else len(self._held)

    @property
    def in_comment(self) -> bool:
        """True while what is there of the next frame begins with a comment."""
        return self._held is not None and self._held[0] == _COLON

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes, in order.

        Raises: TooLarge, when a frame has more than `max_frame_bytes`; what was not returned stays in `tail`.
        """
        held = self._held
        if self._by_lines is not False:
            if self._by_lines is None:
                self._by_lines = _goes_by_lines(data if held is None else held + data)
            if self._by_lines:
                return self._feed_lines(data)
        lf_only = 13 not in data
        if lf_only and held is None and data.endswith(b"\n\n") and len(data) <= self.max_frame_bytes:
            # Frames of one line each, as Qwen sends them: 0.2 us a frame; one by one they take 0.7, and by the
            # regular expression 2 (tests/bench/micro.py).
            lines = data.split(b"\n")
            if not any(lines[1::2]) and all(lines[:-1:2]):
                return [data] if len(lines) == 3 else [line + b"\n\n" for line in lines[:-1:2]]
        frames: list[bytes] = []
        start = 0
        if held is not None:
            start = self._finish(held, data, frames, lf_only)
        start = _cut_lf(data, start, frames) if lf_only else _cut(data, start, frames)
        if start < len(data):
            self._held = bytearray(data[start:]) if self._held is None else self._held
        if frames:
            self._by_lines = False
        self._check(frames)
        return frames

    def _feed_lines(self, data: bytes) -> list[bytes]:
        """Do the same where each line is a frame."""
        *frames, rest = (bytes(self._held or b"") + data).split(b"\n")
        frames = [line + b"\n" for line in frames]
        self._held = bytearray(rest) if rest else None
        self._check(frames)
        return frames

    def _finish(self, held: bytearray, data: bytes, frames: list[bytes], lf_only: bool) -> int:
        """Complete the frame that earlier reads began; return where in `data` the next one starts."""
        seam = len(held)
        lf_only = lf_only and held[-1] != _CR  # then the blank line is two LFs, the first perhaps held already
        held += data
        if lf_only:
            end = _find_lf_lf(held, seam - 1) + 2
        else:
            match = _BLANK_LINE.search(held, max(0, seam - _LONGEST_BLANK_LINE + 1))
            end = match.end() if match else 1
        if end == 1:
            return len(data)
        frames.append(bytes(memoryview(held)[:end]))  # of one copy
        self._held = None
        return end - seam

    def _check(self, frames: list[bytes]) -> None:
        """Raises: TooLarge; frames and what is held are then the tail."""
        allowed = self.max_frame_bytes
        largest = max(map(len, (*frames, self._held or b"")))
        if largest > allowed:
            self._held = bytearray(b"".join(frames) + self.tail)
            raise TooLarge(f"a frame of the stream is larger than {allowed} bytes ({largest} received of it so far)")


def _goes_by_lines(data: bytes | bytearray) -> bool | None:
    """Tell from the first line of a body, and how the second begins, whether each line is a frame; None: not yet."""
    at = data.find(b"\n")
    if at < 0:
        return None if data[:1] in (b"", b"d", b"{", BOM[:1]) else False
    if not _JSON_LINE.fullmatch(data, 0, at):
        return False
    second = bytes(data[at + 1 : at + 1 + _LONGEST_JSON_BEGINNING])
    if second.startswith(_JSON_BEGINNINGS):
        return True
    return None if any(beginning.startswith(second) for beginning in _JSON_BEGINNINGS) else False


def _cut_lf(data: bytes, start: int, frames: list[bytes]) -> int:
    """Append the frames that end within `data`, which has no CR; return where the last one ends."""
    while (end := _find_lf_lf(data, start) + 2) > 1:
        frames.append(data[start:end])
        start = end
    return start


def _find_lf_lf(data: bytes | bytearray, start: int) -> int:
    """Return where the first two LFs in a row are; -1 if they are not there.

    Not find of both: bytes looks for one byte at 0.02 ns a byte, for two at 2.5 (64 KiB: 2 us instead of 160).
    """
    find = data.find
    at = find(b"\n", start)
    while at >= 0 and data[at + 1 : at + 2] != b"\n":
        at = find(b"\n", at + 1)
    return at


def _cut(data: bytes, start: int, frames: list[bytes]) -> int:
    """Do the same for any line endings."""
    for match in _BLANK_LINE.finditer(data, start):
        frames.append(data[start : match.end()])
        start = match.end()
    return start


def begins_stream(data: bytes) -> bool | None:
    """Tell whether a body begins as event streams do, with a comment or a field; None: too little has come to tell."""
    if BOM.startswith(data):
        return None
    data = data.removeprefix(BOM)
    if data.startswith(_BEGINNINGS):
        return True
    return None if any(beginning.startswith(data) for beginning in _BEGINNINGS) else False


class Event(NamedTuple):
    """The fields of a frame by the WHATWG rules. A comment-only frame has none (`data` is None)."""

    data: bytes | None
    type: bytes
    id: bytes | None


def fields(frame: bytes) -> Event:
    """Read a frame's fields; several `data` lines are joined by LF.

    A frame without its blank line is read as if it had one, as the DashScope SDK does.
    """
    data: list[bytes] = []
    kind, ident = b"", None
    for line in _LINE_END.split(frame.removeprefix(BOM)):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value
        elif name == b"id" and b"\0" not in value:
            ident = value
    return Event(b"\n".join(data) if data else None, kind, ident)


def payload(frame: bytes) -> bytes | None:
    """Return the data of a frame, as `fields(frame).data` does, quickly in the plain case of one LF line of it."""
    if (  # _is_plain, without its call
        frame.startswith(b"data: ")
        and frame.find(b"\n") == len(frame) - 2
        and frame.endswith(b"\n")
        and frame.find(b"\r") < 0
    ):
        return frame[6:-2]
    start, end = _data_place(frame)
    return frame[start:end] if start else fields(frame).data


def respell(frame: bytes, data: bytes) -> bytes:
    """Return the frame with other data, one line, in the place of its own; all else of it stays as it is."""
    if _is_plain(frame):
        return b"data: %b\n\n" % data
    first, last = _data_place(frame)
    if first:
        return b"%b%b%b" % (frame[:first], data, frame[last:])
    lines, end, blank = _parts(frame)
    kept: list[bytes] = []
    for line in lines.splitlines(keepends=True):
        name, colon, value = line.removeprefix(BOM).partition(b":")
        if name.rstrip(b"\r\n") != b"data":
            kept.append(line)
        elif data:
            bom = line[: len(BOM)] if line.startswith(BOM) else b""
            kept.append(b"%bdata:%b%b%b" % (bom, b" " if value.startswith(b" ") or not colon else b"", data, end))
            data = b""
    return b"".join(kept) + blank


def stamp(frame: bytes, ident: bytes) -> bytes:
    """Return the frame with one line `id: <ident>` before its blank line, in the frame's own line ending.

    Last, so that it wins over an id of the upstream's. Blank lines before a frame's first line are left out, and a
    frame without data loses its blank line, and its `event` and `id` lines, which then say nothing, become comments:
    once it has seen an id, openai-python raises JSONDecodeError on a block without data. What is left leads the next
    block, which is the same to a parser by the rules. A byte order mark goes, too: openai-python takes it for a part of
    the name, and would see an id without data.
    """
    if _is_plain(frame) or (frame[:1] not in _LINE_ENDS and _data_place(frame)[0]):
        return b"%bid: %b\n\n" % (frame[:-1], ident)
    frame = frame.removeprefix(BOM).lstrip(_LINE_ENDS)
    lines, end, blank = _parts(frame)
    if fields(frame).data is None:
        return _UNSAID.sub(b":\\1", lines) if frame else b""
    return b"%bid: %b%b%b" % (lines, ident, end, blank)


def _is_plain(frame: bytes) -> bool:
    """Tell whether a frame is one LF line of data and its blank line, the form that Qwen sends."""
    return (
        frame.startswith(b"data: ")
        and frame.find(b"\n") == len(frame) - 2
        and frame.endswith(b"\n")
        and frame.find(b"\r") < 0
    )


def _data_place(frame: bytes) -> tuple[int, int]:
    """Return where the data of a frame stands that has one line of it, not the first, in LF lines, as DashScope's have.

    (0, 0) of any other frame: 0.5 us, where the regular expressions take 10 (tests/bench/micro.py).
    """
    start = frame.find(b"\ndata:") + 6
    if start < 6 or frame.find(b"\r") >= 0 or not frame.endswith(b"\n\n"):
        return 0, 0
    if frame.find(b"\ndata", start) >= 0 or frame.startswith((b"data", BOM)):
        return 0, 0
    return start + frame.startswith(b" ", start), frame.find(b"\n", start)


def _parts(frame: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a frame into its lines, each terminated, the terminator of the last of them, and its blank line.

    What an unterminated tail that was taken as the last frame lacks is made up.
    """
    ends = list(_LINE_END.finditer(frame))
    if not ends:
        return frame + b"\n", b"\n", b"\n"
    last = ends[-1]
    if last.end() < len(frame):  # its last line does not end
        return frame + last.group(), last.group(), last.group()
    if len(ends) > 1 and ends[-2].end() == last.start():
        return frame[: last.start()], ends[-2].group(), last.group()
    return frame, last.group(), last.group()
