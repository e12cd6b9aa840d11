"""The base class of the dialects' readers, each of which follows one stream frame by frame.

It has what all of them need: finish reasons, usage, the first error. And it saves parsing: most frames add nothing but
the next piece of text. A reader learns from a parsed frame which bytes surround its text, and then recognises similar
frames, called ordinary, without parsing them. A finish reason that means failure goes into `_FAILED`; any other is
recorded as the upstream writes it. Knows no log and no clock.
"""

import json
import re
from typing import Any, Final

import orjson

from proxy.dialects.failure import Failure
from proxy.dialects.usage import Usage, read_usage
from proxy.wire.sse import COMMENT

_ZEROS: Final = bytes(48 if 48 <= byte < 58 else byte for byte in range(256))  # every digit becomes 0
_NEVER: Final = b"\0\0"  # no frame ends with this
_NOWHERE: Final = 1 << 30  # no frame is this long
_UNFINISHED: Final = "null"  # DashScope sends this string as the finish reason until the end
STOPPED: Final = frozenset(["stop", "length", "content_filter"])  # finish reasons after which no service goes on
_ERROR_WITHIN_S: Final = 5.0  # for an upstream to end its response after an error
_FAILED: Final = re.compile(  # finish reasons; `abort` is of vLLM, `insufficient_system_resource` of DeepSeek
    r"\w*error|\w*exception|(?:\w+_)?(?:failed|failure)|abort(?:ed)?|cancell?ed|interrupted|(?:\w+_)?time_?d?_?out"
    r"|insufficient_\w+|overloaded|unavailable|rate_limit\w*|throttl\w+",
    re.IGNORECASE,
)


class LearningReader:
    """A Reader that learns to recognise ordinary frames; subclasses implement `note` and `_read_numbers`."""

    __slots__ = (
        "_finished",
        "_fixed",
        "_head",
        "_numbered",
        "_start",
        "_tail",
        "_unread",
        "_usage",
        "_zeroed_head",
        "_zeroed_tail",
        "choices",
        "ended",
        "failure",
        "finish_reason",
        "has_content",
        "model",
        "request_id",
    )

    def __init__(self) -> None:
        self.model: str | None = None
        self.finish_reason: str | None = None  # of the first choice, or else of any choice that has one
        self.request_id: str | None = None  # the upstream's own, if frames contain it
        self.failure: Failure | None = None
        self.ended = False  # the dialect's final event has come: nothing can be missing
        self.has_content = False  # content that the dialect defines has come, apart from the final event
        self.choices = 1  # how many were asked for
        self._finished: dict[int, bool] = {}  # by index of the choice: whether its finish reason has come
        self._usage: Usage | None = None
        self._unread: bytes | None = None  # the latest ordinary frame, if its numbers have not been read yet
        # An ordinary frame is this head, the text, and this tail, which begins with the quotation mark after the text.
        self._head = self._tail = _NEVER
        self._start = _NOWHERE  # where the text begins, which has at least one byte
        # If frames also differ in numbers (an id, a usage that grows): head and tail with every digit replaced by 0.
        self._numbered = False
        self._zeroed_head = self._zeroed_tail = _NEVER
        self._fixed = b""  # the index of the choice or item, the only number that must not differ

    @property
    def finished(self) -> bool:
        """True when the stream would be complete if its response ended now, with or without a final event."""
        return bool(self._finished) and all(self._finished.values())

    @property
    def enough_after_s(self) -> float:
        """Some seconds after an error; 0, unless silence after a finish reason means that nothing follows."""
        return self._quiet_s(0.0)

    @property
    def answered_after_s(self) -> float:
        """0, unless the finish reasons are the last word of an API."""
        return 0.0

    def lacks_only_end(self, lines: bytes) -> bool:
        """Return False: nothing is known of incomplete frames."""
        return False

    def _quiet_s(self, stopped_s: float) -> float:
        """Return how many seconds of silence show that nothing follows; `stopped_s`: when every choice has stopped.

        As a rule nothing follows an error that is stated as one. But text in place of events, which is none of this
        API's, may only keep the connection alive.
        """
        failure = self.failure
        if failure is not None:
            return _ERROR_WITHIN_S if failure.recognised or failure.body or self.finished else 0.0
        return stopped_s if self._has_stopped() else 0.0

    def _has_stopped(self) -> bool:
        """Return whether every choice has stopped, and not to have a tool called, after which some services go on."""
        if self.finish_reason not in STOPPED or self.failure is not None:
            return False
        return self.finished and len(self._finished) >= self.choices

    @property
    def answers_begun(self) -> int:
        """0, since only sessions have several answers."""
        return 0

    @property
    def heartbeat(self) -> bytes:
        """A comment, unless the clients of an API need more than that."""
        return COMMENT

    @property
    def empty_event(self) -> bytes:
        """The heartbeat, unless an API has events without text."""
        return self.heartbeat

    @property
    def usage(self) -> Usage | None:
        """The latest usage that the stream reported."""
        self._catch_up()
        return self._usage

    def _catch_up(self) -> None:
        """Read the numbers of the latest ordinary frame, if they have not been read yet."""
        frame, self._unread = self._unread, None
        if frame is not None:
            self._read_numbers(frame)

    @property
    def surroundings(self) -> tuple[bytes, bytes] | None:
        """The head and the tail, if ordinary frames have no numbers that differ."""
        return None if self._numbered or self._head is _NEVER else (self._head, self._tail)

    def forget_surroundings(self) -> None:
        """Know no ordinary frames any more."""
        self._head = self._tail = self._zeroed_head = self._zeroed_tail = _NEVER
        self._start, self._fixed = _NOWHERE, b""

    def ordinary(self, frame: bytes) -> bool:
        """Return, without parsing, whether a frame adds only generated text; False when in doubt.

        Its kind of text is that of the last frame that `note` read. Hot: 0.2 us.
        """
        # By slices: 60 ns less than by startswith, and half of what `find` takes compiled modules, in which slices
        # that end before they begin raise SystemError.
        begin, end = self._start, len(frame) - len(self._tail)
        if begin < end and 34 not in frame[begin:end] and frame[end:] == self._tail and frame[:begin] == self._head:
            return True
        return (self._numbered or 92 in frame) and self._head is not _NEVER and self._is_alike(frame)

    def _is_alike(self, frame: bytes) -> bool:
        """Return whether a frame is ordinary whose text has escapes, or whose numbers differ."""
        head, tail, compared = self._head, self._tail, frame
        if self._numbered:
            head, tail, compared = self._zeroed_head, self._zeroed_tail, frame.translate(_ZEROS)
        if not (compared.startswith(head) and compared.endswith(tail) and len(compared) > len(head) + len(tail)):
            return False
        text = compared[len(head) : -len(tail)]
        if 92 in text:
            text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        if 34 in text or text.endswith(b"\\"):
            return False
        if self._numbered:
            if self._fixed not in frame:
                return False
            self._unread = frame
        return True

    def _learn(self, frame: bytes, key: str, text: str, index: int, named: bytes = b"index") -> None:
        """Learn from a frame what surrounds the text of ordinary frames; its text is under `key`.

        `index` is the number of the choice or item that it belongs to, which the frame has under the key `named`.
        """
        start, end = _place(frame, key, text)
        if not start or not frame.endswith(b"\n\n") or 13 in frame:
            return
        head, tail, known = frame[:start], frame[end:], (self._head, self._tail)
        self._head, self._tail, self._start = head, tail, start
        if known[0] is _NEVER:
            return
        zeroed = (head.translate(_ZEROS), tail.translate(_ZEROS))
        alike = zeroed == (known[0].translate(_ZEROS), known[1].translate(_ZEROS))
        self._numbered = alike and (self._numbered or (head, tail) != known)
        if self._numbered:
            self._zeroed_head, self._zeroed_tail = zeroed
            self._start = _NOWHERE
            spelled = (b'"%b":%d' % (named, index), b'"%b": %d' % (named, index))
            self._fixed = next((fixed for fixed in spelled if fixed in frame), b"")

    def _learn_first(self, frame: bytes, head: bytes, tail: bytes) -> bool:
        """Learn that these surround the text of ordinary frames, if they do so in this one; return whether they do.

        They are of a frame that was parsed, as this one need not be then: its text has no escapes, nor line ends.
        """
        start = len(head)
        end = frame.find(b'"', start)
        if end == start or frame[end:] != tail or frame[:start] != head:
            return False
        text = frame[start:end]
        if 92 in text or 10 in text or 13 in text:
            return False
        self._head, self._tail, self._start = head, tail, start
        return True

    def _take_usage(self, stated: Any) -> None:
        """Record a usage, unless it consists of zeros and another is known."""
        usage = read_usage(stated)
        if usage is not None and (any(usage) or self._usage is None):
            self._usage, self._unread = usage, None

    def _read_numbers(self, frame: bytes) -> None:
        """Read and record the numbers in an ordinary frame: the usage, if every frame has one, or its own number."""
        raise NotImplementedError

    def _finish(self, index: int, reason: Any) -> None:
        """Record a choice's finish reason, or that it has none yet."""
        reason = stated_reason(reason)
        if not reason or reason == _UNFINISHED:
            if index not in self._finished:
                self._finished[index] = False
            return
        self._finished[index] = True
        if isinstance(reason, str):
            if index == 0 or self.finish_reason is None:
                self.finish_reason = reason
            if reason not in STOPPED and _FAILED.fullmatch(reason):
                self._fail(Failure(f"a choice ended with finish reason {reason[:50]}", recognised=False))

    def _fail(self, failure: Failure | None) -> None:
        """Record an error; only the first one counts, and none after the final event, where clients stop reading."""
        if self.failure is None and not self.ended:
            self.failure = failure


def stated_reason(reason: Any) -> Any:
    """Return a finish reason, also in an object, as some upstreams send it; None, if the object states none as text."""
    if reason is None or isinstance(reason, str):  # nearly always
        return reason
    if not isinstance(reason, dict | list):
        return reason
    stated = [reason.get(name) for name in ("type", "reason")] if isinstance(reason, dict) else []
    return next((text for text in stated if isinstance(text, str)), None)


def _place(frame: bytes, key: str, text: str) -> tuple[int, int]:
    """Return where the text under a key begins and ends in a frame; (0, 0) if that is not certain."""
    try:
        compact = orjson.dumps(text)
    except TypeError:  # an unpaired surrogate
        return 0, 0
    begin, end = _place_of_string(frame, key, compact)
    if begin < 0:  # as a rule it is there: saves 2 us a stream
        begin, end = _place_of_string(frame, key, json.dumps(text).encode())
    return max(0, begin), end


def _place_of_string(frame: bytes, key: str, string: bytes) -> tuple[int, int]:
    """Return where the text of a JSON string under a key begins and ends.

    (0, 0) if it is there twice, (-1, 0) if not at all.
    """
    for colon in (b'":', b'": '):
        needle = b'"%b%b%b' % (key.encode(), colon, string)
        at = frame.find(needle)
        if at >= 0:
            end = at + len(needle) - 1
            return (end - len(string) + 2, end) if frame.find(needle, at + 1) < 0 else (0, 0)
    return -1, 0
