"""The container file: hadolint's word, and what its commands have that can be run without an engine."""

import asyncio
import json
import subprocess
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from proxy.tools.cli import main
from tests.bench.processes import free_port
from tests.certificates import Authority
from tests.programs import deploy_tool
from tests.proxy_under_test import teed
from tests.stage import Stage

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


def test_health_check_runs_what_is_copied() -> None:
    """With the file that the proxy is started with."""
    (check,), (arguments,) = instructions("HEALTHCHECK"), instructions("CMD")
    command = json.loads(check.partition("CMD ")[2])
    assert f"deploy/health.py {command[2]}" in instructions("COPY")
    assert command == ["python", "-I", command[2], json.loads(arguments)[2]]


async def checked(file: Path, **settings: str) -> int:
    """Run the health check beside this configuration; return its exit status."""
    environment = {"http_proxy": "http://127.0.0.1:1", **settings}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(ROOT / "deploy/health.py"), str(file), env=environment, stderr=PIPE
    )
    await process.communicate()
    assert process.returncode is not None
    return process.returncode


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::]"])
async def test_health_check_asks_where_the_proxy_listens(upstream_url: str, tmp_path: Path, host: str) -> None:
    """By the environment, which overrides the file, or by the file: success while it serves, and none after that."""
    file, empty = tmp_path / "streamtee.toml", tmp_path / "empty.toml"
    empty.write_text("")
    async with teed(upstream_url, listen=f"{host}:0") as tee:
        listen = f"{host}:{tee.proxy.url.rpartition(':')[2]}"
        file.write_text(f'listen = "{listen}"\n')
        elsewhere = f"127.0.0.1:{free_port()}"
        assert await checked(empty, STREAMTEE_LISTEN=listen) == await checked(file) == 0
        assert await checked(file, STREAMTEE_LISTEN=elsewhere) != 0
    assert await checked(file) != 0


@pytest.mark.parametrize("client_required", [None, False, True])
async def test_health_check_asks_over_tls_if_the_proxy_has_a_certificate(
    upstream_url: str, tmp_path: Path, authority: Authority, client_required: bool | None
) -> None:
    """Whatever its name and who signed it; a proxy that wants a certificate of clients is well if it says so."""
    certificate, file = str(authority.sign("proxy.example")), tmp_path / "streamtee.toml"
    file.write_text("")
    table: dict[str, Any] = {"certificate": certificate}
    if client_required is not None:
        table |= {"client_ca": str(authority.file), "client_required": client_required}
    async with teed(upstream_url, tls=table) as tee:
        listen = {"STREAMTEE_LISTEN": tee.proxy.url.removeprefix("https://")}
        named = {f"STREAMTEE_TLS__{key.upper()}": str(value) for key, value in table.items()}
        assert await checked(file, **listen, **named) == 0
        assert await checked(file, **listen) != 0
        file.write_text("[tls]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))
        assert await checked(file, **listen) == 0
    assert await checked(file, **listen) != 0


async def test_health_check_fails_where_another_answers(stage: Stage, tmp_path: Path) -> None:
    """With another status than 200."""
    file = tmp_path / "streamtee.toml"
    file.write_text(f'listen = "{stage.url.removeprefix("http://")}"\n')
    asked = asyncio.create_task(checked(file))
    (await stage.next()).reply("503 Service Unavailable")
    assert await asked == 1
