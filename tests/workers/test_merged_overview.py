"""What the console shows of several workers: sums, all streams, and each worker by its number."""

from typing import Any

import pytest

from proxy.workers import merged_overview
from proxy.workers.merged_overview import merged


def row(ident: str, age_s: float, ended_s: float | None = None) -> dict[str, Any]:
    return {"id": ident, "age_s": age_s, "ended_s": ended_s}


def upstream(breaker: str | None, requests: int, waiting: int | None = 0) -> dict[str, Any]:
    numbers = {"requests": requests, "active": 1, "idle": 0, "running": waiting, "waiting": waiting}
    return {"name": "default", "weight": 1, "breaker": breaker, "opens_in_s": 5 if breaker == "open" else 0, **numbers}


def overview(*streams: dict[str, Any], at: float = 1.0, **upstreams: Any) -> dict[str, Any]:
    worker = {"name": "0", "pid": 7, "state": "ready", "uptime_s": 1, "streams": 1, "followers": 2, "held_bytes": 3}
    return {
        "at": at, "data_url": "", "draining": False, "running": 1, "kept": 2, "followers": 2, "held_bytes": 3,
        "max_held_bytes": 10, "streams": list(streams), "upstreams": [upstream(**upstreams)], "workers": [worker],
    }  # fmt: skip


def told(*overviews: dict[str, Any] | None) -> dict[str, Any]:
    return merged(dict(enumerate(overviews)), data_url="http://data", is_draining=False)


def test_numbers_are_summed_and_workers_are_named() -> None:
    """One that does not answer is listed, with that."""
    both = told(overview(breaker=None, requests=3), None, overview(at=2.0, breaker=None, requests=4))
    assert (both["at"], both["running"], both["kept"], both["max_held_bytes"]) == (2.0, 2, 4, 20)
    assert both["data_url"] == "http://data"
    assert [(worker["name"], worker["state"]) for worker in both["workers"]] == [
        ("0", "ready"),
        ("1", "no answer"),
        ("2", "ready"),
    ]


def test_upstream_has_the_worst_state_that_any_worker_knows() -> None:
    """And the sum of what they send; without a queue there is no number of one."""
    states = ("closed", "open", "half_open")
    (one,) = told(*(overview(breaker=state, requests=2, waiting=1) for state in states))["upstreams"]
    assert (one["breaker"], one["opens_in_s"], one["requests"], one["waiting"]) == ("open", 5, 6, 3)
    (one,) = told(*(overview(breaker=None, requests=2, waiting=None) for _ in range(2)))["upstreams"]
    assert (one["breaker"], one["requests"], one["waiting"]) == (None, 4, None)


def test_streams_are_put_together_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of one worker: those that began first and last, and those that ended last."""
    monkeypatch.setattr(merged_overview, "SHOWN", 2)
    first = overview(row("a", 9), row("b", 2), row("x", 1, 5.0), row("y", 1, 50.0), breaker=None, requests=1)
    second = overview(row("c", 5), row("d", 1), row("z", 1, 1.0), breaker=None, requests=1)
    assert [one["id"] for one in told(first, second)["streams"]] == ["a", "d", "z", "x"]


def test_without_any_worker_there_is_still_an_overview() -> None:
    """While all are being replaced, say."""
    assert told(None)["streams"] == told()["workers"] == []
