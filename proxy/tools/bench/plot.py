"""The picture of a measurement, as SVG: for each measure, which share of the answers was at most how slow."""

from proxy.tools.bench.report import ROWS, Report

_COLOURS = ("#2166ac", "#b2182b")
_WIDTH, _HEIGHT = 900, 620
_DRAWN = ("first_byte_s", "first_token_s", "gap_s", "duration_s")
_UNITS = ((1.0, 1.0, "s"), (1e-3, 1e-3, "ms"), (0.0, 1e-6, "us"))
"""From so many seconds on; seconds of the unit; its name."""


def draw(report: Report) -> str:
    """Return the SVG document. Raises: ImportError, without the extra `plot`."""
    import leather

    grid = leather.Grid()
    for name in _DRAWN:
        curves = [one.spreads[name].curve for one in report.results if name in one.spreads]
        if not curves:
            continue
        highest_s = max(curve[99] for curve in curves)
        unit_s, unit = next((size, word) for from_s, size, word in _UNITS if highest_s >= from_s)
        chart = leather.Chart(f"{ROWS[name][0]}, {unit}: % of answers within it")
        chart.add_x_scale(0, highest_s / unit_s or 1)
        chart.add_y_scale(0, 100)
        for letter, colour, curve in zip("AB", _COLOURS, curves, strict=False):
            points = [(value / unit_s, percent) for percent, value in enumerate(curve[:100])]
            chart.add_line(points, name=letter, stroke_color=colour)
        grid.add_one(chart)
    svg: str = grid.to_svg(width=_WIDTH, height=_HEIGHT)
    return svg
