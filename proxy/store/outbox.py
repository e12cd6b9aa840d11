"""What of one stream is yet to be written to the store: the owner's side.

An outbox reads the stream, as a follower does, but when it is asked to, not when frames come: so that the stream's only
client can still be served past the log, which a second subscription would end. Nor is the log settled for it.
At most one entry of a stream is on its way: an entry that could not be stored is never followed by a later one.
"""

from collections.abc import Callable

from proxy.dialects.dialect import Objects
from proxy.store.entries import (
    ANSWERED,
    ENTRY_FRAMES,
    HEADER,
    SEAL,
    START,
    Answer,
    Entry,
    EntryId,
    Record,
    Seal,
    ending_of,
    fitting,
)
from proxy.store.store import GONE, STORED, Add, Append, Drop, Keep, Operation, Outcome, Put, Remove
from proxy.stream.endings import PRODUCER_LOST, Ending
from proxy.stream.stream import Stream

RUNNING_S = 3600.0  # how long a running stream is kept in the store without a sign of its owner
RENEW_S = 60.0
GIVEN_S = 7 * 24 * 3600.0  # as long as Qwen stores responses
DELETED = b""
"""In place of an upstream: the caller has deleted the response."""
NAMES_S = 24 * 3600.0  # how long a key or the id of a response leads to its stream, at most
_BEHIND = "the store was behind for so long that frames are gone which it lacks"
_LEAST_S = 5.0  # how long an ended stream is kept at least, for those who are reading it

Summary = Callable[[Stream], bytes]
"""Describes a stream at its end, for lists."""


class Outbox:
    """What of one stream is yet to be written to the store, and how far that is known to have come."""

    __slots__ = (
        "_has_given_up", "_heard_at", "_is_answered", "_is_begun", "_is_token_told", "_keys", "_objects", "_record",
        "_renew_at", "_response", "_summary", "at", "closed", "has_more", "sealed", "stream", "unstored",
    )  # fmt: skip

    def __init__(self, stream: Stream, node: str, summary: Summary) -> None:
        self.stream = stream
        self.at = START  # the position up to which the store has the log
        self.sealed = False  # the store has a seal
        self.closed = False  # and what is left to do after it is done
        self.unstored = ""  # why the rest of the stream is not stored; "": it is
        self.has_more = True  # what follows on what `next` has returned is to be written at once
        self._record = Record(stream.info, stream.dialect.name, stream.vitals.model, node)
        self._objects = stream.dialect.objects
        self._summary = summary
        self._has_given_up = False
        self._is_begun = False
        self._is_answered = False
        self._is_token_told = False
        self._keys: tuple[str, ...] = ()
        self._response: str | None = None  # the upstream's id of it, when it was last written
        self._heard_at = -1.0
        self._renew_at = 0.0

    @property
    def lag_bytes(self) -> int:
        """How many bytes the store lacks of what is in the log."""
        return 0 if self.unstored or self.sealed else max(0, self.stream.log.end_bytes - self.at.end_bytes)

    def next(self, now: float) -> list[Operation]:
        """Return what is to be written next, nothing if all is; at most one entry of the log, the last of them."""
        stream = self.stream
        if self.closed or self.unstored:
            return []
        if not self._is_begun:
            self._renew_at = now + RENEW_S
            return [*self._index(RUNNING_S), Append(stream.id, Entry(HEADER, {b"r": bytes(self._record)}), begins=True)]
        if self.sealed:
            return self._last_will()
        is_due = now >= self._renew_at or stream.info.keys != self._keys
        if stream.bypass is not None and stream.bypass.fed_at == self._heard_at and not is_due:
            return []  # nothing has come, as is usual for most streams
        more: list[Operation] = []
        if is_due or (self._objects is not None and self._is_response_new(self._objects)):
            self._renew_at = now + RENEW_S
            more = [Keep(stream.id, RUNNING_S), *self._index(RUNNING_S)]
        entry = self._next_entry()
        return more if entry is None else [*more, Append(stream.id, entry)]

    def noted(self, operation: Operation, outcome: Outcome) -> bool:
        """Note the outcome of an operation; return whether `settle` must find out what the store has."""
        if isinstance(operation, Append):
            if outcome == STORED:
                self._has(operation.entry.id)
                return False
            if outcome == GONE:
                self.unstored = "the store no longer has the stream"
            return outcome != GONE
        if isinstance(operation, Remove):
            self.closed = True
        return False

    def settle(self, last: Entry | None) -> None:
        """Go on after the last entry that the store has, or end with the seal that it is; None: it has no log."""
        if last is None:
            if self._is_begun:
                self.unstored = "the store no longer has the stream"
            return
        self._is_begun = True
        if last.id == SEAL:
            self.sealed = True
            if not self._has_given_up:
                self._end(ending_of(last))
        else:
            self.sealed = self.closed = False
            self.at, self._heard_at = START, -1.0
            self._has(last.id)

    def _has(self, ident: EntryId) -> None:
        """Note that the store has an entry, and so all before it."""
        self._is_begun = True
        self._is_answered = ident >= ANSWERED
        if ident == SEAL:
            self.sealed = True
        elif ident.seq:
            self.at = ident

    def _end(self, ending: Ending) -> None:
        """End the stream here as somebody else has ended it in the store."""
        if self.stream.writer is not None:
            self.stream.writer.stop(ending)

    def _index(self, seconds: float) -> list[Operation]:
        """Return what makes the stream found: by its node, its caller and its keys."""
        info = self.stream.info
        # Once each: another stream may be the newest by now.
        new = [
            Put(named(info.caller.hex(), key), info.id.encode(), NAMES_S) for key in info.keys if key not in self._keys
        ]
        self._keys = info.keys
        ident, caller = info.id.encode(), info.caller.hex()
        response = None if self._objects is None else self._response_id(self._objects)
        return [
            Add(running(self._record.node), info.id, seconds),
            Add(owned(caller), info.id, seconds + info.retain_s),
            *new,
            *([] if response is None else [Put(responded(caller, response), ident, NAMES_S)]),
            *([] if response is None else [note_given(caller, response, self.stream.upstream)]),
        ]

    def _is_response_new(self, objects: Objects) -> bool:
        """Return whether the upstream's id of the response has become known."""
        return self._response is None and self.at.seq > 0 and self._response_id(objects) is not None

    def _response_id(self, objects: Objects) -> str | None:
        """Return the id that the upstream gave the response, once it is known."""
        self._response = None if self.stream.kept_head else objects.ident(self.stream.reader)
        return self._response

    def _last_will(self) -> list[Operation]:
        """Return what is left to do when the seal is there."""
        info = self.stream.info
        will: list[Operation] = [
            Keep(info.id, max(info.retain_s, _LEAST_S)),
            Remove(running(self._record.node), info.id),
        ]
        if not info.retain_s:
            caller = info.caller.hex()
            response = () if self._response is None else (responded(caller, self._response),)
            will += [Remove(owned(caller), info.id), Drop(response)]
        return will

    @property
    def needless_names(self) -> list[str]:
        """The names that may lead to the stream yet, though it is not found after its end."""
        info = self.stream.info
        return [] if info.retain_s or not self.closed else [named(info.caller.hex(), key) for key in self._keys]

    def _next_entry(self) -> Entry | None:
        stream, self.has_more = self.stream, True
        if not self._is_answered and self.at == START and stream.upstream:
            return Answer(stream.upstream, stream.upstream_request_id, stream.kept_head).entry()
        self._heard_at = stream.heard_at
        if self.at.end_bytes > stream.info.max_log_bytes:
            return self._give_up(f"the store keeps {stream.info.max_log_bytes} bytes of a stream")
        frames = stream.frames_after(self.at.seq, ENTRY_FRAMES)
        if frames is None:
            return self._give_up(_BEHIND)
        if frames:
            return self._data(frames)
        return self._seal() if stream.sealed else None

    def _give_up(self, why: str) -> Entry:
        """Return the seal of a stream that goes on here, but can't be stored to its end."""
        self._has_given_up = True
        return Seal(PRODUCER_LOST.saying(why)).entry()

    def _data(self, frames: list[bytes]) -> Entry:
        vitals, some = self.stream.vitals, fitting(frames, self.at)
        self.has_more = len(some.frames) < len(frames) or len(frames) == ENTRY_FRAMES or self.stream.sealed
        if self.has_more:
            self._heard_at = -1.0  # the rest is to be written, although nothing more may come for long
        entry = some.entry()
        if vitals.first_token_at and not self._is_token_told:
            self._is_token_told = True
            entry.fields[b"f"] = b"%.6f" % (vitals.first_token_at - vitals.started_at)
        return entry

    def _seal(self) -> Entry | None:
        """Return the seal of a stream that has ended."""
        log, info = self.stream.log, self.stream.info
        if log.ending is None:
            return None
        at = EntryId(log.end, log.end_bytes)
        return Seal(log.ending, at, log.tail, self._summary(self.stream), info.retain_s > 0).entry()


def running(node: str) -> str:
    """Return the name of the set of streams that a node owns."""
    return f"run:{node}"


def owned(caller: str) -> str:
    """Return the name of the set of a caller's streams."""
    return f"mine:{caller}"


def named(caller: str, key: str) -> str:
    """Return the name of the value that says which stream is a caller's newest under a key."""
    return f"key:{caller}:{key}"


def responded(caller: str, ident: str) -> str:
    """Return the name of the value that says which stream has a caller's response, by the upstream's id of it."""
    return f"resp:{caller}:{ident}"


def given(caller: str, ident: str) -> str:
    """Return the name of the value that says which upstream has given a caller a response of this id, or DELETED."""
    return f"given:{caller}:{ident}"


def note_given(caller: str, ident: str, upstream: str) -> Put:
    """Return what has all nodes know that an upstream has given a caller a response of this id; "": it is deleted."""
    return Put(given(caller, ident), upstream.encode(), GIVEN_S)
