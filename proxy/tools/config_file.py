"""The option --config of several commands, and the configuration that it leads to."""

from pathlib import Path

import click

from proxy.server.config import Config, load
from proxy.server.configuration.mistakes import explained
from proxy.tools.command_error import CommandError

CONFIG = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file: config/streamtee.toml lists all keys, `streamtee init` writes a short one.",
)


def loaded(file: Path | None) -> Config:
    """Return the configuration of a file and the environment. Raises: CommandError, which names what is wrong."""
    try:
        return load(file)
    except (OSError, ValueError) as error:
        raise CommandError(explained(error, file)) from None
