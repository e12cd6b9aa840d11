"""`streamtee check-config`: checks a configuration, shows what is in force, and says what that means.

It is valid if `serve` would begin with it: the files that it names are read, too, and several workers can divide it.
The values go to stdout, as JSON without secrets; what is said of them to stderr.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from proxy.access.pages import is_loopback
from proxy.server.app import Proxy
from proxy.server.config import Config, address
from proxy.server.configuration.credentials import credential
from proxy.server.configuration.places import Places
from proxy.settings import FILE
from proxy.tools.command_error import CommandError
from proxy.tools.config_file import CONFIG, loaded
from proxy.workers.shares import counted, divided

_EXAMPLES = """\b
Examples:
  streamtee check-config --config streamtee.toml
  streamtee check-config --config streamtee.toml 2>/dev/null | jq .limits

\b
Exit status: 0 it is valid, 2 it is not: standard error says what is wrong, and where.
"""


@click.command("check-config", epilog=_EXAMPLES, short_help="Check a configuration, and explain it.")
@CONFIG
def check_config(config_file: Path | None) -> None:
    """Check the configuration; print the values in effect as JSON, and explain them. Secrets are not shown.

    The explanations (where values come from, who may use the proxy) go to standard error.
    """
    config = loaded(config_file)
    try:
        asyncio.run(_made(config))
    except (OSError, ValueError) as error:
        raise CommandError(f"the proxy can't start: {error}") from None
    click.echo(config.model_dump_json(indent=2))
    for line in explanation(config, Places(config_file)):
        click.echo(line, err=True)


async def _made(config: Config) -> None:
    """Make what `serve` makes before it listens. Raises: OSError, ValueError, for what it would refuse."""
    count = counted(config.workers)
    Proxy(config if count == 1 else divided(config, count, seat=0))


def explanation(config: Config, places: Places) -> list[str]:
    """Return what is said of a configuration that is valid."""
    changed = [f"  {key} = {value}  ({place})" for key, value, place in _given(config, places)]
    named = ["These values were given, all others are defaults:", *changed] if changed else ["All values are defaults."]
    return [*named, "What that means:", *(f"  {sentence}" for sentence in meaning(config))]


def meaning(config: Config) -> Iterator[str]:
    """Yield what a configuration means for those who use it."""
    here = is_loopback(address(config.listen)[0])
    yield f"Requests go to {config.upstream.url}, and come in at {config.listen}: " + (
        "from this machine alone." if here else "from every machine that reaches it."
    )
    yield _callers(config)
    yield f"When the last client of a stream leaves: {config.streams.on_disconnect}."
    yield f"Streams can be followed and resumed while they run, and {config.streams.retain_s:g} s after."
    yield (
        "Others can be given a URL for one stream, without a key."
        if config.capabilities.secrets
        else "There are no URLs for one stream without a key: capabilities.secrets is empty."
    )
    yield _admin(config)
    yield (
        f"Requests that were not billed are sent again, {config.retries.attempts} times at most."
        if config.retries.attempts
        else "Requests that fail are not sent again: retries.attempts is 0."
    )


def _callers(config: Config) -> str:
    auth = config.auth
    if auth.mode == "keys":
        sources = {
            "auth.keys": auth.keys,
            auth.keys_file: auth.keys_file,
            auth.hook_url: auth.hook_url,
            "client certificates": config.tls.client_ca,
        }
        named = ", ".join(name for name, value in sources.items() if value)
        return f"Callers need to be known ({named}); upstream their requests go with your key."
    if config.upstream.key.get_secret_value():
        return "Whoever comes uses your key."
    return "Callers send their own keys, which go upstream."


def _admin(config: Config) -> str:
    if not config.admin:
        return "There are no metrics and no console: admin is empty."
    url = f"{'https' if config.admin_tls.certificate else 'http'}://{config.admin}"
    if config.admin_token.get_secret_value():
        needs = "needs admin_token"
    elif is_loopback(address(config.admin)[0]):
        needs = "needs a token that is new at each start, which the terminal shows"
    else:
        needs = "is not served without an admin_token"
    return f"Metrics are at {url}/metrics; the console, {url}/console, {needs}."


def _given(config: Config, places: Places) -> Iterator[tuple[str, str, str]]:
    """Yield the keys that were given, their values as they may be shown, and where they were given."""
    for key, value in _values(config.model_dump(), ()):
        *outer, last = key
        place = places.find(key) or places.find((*outer, last + FILE)) or credential(key)
        if place is not None:
            yield ".".join(key), _shown(value), place


def _values(table: dict[str, Any], outer: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _values(value, (*outer, name))
        elif not name.endswith(FILE):
            yield (*outer, name), value


def _shown(value: Any) -> str:
    if isinstance(value, SecretStr):
        return "(not shown)" if value.get_secret_value() else '""'
    if isinstance(value, tuple):
        return f"({len(value)} of them)"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
