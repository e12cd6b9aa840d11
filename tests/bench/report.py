"""What measurements come to: ratios, tables, plots, and the page docs/performance.md with its generated sections."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from tests.bench.measure import Row

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "performance.md"
COLOURS = {"streamtee": "#d9480f", "streamtee_compiled": "#f08c00", "nginx": "#2b8a3e"}
REFERENCE = ("nginx", "aiohttp_queues")
"""What others are compared with: the first that ran."""


class Line(NamedTuple):
    """One line of the table: a target in a scenario, over its repetitions."""

    scenario: str
    what: str
    target: str
    least_us: float
    median_us: float
    ratio: float | None
    """Of the least figures, to the reference of the scenario."""
    per_s: float
    first_us: tuple[float, float]
    latency_us: tuple[float, float]
    rss_mb: float
    kb_per_follower: float | None
    came: float
    """The share of the units that had to come."""
    wrong: int
    load_share: float
    runs: int


def table(rows: Sequence[Row], what: Mapping[str, str]) -> list[Line]:
    """Return a line for each scenario and target, the dearest target of a scenario last."""
    lines = []
    for scenario in what:
        runs: dict[str, list[Row]] = {}
        for row in rows:
            if row.scenario == scenario and row.units:
                runs.setdefault(row.target, []).append(row)
        reference = next((name for name in REFERENCE if name in runs), "")
        base = min((row.cpu_us for row in runs.get(reference, ())), default=None)
        lines += sorted(
            (_line(scenario, what[scenario], target, theirs, base) for target, theirs in runs.items()),
            key=lambda line: line.least_us,
        )
    return lines


def _line(scenario: str, what: str, target: str, rows: Sequence[Row], base: float | None) -> Line:
    least = min(row.cpu_us for row in rows)
    grown = [row.kb_per_follower for row in rows if row.kb_per_follower is not None]
    return Line(
        scenario, what, target, least, statistics.median(row.cpu_us for row in rows),
        least / base if base else None,
        statistics.median(row.per_s for row in rows),
        _typical([row.first_us for row in rows]), _typical([row.latency_us for row in rows]),
        max(row.rss_kb for row in rows) / 1024,
        max(grown) if grown else None,
        sum(row.units for row in rows) / max(1, sum(row.expected for row in rows)),
        sum(row.wrong for row in rows),
        max(row.load_share for row in rows), len(rows),
    )  # fmt: skip


def _typical(quantiles: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Return the medians of p50 and p99; NaN where nothing was noted."""
    noted = [one for one in quantiles if one] or [{"p50": math.nan, "p99": math.nan}]
    return statistics.median(one["p50"] for one in noted), statistics.median(one["p99"] for one in noted)


HEADINGS = (
    "target", "CPU us", "median", "ratio", "per s", "first p50/p99 ms", "latency p50/p99 ms", "RSS MB", "KB/follower",
    "came", "wrong", "load", "runs",
)  # fmt: skip


def cells(line: Line) -> list[str]:
    """Return a line as text, in the order of HEADINGS."""
    return [
        line.target, f"{line.least_us:.1f}", f"{line.median_us:.1f}", "" if line.ratio is None else f"{line.ratio:.2f}",
        f"{line.per_s:,.0f}", _ms(line.first_us), _ms(line.latency_us), f"{line.rss_mb:.0f}",
        "" if line.kb_per_follower is None else f"{line.kb_per_follower:.1f}",
        f"{line.came:.0%}", str(line.wrong), f"{line.load_share:.0%}", str(line.runs),
    ]  # fmt: skip


def _ms(pair_us: tuple[float, float]) -> str:
    return "" if math.isnan(pair_us[0]) else f"{pair_us[0] / 1000:.1f} / {pair_us[1] / 1000:.1f}"


def show(lines: Sequence[Line], console: Console) -> None:
    """Print the table."""
    shown = Table("scenario", *HEADINGS, padding=(0, 0))
    for line in lines:
        shown.add_row(line.scenario, *cells(line))
    console.print(shown)


def markdown(lines: Sequence[Line]) -> list[str]:
    """Return the table as paragraphs of Markdown, one table a scenario."""
    paragraphs = ["![CPU time per event](performance.svg)"]
    for what in dict.fromkeys(line.what for line in lines):
        rows = [cells(line) for line in lines if line.what == what]
        paragraphs += [f"**{what}**", grid(HEADINGS, rows)]
    return paragraphs


def grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    ruled = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)


def conditions(machine: Mapping[str, str], reps: int = 0) -> str:
    """Return the sentence that says where, when and, if there were repetitions, how often was measured."""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "aiohttp", "uvloop"))
    return f"{machine['date']}, commit {machine['commit']}, {machine['cores']}, {machine['kernel']}, {versions}" + (
        f"; least of {reps} interleaved run{'s' * (reps > 1)}." if reps else "."
    )


def write_section(name: str, paragraphs: Sequence[str], page: Path = PAGE) -> None:
    """Put paragraphs between the page's comments `<!-- name -->` and `<!-- /name -->`. Raises: ValueError."""
    before, begin, rest = page.read_text().partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not begin or not end:
        raise ValueError(f"{page.name} lacks the comments <!-- {name} --> and <!-- /{name} -->")
    page.write_text(before + begin + "\n\n".join(["", *paragraphs, ""]).lstrip("\n") + end + after)


def growth(points: Sequence[tuple[float, float]]) -> float:
    """Return the exponent of a cost per unit over its size, n: 0 is linear in total, above it superlinear.

    The least squares slope in the doubly logarithmic plane, over the points from the cheapest one on: before it,
    fixed costs are shared by more and more units. 0 if the cheapest is the last.
    """
    points = sorted(points)
    cheapest = min(range(len(points)), key=lambda nth: points[nth][1])
    logs = [(math.log(n), math.log(cost)) for n, cost in points[cheapest:]]
    if len(logs) < 2:
        return 0.0
    return statistics.linear_regression(*zip(*logs, strict=True)).slope


def plot_targets(lines: Sequence[Line], path: Path = DOCS / "performance.svg") -> None:
    """Draw CPU time of each target and scenario as bars, a panel a scenario, and write the SVG."""
    plot = pyplot()
    scenarios = list(dict.fromkeys(line.what for line in lines))
    columns = min(2, len(scenarios))
    rows = math.ceil(len(scenarios) / columns)
    figure, panels = plot.subplots(rows, columns, figsize=(5.5 * columns, 1.8 * rows), squeeze=False)
    for panel, what in zip(panels.flat, scenarios, strict=False):
        theirs = [line for line in lines if line.what == what][::-1]
        costs = [line.least_us for line in theirs]
        bars = panel.barh(
            [line.target for line in theirs], costs, color=[COLOURS.get(line.target, "#868e96") for line in theirs]
        )
        panel.bar_label(bars, [f"{cost:,.1f}" for cost in costs], padding=3, fontsize=8)
        panel.set_title(what, fontsize=9)
        panel.set_xscale("log" if max(costs) > 20 * min(costs) else "linear")
        panel.set_xlim(left=1 if panel.get_xscale() == "log" else 0)
        panel.margins(x=0.2)
        panel.tick_params(labelsize=8)
    for panel in panels.flat[len(scenarios) :]:
        panel.set_axis_off()
    figure.suptitle(
        "CPU time of the proxy's process, microseconds per event (small JSON answers: per request)", fontsize=10
    )
    write(figure, path)


def plot_curves(curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: Path, unit: str) -> None:
    """Draw lines over doubly logarithmic axes, a panel a curve; its key is the label of its horizontal axis."""
    plot = pyplot()
    figure, panels = plot.subplots(1, len(curves), figsize=(3.6 * len(curves), 3), squeeze=False)
    for panel, (label, lines) in zip(panels.flat, curves.items(), strict=True):
        for name, points in lines.items():
            panel.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
        panel.set(xscale="log", yscale="log", xlabel=label)
        panel.grid(True, which="major", linewidth=0.3)
        panel.legend(fontsize=7)
        panel.tick_params(labelsize=8)
    panels[0, 0].set_ylabel(unit)
    write(figure, path)


def pyplot() -> Any:
    """Import matplotlib only when something is drawn: it takes a second."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "streamtee"  # the same figures give the same file
    matplotlib.rcParams["svg.fonttype"] = "none"  # text, not outlines: a tenth of the size
    matplotlib.rcParams["font.family"] = "sans-serif"
    from matplotlib import pyplot

    return pyplot


def write(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
