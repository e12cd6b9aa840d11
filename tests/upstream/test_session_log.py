"""What the upstream says in a session: the time to the first token of each answer, and how the session has ended."""

import json
import logging
from typing import Any

import pytest

from proxy.dialects.realtime import REALTIME, RealtimeReader
from proxy.stream.endings import CLIENT_GONE, COMPLETE, INTERNAL_ERROR, UPSTREAM_ERROR, UPSTREAM_RESET, Ending
from proxy.upstream.session_log import SessionLog
from proxy.wire.sse import block
from tests.streams import new_stream


def said(kind: str, **event: Any) -> bytes:
    return block(json.dumps({"type": kind, **event}).encode())


CREATED, DONE = said("response.created"), said("response.done", response={"status": "completed"})
TOKEN = said("response.text.delta", delta="a")
FAILED = block(b'{"header": {"event": "task-failed", "error_message": "no such voice"}}')


def session() -> tuple[SessionLog, list[float]]:
    """Return the log of a new session, and the times to first tokens that it tells."""
    times: list[float] = []
    return SessionLog(new_stream(REALTIME), times.append), times


def test_first_token_of_each_answer_is_timed_from_its_beginning() -> None:
    """Once for each; a token before any answer is nobody's."""
    log, times = session()
    for blocks, at in (
        ([TOKEN], 1.0),
        ([said("session.created"), CREATED], 10.0),
        ([said("response.output_item.added")], 10.5),
        ([TOKEN, TOKEN], 12.0),
        ([TOKEN, DONE], 13.0),
        ([CREATED, TOKEN], 20.0),
        ([TOKEN], 21.0),
    ):
        log.append(blocks, at)
    assert times == [2.0, 0.0]
    log.append([DONE, CREATED], 30.0)
    log.append([TOKEN], 30.25)
    assert times == [2.0, 0.0, 0.25]


@pytest.mark.parametrize(
    ("blocks", "code", "by_client", "ending"),
    [
        ([CREATED, TOKEN, DONE], 1000, False, COMPLETE),
        ([CREATED, TOKEN, DONE], None, False, COMPLETE),
        ([], 1000, False, COMPLETE),
        ([CREATED, TOKEN], 1000, False, UPSTREAM_RESET),
        ([CREATED, DONE], 1001, False, UPSTREAM_ERROR),
        ([CREATED, DONE], 4000, False, UPSTREAM_ERROR),
        ([CREATED, DONE], 1000, True, COMPLETE),
        ([CREATED, DONE], 1001, True, COMPLETE),
        ([CREATED, DONE], None, True, COMPLETE),
        ([CREATED, DONE], 4000, True, CLIENT_GONE),
        ([CREATED, TOKEN], 1000, True, CLIENT_GONE),
        ([FAILED], 1000, False, UPSTREAM_ERROR),
        ([FAILED], 1000, True, UPSTREAM_ERROR),
    ],
)
def test_session_is_complete_only_between_answers(
    blocks: list[bytes], code: int | None, by_client: bool, ending: Ending
) -> None:
    """By a code of a regular end; whoever closes within an answer has broken it off."""
    log, _ = session()
    log.append(blocks, 1.0)
    assert log.ending(code, by_client=by_client).reason == ending.reason


def test_reader_that_breaks_loses_no_message_and_lets_no_session_look_complete(
    background_log: list[logging.LogRecord],
) -> None:
    """It is logged once, and asked no more."""
    calls: list[bytes] = []

    class Broken:  # not derived from the reader, which may be compiled
        def __getattr__(self, name: str) -> Any:
            return getattr(whole, name)

        def note(self, frame: bytes) -> None:
            calls.append(frame)
            raise ValueError("x")

    stream, whole, broken = new_stream(REALTIME), RealtimeReader(), Broken()
    stream.vitals.reader = broken  # type: ignore[assignment]
    log = SessionLog(stream, lambda seconds: None)
    log.append([CREATED, TOKEN], 1.0)
    log.append([DONE], 2.0)
    assert stream.log.span(0, 3) == [CREATED, TOKEN, DONE]
    assert (calls, len(background_log)) == ([CREATED], 1)
    assert log.ending(1000, by_client=False) == INTERNAL_ERROR
