"""`streamtee keys`: what it prints, what it writes, and that a running proxy takes it over."""

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.access.key_file import KeyIndex, read_records
from proxy.tools.cli import main
from tests.proxy_under_test import teed

NOW_ENOUGH = 10**10


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of a keys file that is not there yet."""
    return tmp_path / "keys.json"


def run(file: Path, *arguments: str, status: int = 0) -> str:
    """Run a command; return what it printed."""
    result = CliRunner().invoke(main, ["keys", "--file", str(file), *arguments])
    assert result.exit_code == status, result.output
    return result.output


def test_key_is_shown_once(file: Path) -> None:
    """On a line of its own, for scripts; neither the file nor the list has it."""
    key = run(file, "add", "alice").strip()
    assert KeyIndex(read_records(file)).of_key(key, 0) == "alice"
    assert key.rpartition("-")[2] not in file.read_text() + run(file, "list")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_limits_are_set_and_changed_one_by_one(file: Path) -> None:
    """What is not given stays as it is."""
    run(file, "add", "alice", "--requests-per-minute", "60", "--models", "qwen-plus, qwen3-*", "--streams", "4")
    run(file, "limit", "alice", "--streams", "0", "--tokens-per-day", "1000000", "--modes", "raw")
    limits = read_records(file).callers["alice"].limits
    assert (limits.requests_per_minute, limits.streams, limits.tokens_per_day) == (60, 0, 1_000_000)
    assert (limits.models, limits.modes) == (("qwen-plus", "qwen3-*"), ("raw",))
    assert "models = qwen-plus, qwen3-*" in run(file, "list")


def test_rotated_key_and_the_old_one_are_valid_for_a_while(file: Path) -> None:
    """Both are the same caller's."""
    old = run(file, "add", "alice").strip()
    new = run(file, "rotate", "alice", "--grace", "1h").strip()
    records = read_records(file)
    assert [key.expires_at is None for key in records.callers["alice"].keys] == [False, True]
    index = KeyIndex(records)
    assert (index.of_key(old, 0), index.of_key(new, 0)) == ("alice", "alice")
    assert (index.of_key(old, NOW_ENOUGH), index.of_key(new, NOW_ENOUGH)) == (None, "alice")


def test_keys_are_disabled_enabled_expired_and_removed(file: Path) -> None:
    """Each is told by the list."""
    key = run(file, "add", "alice", "--expires", "2099-01-31").strip()
    run(file, "disable", "alice")
    assert KeyIndex(read_records(file)).of_key(key, 0) is None
    assert "alice  disabled" in run(file, "list")
    run(file, "enable", "alice")
    assert KeyIndex(read_records(file)).of_key(key, 0) == "alice"
    assert "expires 2099-01-31 00:00:00Z" in run(file, "list")
    run(file, "expire", "alice")
    assert "expired " in run(file, "list")
    run(file, "remove", "alice")
    assert json.loads(file.read_text()) == {}


def test_caller_may_have_a_certificate_and_no_key(file: Path) -> None:
    """Its limits are found by the subject."""
    assert run(file, "add", "alice", "--no-key", "--subject", "CN=alice", "--streams", "1") == ""
    assert KeyIndex(read_records(file)).of_subject("CN=alice") == "alice"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "a b"), "the name 'a b' is not"),
        (("add", "alice", "--expires", "soon"), "'soon' is neither"),
        (("disable", "bob"), "there is no caller 'bob'; there are: alice"),
        (("rotate", "bob"), "there is no caller 'bob'"),
        (("add", "bob", "--subject", "CN=alice"), "same subject"),
        (("add", "bob", "--streams", "-1"), "-1"),
    ],
)
def test_mistake_is_said_and_changes_nothing(file: Path, arguments: tuple[str, ...], said: str) -> None:
    """Exit status 2, as of every command."""
    run(file, "add", "alice", "--subject", "CN=alice")
    before = file.read_bytes()
    assert said in run(file, *arguments, status=2)
    assert file.read_bytes() == before


def test_file_is_found_by_the_configuration(file: Path, tmp_path: Path) -> None:
    """The one that auth.keys_file names; without either, the command says so."""
    config = tmp_path / "streamtee.toml"
    config.write_text(f'[auth]\nmode = "keys"\nkeys_file = "{file}"\n[upstream]\nkey = "k"\n')
    result = CliRunner().invoke(main, ["keys", "--config", str(config), "add", "alice"])
    assert result.exit_code == 0
    assert "alice" in read_records(file).callers
    assert CliRunner().invoke(main, ["keys", "list"]).exit_code == 2
    assert CliRunner().invoke(main, ["keys", "--file", str(tmp_path / "none" / "k"), "add", "x"]).exit_code == 2


async def test_running_proxy_takes_a_new_key_over_within_seconds(file: Path) -> None:
    """Without a signal, and without a restart."""
    run(file, "add", "bob")
    tables = {"auth": {"mode": "keys", "keys_file": str(file)}, "upstream": {"key": "sk-upstream"}}
    async with teed("http://127.0.0.1:9", **tables) as tee:
        key = run(file, "add", "alice").strip()
        status = 0
        while status != 200:
            status = (await tee.ask("GET", "/v1/streams", f"Authorization: Bearer {key}")).status
            assert status in (200, 401)
