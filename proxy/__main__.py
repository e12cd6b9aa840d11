"""`python -m proxy`: the command line, as `streamtee` is."""

from proxy.tools.cli import main

if __name__ == "__main__":
    main(prog_name="python -m proxy")
