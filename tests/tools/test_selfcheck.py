"""What `streamtee serve` refuses to run on."""

import os
import subprocess
import sys
from pathlib import Path

from proxy.tools.selfcheck import check_installation


def refused(**settings: str) -> str:
    """Return what `serve` says on standard error when it exits with 2."""
    environment = {**os.environ, "STREAMTEE_LISTEN": "127.0.0.1:0", "STREAMTEE_ADMIN": "", **settings}
    command = [sys.executable, "-m", "proxy.tools.cli", "serve"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def test_this_installation_serves() -> None:
    """The tests themselves run on a good one."""
    check_installation()


def test_slow_parser_of_aiohttp_is_refused() -> None:
    """The message says which variable brought it about."""
    assert "AIOHTTP_NO_EXTENSIONS" in refused(AIOHTTP_NO_EXTENSIONS="1")


def test_other_distribution_of_the_package_is_refused(tmp_path: Path) -> None:
    """proxy.py owns the same import name: the message names it, and says what to do."""
    info = tmp_path / "proxy_py-2.4.10.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: proxy.py\nVersion: 2.4.10\n")
    (info / "top_level.txt").write_text("proxy\n")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    message = refused(PYTHONPATH=path)
    assert "'proxy' also belongs to proxy.py" in message
    assert "virtual environment" in message
