"""What the console shows, of all workers: numbers are summed, streams put together, and each worker is named."""

from collections.abc import Iterable, Mapping
from typing import Any

from proxy.telemetry.overview import SHOWN

_SUMMED = ("running", "kept", "followers", "held_bytes", "max_held_bytes")
_SUMMED_OF_UPSTREAMS = ("requests", "active", "idle", "running", "waiting")
_BREAKERS = (None, "closed", "half_open", "open")  # the worst last
_SILENT = {"pid": 0, "state": "no answer", "uptime_s": 0, "streams": 0, "followers": 0, "held_bytes": 0}


def merged(told: Mapping[int, Any], *, data_url: str, is_draining: bool) -> dict[str, Any]:
    """Return the overview of all workers from those of each, by its number; None for one that does not answer."""
    overviews = [one for one in told.values() if one is not None]
    return {
        "at": max((one["at"] for one in overviews), default=0),
        "data_url": data_url,
        "draining": is_draining,
        **{name: sum(one[name] for one in overviews) for name in _SUMMED},
        "streams": _streams([row for one in overviews for row in one["streams"]]),
        "upstreams": _upstreams(row for one in overviews for row in one["upstreams"]),
        "workers": [{**(_SILENT if one is None else one["workers"][0]), "name": str(n)} for n, one in told.items()],
    }


def _streams(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return as many streams as one worker shows: those that began first and last, those that ended last."""
    running = sorted((row for row in rows if row["ended_s"] is None), key=lambda row: -row["age_s"])
    ended = sorted((row for row in rows if row["ended_s"] is not None), key=lambda row: row["ended_s"])
    if len(running) > SHOWN:
        running = running[: SHOWN // 2] + running[-(SHOWN - SHOWN // 2) :]
    return running + ended[:SHOWN]


def _upstreams(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    by_name: dict[str, dict[str, Any]] = {}
    for row in rows:
        seen = by_name.setdefault(row["name"], {})
        worst = max(row, seen or row, key=lambda one: _BREAKERS.index(one["breaker"]))
        sums = {
            name: row[name] if row[name] is None else row[name] + seen.get(name, 0) for name in _SUMMED_OF_UPSTREAMS
        }
        by_name[row["name"]] = {**row, **sums, "breaker": worst["breaker"], "opens_in_s": worst["opens_in_s"]}
    return list(by_name.values())
