"""Programs that some tests need, which not every machine has."""

import os
import shutil
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


def deploy_tool(name: str) -> str:
    """Return the path of a program of the environment in tests/deploy, which only CI has unless it is asked for."""
    path = _DEPLOY / name
    if not path.exists():
        _lack(f"{name} is not installed; WITH_DEPLOY=1 tests/system_tools.sh installs it")
    return str(path)


def _lack(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
