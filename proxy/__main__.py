"""The program: `streamtee`, and `python -m proxy`. It imports little, so that a server heeds signals from the start."""

import signal
import sys


def main(prog_name: str = "streamtee") -> None:
    """Run the command line. What a server is sent while it imports waits until `tools.signals` says what it has it do.

    By default SIGHUP would end it, and SIGINT show where in the imports it was.
    """
    if sys.argv[1:2] in (["serve"], ["worker"]):
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGTERM, signal.SIGINT))
    from proxy.tools import cli

    cli.main(prog_name=prog_name)


if __name__ == "__main__":
    main("python -m proxy")
