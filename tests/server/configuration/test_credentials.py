"""Secrets from files: `key_file` and its like, and the credentials of a service manager."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from proxy.server.config import Config, load
from proxy.server.configuration.credentials import VARIABLE, with_credentials
from proxy.server.configuration.mistakes import explained
from proxy.server.reload import reload
from proxy.settings import is_table, secrets_of
from tests.proxy_under_test import configured, teed
from tests.stage import Stage

pytestmark = pytest.mark.usefixtures("bare_environment")
LONG = "0123456789abcdef" * 2


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of credentials, empty."""
    path = tmp_path / "credentials"
    path.mkdir()
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def written(tmp_path: Path, name: str, text: str) -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_every_secret_can_be_a_file() -> None:
    """A secret without a `_file` beside it would have to be written into the configuration."""
    tables: list[Any] = [Config, *(field.annotation for field in Config.model_fields.values())]
    lacking = [
        f"{table.__name__}.{name}"
        for table in filter(is_table, tables)
        for name, field in table.model_fields.items()
        if "SecretStr" in str(field.annotation) and name not in secrets_of(table)
    ]
    assert lacking == []


def test_file_holds_the_secret(tmp_path: Path) -> None:
    """Without the line's end; of several, each line is one. In the environment, too."""
    key, secrets = written(tmp_path, "key", "sk-ours\n"), written(tmp_path, "secrets", f"{LONG}\n\n{LONG[::-1]}\n")
    config = Config(upstream={"key_file": key}, capabilities={"secrets_file": secrets})
    assert config.upstream.key == SecretStr("sk-ours")
    assert config.capabilities.secrets == (SecretStr(LONG), SecretStr(LONG[::-1]))
    assert "sk-ours" not in repr(config) + config.model_dump_json()


def test_variable_names_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As images of containers have it; an empty key in the file, as the example's, is none."""
    monkeypatch.setenv("STREAMTEE_UPSTREAM__KEY_FILE", written(tmp_path, "key", "sk-ours\n"))
    monkeypatch.setenv("STREAMTEE_UPSTREAMS__B__KEY_FILE", written(tmp_path, "b", "sk-b"))
    text = '[upstream]\nkey = ""\nkey_file = ""\n[upstreams.b]\nurl = "http://b"\n'
    config = load(Path(written(tmp_path, "c.toml", text)))
    assert config.upstream.key.get_secret_value() == "sk-ours"
    assert config.upstreams["b"].key.get_secret_value() == "sk-b"


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (None, "key_file: PATH can't be read: No such file or directory"),
        (b"", "key_file: PATH is empty"),
        (b"\n", "key_file: PATH is empty"),
        (b"\xff\xfe", "key_file: PATH is no text"),
    ],
)
def test_file_that_holds_none_is_a_mistake(tmp_path: Path, held: bytes | None, words: str) -> None:
    """It names the file."""
    path = tmp_path / "key"
    if held is not None:
        path.write_bytes(held)
    with pytest.raises(ValueError, match="upstream") as error:
        Config(upstream={"key_file": str(path)})
    assert f"upstream: {words}".replace("PATH", str(path)) in explained(error.value)


def test_secret_in_the_place_of_its_file_is_not_shown() -> None:
    """That is an easy mistake to make; a name without a path may be one."""
    with pytest.raises(ValueError, match="key_file") as error:
        Config(upstream={"key_file": "sk-never-to-be-printed"})
    assert "upstream: key_file: the file of that name can't be read: No such file" in explained(error.value)
    assert "printed" not in explained(error.value)


def test_secret_and_its_file_are_one_too_many(tmp_path: Path) -> None:
    """Which one counts nobody could tell."""
    with pytest.raises(ValueError, match="key and key_file are both given"):
        Config(upstream={"key": "a", "key_file": written(tmp_path, "key", "b")})


async def test_key_in_a_file_is_replaced_in_place(stage: Stage, tmp_path: Path) -> None:
    """As one in the configuration is."""
    path = written(tmp_path, "key", "sk-old")
    async with teed(stage.url, upstream={"key_file": path}) as tee:
        written(tmp_path, "key", "sk-new")
        changes = reload(tee.proxy, configured(stage.url, upstream={"key_file": path}))
        assert (changes.made, changes.later) == (["upstream.key"], [])
        assert tee.proxy.config.upstream.key.get_secret_value() == "sk-new"


def test_credential_has_the_name_of_its_key(folder: Path, tmp_path: Path) -> None:
    """Also of an upstream with a name; in a file of other tables."""
    (folder / "upstream.key").write_text("sk-ours\n")
    (folder / "upstreams.b.key").write_text("sk-b\n")
    (folder / "capabilities.secrets").write_text(f"{LONG}\n")
    config = load(Path(written(tmp_path, "c.toml", '[upstream]\nkey = ""\n[upstreams.b]\nurl = "http://b"\n')))
    assert config.upstream.key.get_secret_value() == "sk-ours"
    assert config.upstreams["b"].key.get_secret_value() == "sk-b"
    assert len(config.capabilities.secrets) == 1


def test_credential_of_others_is_left_alone(folder: Path) -> None:
    """Names that are no secrets of ours, whatever they hold."""
    for name in ("tls.pem", "upstream.url", "listen", "upstream.key.old", "a.b.c", "upstream"):
        (folder / name).write_text("x")
    assert load(None) == Config.model_validate({})
    assert with_credentials(Config, {}) == {}


def test_given_secret_goes_over_the_credential(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file, from another file, or from the environment."""
    (folder / "upstream.key").write_text("sk-credential")
    own = Path(written(tmp_path, "c.toml", '[upstream]\nkey = "sk-own"\n'))
    assert load(own).upstream.key.get_secret_value() == "sk-own"
    named = written(tmp_path, "key", "sk-file")
    assert Config(upstream={"key_file": named}).upstream.key.get_secret_value() == "sk-file"
    monkeypatch.setenv("STREAMTEE_UPSTREAM__KEY", "sk-environment")
    assert load(own).upstream.key.get_secret_value() == "sk-environment"


def test_folder_that_can_t_be_read_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be as if there were no secret."""
    monkeypatch.setenv(VARIABLE, "/nowhere")
    with pytest.raises(ValueError, match="CREDENTIALS_DIRECTORY: /nowhere can't be read"):
        load(None)
