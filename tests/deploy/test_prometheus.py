"""What is deployed for Prometheus and Grafana, and what docs/metrics.md asks, against a Prometheus with data."""

import asyncio
import json
import math
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.deploy.queries import DASHBOARD, DOCS, PANELS, RECIPES, ROOT, RULES, TARGETS, named
from tests.http_client import request
from tests.metric_names import ELSEWHERE, exposed
from tests.programs import deploy_tool, system_tool
from tests.prometheus_server import Prometheus, scraping
from tests.proxy_under_test import CHAT, Tee, chat_body, faked, teed

pytestmark = pytest.mark.xdist_group("prometheus")  # whose server is the same for all these tests

CASES = Path(__file__).parent / "rules_test.yml"
ALERTS_PAGE = (ROOT / "docs/alerts.md").read_text()

USAGE = {"stream_options": {"include_usage": True}}
TABLES: dict[str, Any] = {
    "upstream": {"spares": ["spare"], "max_concurrent": 100},
    "generations": {"share": "body", "upgrade": "always"},
    "timeouts": {"first_byte_s": 0.2},
    "clients": {"head_s": 0.2},
    "limits": {"log_bytes": 300_000},
    "prices": {"currency": "CNY", "models": [{"name": "qwen3*", "prompt": 2, "completion": 8, "cached": 0.5}]},
}
ENDED = {"complete": 5, "upstream_reset": 1, "timeout_first_byte": 1, "client_gone": 3}
"""How the streams of one turn of `traffic` end."""


class Scene(NamedTuple):
    """A Prometheus that has scraped a proxy which was busy, and the names of all metrics that the proxy has."""

    prometheus: Prometheus
    exported: set[str]


async def traffic(tee: Tee, turn: int) -> None:
    """Have every kind of thing happen once."""
    answer = await tee.chat(fault="count; frames=200", **USAGE)
    await answer.read()
    await (await tee.follow(answer.stream_id, "after=50")).read()
    for _ in range(2):
        await (await tee.chat(f"Idempotency-Key: {turn}", enable_thinking=True, **USAGE)).read()
    await (await tee.native(incremental_output=True)).read()
    await (await tee.chat(model="qwen-unpriced", **USAGE)).read()
    await (await tee.ask("POST", CHAT, body=chat_body(stream=False))).read()
    for fault in ("cut_mid_chunk; after=9", "hang_before_head", "status; status=429"):
        await (await tee.chat(fault=fault)).read()
    await (await tee.chat("Stream-Mode: none")).read()
    await leave(tee, "hang; after=5", 1000)
    await leave(tee, "hang; after=1", 1)
    await follow_too_slowly(tee)
    await (await tee.connect()).wait_gone()  # for it says nothing


async def leave(tee: Tee, fault: str, read_bytes: int) -> None:
    """Ask for a stream, and leave it."""
    answer = await tee.chat(fault=fault)
    await answer.bytes(read_bytes)
    await answer.client.leave()
    await tee.wait_ended(answer.stream_id)


async def follow_too_slowly(tee: Tee) -> None:
    """Follow a stream, and read so slowly that what comes next is no longer held."""
    answer = await tee.chat(fault="endless")
    slow = await tee.connect(receive_bytes=4096)
    slow.send(request("GET", f"/v1/streams/{answer.stream_id}"))
    late = await slow.answer()
    slow.stall()
    while (info := await tee.info(answer.stream_id))["first_seq"] <= info["followers"][-1]["seq"] + 1:
        await answer.bytes(len(answer.body) + 500_000)
    slow.read_on()
    assert b'"too_slow"' in await late.read()
    await answer.client.leave()
    await tee.wait_ended(answer.stream_id)


async def perform(folder: Path, stack: ExitStack) -> Scene:
    """Run a proxy and a Prometheus until this has seen two turns of traffic, and a stream that runs."""
    async with faked() as fake, teed(fake.url, **TABLES, upstreams={"spare": {"url": fake.url, "weight": 0}}) as tee:
        prometheus = stack.enter_context(scraping([tee.proxy.admin_url], folder, RULES))
        for turn in (1, 2):
            await traffic(tee, turn)
            await prometheus.wait_value("sum(streamtee_streams_ended_total)", turn * sum(ENDED.values()))
        running = await tee.chat(fault="hang; after=3")
        follower = await tee.follow(running.stream_id)
        await follower.bytes(1)
        await prometheus.wait_value("sum(streamtee_subscribers)", 2)
        await prometheus.hold("streamtee_subscribers")
        families = tee.proxy.page.registry.collect()
        return Scene(prometheus, {sample for family in families for sample in exposed(family)})


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One busy proxy and its Prometheus, which goes on to answer queries of that time."""
    with ExitStack() as stack:
        yield asyncio.run(perform(tmp_path_factory.mktemp("prometheus"), stack))


# What the docs say


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_answered(scene: Scene, recipe: str) -> None:
    """By numbers, as each of them concerns something that has happened; or is about what is not here."""
    if named(recipe) & ELSEWHERE.keys():
        assert scene.prometheus.query(recipe) == []  # test_prometheus_elsewhere.py has an answer
        return
    known = [value for _, value in scene.prometheus.query(recipe) if not math.isnan(value)]  # of a model without any
    assert known
    assert all(0 <= value < math.inf for value in known)


def recipe(question: str) -> str:
    """Return the first recipe after a question."""
    found = re.search(r"```promql\n(.+?)\n```", DOCS.partition(question)[2])
    assert found is not None, f"{question} is not asked"
    return found[1]


@pytest.mark.parametrize(
    ("question", "labels", "least", "most"),
    [
        ("How long do users wait for the first token?", {"model": "qwen3-max"}, 0, 0.3),
        ("Which share of the streams failed?", {}, 0.9 * 2 / 10, 1.1 * 2 / 10),
        ("Why?", {"ending": "upstream_reset"}, 0.9, 1.5),
        ("How many users gave up before a token came?", {"route": "chat", "model": "qwen3-max"}, 0.9, 1.5),
        ("How many tokens a second are made, by model?", {"model": "qwen3-max"}, 1, 1e6),
        ("How many followers share one upstream stream?", {}, 2, 2),
        ("How many were cut off", {"mode": "events"}, 0.9, 1.5),
        ("Are we being throttled?", {"route": "chat"}, 0.001, 100),
    ],
)
def test_answer_is_what_happened(
    scene: Scene, question: str, labels: dict[str, str], least: float, most: float
) -> None:
    """One turn of traffic between the first scrapes and the last; Prometheus extrapolates a little."""
    answers = [value for told, value in scene.prometheus.query(recipe(question)) if labels.items() <= told.items()]
    assert len(answers) == 1
    assert least <= answers[0] <= most


def test_saved_tokens_and_money_are_those_of_the_shared_call(scene: Scene) -> None:
    """One request more shared a call: its prompt and completion, at their prices."""
    shared = {
        told["kind"]: value
        for told, value in scene.prometheus.query("sum by (kind) (increase(streamtee_shared_tokens_total[1d]))")
    }
    tokens = scene.prometheus.value(recipe("How many tokens did sharing save?"))
    assert tokens == pytest.approx(shared["prompt"] + shared["completion"])
    ((labels, money),) = scene.prometheus.query(recipe("What would have come on top of that"))
    assert labels == {"currency": "CNY"}
    assert money == pytest.approx((shared["prompt"] * 2 + shared["completion"] * 8) / 1e6, rel=0.01)


# The dashboard


@pytest.mark.parametrize(("panel", "expression"), TARGETS, ids=[name for name, _ in TARGETS])
def test_panel_is_answered(scene: Scene, panel: str, expression: str) -> None:
    """With data; test_prometheus_elsewhere.py asks for what a single process without a store has not."""
    found = scene.prometheus.query(expression)
    assert found or ELSEWHERE.keys() & named(expression)


def test_dashboard_has_its_variables_and_no_two_panels_in_one_place() -> None:
    """Its source of data, route, model and worker; panels have ids of their own, and a place in the grid."""
    assert [one["name"] for one in DASHBOARD["templating"]["list"]] == ["datasource", "route", "model", "worker"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}


READ_AND_WRITE = """\
import sys, json
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
register_default_plugins()
print(JSONEncoder().encode(Dashboard.from_json(json.load(sys.stdin))))
"""


def lost(whole: Any, part: Any, path: str = "") -> Iterator[str]:
    """Yield the places of a document whose values another lacks, or has others for."""
    if isinstance(whole, dict) and isinstance(part, dict):
        for key, value in whole.items():
            yield from lost(value, part[key], f"{path}/{key}") if key in part else [f"{path}/{key}"]
    elif isinstance(whole, list) and isinstance(part, list) and len(whole) == len(part):
        for number, (one, other) in enumerate(zip(whole, part, strict=True)):
            yield from lost(one, other, f"{path}/{number}")
    elif whole != part:
        yield path


def test_grafana_knows_all_that_the_dashboard_says() -> None:
    """Read into Grafana's own models and written again, nothing is lost, but what its editor shows of a variable."""
    command = [deploy_tool("python"), "-c", READ_AND_WRITE]
    done = subprocess.run(command, input=json.dumps(DASHBOARD), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    unknown = {re.sub(r"/\d+/", "/N/", path) for path in lost(DASHBOARD, json.loads(done.stdout))}
    assert unknown == {"/templating/list/N/definition"}


# Names


@pytest.mark.parametrize("path", ["deploy/grafana/streamtee.json", "deploy/prometheus/rules.yml", "docs/metrics.md"])
def test_every_name_is_one_of_the_exporter(scene: Scene, path: str) -> None:
    """Or of what ELSEWHERE lists, or process_..., which the client library has."""
    text = (ROOT / path).read_text()
    for recorded in (rule["record"] for rule in rules() if "record" in rule):
        text = text.replace(recorded, "")
    assert len(named(text)) > 10
    assert named(text) - scene.exported - ELSEWHERE.keys() == set()


@pytest.mark.parametrize("name", list(ELSEWHERE))
def test_name_that_only_some_proxies_have_is_in_the_code(name: str) -> None:
    """Where there are such proxies in this version."""
    of = {"store": "store", "worker": "workers"}.get(name.split("_")[1], "telemetry")
    if not (ROOT / "proxy" / of / "__init__.py").exists():
        pytest.skip(f"this version has no proxy/{of}")
    stem = name.removeprefix("streamtee_").removesuffix("_total")
    sources = [path.read_text() for path in (ROOT / "proxy").rglob("*.py")]
    assert any(f'"{stem}"' in source or f'"streamtee_{stem}"' in source for source in sources)


# Rules


def rules() -> list[dict[str, Any]]:
    """Return the rules of all groups."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


ALERTS = [rule["alert"] for rule in rules() if "alert" in rule]


def promtool(*arguments: str) -> str:
    """Return what promtool prints; it must succeed."""
    done = subprocess.run([system_tool("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_deployed_configuration_and_its_rules_are_valid() -> None:
    """`promtool check config`, which reads the rules that it names."""
    assert "rules found" in promtool("check", "config", str(RULES.parent / "prometheus.yml"))


def test_rules_fire_when_they_should_and_else_not() -> None:
    """`promtool test rules`; each alert has a case in which it does, and one in which it does not."""
    promtool("test", "rules", str(CASES))
    cases = [one for test in yaml.safe_load(CASES.read_text())["tests"] for one in test["alert_rule_test"]]
    fires = {one["alertname"]: set() for one in cases}
    for one in cases:
        fires[one["alertname"]].add(bool(one["exp_alerts"]))
    assert fires == {alert: {True, False} for alert in ALERTS}


def test_rules_are_evaluated_without_error(scene: Scene) -> None:
    """By the Prometheus that scrapes; none of a healthy proxy's alerts fires at once."""
    groups = scene.prometheus.get("rules")["groups"]
    evaluated = [rule for group in groups for rule in group["rules"]]
    assert len(evaluated) == len(rules())
    assert [(rule["name"], rule["lastError"]) for rule in evaluated if rule["health"] == "err"] == []


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_says_what_to_do(alert: str) -> None:
    """On a page with its name as a heading, to which it links; nothing else is on the page."""
    (rule,) = [one for one in rules() if one.get("alert") == alert]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{alert.lower()}"
    headings = re.findall(r"^## (\w+)\n\n(?=\S)", ALERTS_PAGE, re.MULTILINE)
    assert sorted(headings) == sorted(ALERTS)
