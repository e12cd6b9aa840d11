"""Whoever stands at an end of a stream has what it asks for, by the same names and arguments."""

import inspect

import pytest

from proxy.downstream.response import Downstream
from proxy.downstream.websocket import WebSocket
from proxy.server.document import LastWords
from proxy.stream.interfaces import Sink, Writer
from proxy.upstream.broadcast import Broadcast
from proxy.upstream.pump import Pump
from tests.fakes import FakeSink, FakeWriter


def verbs(protocol: type) -> list[str]:
    return [name for name, found in vars(protocol).items() if inspect.isroutine(found) and not name.startswith("_")]


@pytest.mark.parametrize("kind", [Downstream, WebSocket, LastWords, FakeSink])
def test_sink_has_every_verb(kind: type) -> None:
    """write, transport, on_writable, close, abort; with as many arguments."""
    check(kind, Sink, 5)


@pytest.mark.parametrize("kind", [Pump, Broadcast, FakeWriter])
def test_writer_has_every_verb(kind: type) -> None:
    """pause, resume, last_left, stop; with as many arguments."""
    check(kind, Writer, 4)


def check(kind: type, protocol: type, count: int) -> None:
    assert len(verbs(protocol)) == count
    for verb in verbs(protocol):
        asked, found = (inspect.signature(getattr(one, verb)).parameters for one in (protocol, kind))
        assert len(asked) == len(found), verb
