"""The Helm chart as Helm renders it, and the schemas that Kubernetes holds objects to."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.programs import deploy_tool

CHART = Path(__file__).parents[2] / "deploy/helm/streamtee"
VERSIONS = ("1.25", "1.37")
"""Of Kubernetes: the oldest that the chart names, and the newest that the schemas know."""

RENDER = """\
import json, sys, helm_python
with helm_python.Chart.load(sys.argv[1]) as chart:
    values = json.load(sys.stdin)
    chart.validate_schema(values)
    json.dump(chart.render(values, name="streamtee", namespace="streamtee"), sys.stdout)
"""


def render(values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Have Helm check values by the chart's schema, and render it."""
    command = [deploy_tool("python"), "-c", RENDER, str(CHART)]
    return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of the chart with these values."""
    done = render(values)
    assert done.returncode == 0, done.stderr
    files: dict[str, str] = json.loads(done.stdout)
    manifests = [text for name, text in sorted(files.items()) if name.endswith(".yaml")]
    return [each for text in manifests for each in yaml.safe_load_all(text) if each is not None]


def check(objects: list[dict[str, Any]], version: str, folder: Path) -> None:
    """Check objects against the schemas of a version of Kubernetes; unknown fields are errors."""
    path = folder / "objects.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    command = [deploy_tool("kubernetes-validate"), "--kubernetes-version", version, "--strict", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    unknown = re.findall(r"find schema for kind (\w+)", done.stdout + done.stderr)
    assert set(unknown) <= {"ServiceMonitor"}, "that of the Prometheus operator, which is no part of Kubernetes"
