"""How a command that can't do what it was told ends: with one line on stderr and an exit status."""

from typing import IO, Any

import click


class CommandError(click.ClickException):
    """A command can't do what it was told; the message says why. Exit status 2, unless it is given."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click has it on the class, and reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message as all of the commands do."""
        click.echo(f"streamtee: {self.message}", err=True)
