"""In which order the parts of the proxy are told of a stream's life."""

import os
from typing import Any
from unittest import mock

import pytest

from proxy.server import observers as module
from proxy.server.observers import observers

pytestmark = pytest.mark.skipif("TEST_COMPILED" in os.environ, reason="compiled modules take no stand-in for a stream")
PARTS = ("metrics", "feed", "calls", "upstreams", "accounts", "given", "tracing", "node")


def told(**named: Any) -> dict[str, list[str]]:
    """Return which parts are told of each event of a stream, in their order."""
    parent = mock.Mock()
    parts = {name: getattr(parent, name) for name in PARTS}
    node = parts["node"]
    stream: Any = mock.Mock()
    order = {}
    with mock.patch.object(module, "access_log", parent.log):
        made = observers(**{**parts, "node": lambda: node, "log_as_fields": False, **named})
        for event in ("begun", "answered", "ended"):
            parent.reset_mock()
            getattr(made, event)(stream)
            assert all(call.args == (stream,) for call in parent.mock_calls)
            order[event] = [str(name).partition(".")[0] for name, *_ in parent.mock_calls]
    return order


def test_trace_ids_are_there_when_others_show_them() -> None:
    """Spans are begun before the feed and the store are told."""
    assert told()["begun"] == ["accounts", "tracing", "feed", "node"]


def test_call_is_unregistered_when_an_error_is_answered() -> None:
    """Nobody else has to know before the end."""
    assert told()["answered"] == ["calls"]


def test_end_is_told_to_all() -> None:
    """Once each, the store last."""
    order = told()["ended"]
    assert sorted(order) == sorted([*PARTS, "log"])
    assert order[-1] == "node"


def test_parts_that_are_not_configured_are_not_told() -> None:
    """Nor is a node that is not made yet."""
    order = told(accounts=None, given=None, tracing=None, node=None)
    assert (order["begun"], order["ended"]) == (["feed"], ["metrics", "log", "upstreams", "calls", "feed"])
    assert told(node=lambda: None)["begun"] == ["accounts", "tracing", "feed"]


def test_lines_of_the_log_are_fields_if_that_is_configured() -> None:
    """Each stream has one line, of one kind."""
    with mock.patch.object(module, "access_log") as log:
        parts: dict[str, Any] = dict.fromkeys(PARTS)
        parts |= {name: mock.Mock() for name in ("metrics", "feed", "calls", "upstreams")}
        observers(**parts, log_as_fields=True).ended(mock.Mock())
    log.ended_as_fields.assert_called_once()
    log.ended.assert_not_called()
