"""The fixtures of the tests of what is reported."""

import logging

import pytest


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> None:
    """Have pytest keep what the proxy logs."""
    caplog.set_level(logging.INFO, "streamtee")
