"""The Kubernetes manifests and the Helm chart: what is in them, Kubernetes' own schemas, and Helm's own rendering."""

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.server.app import Proxy
from proxy.server.config import Config, address, load
from tests.deploy.charts import CHART, VERSIONS, check, render, rendered
from tests.programs import deploy_tool
from tests.proxy_under_test import configured, teed

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = DEPLOY / "kubernetes/streamtee.yaml"
VALUES = DEPLOY / "kubernetes/values.yaml"
IMAGE = (DEPLOY / "Containerfile").read_text()
DATA, ADMIN = (address(text)[1] for text in re.findall(r"STREAMTEE_(?:LISTEN|ADMIN)=(\S+)", IMAGE))
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFESTS.read_text()))
KINDS = (
    *("Namespace", "ServiceAccount", "ConfigMap", "Deployment", "Service", "Service", "PodDisruptionBudget"),
    *("HorizontalPodAutoscaler", "NetworkPolicy", "ServiceMonitor"),
)
EVERYTHING = {
    "replicas": 3,
    "image": {"tag": "1.2.3", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "config": 'drain_s = 60\n[auth]\nmode = "pass"\n',
    "drainSeconds": 60,
    "secret": "streamtee",
    "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"a": "b"}},
    "networkPolicy": {"from": [{"podSelector": {"matchLabels": {"app": "edge"}}}]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "podAnnotations": {"c": "d"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
}
"""Values with all that may be given."""


def one(kind: str, name: str = "streamtee") -> dict[str, Any]:
    """Return the object of a kind and a name."""
    (found,) = [each for each in OBJECTS if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


POD: dict[str, Any] = one("Deployment")["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}


# What is in them


def test_all_kinds_are_there() -> None:
    """In one namespace, which holds pods to the standard `restricted`."""
    kinds = sorted(each["kind"] for each in OBJECTS)
    assert kinds == sorted(KINDS)
    assert one("Namespace")["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    assert {each["metadata"].get("namespace", "streamtee") for each in OBJECTS} == {"streamtee"}


def test_pod_has_no_more_rights_than_it_needs() -> None:
    """The Pod Security Standard `restricted`, a root that can't be written, and no token; the user is the image's."""
    assert POD["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not POD["automountServiceAccountToken"]
    assert not one("ServiceAccount")["automountServiceAccountToken"]
    assert re.findall(r"^USER (.*)$", IMAGE, re.MULTILINE) == [str(POD["securityContext"]["runAsUser"])]
    assert [volume["name"] for volume in CONTAINER["volumeMounts"] if not volume.get("readOnly")] == ["tmp"]


def test_ports_are_those_of_the_image_and_of_what_asks_them() -> None:
    """By name, of the services, the policy and the monitor."""
    assert PORTS == {"http": DATA, "admin": ADMIN}
    (data,) = one("Service")["spec"]["ports"]
    (admin,) = one("Service", "streamtee-admin")["spec"]["ports"]
    assert (data["targetPort"], admin["targetPort"], admin["port"]) == ("http", "admin", ADMIN)
    policy = one("NetworkPolicy")["spec"]
    named = [port["port"] for rule in policy["ingress"] for port in rule["ports"]]
    assert named == ["http", "admin"]
    assert policy["ingress"][1]["from"], "the admin port is not for everybody"
    (endpoint,) = one("ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["port"] == admin["name"]


def test_labels_select_what_they_should() -> None:
    """The pods, of deployment, services, budget and policy; the admin service alone, of the monitor."""
    pods = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    chosen = (
        one("Deployment")["spec"]["selector"]["matchLabels"],
        one("Service")["spec"]["selector"],
        one("Service", "streamtee-admin")["spec"]["selector"],
        one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    )
    assert all(labels.items() <= pods.items() for labels in chosen)
    monitored = one("ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    assert monitored <= one("Service", "streamtee-admin")["metadata"]["labels"].items()
    assert not monitored <= one("Service")["metadata"]["labels"].items()
    job = one("ServiceMonitor")["spec"]["jobLabel"]
    assert one("Service", "streamtee-admin")["metadata"]["labels"][job] == "streamtee", "as the rules call it"


async def test_probes_and_scrapes_are_answered(upstream_url: str) -> None:
    """On the ports that they ask; readiness ends with the drain, liveness does not."""
    asked = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    (endpoint,) = one("ServiceMonitor")["spec"]["endpoints"]
    async with teed(upstream_url) as tee:
        for probe in asked.values():
            ask = tee.admin(probe["path"]) if probe["port"] == "admin" else tee.ask("GET", probe["path"])
            assert (await ask).status == 200
        assert (await tee.admin(endpoint["path"])).status == 200
        tee.proxy.hub.drain()
        assert (await tee.admin(asked["readiness"]["path"])).status == 503
        assert (await tee.ask("GET", asked["liveness"]["path"])).status == 200


def test_pod_is_scaled_by_a_metric_that_there_is(bare_environment: None) -> None:
    """The adapter serves it, by the labels that the operator's scrapes have."""
    (metric,) = one("HorizontalPodAutoscaler")["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]

    async def names() -> set[str]:
        proxy = Proxy(configured("http://127.0.0.1:1"))
        return {family.name for family in proxy.page.collect()}

    assert name in asyncio.run(names())
    (rule,) = yaml.safe_load((DEPLOY / "kubernetes/adapter.yaml").read_text())["rules"]["custom"]
    assert rule["seriesQuery"].startswith(name + "{")
    assert "replicas" not in one("Deployment")["spec"], "the autoscaler's number would be set back"


def test_pod_may_finish_its_streams(bare_environment: None, tmp_path: Path) -> None:
    """It serves on until nobody sends it requests any more, then drains, and is not killed before that is over."""
    file = tmp_path / "streamtee.toml"
    file.write_text(one("ConfigMap")["data"]["streamtee.toml"])
    sleep, seconds = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert (sleep, int(seconds) > 0) == ("sleep", True)
    assert POD["terminationGracePeriodSeconds"] >= int(seconds) + load(file).drain_s + 5
    assert one("Deployment")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_memory_is_enough_for_what_may_be_held() -> None:
    """The limit on logs, and the process; what connections take comes on top."""
    limit = CONTAINER["resources"]["limits"]["memory"]
    assert limit == "1Gi"
    assert Config.model_fields["limits"].default.total_log_bytes + (100 << 20) < 1 << 30
    assert "cpu" not in CONTAINER["resources"]["limits"]


# Kubernetes' and Helm's own words


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid(version: str, tmp_path: Path) -> None:
    """By Kubernetes' schemas."""
    check(OBJECTS, version, tmp_path)


def test_chart_renders_valid_manifests(tmp_path: Path) -> None:
    """With its defaults, and with all values that there are; those of the plain manifests are checked above."""
    objects = [*rendered({}), *rendered(EVERYTHING)]
    assert [each["kind"] for each in objects].count("Deployment") == 2
    check(objects, VERSIONS[-1], tmp_path)


def test_plain_manifests_are_the_chart_rendered() -> None:
    """With the values beside them, and a namespace on top."""
    assert OBJECTS[1:] == rendered(yaml.safe_load(VALUES.read_text()))


def test_values_reach_the_pod() -> None:
    """Image, secret, scale, times and places."""
    deployment = next(each for each in rendered(EVERYTHING) if each["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert deployment["spec"]["replicas"] == 3
    assert container["image"] == "streamtee:1.2.3"
    assert container["envFrom"] == [{"secretRef": {"name": "streamtee"}}]
    assert pod["terminationGracePeriodSeconds"] == 75
    assert (pod["nodeSelector"], pod["tolerations"]) == (EVERYTHING["nodeSelector"], EVERYTHING["tolerations"])


def test_pods_are_replaced_when_the_configuration_changes() -> None:
    """By an annotation; a pod reads it when it starts."""

    def annotations(config: str) -> dict[str, str]:
        deployment = next(each for each in rendered({"config": config}) if each["kind"] == "Deployment")
        found: dict[str, str] = deployment["spec"]["template"]["metadata"]["annotations"]
        return found

    assert annotations("drain_s = 1\n") != annotations("drain_s = 2\n")


@pytest.mark.parametrize(
    "values",
    [{"replica": 2}, {"replicas": "two"}, {"service": {"type": "Headless"}}, {"networkPolicy": {"metricsFrom": []}}],
)
def test_value_that_the_chart_does_not_know_is_refused(values: dict[str, Any]) -> None:
    """By its schema: a typing error would silently do nothing."""
    done = render(values)
    assert done.returncode != 0
    assert "values" in done.stderr


def test_helm_finds_nothing_wrong() -> None:
    """`helm lint`."""
    lint = "import json, sys, helm_python; json.dump(helm_python.lint(sys.argv[1]), sys.stdout)"
    command = [deploy_tool("python"), "-c", lint, str(CHART)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    messages = [message["error"] for message in json.loads(done.stdout)["messages"]]
    assert messages == ["icon is recommended"]
