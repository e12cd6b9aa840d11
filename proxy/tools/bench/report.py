"""What is reported of a measurement: a table for people, a document for programs."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from proxy import __version__
from proxy.tools.bench.load import Load
from proxy.tools.bench.results import Added, Result, Spread, added, result

_BUSY = 0.85
ROWS = {
    "first_byte_s": ("first byte", "ms"),
    "first_token_s": ("first token", "ms"),
    "gap_s": ("gap between events", "ms"),
    "duration_s": ("whole answer", "ms"),
    "tokens_per_s": ("tokens/s of an answer", ""),
}
_MARKS = ("p50", "p95", "p99", "max")


@dataclass(frozen=True)
class Report:
    """The report of a measurement of one target or two."""

    plan: dict[str, Any]
    urls: list[str]
    api: str
    results: list[Result]
    client_share: float
    interrupted_s: float | None = None
    """After so many seconds it was interrupted, if it was."""

    @classmethod
    def of(cls, load: Load) -> "Report":
        """Return the report of a measurement that is over."""
        plan, targets = load.plan, load.targets
        results = [result(one.samples, load.began_at, load.seconds) for one in targets]
        interrupted_s = load.seconds if load.interrupted else None
        urls = [str(one.endpoint.url.with_query(None)) for one in targets]
        return cls(plan._asdict(), urls, targets[0].endpoint.api_name, results, load.client_share, interrupted_s)

    @property
    def failed(self) -> bool:
        """True if a request failed."""
        return any(one.problems for one in self.results)

    @property
    def added(self) -> dict[str, Added]:
        """What the second target adds; empty with one."""
        return added(*self.results) if len(self.results) == 2 else {}

    @property
    def notes(self) -> list[str]:
        """What to know when reading the numbers."""
        notes = [] if self.interrupted_s is None else [f"Interrupted after {self.interrupted_s:.1f} s."]
        if self.client_share > _BUSY:
            notes.append(f"This client used {self.client_share:.0%} of its core: the numbers show its limits, too.")
        if any(one.complete < 20 for one in self.results):
            notes.append("Fewer than 20 complete answers: p95 and p99 mean little. Give it a longer --duration.")
        return notes

    def document(self) -> dict[str, Any]:
        """Return it as JSON values. Times are seconds."""
        targets = [
            {"url": url, **one._asdict(), "spreads": {name: s._asdict() for name, s in one.spreads.items()}}
            for url, one in zip(self.urls, self.results, strict=True)
        ]
        return {
            "streamtee": __version__,
            "plan": self.plan,
            "api": self.api,
            "targets": targets,
            "added": {name: one._asdict() for name, one in self.added.items()},
            "client_share": self.client_share,
            "notes": self.notes,
        }

    def show(self, console: Console) -> None:
        """Print it as tables."""
        for letter, url, one in zip("AB", self.urls, self.results, strict=False):
            console.print(f"{letter}  {url}", highlight=False, soft_wrap=True)
            console.print(f"   {_told(one)}", highlight=False, soft_wrap=True)
        console.print(self._table())
        for note in self.notes:
            console.print(note, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("", "", *_MARKS):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        for name, (label, unit) in ROWS.items():
            shown = f"{label}, {unit}" if unit else label
            for letter, one in zip("AB", self.results, strict=False):
                table.add_row(shown, letter, *_cells(one.spreads.get(name), unit))
                shown = ""
            if name in self.added:
                table.add_row("", "B adds", *_difference(self.added[name], unit))
        return table


def _told(one: Result) -> str:
    problems = "".join(f", {count} {problem}" for problem, count in one.problems.items())
    tokens = f", {one.tokens_per_s:,.0f} tokens/s" if one.tokens_per_s else ""
    return (
        f"{one.complete} of {one.requests} requests complete{problems}; {one.requests_per_s:,.1f} requests/s,"
        f" {one.events_per_s:,.0f} events/s{tokens}"
    )


def _cells(spread: Spread | None, unit: str) -> list[str]:
    return ["-"] * len(_MARKS) if spread is None else [_number(getattr(spread, mark), unit) for mark in _MARKS]


def _difference(one: Added, unit: str) -> list[str]:
    """Return what the second target adds, and to the median how far that may be off."""
    p50, p95, p99 = (f"{'+' if value >= 0 else '-'}{_number(abs(value), unit)}" for value in one[:3])
    return [f"{p50} ±{_number(one.p50_error, unit)}", p95, p99]


def _number(value: float, unit: str) -> str:
    shown = value * 1000 if unit == "ms" else value
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if shown >= size:
            return f"{shown / (1e6 if letter == 'M' else 1e3):.1f}{letter}"
    return f"{shown:,.0f}" if shown >= 100 else f"{shown:.1f}" if shown >= 10 else f"{shown:.2f}"
