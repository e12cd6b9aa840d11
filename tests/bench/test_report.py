"""Ratios, growth and the page: computed from rows made by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.bench import report
from tests.bench.measure import Row

ROW = Row(
    target="nginx", scenario="many", units=100, expected=100, wrong=0, unfinished=0, problem="", cpu_us=10.0,
    per_s=50.0, first_us={"p50": 1000.0, "p99": 2000.0, "max": 3000.0}, latency_us={}, rss_kb=2048,
    kb_per_follower=None, target_share=0.5, load_share=0.25, stolen_s=0.0,
)  # fmt: skip
WHAT = {"many": "500 streams"}


def test_ratio_is_of_the_least_figures_and_the_cheapest_comes_first() -> None:
    """Others on the machine can only add, so the least of each target's repetitions is compared."""
    ours = [replace(ROW, target="streamtee", cpu_us=cost) for cost in (30.0, 12.0, 18.0)]
    lines = report.table([*ours, ROW, replace(ROW, cpu_us=25.0)], WHAT)
    assert [line.target for line in lines] == ["nginx", "streamtee"]
    assert [(line.least_us, line.median_us, line.ratio, line.runs) for line in lines] == [
        (10.0, 17.5, 1.0, 2),
        (12.0, 18.0, 1.2, 3),
    ]


def test_ratio_without_nginx_is_to_the_queues() -> None:
    """Followers are served by streamtee and by a queue for each."""
    rows = [replace(ROW, target="streamtee"), replace(ROW, target="aiohttp_queues", cpu_us=40.0)]
    assert [line.ratio for line in report.table(rows, WHAT)] == [0.25, 1.0]
    assert [line.ratio for line in report.table(rows[:1], WHAT)] == [None]


def test_missing_and_wrong_answers_are_shown() -> None:
    """A target that lost a half, or altered one answer, can't hide it behind a good figure."""
    (line,) = report.table([ROW, replace(ROW, units=0), replace(ROW, units=50, wrong=1)], WHAT)
    shown = dict(zip(report.HEADINGS, report.cells(line), strict=True))
    assert (shown["came"], shown["wrong"], shown["runs"]) == ("75%", "1", "2")
    assert (shown["first p50/p99 ms"], shown["latency p50/p99 ms"]) == ("1.0 / 2.0", "")


@given(some.floats(0.0, 1.5), some.floats(0.01, 1000))
def test_growth_of_a_power_is_its_exponent(exponent: float, cost: float) -> None:
    """A cost per unit that grows as n to the e gives e."""
    points = [(n, cost * n**exponent) for n in (1, 10, 100, 1000)]
    assert report.growth(points) == pytest.approx(exponent, abs=1e-6)


def test_growth_leaves_out_fixed_costs_that_are_shared_by_more_and_more() -> None:
    """Only what comes after the cheapest point can be growth."""
    assert report.growth([(1, 60.0), (10, 20.0), (100, 10.0), (1000, 9.0)]) == 0.0
    assert report.growth([(1, 60.0), (10, 10.0), (100, 10.0), (1000, 10.0)]) == pytest.approx(0.0)
    assert report.growth([(1, 60.0), (10, 10.0), (100, 100.0)]) == pytest.approx(1.0)


def test_section_is_replaced_and_the_rest_of_the_page_stays(tmp_path: Path) -> None:
    """What is written by hand survives the next run; twice the same gives the same."""
    page = tmp_path / "page.md"
    page.write_text("# Title\n<!-- bench -->\nold\n<!-- /bench -->\nby hand\n<!-- growth -->\n<!-- /growth -->\n")
    for _ in range(2):
        report.write_section("bench", ["one", "two"], page)
    assert page.read_text() == (
        "# Title\n<!-- bench -->\none\n\ntwo\n\n<!-- /bench -->\nby hand\n<!-- growth -->\n<!-- /growth -->\n"
    )
    with pytest.raises(ValueError, match="lacks the comments"):
        report.write_section("other", ["one"], page)


def test_page_of_the_project_has_the_sections_that_are_written() -> None:
    """The commands end with writing them: half an hour too late to learn that a comment is gone."""
    text = report.PAGE.read_text()
    for name in ("bench", "growth", "micro"):
        assert text.count(f"<!-- {name} -->\n") == text.count(f"<!-- /{name} -->") == 1


def test_plots_are_written_and_the_same_figures_give_the_same_file(tmp_path: Path) -> None:
    """An unchanged result is an unchanged file in version control."""
    pytest.importorskip("matplotlib", reason="needs the extra bench")
    lines = report.table([ROW, replace(ROW, target="streamtee", cpu_us=12.0)], WHAT)
    written = []
    for name in ("a.svg", "b.svg"):
        report.plot_targets(lines, tmp_path / name)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert b"streamtee" in written[0]
    report.plot_curves({"n": {"one": [(1, 2.0), (10, 3.0)]}}, tmp_path / "c.svg", "us")
    assert (tmp_path / "c.svg").stat().st_size > 1000
