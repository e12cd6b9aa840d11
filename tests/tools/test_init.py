"""`streamtee init`: what is asked, what is written, and that it can be started with."""

import asyncio
import hashlib
import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.server.config import load
from proxy.tools.cli import main
from tests.http_client import request
from tests.spawned import answered, serving_at, spawned
from tests.stage import Stage

pytestmark = pytest.mark.usefixtures("bare_environment")


def init(output: Path, *options: str, answers: str = "") -> Result:
    return CliRunner().invoke(main, ["init", "--output", str(output), *options], input=answers)


def test_three_questions_are_asked(tmp_path: Path) -> None:
    """The key that is typed in goes into a file that its owner alone can read; it is shown nowhere."""
    output = tmp_path / "s.toml"
    result = init(output, answers="qwen-beijing\nsk-mine\nn\n")
    assert result.exit_code == 0, result.output
    config = load(output)
    assert (config.upstream.url, config.listen) == ("https://dashscope.aliyuncs.com", "127.0.0.1:8080")
    assert config.upstream.key.get_secret_value() == "sk-mine"
    assert stat.S_IMODE((tmp_path / "s.key").stat().st_mode) == 0o600
    assert "sk-mine" not in output.read_text()


def test_port_that_others_reach_needs_keys_of_callers(tmp_path: Path) -> None:
    """One is made, shown once, and only its digest is written: the proxy would not start without."""
    output = tmp_path / "s.toml"
    result = init(output, answers="\nsk-mine\ny\n")
    (key,) = re.findall(r"sk-[\w-]{32}", result.output)
    config = load(output)
    assert (config.listen, config.auth.mode) == ("0.0.0.0:8080", "keys")
    assert config.auth.keys == (hashlib.sha256(key.encode()).hexdigest(),)
    assert key not in output.read_text()


def test_options_are_answers(tmp_path: Path) -> None:
    """Nothing is asked."""
    output, key = tmp_path / "s.toml", tmp_path / "key"
    key.write_text("sk-file\n")
    options = ("--upstream", "http://127.0.0.1:8000", "--key-file", str(key), "--listen", "127.0.0.1:1")
    assert init(output, *options).exit_code == 0
    config = load(output)
    assert (config.upstream.url, config.listen) == ("http://127.0.0.1:8000", "127.0.0.1:1")
    assert config.upstream.key.get_secret_value() == "sk-file"


@pytest.mark.parametrize("options", [("--yes",), ("--upstream", "qwen-us", "--callers-keys", "--listen", "0.0.0.0:1")])
def test_without_a_key_of_ours_callers_send_theirs(tmp_path: Path, options: tuple[str, ...]) -> None:
    """As with all defaults."""
    output = tmp_path / "s.toml"
    assert init(output, *options).exit_code == 0
    config = load(output)
    assert (config.auth.mode, config.upstream.key.get_secret_value()) == ("pass", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--upstream", "qwen-nowhere"), "'qwen-nowhere' is not a preset; there are qwen-beijing"),
        (("--upstream", "h"), "not an http://"),
        (("--listen", "8080"), "HOST:PORT"),
        (("--key-file", "k", "--callers-keys"), "either"),
    ],
)
def test_wrong_answer_is_named_and_nothing_is_written(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    """Exit status 2."""
    output = tmp_path / "s.toml"
    result = init(output, "--yes", *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not output.exists()


def test_file_that_is_there_stays_unless_it_is_forced(tmp_path: Path) -> None:
    """It may have been edited."""
    output = tmp_path / "s.toml"
    output.write_text("mine")
    result = init(output, "--yes")
    assert (result.exit_code, output.read_text()) == (2, "mine")
    assert "--force" in result.stderr
    assert init(output, "--yes", "--force").exit_code == 0
    assert "[upstream]" in output.read_text()
    assert init(tmp_path / "none" / "s.toml", "--yes").exit_code == 2


async def test_proxy_starts_with_what_was_written(tmp_path: Path, stage: Stage) -> None:
    """And sends the key upstream."""
    output, key = tmp_path / "s.toml", tmp_path / "key"
    key.write_text("sk-file\n")
    init(output, "--upstream", stage.url, "--key-file", str(key), "--listen", "127.0.0.1:0")
    async with spawned("serve", "--config", str(output), STREAMTEE_ADMIN="127.0.0.1:0") as process:
        url, _ = await serving_at(process)
        asking = asyncio.create_task(answered(url, request("GET", "/v1/models", "Authorization: Bearer any")))
        turn = await stage.next()
        assert turn.all("authorization") == [b"Bearer sk-file"]
        turn.reply("200 OK", body=b"{}")
        assert await asking == (200, b"{}")
