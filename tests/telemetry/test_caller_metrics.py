"""The metrics of callers with keys of ours: their names, and that docs/keys.md lists each."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxy.access.accounts import Accounts
from proxy.access.limits import CallerLimits
from proxy.telemetry.caller_metrics import CallerMetrics

DOCS = (Path(__file__).parents[2] / "docs" / "keys.md").read_text()


def samples(accounts: Accounts, most: int) -> dict[tuple[str, str], float]:
    """Return the values on a page, by metric and caller."""
    registry = CollectorRegistry()
    registry.register(CallerMetrics(accounts, lambda: most))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(one.name, one.labels["caller"]): one.value for family in families for one in family.samples}


def test_each_metric_is_documented_and_each_documented_one_is_there() -> None:
    """By its whole name."""
    accounts = Accounts(lambda name: CallerLimits())
    account = accounts.account("alice", b"a")
    account.refusals["streams"] += 1
    exposed = {name for name, _ in samples(accounts, 1)}
    assert exposed == set(re.findall(r"`(streamtee_caller_\w+)`", DOCS))


def test_names_beyond_the_limit_are_one() -> None:
    """Which names are shown does not change from one page to the next; a higher limit shows more."""
    accounts = Accounts(lambda name: CallerLimits())
    for name in ("a", "b", "c"):
        account = accounts.account(name, name.encode())
        account.take().give_back()
        account.spend(7)
    registry = CollectorRegistry()
    most = [1]
    registry.register(CallerMetrics(accounts, lambda: most[0]))
    for _ in range(2):
        page = generate_latest(registry).decode()
        assert 'streamtee_caller_requests_total{caller="a"} 1.0' in page
        assert 'streamtee_caller_tokens_total{caller="other"} 14.0' in page
    most[0] = 3
    assert 'caller="c"' in generate_latest(registry).decode()
