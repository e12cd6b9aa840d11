"""The container file: hadolint's word, and what its commands have that can be run without an engine."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from proxy.tools.cli import main
from tests.programs import deploy_tool
from tests.proxy_under_test import teed

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy/Containerfile"
TEXT = FILE.read_text()
LINES = TEXT.replace("\\\n", " ").splitlines()


def instructions(name: str) -> list[str]:
    """Return the arguments of all instructions of a name."""
    return [line.partition(" ")[2].strip() for line in LINES if line.startswith(name + " ")]


def test_hadolint_finds_nothing_wrong() -> None:
    """Its rules on how images are made small and safe."""
    done = subprocess.run([deploy_tool("hadolint"), str(FILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_is_there_and_let_through() -> None:
    """The list of what the builder is sent names no more than that."""
    copied = {word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]}
    ignored = (ROOT / "deploy/Containerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert all((ROOT / path).exists() for path in copied)


def test_image_runs_the_command_as_nobody_in_particular() -> None:
    """By a number, from which it can be seen that it is not root; the image is made of the environment alone."""
    (user,) = instructions("USER")
    assert int(user) > 0
    assert f"--uid {user} " in TEXT
    stages = TEXT.split("FROM ${BASE}")
    assert "apt-get" not in stages[2]
    assert "--without-pip" in stages[1]
    (entry,), (arguments,) = instructions("ENTRYPOINT"), instructions("CMD")
    assert json.loads(entry) == ["streamtee"]
    told = CliRunner().invoke(main, [json.loads(arguments)[0], "--help"])
    assert all(word in told.output for word in json.loads(arguments) if word.startswith("--"))


async def test_health_check_asks_what_it_should(upstream_url: str) -> None:
    """Its command, run as it is but for the port: success while the proxy serves, and none after that."""
    (check,) = instructions("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    async with teed(upstream_url) as tee:
        port = tee.proxy.url.rpartition(":")[2]
        assert command[2].count("8080") == 1
        run = [sys.executable, *command[1:2], command[2].replace("8080", port)]
        done = await asyncio.to_thread(subprocess.run, run, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    done = await asyncio.to_thread(subprocess.run, run, capture_output=True, check=False)
    assert done.returncode != 0
