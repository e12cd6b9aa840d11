"""`streamtee completion`: prints the script by which a shell completes commands and options."""

import click
from click.shell_completion import get_completion_class

from proxy.tools.command_error import CommandError

_EXAMPLES = """\b
Examples:
  echo 'eval "$(streamtee completion bash)"' >> ~/.bashrc
  echo 'eval "$(streamtee completion zsh)"' >> ~/.zshrc
  streamtee completion fish > ~/.config/fish/completions/streamtee.fish
"""


@click.command(epilog=_EXAMPLES, short_help="Print a script that completes commands.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in a shell."""
    made = get_completion_class(shell)
    if made is None:
        raise CommandError(f"this version of click does not know {shell}")
    click.echo(made(ctx.find_root().command, {}, "streamtee", "_STREAMTEE_COMPLETE").source())
