"""The overview: computed when somebody looks, and not for each who does."""

from typing import Any
from unittest.mock import patch

from proxy.telemetry import overview
from proxy.telemetry.overview import Overview
from tests.proxy_under_test import Tee, begun
from tests.stage import Stage


def fresh(tee: Tee) -> Overview:
    return Overview(tee.proxy.hub, tee.proxy.upstreams.by_name, lambda: "http://data", lambda caller: None)


async def test_overview_is_made_once_for_all_who_look(tee: Tee) -> None:
    """Within half a second they are told the same; after it, it is made again."""
    made = fresh(tee)
    first = made.text(100.0)
    assert made.text(100.4) is first
    assert made.text(100.6) is not first


async def test_silence_is_counted_from_the_last_event(tee: Tee, stage: Stage) -> None:
    """Of a running stream; before its first event, from its request."""
    asked, turn = await begun(tee, stage, frames=1)
    stream = tee.proxy.hub.find(asked.stream_id, None)
    rows: list[dict[str, Any]] = [fresh(tee).detail(stream, at) for at in (stream.heard_at, stream.heard_at + 7)]
    assert [row["silent_s"] for row in rows] == [0, 7]
    assert rows[1]["age_s"] - rows[0]["age_s"] == 7
    turn.end()


async def test_only_some_followers_are_looked_at(tee: Tee, stage: Stage) -> None:
    """A stream may have thousands: a few are listed, those that lag most, and all are counted."""
    asked, turn = await begun(tee, stage, frames=2)
    followers = [await tee.follow(asked.stream_id, f"after={after}") for after in ("now", "now", "0")]
    await tee.wait_followers(4)
    with patch.object(overview, "_FOLLOWERS", 2), patch.object(overview, "_LOOKED_AT", 1):
        described = fresh(tee).detail(tee.proxy.hub.find(asked.stream_id, None), 0.0)
    assert (described["follower_count"], len(described["followers"])) == (4, 2)
    turn.end()
    for one in followers:
        await one.read()
