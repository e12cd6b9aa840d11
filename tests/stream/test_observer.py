"""Observers of streams: who is told, in which order, and what becomes of what they raise."""

import logging

from proxy.stream.observer import Observers
from proxy.stream.stream import Stream
from tests.streams import new_stream


def test_each_verb_is_told_to_its_observers_in_their_order() -> None:
    """And to no others."""
    told: list[str] = []
    observers = Observers(
        begun=[lambda stream: told.append("begun")],
        ended=[lambda stream: told.append("ended"), lambda stream: told.append("ended, too")],
    )
    stream = new_stream()
    for tell in (observers.begun, observers.answered, observers.ended):
        tell(stream)
    assert told == ["begun", "ended", "ended, too"]


def test_observer_that_breaks_hurts_no_other(background_log: list[logging.LogRecord]) -> None:
    """What it raised is logged, without its message."""
    told: list[Stream] = []

    def broken(stream: Stream) -> None:
        raise ValueError("a prompt")

    observers = Observers(ended=[broken, told.append])
    observers.ended(stream := new_stream())
    assert told == [stream]
    (record,) = background_log
    assert "ValueError" in record.getMessage()
    assert "a prompt" not in record.getMessage()
