"""The process that forks the servers of the tests: whatever becomes of one launcher, it serves the others."""

import os
import socket
import subprocess

import pytest

from tests.nursery import ADDRESS, nursery

_WITHIN_S = 20


@pytest.mark.parametrize("said", [b"", b'{"arguments": ["--ver'])
def test_launcher_that_is_killed_before_all_is_said_stops_nobody(said: bytes) -> None:
    """A test that is cut off kills the launcher that it has started."""
    one = nursery()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as killed:
        killed.connect(one.path)
        killed.sendall(said)
    command = (str(one.launcher), "--version")
    run = subprocess.run(command, env={**os.environ, ADDRESS: one.path}, capture_output=True, timeout=_WITHIN_S)
    assert (run.returncode, run.stdout[:9]) == (0, b"streamtee")
