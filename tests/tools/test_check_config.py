"""`streamtee check-config`: what it says of a valid configuration, besides the values in effect."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.server.config import Config
from proxy.server.configuration.credentials import VARIABLE
from proxy.tools.check_config import meaning
from proxy.tools.cli import main

pytestmark = pytest.mark.usefixtures("bare_environment")
SECRET = "sk-never-to-be-printed"
DIGEST = "a" * 64


def checked(tmp_path: Path, text: str, **environment: str) -> Result:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return CliRunner().invoke(main, ["check-config", "--config", str(path)], env=environment)


def test_values_are_on_stdout_and_what_they_mean_on_stderr(tmp_path: Path) -> None:
    """So that a program can read the one, and a person the other."""
    result = checked(tmp_path, "drain_s = 5\n")
    assert json.loads(result.stdout)["drain_s"] == 5
    assert "What that means:" in result.stderr


def test_places_of_what_was_given_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file, the environment, a file of its own, or a credential; a secret is never shown."""
    (tmp_path / "upstream.key").write_text(SECRET)
    (tmp_path / "b").write_text(SECRET)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    text = f'hosts = ["a", "b"]\n\n[upstreams.b]\nurl = "http://b"\nkey_file = "{tmp_path / "b"}"\n'
    result = checked(tmp_path, text, STREAMTEE_LIMITS__STREAMS="7")
    assert result.exit_code == 0, result.output
    for line in (
        f"  hosts = (2 of them)  ({tmp_path / 'c.toml'}, line 1)\n",
        f"  upstream.key = (not shown)  ({tmp_path / 'upstream.key'})\n",
        f'  upstreams.b.url = "http://b"  ({tmp_path / "c.toml"}, line 4)\n',
        f"  upstreams.b.key = (not shown)  ({tmp_path / 'c.toml'}, line 5)\n",
        "  limits.streams = 7  (STREAMTEE_LIMITS__STREAMS)\n",
    ):
        assert line in result.stderr
    assert SECRET not in result.output


def test_defaults_are_said_to_be_defaults() -> None:
    """Without a file."""
    assert "All values are defaults." in CliRunner().invoke(main, ["check-config"]).stderr


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({}, ["from this machine alone", "Callers send their own keys", "leaves: cancel", ":9090/metrics"]),
        ({"listen": "0.0.0.0:80"}, ["from every machine that reaches it"]),
        ({"upstream": {"key": "k"}}, ["Whoever comes uses your key"]),
        ({"upstream": {"key": "k"}, "auth": {"mode": "keys", "keys": [DIGEST]}}, ["known (auth.keys); upstream"]),
        ({"admin": ""}, ["no metrics"]),
        ({}, ["http://127.0.0.1:9090/console, needs a token that is new at each start"]),
        ({"admin_token": "t" * 16}, ["needs admin_token"]),
        ({"admin": "0.0.0.0:9090"}, ["is not served without an admin_token"]),
        ({"retries": {"attempts": 2}}, ["2 times at most"]),
        ({"capabilities": {"secrets": ["s" * 32]}}, ["without a key."]),
    ],
)  # fmt: skip
def test_meaning_follows_the_values(tables: dict[str, object], words: list[str]) -> None:
    """In sentences."""
    said = "\n".join(meaning(Config.model_validate(tables)))
    assert [one for one in words if one not in said] == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("workers = 3\n[limits]\nstreams = 2\n", "limits.streams is 2"),
        ('[tls]\ncertificate = "{}/none.pem"\n', "none.pem"),
        ('[upstream]\nca_file = "{}/none.pem"\n', "none.pem"),
        ('[upstream]\nkey = "k"\n[auth]\nmode = "keys"\nkeys_file = "{}/none.json"\n', "none.json"),
        (f'[store]\nurl = "redis+sentinel://h"\nsecret = "{DIGEST}"\n', "HOST:PORT/NAME"),
    ],
    ids=["limit-of-several", "certificate", "upstream-authority", "keys-file", "store"],
)
def test_what_serve_would_refuse_is_not_valid(tmp_path: Path, text: str, named: str) -> None:
    """Also what only shows when the proxy is made: files, and limits that workers can't divide."""
    result = checked(tmp_path, text.format(tmp_path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert named in result.stderr
