"""`streamtee keys`: makes, lists, limits, disables, expires and rotates the keys of callers, in the keys file.

A running proxy reads the file within a second of each change; nothing is cut off.
"""

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click
from pydantic import ValidationError

from proxy.access.key_file import (
    CallerRecord,
    CallerRecords,
    KeyRecord,
    check_name,
    locked,
    new_key,
    read_records,
    write_records,
)
from proxy.access.limits import DIVIDED, CallerLimits
from proxy.objections import objection
from proxy.server.config import load

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NUMBERS = (*DIVIDED, "body_bytes")
_LISTS = ("models", "routes", "modes")
_Command = Callable[..., None]


def _limit_options(command: _Command) -> _Command:
    """Add an option for each limit."""
    for name in reversed(_LISTS):
        text = f"{name.capitalize()} that it may ask for, separated by commas; all if not given."
        command = click.option(f"--{name}", help=text)(command)
    for name in reversed(_NUMBERS):
        option = click.option(f"--{name.replace('_', '-')}", type=click.IntRange(0), help="0 is no limit.")
        command = option(command)
    return command


_EXAMPLES = """\b
Examples:
  streamtee keys --file keys.json add alice --expires 90d
  streamtee keys --file keys.json limit alice --help
  streamtee keys --file keys.json rotate alice --grace 24h
"""


@click.group(epilog=_EXAMPLES, short_help="Make and change the keys of callers.")
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="The keys file.")
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path, dir_okay=False), help="Or the file that names it."
)
@click.pass_context
def keys(context: click.Context, file: Path | None, config_file: Path | None) -> None:
    """Make and change the keys of callers, in the file that auth.keys_file names."""
    context.obj = lambda: file or _configured(config_file)


@keys.command()
@click.argument("name")
@click.option("--expires", metavar="TIME", help="When the key expires: in 90s, 30m, 12h, 30d, or at 2027-01-31.")
@click.option("--subject", help="Subject of the client certificate of this caller, as CN=alice,O=Example.")
@click.option("--no-key", is_flag=True, help="Make no key: the caller has a certificate only.")
@_limit_options
@click.pass_obj
def add(
    file: Callable[[], Path], /, name: str, expires: str | None, subject: str | None, no_key: bool, **limits: Any
) -> None:
    """Add a caller, or one more key of a caller that is there, and print the key. It is shown only this once."""
    expires_at = _expiry(expires)
    key, made = new_key(time.time(), expires_at)
    with _changing(file()) as change:
        before = change.records.callers.get(name, CallerRecord())
        record = before if no_key else before.with_key(made)
        record = record.model_copy(
            update={"limits": _limits(before.limits, limits), "subject": before.subject if subject is None else subject}
        )
        change.put(name, record)
    if not no_key:
        click.echo(key)


@keys.command()
@click.argument("name")
@_limit_options
@click.pass_obj
def limit(file: Callable[[], Path], /, name: str, **limits: Any) -> None:
    """Change limits of a caller; those that are not given stay."""
    with _changing(file()) as change:
        record = change.get(name)
        change.put(name, record.model_copy(update={"limits": _limits(record.limits, limits)}))


@keys.command()
@click.argument("name")
@click.pass_obj
def disable(file: Callable[[], Path], name: str) -> None:
    """Refuse a caller from now on. What it has running goes on to its end."""
    _set_disabled(file(), name, True)


@keys.command()
@click.argument("name")
@click.pass_obj
def enable(file: Callable[[], Path], name: str) -> None:
    """Accept a caller again that was disabled."""
    _set_disabled(file(), name, False)


@keys.command()
@click.argument("name")
@click.argument("when", default="0s")
@click.pass_obj
def expire(file: Callable[[], Path], name: str, when: str) -> None:
    """Have the keys of a caller expire: now, in 90s, 30m, 12h, 30d, or at 2027-01-31."""
    expires_at = _expiry(when)
    assert expires_at is not None
    with _changing(file()) as change:
        change.put(name, change.get(name).expiring(expires_at))


@keys.command()
@click.argument("name")
@click.option("--grace", default="24h", show_default=True, metavar="TIME", help="How long the old keys stay valid.")
@click.option("--expires", metavar="TIME", help="When the new key expires.")
@click.pass_obj
def rotate(file: Callable[[], Path], name: str, grace: str, expires: str | None) -> None:
    """Print a new key of a caller, which keeps its streams and limits; its old keys expire after a while."""
    until = _expiry(grace)
    assert until is not None
    key, made = new_key(time.time(), _expiry(expires))
    with _changing(file()) as change:
        change.put(name, change.get(name).expiring(until).with_key(made))
    click.echo(key)


@keys.command()
@click.argument("name")
@click.pass_obj
def remove(file: Callable[[], Path], name: str) -> None:
    """Remove a caller and all its keys."""
    with _changing(file()) as change:
        change.get(name)
        change.put(name, None)


@keys.command("list")
@click.pass_obj
def list_keys(file: Callable[[], Path]) -> None:
    """List the callers, their keys by their ids, and their limits."""
    for name, record in sorted(_read(file()).callers.items()):
        click.echo(f"{name}{'  disabled' if record.disabled else ''}{f'  {record.subject}' if record.subject else ''}")
        for key in record.keys:
            click.echo(f"  sk-st-{key.id}-…  made {_told(key.created_at)}  {_validity(key)}")
        for limit_name, value in record.limits.model_dump(exclude_defaults=True).items():
            click.echo(f"  {limit_name} = {', '.join(value) if isinstance(value, tuple) else value}")


class _Change:
    """A change of a keys file: the records as they were read, and as they are to be written."""

    def __init__(self, records: CallerRecords) -> None:
        self.records = records

    def get(self, name: str) -> CallerRecord:
        """Return the record of a caller; without one, end the command."""
        record = self.records.callers.get(name)
        if record is None:
            _fail(f"there is no caller {name!r}; there are: {', '.join(self.records.callers) or 'none'}")
        return record

    def put(self, name: str, record: CallerRecord | None) -> None:
        """Replace the record of a caller."""
        self.records = self.records.put(check_name(name), record)


@contextlib.contextmanager
def _changing(file: Path) -> Iterator[_Change]:
    """Read a keys file, and write it if the block succeeds; keep other writers out meanwhile."""
    try:
        with locked(file):
            change = _Change(_read(file) if file.exists() else CallerRecords())
            yield change
            write_records(file, change.records)
    except OSError as error:
        _fail(f"the keys file can't be changed: {error}")
    except ValueError as error:
        _fail(_said(error))


def _set_disabled(file: Path, name: str, disabled: bool) -> None:
    with _changing(file) as change:
        change.put(name, change.get(name).model_copy(update={"disabled": disabled}))


def _limits(before: CallerLimits, given: dict[str, Any]) -> CallerLimits:
    """Return limits with those that were given replaced. Raises: ValueError."""
    new = {name: value for name, value in given.items() if value is not None}
    for name in _LISTS:
        if name in new:
            new[name] = tuple(part.strip() for part in new[name].split(",") if part.strip())
    return CallerLimits(**{**before.model_dump(), **new})


def _expiry(text: str | None) -> int | None:
    """Return a time in Unix seconds, from a date or from how long it is until then."""
    if text is None:
        return None
    after = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if after:
        return int(time.time()) + int(after[1]) * _UNITS_S[after[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        _fail(f"{text!r} is neither a time from now, as 90s, 30m, 12h or 30d, nor a date, as 2027-01-31")
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())


def _validity(key: KeyRecord) -> str:
    if key.expires_at is None:
        return "does not expire"
    return f"{'expires' if key.is_valid(time.time()) else 'expired'} {_told(key.expires_at)}"


def _told(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _configured(config_file: Path | None) -> Path:
    if config_file is None:
        _fail("which keys file? --file FILE, or --config FILE that has auth.keys_file")
    try:
        named = load(config_file).auth.keys_file
    except (OSError, ValueError) as error:
        _fail(f"{config_file} can't be read: {type(error).__name__}")
    if not named:
        _fail(f"{config_file} names no auth.keys_file")
    return Path(named)


def _read(file: Path) -> CallerRecords:
    try:
        return read_records(file)
    except (OSError, ValueError) as error:
        _fail(f"the keys file can't be read: {error}")


def _said(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {objection(first)}"
    return str(error)


def _fail(message: str) -> NoReturn:
    click.echo(f"streamtee: {message}", err=True)
    sys.exit(2)
