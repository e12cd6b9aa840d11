"""The compose file: what it names is there, and shows a dashboard with data, though no engine runs it here."""

import asyncio
import json
import re
import subprocess
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from proxy.server.config import Config, address, load
from proxy.tools.cli import main
from proxy.tools.fake.qwen import FakeQwen
from tests.event_loops import POLL_S
from tests.metric_names import ELSEWHERE
from tests.programs import deploy_tool
from tests.proxy_under_test import teed

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
OURS = ("proxy", "fake", "visitors")
IMAGE = (DEPLOY / "Containerfile").read_text()
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
GRAFANA = DEPLOY / "grafana/provisioning"
VISITS, VISITORS = 30, 4
QUIET = {
    "streamtee_queued": "only upstreams with limits have a queue",
    "streamtee_queue_wait_seconds_bucket": "only upstreams with limits have a queue",
    "streamtee_upstream_state": "only upstreams with spares have a breaker",
    "streamtee_client_connections_cut_total": "no visitor is so slow that it is cut off",
}
"""Metrics of the dashboard that the visitors do not move, and why."""


def environment(service: str) -> dict[str, str]:
    """Return the variables that our service sets, on top of those of its image."""
    of_image = dict(re.findall(r"(STREAMTEE_\w+)=(\S+)", IMAGE))
    given = {name: str(text) for name, text in SERVICES[service].get("environment", {}).items()}
    return of_image | {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", text) for name, text in given.items()}


@pytest.mark.parametrize("name", list(SERVICES))
def test_service_has_no_more_rights_than_it_needs(name: str) -> None:
    """No writable root, no capabilities, no new privileges, no port beyond this machine; a version that is known."""
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert name in OURS or re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    assert (service["image"] == "streamtee") == (name in OURS)


@pytest.mark.parametrize("name", list(SERVICES))
def test_files_that_are_mounted_are_there(name: str) -> None:
    """And can be read only; what a service waits for is a service."""
    for volume in SERVICES[name].get("volumes", ()):
        source, _, mode = volume.split(":")
        assert (DEPLOY / source).exists()
        assert mode == "ro"
    assert set(SERVICES[name].get("depends_on", ())) <= set(SERVICES)


@pytest.mark.parametrize("name", list(SERVICES))
def test_temporary_folders_can_be_written_with_each_engine(name: str) -> None:
    """One that the image has stays its owner's, but for /tmp; podman refuses Docker's uid and gid."""
    assert set(SERVICES[name].get("tmpfs", ())) <= {"/tmp", "/data:mode=1777"}


def test_configuration_is_one_that_the_proxy_starts_with(
    bare_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the variables of image and service; a key of the operator's is not for everybody there, either."""
    for name, text in environment("proxy").items():
        key = name.removeprefix("STREAMTEE_").partition("__")[0].lower()
        assert key in Config.model_fields
        monkeypatch.setenv(name, text)
    config = load(DEPLOY / "compose/streamtee.toml")
    assert address(config.upstream.url.removeprefix("http://")) == ("fake", 8000)
    assert not config.shares_anonymous
    monkeypatch.setenv("STREAMTEE_UPSTREAM__KEY", "sk-ours")
    with pytest.raises(ValueError, match=r"could use upstream\.key"):
        load(DEPLOY / "compose/streamtee.toml")


def test_commands_are_those_of_the_program() -> None:
    """Their options, too; the fake listens where the proxy asks."""
    for name in ("proxy", "fake"):
        command = SERVICES[name]["command"]
        told = CliRunner().invoke(main, [command[0], "--help"])
        assert told.exit_code == 0
        assert all(word in told.output for word in command if word.startswith("--"))
    host, port = address(SERVICES["fake"]["command"][-1])
    assert (host, port) == (
        "0.0.0.0",
        address(environment("proxy")["STREAMTEE_UPSTREAM__URL"].removeprefix("http://"))[1],
    )


def test_ports_are_those_that_the_others_ask() -> None:
    """The image's, of the proxy: Prometheus scrapes the admin port, visitors come to the other, which is published."""
    data, admin = (address(environment("proxy")[f"STREAMTEE_{key}"])[1] for key in ("LISTEN", "ADMIN"))
    assert re.findall(r"^EXPOSE (\d+) (\d+)$", IMAGE, re.MULTILINE) == [(str(data), str(admin))]
    assert '"/opt/streamtee/health.py"' in IMAGE, "the health check asks the data port"
    assert SERVICES["proxy"]["ports"] == [f"127.0.0.1:{data}:{data}"]
    (job,) = PROMETHEUS["scrape_configs"]
    assert (job["job_name"], job["static_configs"]) == ("streamtee", [{"targets": [f"proxy:{admin}"]}])
    assert SERVICES["visitors"]["entrypoint"][-1] == f"http://proxy:{data}"


def test_stop_takes_longer_than_a_drain() -> None:
    """So that streams which run may finish, and clients that do not read are given a moment."""
    assert int(SERVICES["proxy"]["stop_grace_period"].removesuffix("s")) >= Config.model_fields["drain_s"].default + 5


def test_grafana_is_provisioned_with_the_dashboard() -> None:
    """Its source of data is the Prometheus beside it, at the rate of its scrapes; it is the first page."""
    (source,) = yaml.safe_load((GRAFANA / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"]
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((GRAFANA / "dashboards/streamtee.yaml").read_text())["providers"]
    grafana = SERVICES["grafana"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(provider["options"]["path"] + "/")
    assert f"./grafana/streamtee.json:{home}:ro" in grafana["volumes"]


async def test_visitors_give_the_dashboard_something_to_show(fake: FakeQwen) -> None:
    """Every metric that it asks for has samples after a while, but those that QUIET says a reason for."""
    table = load(DEPLOY / "compose/streamtee.toml").model_dump(include={"generations", "prices", "limits"})
    async with teed(fake.url, **table) as tee:
        arguments = (f"--visitors={VISITORS}", f"--visits={VISITS}", "--wait=0")
        visitors = await asyncio.create_subprocess_exec(
            sys.executable, str(DEPLOY / "compose/visitors.py"), tee.proxy.url, *arguments, stdout=PIPE, stderr=PIPE
        )
        told = asyncio.create_task(visitors.communicate())
        shown: set[str] = set()
        async with asyncio.timeout(30):
            while not told.done():  # some are there only while streams run
                shown |= set(re.findall(r"^(\w+)(?:\{| )", await tee.metrics(), re.MULTILINE))
                await asyncio.sleep(POLL_S)
            said, errors = await told
    assert (visitors.returncode, said, errors) == (0, b"", b"")
    panels = json.dumps(json.loads((DEPLOY / "grafana/streamtee.json").read_text())["panels"])
    asked = set(re.findall(r"\b(?:streamtee|process)_[a-z_]*[a-z]\b", panels))
    assert asked - shown - ELSEWHERE.keys() == set(QUIET)


def test_file_is_one_of_the_compose_specification() -> None:
    """As a reader of another make has it, with the merges of YAML made."""
    read = "import sys, compose_spec; compose_spec.PyCompose.from_json(sys.stdin.read()).validate()"
    content = json.dumps(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))
    command = [deploy_tool("python"), "-c", read]
    done = subprocess.run(command, input=content, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
