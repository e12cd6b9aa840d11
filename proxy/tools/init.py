"""`streamtee init`: writes a short configuration by asking three questions, or, with options, none."""

import hashlib
import json
import os
import secrets
import sys
from pathlib import Path
from typing import NamedTuple

import click
from pydantic import ValidationError

from proxy.access.pages import is_loopback
from proxy.dialects import presets
from proxy.objections import objection
from proxy.server.config import address
from proxy.tools.command_error import CommandError
from proxy.upstream.settings import UpstreamConfig

_HERE, _EVERYWHERE = "127.0.0.1:8080", "0.0.0.0:8080"
_EXAMPLES = """\b
Examples:
  streamtee init
  streamtee init --yes                                    # no questions: the defaults
  streamtee init --upstream qwen-beijing --key-file /run/secrets/qwen_key --listen 0.0.0.0:8080 --output /etc/s.toml
"""


class Answers(NamedTuple):
    """What was answered: where the upstream is, the file of the key that goes there ("": callers' own), the address."""

    upstream: str
    key_file: str
    listen: str

    @property
    def needs_caller_keys(self) -> bool:
        """True where whoever reaches the port could use a key of ours."""
        return bool(self.key_file) and not is_loopback(address(self.listen)[0])


def written(answers: Answers, caller_key: str) -> str:
    """Return the text of a configuration. `caller_key`: the one that callers need, if they need any."""
    lines = [
        "# Written by `streamtee init`. All keys, with their defaults: config/streamtee.toml in the sources.",
        "# `streamtee check-config --config FILE` says what this means.",
        f"listen = {json.dumps(answers.listen)}",
        "",
        "[upstream]",
        f"url = {json.dumps(answers.upstream)}",
    ]
    if answers.key_file:
        lines.append(f"key_file = {json.dumps(answers.key_file)}")
    if caller_key:
        digest = hashlib.sha256(caller_key.encode()).hexdigest()
        lines += ["", "[auth]", 'mode = "keys"', f'keys = ["{digest}"]  # printf %s KEY | sha256sum']
    return "\n".join([*lines, ""])


@click.command(epilog=_EXAMPLES, short_help="Write a configuration by three questions.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default="streamtee.toml", show_default=True)
@click.option("--upstream", help=f"A preset such as {presets.DEFAULT}, or a URL.")
@click.option("--key-file", type=click.Path(dir_okay=False), help="File with the key that goes upstream.")
@click.option("--callers-keys", is_flag=True, help="Callers' own keys go upstream.")
@click.option("--listen", help="HOST:PORT for clients.")
@click.option("--yes", is_flag=True, help="Ask nothing: take the defaults for what is not given.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def init(
    output: Path,
    upstream: str | None,
    key_file: str | None,
    callers_keys: bool,
    listen: str | None,
    yes: bool,
    force: bool,
) -> None:
    """Write a configuration by asking three questions: where requests go, with whose key, and who may send them.

    A key that is typed in goes into a file of its own, which only you can read. If others can reach a proxy that uses
    your key, they need a key, too: one is made, and shown once.
    """
    if output.exists() and not force:
        raise CommandError(f"{output} is there already; --force replaces it, --output writes another")
    if key_file and callers_keys:
        raise click.UsageError("either --key-file, or --callers-keys")
    answers = Answers(
        _upstream(upstream, yes),
        "" if callers_keys else _key_file(key_file, output, yes),
        _listen(listen, yes),
    )
    caller_key = f"sk-{secrets.token_urlsafe(24)}" if answers.needs_caller_keys else ""
    try:
        output.write_text(written(answers, caller_key), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{output} can't be written: {error.strerror}") from None
    click.echo(f"written: {output}")
    if caller_key:
        click.echo(f"the key that callers need, which is shown only now: {caller_key}")
    click.echo(f"next:\n  streamtee check-config --config {output}\n  streamtee serve --config {output}")


def _upstream(given: str | None, yes: bool) -> str:
    question = f"Where do requests go? A preset ({', '.join(presets.names())}), or a URL"
    answer = given or (presets.DEFAULT if yes else click.prompt(question, default=presets.DEFAULT))
    try:
        UpstreamConfig(url=answer)
    except ValidationError as error:
        raise CommandError(f"the upstream {answer!r}: {objection(error.errors()[0])}") from None
    return str(answer)


def _key_file(given: str | None, output: Path, yes: bool) -> str:
    """Return the file of the key that goes upstream; "": there is none. One that is typed in is written."""
    if given or yes:
        return given or ""
    question = "With whose key? Nothing: callers send their own; else the key, which is not shown"
    key = click.prompt(question, default="", hide_input=sys.stdin.isatty(), show_default=False)
    if not key:
        return ""
    path = output.absolute().with_suffix(".key")
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"{key}\n")
    click.echo(f"written, readable by you alone: {path}")
    return str(path)


def _listen(given: str | None, yes: bool) -> str:
    answer = given or _HERE
    if not given and not yes:
        everybody = click.confirm("May other machines send requests?", default=False)
        answer = _EVERYWHERE if everybody else _HERE
    try:
        address(answer)
    except ValueError as error:
        raise CommandError(str(error)) from None
    return answer
