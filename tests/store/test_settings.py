"""The table of the store: what is refused, and what is said of it."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from proxy.server.configuration.mistakes import explained
from proxy.store.redis_client import RedisConnections
from proxy.store.settings import SCHEMES, StoreConfig

SECRET = "a secret of 16 or more"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_url_of_each_scheme_is_taken(scheme: str) -> None:
    """And leads to connections of its kind."""
    where = "/tmp/socket" if scheme == "unix" else "user:pass%40word@one:1,two/name" if "+" in scheme else "one:1/2"
    url = f"{scheme}://{where}"
    assert StoreConfig(url=url, secret=SECRET).url.get_secret_value() == url  # type: ignore[arg-type]
    assert RedisConnections(url).is_cluster == ("cluster" in scheme)


def test_url_of_another_scheme_is_refused_and_not_shown() -> None:
    """It may hold a password."""
    with pytest.raises(ValidationError, match="scheme is not one of redis, rediss") as refused:
        StoreConfig(url="http://:password@host", secret=SECRET)  # type: ignore[arg-type]
    assert "password" not in explained(refused.value)


def test_store_needs_a_secret_that_nodes_share() -> None:
    """Without it each would know callers by another digest."""
    with pytest.raises(ValidationError, match="secret has fewer than 16 characters"):
        StoreConfig(url="redis://host")  # type: ignore[arg-type]


def test_sentinel_needs_the_name_of_its_primary() -> None:
    """The URL says so."""
    with pytest.raises(ValueError, match="lacks the name of the primary"):
        RedisConnections("redis+sentinel://host")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:pass/word@host",
        "redis://host:port",
        "redis://host/name",
        "redis+sentinel://host:1x/name",
        "redis+sentinel://host/name/word",
        "redis+cluster://:word@host:word",
    ],
)
def test_port_or_database_that_is_no_number_is_refused_and_not_shown(url: str) -> None:
    """A password with a slash is read as one."""
    with pytest.raises(ValueError, match=r"store\.url: the port or the database is no number") as refused:
        RedisConnections(url)
    assert "pass" not in str(refused.value).replace("a password", "")
    assert "word@" not in str(refused.value)


@pytest.mark.parametrize("promise", [{"required": True}, {"ack": "stored"}])
def test_promise_without_a_store_is_refused(promise: dict[str, Any]) -> None:
    """It would have no effect, and nobody would know."""
    with pytest.raises(ValidationError, match="need a url"):
        StoreConfig(**promise)


KEY = "0123456789abcdef" * 4


@pytest.mark.parametrize("key", [KEY[:-1], KEY + "0", "x" * 64, "", f" {KEY}"])
def test_key_that_is_none_is_refused_and_not_shown(key: str) -> None:
    """Whether it is too short, too long, or of other characters; the second of two is named as that."""
    with pytest.raises(ValidationError, match="number 2 is not 64 hex digits") as refused:
        StoreConfig(url="redis://host", secret=SECRET, encryption_keys=(KEY, key))  # type: ignore[arg-type]
    assert KEY[:20] not in explained(refused.value)
    assert "xxxx" not in explained(refused.value)


def test_key_that_is_there_twice_is_refused() -> None:
    """One of them was meant to be another."""
    with pytest.raises(ValidationError, match="a key is listed twice"):
        StoreConfig(url="redis://host", secret=SECRET, encryption_keys=(KEY, KEY.upper()))  # type: ignore[arg-type]


def test_keys_without_a_store_are_refused() -> None:
    """They would have no effect, and nobody would know."""
    with pytest.raises(ValidationError, match="encryption_keys need a url"):
        StoreConfig(encryption_keys=(KEY,))  # type: ignore[arg-type]


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    """One a line, the one that writes first; a file that is missing ends the start."""
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n{KEY[::-1]}\n")
    given: Any = {"url": "redis://host", "secret": SECRET, "encryption_keys_file": str(file)}
    assert StoreConfig(**given).key_bytes == [bytes.fromhex(KEY), bytes.fromhex(KEY[::-1])]
    file.unlink()
    with pytest.raises(ValidationError, match=r"encryption_keys_file: .* can't be read: No such file"):
        StoreConfig(**given)


def test_keys_without_the_library_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cryptography" else object())
    with pytest.raises(ValidationError, match=r"pip install 'streamtee\[redis,encryption\]'"):
        StoreConfig(url="redis://host", secret=SECRET, encryption_keys=(KEY,))  # type: ignore[arg-type]
