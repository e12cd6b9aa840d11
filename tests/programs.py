"""Programs that some tests need, which not every machine has."""

import asyncio
import os
import shutil
import sysconfig
from pathlib import Path
from typing import NoReturn

import pytest

_DEPLOY = Path(__file__).parent / "deploy/.venv/bin"


def system_tool(name: str) -> str:
    """Return the path of a program. Without it the test is skipped, saying so; with CI=true it fails."""
    path = shutil.which(name)
    if path is None:
        _lack(f"{name} is not installed; tests/system_tools.sh installs it")
    return path


def c_compiler() -> str:
    """Return the path of a C compiler, if there are Python's headers for it, too. Otherwise as `system_tool`."""
    headers = Path(sysconfig.get_config_var("INCLUDEPY"), "Python.h")
    if not headers.exists():
        _lack(f"there are no headers of Python, {headers}; tests/system_tools.sh installs those of Debian's")
    return system_tool("cc")


def deploy_tool(name: str) -> str:
    """Return the path of a program of the environment in tests/deploy, which only CI has unless it is asked for."""
    path = _DEPLOY / name
    if not path.exists():
        _lack(f"{name} is not installed; WITH_DEPLOY=1 tests/system_tools.sh installs it")
    return str(path)


async def wait_listening(process: asyncio.subprocess.Process, port: int) -> bool:
    """Wait until a server takes connections; return False if it has ended before."""
    while process.returncode is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.close()
        return True
    return False


def _lack(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
