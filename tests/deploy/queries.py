"""What the dashboard and docs/metrics.md ask of a Prometheus."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/rules.yml"
DOCS = (ROOT / "docs/metrics.md").read_text()
RECIPES = re.findall(r"```promql\n(.+?)\n```", DOCS)
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/streamtee.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
_GRAFANA = {"$__rate_interval": "1m", "$route": ".*", "$model": ".*", "$worker": ".*"}
"""What Grafana puts in place of its variables, with all of each selected."""


def _filled(expression: str) -> str:
    for variable, value in _GRAFANA.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


TARGETS = [
    (f"{panel['title']} {target['refId']}", _filled(target["expr"])) for panel in PANELS for target in panel["targets"]
]
"""Each query of each panel, by the panel's title."""


def named(text: str) -> set[str]:
    """Return the names of metrics in a text."""
    return set(re.findall(r"\b(?:streamtee|process)_[a-z_]*[a-z]\b", text))
