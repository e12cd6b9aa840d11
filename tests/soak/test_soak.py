"""A short soak, with the default limits and with tight ones."""

import os

import pytest

from tests.soak.phase import Phase, Plan
from tests.soak.proxy_process import LIMITS


@pytest.mark.parametrize("limits", LIMITS if os.environ.get("TEST_ALL") else ["tight"])
async def test_short_soak_finds_nothing_wrong(limits: str) -> None:
    """Each client is sent what the upstream sent, in its mode; afterwards nothing is held, and memory is given back.

    Two seconds warm up little, so that more of it is allowed to be there than in a real soak.
    """
    plan = Plan(seconds=3, warm_up_s=2, clients=20, kept_s=2, late_s=2, settle_s=1, grown_mb=25)
    outcome = await Phase(limits, 1, plan, print).run()
    assert outcome.ground.found == [], str(outcome)
    assert outcome.ground.visits > 20
