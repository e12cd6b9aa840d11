"""deploy/several: two proxies that share a Redis, behind one edge. The edge runs here as it is configured there."""

import asyncio
import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.server.config import Config, address, load
from tests.certificates import Authority
from tests.deploy.charts import VERSIONS, check, rendered
from tests.deploy.edges import NAME, OWN, Edge, free_port, running
from tests.event_loops import GUARD_S
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.programs import deploy_tool, system_tool
from tests.proxy_under_test import Tee
from tests.store.nodes import two_nodes

SEVERAL = Path(__file__).parents[2] / "deploy/several"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((SEVERAL / "compose.yaml").read_text())["services"]
PROXIES = ("proxy-a", "proxy-b")
CADDYFILE = (SEVERAL / "Caddyfile").read_text()
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((SEVERAL / "kubernetes.yaml").read_text()))
VALUES: dict[str, Any] = yaml.safe_load((SEVERAL / "values.yaml").read_text())
WORDS = [chunk_frame(f"word {n}") for n in range(1, 6)]


def one(kind: str, name: str) -> dict[str, Any]:
    """Return the object of a kind and a name."""
    (found,) = [each for each in OBJECTS if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


# Running


def edge_before(tees: Sequence[Tee], port: int, pem: Path) -> list[str]:
    """Return the command that runs the edge with these addresses."""
    given = {
        "SITE": f"https://{NAME}:{port}",
        "CERTIFICATE": f"{pem} {pem}",
        "PROXIES": " ".join(tee.proxy.url.removeprefix("http://") for tee in tees),
    }
    variables = [f"{name}={text}" for name, text in given.items()]
    caddy = [system_tool("caddy"), "run", "--adapter", "caddyfile", "--config", str(SEVERAL / "Caddyfile")]
    return ["env", *variables, *caddy]


async def test_stream_is_followed_through_the_edge_at_either_proxy(tmp_path: Path) -> None:
    """By HTTP/2; and when the owner drains, what is new goes to the other proxy."""
    system_tool("curl")
    authority = Authority(tmp_path)
    pem = authority.sign(NAME, dns=NAME)
    port = free_port()
    async with two_nodes(hosts=(NAME,), trusted_proxies=("127.0.0.1",)) as nodes:
        tees = (nodes.owner, nodes.other)
        async with running(edge_before(tees, port, pem), port, tmp_path):
            edge = Edge("caddy", nodes.owner, port, authority.file)
            asking = await edge.ask("Stream-Key: chat-1")
            turn = await nodes.stage.next()
            await turn.body()
            turn.begin()
            for frame in WORDS[:3]:
                turn.chunk(frame)
            assert asking.stdout is not None
            assert await asking.stdout.readexactly(len(b"".join(WORDS[:3]))) == b"".join(WORDS[:3])
            following = [await edge.curl(*OWN, edge.url("/v1/keys/chat-1/stream?mode=raw")) for _ in range(4)]
            async with asyncio.timeout(GUARD_S):
                while [tee.proxy.hub.followers for tee in tees] not in ([3, 2], [2, 3]):
                    await asyncio.sleep(0.01)
            for frame in WORDS[3:]:
                turn.chunk(frame)
            turn.end(FINISH, DONE)
            said = [(await one.communicate())[0] for one in following]
            assert said == [b"".join([*WORDS, FINISH, DONE])] * 4
            assert (await asking.communicate())[0] == b"".join([*WORDS[3:], FINISH, DONE])
            await nodes.owner.proxy.stop()
            for _ in range(3):
                listing = await edge.curl(*OWN, edge.url("/v1/streams"))
                (stream,) = json.loads((await listing.communicate())[0])["data"]
                assert stream["state"] == "complete"


# Compose


@pytest.mark.parametrize("name", list(SERVICES))
def test_service_has_no_more_rights_than_it_needs(name: str) -> None:
    """No writable root, no capabilities but one, no new privileges; only the edge has a port, of this machine alone."""
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "edge" else [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("ports", []) == (["127.0.0.1:8443:8443"] if name == "edge" else [])
    assert service["image"] == "streamtee" or re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    for volume in service.get("volumes", ()):
        source, _, mode = volume.split(":")
        assert (SEVERAL / source).exists()
        assert mode == "ro"
    assert set(service.get("depends_on", ())) <= set(SERVICES)


def test_proxies_differ_in_nothing_but_their_names(bare_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both start with what they are given, and share the store that is there; the edge asks both."""
    environments = [SERVICES[name]["environment"] for name in PROXIES]
    assert environments[0] == environments[1]
    for name, text in environments[0].items():
        assert name.removeprefix("STREAMTEE_").partition("__")[0].lower() in Config.model_fields
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(.*)\}", r"\1", text))
    config = load(None)
    assert config.store.url.get_secret_value() == "redis://redis:6379"
    assert address(config.upstream.url.removeprefix("http://"))[0] == "fake"
    assert all(int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= config.drain_s + 5 for name in PROXIES)
    assert re.findall(r"\{\$PROXIES:(.*?)\}", CADDYFILE) == [" ".join(f"{name}:8080" for name in PROXIES)]


def test_file_is_one_of_the_compose_specification() -> None:
    """As a reader of another make has it, with the merges of YAML made."""
    read = "import sys, compose_spec; compose_spec.PyCompose.from_json(sys.stdin.read()).validate()"
    content = json.dumps(yaml.safe_load((SEVERAL / "compose.yaml").read_text()))
    command = [deploy_tool("python"), "-c", read]
    done = subprocess.run(command, input=content, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Kubernetes


def test_pods_meet_the_standard_of_the_namespace() -> None:
    """`restricted`, which allows the one capability; a root that can't be written, and no token."""
    for name in ("streamtee-redis", "streamtee-edge"):
        pod = one("Deployment", name)["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        own = container["securityContext"]
        assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)
        assert own["capabilities"].pop("drop") == ["ALL"]
        assert set(own["capabilities"].get("add", ())) <= {"NET_BIND_SERVICE"}
        assert container["image"] == SERVICES[name.removeprefix("streamtee-")]["image"]
        assert f"app.kubernetes.io/name: {name}" in yaml.safe_dump(one("Service", name)["spec"]["selector"])


def test_edge_is_configured_by_the_same_file() -> None:
    """With another address, certificate and proxies."""
    assert one("ConfigMap", "streamtee-edge")["data"]["Caddyfile"] == CADDYFILE
    (container,) = one("Deployment", "streamtee-edge")["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each["value"] for each in container["env"]}
    assert set(given) == set(re.findall(r"\{\$(\w+):", CADDYFILE))
    assert int(given["SITE"].rpartition(":")[2]) == container["ports"][0]["containerPort"]


def test_proxies_reach_redis_and_only_the_edge_reaches_them(tmp_path: Path, bare_environment: None) -> None:
    """By the labels of the pods, in the policies of all three; the address is that of the service."""
    (tmp_path / "streamtee.toml").write_text(VALUES["config"] + 'secret = "a secret of all nodes"\n')
    url = load(tmp_path / "streamtee.toml").store.url.get_secret_value()
    (port,) = one("Service", "streamtee-redis")["spec"]["ports"]
    assert url == f"redis://streamtee-redis:{port['port']}"
    policy = VALUES["networkPolicy"]
    labels = {name: {"app.kubernetes.io/name": name} for name in ("streamtee", "streamtee-edge", "streamtee-redis")}
    assert policy["from"] == [{"podSelector": {"matchLabels": labels["streamtee-edge"]}}]
    assert policy["egress"][1] == {
        "ports": [{"protocol": "TCP", "port": port["port"]}],
        "to": [{"podSelector": {"matchLabels": labels["streamtee-redis"]}}],
    }
    (ingress,) = one("NetworkPolicy", "streamtee-redis")["spec"]["ingress"]
    assert ingress["from"] == [{"podSelector": {"matchLabels": labels["streamtee"]}}]
    assert VALUES["replicas"] == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid(version: str, tmp_path: Path) -> None:
    """By Kubernetes' schemas, with the chart's of these values; the proxies' labels are those that are selected."""
    objects = [*OBJECTS, *rendered(VALUES)]
    check(objects, version, tmp_path)
    (pods,) = [one for one in objects if (one["kind"], one["metadata"]["name"]) == ("Deployment", "streamtee")]
    assert pods["spec"]["replicas"] == VALUES["replicas"]
    assert pods["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] == "streamtee"
