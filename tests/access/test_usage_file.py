"""The file with the usage of the day: it survives a restart, a new day, and a disk that is full."""

from pathlib import Path
from typing import Any

import pytest

from proxy.access import usage_file
from proxy.access.accounts import Accounts
from proxy.access.limits import CallerLimits
from proxy.access.usage_file import UsageFile
from proxy.access.windows import DAY_S
from proxy.wire.errors import LimitReached
from tests.access.named import NamedCallers
from tests.event_loops import until
from tests.proxy_under_test import CHAT, chat_body, chatted, teed
from tests.stage import Stage

LIMITS = CallerLimits(requests_per_day=2, tokens_per_day=100)


def accounts_at(unix_s: float) -> Accounts:
    return Accounts(lambda name: LIMITS, lambda: unix_s)


async def test_usage_of_the_day_survives_a_restart(stage: Stage, tmp_path: Path) -> None:
    """Of callers that did not come since then, too; a proxy that was stopped has written all of it."""
    callers = NamedCallers(tmp_path, alice={"requests_per_day": 2}, bob={"requests_per_day": 2})
    tables = callers.tables(usage_file=str(tmp_path / "usage.json"))
    for status in (200, 200, 429):
        async with teed(stage.url, **tables) as tee:
            client = await tee.send("POST", CHAT, callers.header("alice"), body=chat_body())
            assert await chatted(client, stage, admitted=status == 200) == status
            told = await (await tee.ask("GET", "/v1/usage", callers.header("bob"))).json()
            assert told["requests"]["day"]["used"] == 0
            await until(lambda: tee.proxy.hub.running == 0)


async def test_another_day_begins_with_nothing(tmp_path: Path) -> None:
    """Whether the process has ended meanwhile or not."""
    file = tmp_path / "usage.json"
    noon = 1_000_000 * DAY_S / 1000
    before = accounts_at(noon)
    before.account("alice", b"a").spend(100)
    await UsageFile(file, before).save()
    same = accounts_at(noon + 1)
    UsageFile(file, same)
    with pytest.raises(LimitReached, match="tokens_per_day"):
        same.account("alice", b"a").take()
    for later in (noon + DAY_S, noon - DAY_S):
        other = accounts_at(later)
        await UsageFile(file, other).save()
        other.account("alice", b"a").take()
    assert same.used_today() == {"alice": (0, 100)}


@pytest.mark.fault("disk", "after_end")
async def test_full_disk_stops_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, and written as soon as there is room."""
    accounts = accounts_at(1_800_000_000)
    usage = UsageFile(tmp_path / "usage.json", accounts)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    accounts.account("alice", b"a").take()
    with monkeypatch.context() as patch:
        patch.setattr(usage_file, "replace", full)
        for _ in range(3):
            await usage.save()
    assert len(caplog.records) == 1
    await usage.save()
    again = accounts_at(1_800_000_000)
    UsageFile(tmp_path / "usage.json", again)
    assert again.used_today() == {"alice": (1, 0)}


async def test_file_is_written_only_when_something_has_changed(tmp_path: Path) -> None:
    """An idle proxy leaves the disk alone."""
    accounts = accounts_at(1_800_000_000)
    usage = UsageFile(tmp_path / "usage.json", accounts)
    accounts.account("alice", b"a").take()
    await usage.save()
    before: Any = (tmp_path / "usage.json").stat().st_ino
    await usage.save()
    assert (tmp_path / "usage.json").stat().st_ino == before


def test_file_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    """Rather than overwritten."""
    file = tmp_path / "usage.json"
    file.write_text("something else")
    with pytest.raises(ValueError, match=r"usage\.json is not a usage file"):
        UsageFile(file, accounts_at(0))


def test_folder_that_is_missing_is_told_before_anything_is_served(tmp_path: Path) -> None:
    """Not each time that the file can't be written."""
    with pytest.raises(ValueError, match=r"auth\.usage_file: no file can be made in the folder .*/none"):
        UsageFile(tmp_path / "none" / "usage.json", accounts_at(0))
