"""The table of the store: what is refused, and what is said of it."""

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
    with pytest.raises(ValidationError, match="go with a url"):
        StoreConfig(**promise)
