"""Observers of streams: who is told, in which order, and what becomes of what they raise."""

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


def test_observer_that_breaks_hurts_no_other() -> None:
    """What it raised is handed out."""
    told: list[Stream] = []
    faults: list[Exception] = []
    error = ValueError("m")

    def broken(stream: Stream) -> None:
        raise error

    observers = Observers(ended=[broken, told.append], on_fault=faults.append)
    observers.ended(stream := new_stream())
    assert (told, faults) == ([stream], [error])
