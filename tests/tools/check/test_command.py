"""`streamtee check` as a command: its report, what shows without the upstream, and what it exits with."""

import json

import pytest
from click.testing import CliRunner
from rich.console import Console

from proxy.tools.check.command import show
from proxy.tools.check.findings import MEANINGS, Finding, Verdict
from proxy.tools.check.outside import UNSEEN, from_outside
from proxy.tools.cli import main
from proxy.tools.endpoint import Endpoint
from proxy.tools.fake.qwen import FakeQwen, Pace
from tests.bench.processes import free_port
from tests.proxy_under_test import faked, teed
from tests.spawned import spawned
from tests.tools.check.gateway import gateway


@pytest.mark.parametrize("verdict", Verdict)
def test_report_says_what_a_finding_means_and_what_to_do(verdict: Verdict, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is something to do."""
    show([Finding(name, verdict, f"seen [{name}]") for name in MEANINGS], Console())
    shown = capsys.readouterr().out
    for name, meaning in MEANINGS.items():
        assert f"{verdict.value.upper():5} {name:12} seen [{name}]\n" in shown
        is_bad = verdict in (Verdict.FAIL, Verdict.WARN)
        assert (meaning.failure in shown, meaning.advice in shown) == (is_bad, is_bad)
    assert shown.endswith(f"{len(MEANINGS)} {verdict.value}\n")


async def test_gateway_that_fails_is_exit_status_1(fake: FakeQwen) -> None:
    """With the findings as JSON."""
    async with gateway(fake.url, "names no stream") as url, spawned("check", url, "--json", "-") as process:
        out, err = await process.communicate()
    assert (process.returncode, err) == (1, b"")
    found = {one["check"]: one for one in json.loads(out)["findings"]}
    assert set(found) == set(MEANINGS)
    assert found["stream"]["verdict"] == "fail"
    assert found["stream"]["advice"] == MEANINGS["stream"].advice
    assert "advice" not in found["resume"]


PACED = Pace(interval_s=0.06)
LONG = "count,frames=20"


async def outside(url: str, fault: str) -> dict[str, Finding]:
    endpoint = Endpoint(url)
    try:
        return {one.check: one for one in await from_outside(endpoint, f"qwen-plus+{fault}")}
    finally:
        await endpoint.close()


async def test_what_shows_from_outside_is_told_and_what_does_not_as_well() -> None:
    """Of a proxy that resumes."""
    async with faked(pace=PACED) as fake, teed(fake.url) as tee:
        found = await outside(tee.proxy.url, LONG)
    assert {name for name, one in found.items() if one.verdict is Verdict.PASS} == {"stream", "every event", "resume"}
    assert [found[name].verdict for name in UNSEEN] == [Verdict.NONE] * len(UNSEEN)
    assert set(found) == set(MEANINGS)


async def test_answer_that_comes_all_at_its_end_was_gathered() -> None:
    """That is how a buffer looks from outside."""
    async with faked(pace=PACED) as fake, gateway(fake.url, "gathers") as url:
        found = await outside(url, LONG)
    assert found["every event"].verdict is Verdict.WARN
    assert found["resume"].verdict is Verdict.NONE


@pytest.mark.parametrize(("quirk", "verdict"), [("words", Verdict.FAIL), ("comments", Verdict.PASS)])
async def test_heartbeats_show_from_outside(quirk: str, verdict: Verdict) -> None:
    """They are what is no event of the API."""
    async with faked() as fake, gateway(fake.url, quirk) as url:
        found = await outside(url, "stall,after=3,seconds=0.4")
    assert found["heartbeats"].verdict is verdict


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["http://127.0.0.1:1"], 3, "no connection"),
        (["h"], 2, "no http:// or https:// URL"),
        (["http://h", "--upstream-port", "0"], 2, "--upstream-port"),
        (["http://127.0.0.1:1", "--upstream-port", "9", "--upstream-host", "192.0.2.1"], 3, "can't listen"),
    ],
)
def test_check_that_can_t_begin_says_why(arguments: list[str], status: int, words: str) -> None:
    """The server can't be reached, or the command line is malformed."""
    result = CliRunner().invoke(main, ["check", *arguments])
    assert result.exit_code == status
    assert words in result.stderr


async def test_server_with_another_upstream_is_told_so(fake: FakeQwen) -> None:
    """It answers, and this command's upstream was not asked."""
    port = free_port()
    async with gateway(fake.url) as url, spawned("check", url, "--upstream-port", str(port)) as process:
        out, _ = await process.communicate()
    assert process.returncode == 1
    assert b"status 200, and the upstream was not asked" in out


async def test_refusal_is_shown_in_the_servers_words() -> None:
    """A key that is missing, a model that is not there."""
    async with faked(require_key=True) as fake:
        found = await outside(fake.url, LONG)
    assert found["stream"].saw.startswith('status 401: {"error":')
