"""The units of deploy/systemd: systemd's own checks, and that the service runs under what they forbid."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from proxy.server.config import Config
from tests.http_client import Client, request
from tests.programs import system_tool
from tests.proxy_under_test import CHAT, chat_body, faked
from tests.spawned import FREE, GUARD_S, serving_at

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy/systemd"
SERVICE = (UNITS / "streamtee.service").read_text()
SOCKET = (UNITS / "streamtee.socket").read_text()
EXPOSURE = 15
"""Tenths: the most that `systemd-analyze security` may find. Its network and its addresses are a proxy's business."""
CONFINED = """\
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
if libc.prctl(65, 1, 0, 0, 0):          # PR_SET_MDWE, which passes on to what is executed
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""


def setting(name: str, unit: str = SERVICE) -> list[str]:
    """Return the values of a setting, in their order."""
    return re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a command that exists."""
    for path in UNITS.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/streamtee/bin/streamtee", "/bin/true"))
    return tmp_path


def complaints(*arguments: str) -> str:
    """Run systemd-analyze; return what it finds, "" if that is nothing."""
    done = subprocess.run([system_tool("systemd-analyze"), *arguments], capture_output=True, text=True, check=False)
    if (done.returncode, done.stderr) == (0, ""):
        return ""
    return f"exit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr}"


def test_units_are_valid(units: Path) -> None:
    """`systemd-analyze verify` knows every setting and value in them."""
    assert complaints("verify", *(str(path) for path in units.iterdir())) == ""


def test_unknown_setting_is_found(units: Path) -> None:
    """So that the test above would fail for one."""
    service = units / "streamtee.service"
    service.write_text(service.read_text().replace("ProtectSystem=", "ProtectSistem="))
    assert "ProtectSistem" in complaints("verify", str(service))


def test_service_is_sandboxed(units: Path) -> None:
    """`systemd-analyze security --offline` finds no more exposure than is allowed."""
    security = "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager"
    assert complaints(*security, str(units / "streamtee.service")) == ""


def test_units_fit_the_proxy() -> None:
    """Command and signal, what the code sends to systemd, ports, exit status, and descriptors for what it may have."""
    assert setting("ExecStart") == ["/opt/streamtee/bin/streamtee serve --config /etc/streamtee/streamtee.toml"]
    assert (setting("Type"), setting("ExecReload")) == (["notify"], ["/bin/kill -HUP $MAINPID"])
    assert setting("RestartPreventExitStatus") == ["2"]
    assert float(setting("WatchdogSec")[0]) >= 10
    assert setting("ListenStream", SOCKET) == [Config.model_fields["listen"].default]
    limits = Config.model_fields["limits"].default
    assert int(setting("LimitNOFILE")[0]) >= 2 * (limits.streams + limits.followers)
    assert "AF_UNIX" in setting("RestrictAddressFamilies")[0].split(), "NOTIFY_SOCKET is one"


def test_units_are_those_that_the_readme_installs() -> None:
    """By their names, with the folders that they expect."""
    readme = (ROOT / "deploy/README.md").read_text()
    for path in UNITS.iterdir():
        assert f"deploy/systemd/{path.name}" in readme
    for path in ("/opt/streamtee/bin/", "/etc/streamtee/environment", "/etc/streamtee/streamtee.toml"):
        assert path in readme
        assert path in SERVICE


async def test_service_runs_where_no_memory_is_written_and_executed(bare_environment: None) -> None:
    """As MemoryDenyWriteExecute has it: it starts, streams, reads its configuration again, and ends."""
    assert setting("MemoryDenyWriteExecute") == ["yes"]
    async with faked() as fake:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CONFINED, sys.executable, "-m", "proxy.tools.cli", "serve"),
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, **FREE, "STREAMTEE_UPSTREAM__URL": fake.url},
        )
        try:
            async with asyncio.timeout(GUARD_S):
                url, _ = await serving_at(process)
                client = await Client.connect(url)
                client.send(request("POST", CHAT, body=chat_body()), method="POST")
                assert (await (await client.answer()).read()).endswith(b"data: [DONE]\n\n")
                process.send_signal(signal.SIGHUP)
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
        except IndexError:
            if await process.wait() == 77:
                pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
            raise
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()
