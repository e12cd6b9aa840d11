"""`streamtee check-config`: checks a configuration, and shows what is in force."""

from pathlib import Path

import click

from proxy.tools.config_file import CONFIG, loaded


@click.command("check-config")
@CONFIG
def check_config(config_file: Path | None) -> None:
    """Check the configuration and print the values in effect. Keys are not shown."""
    click.echo(loaded(config_file).model_dump_json(indent=2))
