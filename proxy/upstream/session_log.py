"""What the upstream says in a WebSocket session, as its API means it.

Its text messages become frames of the stream's log. The dialect's reader tells when an answer begins and has its first
token, and how the session has ended. Must not know: sockets, the client.
"""

from collections.abc import Callable

from proxy.stream.endings import (
    CLIENT_GONE,
    COMPLETE,
    INTERNAL_ERROR,
    UPSTREAM_ERROR,
    UPSTREAM_RESET,
    Ending,
)
from proxy.stream.faults import log_fault
from proxy.stream.stream import Stream
from proxy.wire.websocket import COMPLETE as NORMAL_CLOSURE
from proxy.wire.websocket import GOING_AWAY


class SessionLog:
    """The text messages of a session's upstream: appends them to the log, times answers, and decides on the ending."""

    __slots__ = ("_answer_began_at", "_answers_begun", "_has_reader_failed", "_on_first_token", "_stream")

    def __init__(self, stream: Stream, on_first_token: Callable[[float], object]) -> None:
        """`on_first_token` is called with the seconds from the beginning of each answer to its first token."""
        self._stream = stream
        self._on_first_token = on_first_token
        self._has_reader_failed = False  # the reader has raised, so it is not known any more how the session ends
        self._answers_begun = 0
        self._answer_began_at = 0.0  # until its first token has come

    def append(self, blocks: list[bytes], at: float) -> None:
        """Append messages, each as an SSE block, that were read at a time in monotonic seconds."""
        stream, vitals = self._stream, self._stream.vitals
        vitals.first_byte_at = vitals.first_byte_at or at
        try:
            for one in blocks if not self._has_reader_failed else ():
                self._note(one, at)
        except Exception as fault:
            log_fault(f"the reader of dialect {stream.dialect.name}", fault)
            self._has_reader_failed = True
        vitals.model = vitals.model or vitals.reader.model
        stream.extend(blocks)
        if stream.log.end & 63 < len(blocks):
            stream.take_stock()

    def ending(self, code: int | None, *, by_client: bool) -> Ending:
        """Return how a session has ended that one side has closed with this code, if it gave one."""
        reader = self._stream.vitals.reader
        if self._has_reader_failed:
            return INTERNAL_ERROR
        if reader.failure is not None:
            return UPSTREAM_ERROR.saying(f"the upstream reported an error: {reader.failure.reason}")
        if by_client:
            return COMPLETE if code in (None, NORMAL_CLOSURE, GOING_AWAY) and reader.finished else CLIENT_GONE
        if code not in (None, NORMAL_CLOSURE):
            return UPSTREAM_ERROR.saying(f"the upstream closed the session with code {code}")
        if not reader.finished:
            return UPSTREAM_RESET.saying("the upstream closed the session before its answer had finished")
        return COMPLETE

    def _note(self, message: bytes, at: float) -> None:
        """Read a message; time the first token of each answer."""
        reader = self._stream.vitals.reader
        kind, begun = reader.note(message), reader.answers_begun
        if begun != self._answers_begun:
            self._answers_begun = begun
            self._answer_began_at = at
        elif kind is not None and self._answer_began_at:
            self._on_first_token(at - self._answer_began_at)
            self._answer_began_at = 0.0
