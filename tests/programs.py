"""Programs that some tests need, which not every machine has."""

import os
import shutil

import pytest


def system_tool(name: str) -> str:
    """Return the path of a program. Without it the test is skipped, saying so; with CI=true it fails."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed; tests/system_tools.sh installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
