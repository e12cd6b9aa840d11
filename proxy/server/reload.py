"""Changes the configuration of a running proxy: what can be changed in place is, the rest is named.

A row of `_IN_PLACE` for each key, or table of keys, that takes effect at once, with what makes it so. All others need a
restart: parts have been made by them (routes, upstreams, queues) or addresses are listened on. A proxy's own key can be
replaced, but not be set where there was none, nor the other way round: who may use it depends on that.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pydantic import SecretStr

from proxy.downstream.client_connections import ClientTimeouts
from proxy.server.app import Proxy
from proxy.server.config import Config
from proxy.server.directory import use_keys
from proxy.telemetry.prices import Prices

_WHAT = ("changed", "a restart is needed for")


class Changes(NamedTuple):
    """The keys whose values differ: those that took effect, and those that need a restart."""

    made: list[str]
    later: list[str]

    def __str__(self) -> str:
        changes = [f"{what}: {', '.join(keys)}" for what, keys in zip(_WHAT, self, strict=True) if keys]
        return "; ".join(changes) or "nothing has changed"


def reload(proxy: Proxy, config: Config) -> Changes:
    """Have a proxy take over from another configuration what it can. Raises: ValueError, having changed nothing."""
    old, new = dict(_values(proxy.config.model_dump())), dict(_values(config.model_dump()))
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    made = [key for key in differing if _is_in_place(key, old.get(key), new.get(key))]
    merged = proxy.config.model_dump(exclude_unset=True)  # some keys may not be given at all beside others
    for key in made:
        _put(merged, key, new[key])
    proxy.config = Config(**merged)
    for prefix, apply in _IN_PLACE:
        if any(_falls_under(key, prefix) for key in made):
            apply(proxy, proxy.config)
    for listener in proxy.ports.listeners if made else ():
        listener.heads.forget()  # what was made of them was made with the old values
    return Changes(made, [key for key in differing if key not in made])


def _keys(proxy: Proxy, config: Config) -> None:
    proxy.grants.use([secret.get_secret_value() for secret in config.capabilities.secrets])
    proxy.callers.accept(config.auth.accepted)


def _admin_token(proxy: Proxy, config: Config) -> None:
    proxy.operators.use(config.admin_token.get_secret_value())


def _store_keys(proxy: Proxy, config: Config) -> None:
    if proxy.node is not None:
        use_keys(proxy.node, config.store)


def _upstreams(proxy: Proxy, config: Config) -> None:
    proxy.upstreams.use(config)


def _clients(proxy: Proxy, config: Config) -> None:
    proxy.clients.timeouts = ClientTimeouts(**config.clients.model_dump())


def _limits(proxy: Proxy, config: Config) -> None:
    limits, hub, clients = config.limits, proxy.hub, proxy.clients
    hub.max_streams = limits.streams
    hub.max_followers = limits.followers
    hub.max_followers_per_stream = limits.followers_per_stream
    hub.ledger.max_bytes = limits.total_log_bytes
    hub.max_pending_bytes = clients.max_pending_bytes = limits.total_pending_bytes
    clients.max_body_bytes = limits.total_body_bytes
    proxy.metrics.max_models = limits.model_labels
    for listener in proxy.ports.listeners:  # for new connections
        listener.header_bytes, listener.max_headers = limits.header_bytes, limits.headers
    proxy.route_table.limit(limits)


def _log_level(proxy: Proxy, config: Config) -> None:
    logging.getLogger().setLevel(config.log_level.upper())


def _prices(proxy: Proxy, config: Config) -> None:
    proxy.metrics.prices = Prices(config.prices)


def _later(proxy: Proxy, config: Config) -> None:
    """Do nothing: it is read when it is needed."""


_IN_PLACE: tuple[tuple[str, Callable[[Proxy, Config], None]], ...] = (
    ("admin_token", _admin_token),
    ("auth.keys", _keys),
    ("capabilities.secrets", _keys),
    ("store.encryption_keys", _store_keys),
    ("upstream.key", _upstreams),
    ("upstreams.*.key", _upstreams),
    ("timeouts", _upstreams),
    ("clients", _clients),
    ("limits", _limits),
    ("prices", _prices),
    ("drain_s", _later),
    ("log_level", _log_level),
)


def _is_in_place(key: str, old: Any, new: Any) -> bool:
    """Return whether a change of a key takes effect without a restart."""
    if not any(_falls_under(key, prefix) for prefix, _ in _IN_PLACE):
        return False
    if isinstance(old or new, SecretStr | tuple) and not _falls_under(key, "prices"):  # keys and secrets
        return bool(old) and bool(new)
    return True


def _falls_under(key: str, prefix: str) -> bool:
    named, parts = prefix.split("."), key.split(".")
    return len(named) <= len(parts) and all(name in ("*", part) for name, part in zip(named, parts, strict=False))


def _values(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a table and those within it, with their keys joined by dots."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    *outer, last = key.split(".")
    for name in outer:
        table = table.setdefault(name, {})
    table[last] = value
