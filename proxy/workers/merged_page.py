"""The metrics of all workers as one page: each worker's families as JSON, and their sums.

A sum of counters must never fall, or Prometheus takes that for a restart of them all. So the counts of workers that
ended stay in the sums, and of a worker that does not answer the last counts do; its gauges are left out meanwhile.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.samples import Exemplar

Families = list[dict[str, Any]]
_Key = tuple[str, tuple[tuple[str, str], ...]]

MAXIMA = frozenset({"streamtee_subscriber_lag_bytes_max", "streamtee_silence_seconds_max", "streamtee_build_info"})
"""Gauges of which the largest is meant."""
OF_EACH = frozenset(
    {
        "streamtee_background_loop_alive",
        "streamtee_store_up",
        "streamtee_upstream_state",
        "streamtee_worker_process",
    }
)
"""Gauges of which neither a sum nor a maximum says anything: they get a label `worker`."""
_OF_PROCESSES = ("streamtee_process_", "process_", "python_")  # as well
_GROWING = ("counter", "histogram")


def families_of(metrics: Iterable[Metric]) -> Families:
    """Return metrics as JSON."""
    return [
        {
            "name": metric.name,
            "help": metric.documentation,
            "type": metric.type,
            "samples": [
                [sample.name, sample.labels, sample.value, _written(sample.exemplar)] for sample in metric.samples
            ],
        }
        for metric in metrics
    ]


def _written(exemplar: Exemplar | None) -> list[Any] | None:
    return None if exemplar is None else [exemplar.labels, exemplar.value, exemplar.timestamp]


class MergedPage:
    """The metrics of all workers, added up; of those that have ended, too."""

    def __init__(self) -> None:
        self._last: dict[int, Families] = {}  # by worker: the latest that it told
        self._past: list[Families] = []  # the growing metrics of workers that have ended, added up: one, or none

    def ended(self, worker: int, families: Families | None) -> None:
        """Keep the counts of a worker that has ended; None: the latest that it told."""
        last = self._last.pop(worker, None)
        families = families or last
        if families is not None:
            growing = [family for family in families if family["type"] in _GROWING and not _is_of_each(family["name"])]
            self._past = [families_of(_merged(dict(enumerate([*self._past, growing]))))]

    def merged(self, answers: Mapping[int, Families | None], own: Families | None = None) -> list[Metric]:
        """Return the metrics of all, from what each worker answers; None: it did not. `own`: of the supervisor."""
        told: dict[int, Families] = {-1 - number: counts for number, counts in enumerate([own or [], *self._past])}
        for worker, families in answers.items():
            if families is not None:
                self._last[worker] = told[worker] = families
            elif worker in self._last:
                told[worker] = [family for family in self._last[worker] if family["type"] in _GROWING]
        up = Metric("streamtee_worker_up", "1 for a worker that answers, 0 for one that does not.", "gauge")
        for worker, families in sorted(answers.items()):
            up.add_sample("streamtee_worker_up", {"worker": str(worker)}, float(families is not None))
        return [*_merged(told), up]


def _merged(told: Mapping[int, Families]) -> list[Metric]:
    merged: dict[str, Metric] = {}
    values: dict[str, dict[_Key, tuple[float, Exemplar | None]]] = {}
    for worker, families in told.items():
        for family in families:
            name = family["name"]
            merged.setdefault(name, Metric(name, family["help"], family["type"]))
            found = values.setdefault(name, {})
            for sample, labels, value, exemplar in family["samples"]:
                if _is_of_each(name):
                    labels = {**labels, "worker": str(worker)}
                key = sample, tuple(labels.items())
                before, example = found.get(key, (None, None))
                example = example if exemplar is None else Exemplar(*exemplar)
                found[key] = _together(name, before, value), example
    for name, metric in merged.items():
        for (sample, labels), (value, example) in values[name].items():
            metric.add_sample(sample, dict(labels), value, exemplar=example)
    return list(merged.values())


def _is_of_each(name: str) -> bool:
    """Return whether a metric is one of each process, and gets its label."""
    return name in OF_EACH or name.startswith(_OF_PROCESSES)


def _together(name: str, before: float | None, value: float) -> float:
    if before is None:
        return value
    return max(before, value) if name in MAXIMA else before + value
