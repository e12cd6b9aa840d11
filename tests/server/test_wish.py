"""What a follower asks for, read from its query."""

import pytest

from proxy.server.wish import FLUSH_BYTES, FLUSH_MS, view_of
from proxy.stream.projections import MODES
from proxy.stream.stream import View
from proxy.wire.errors import BadRequest, UnknownMode

PACED = [name for name, projection in MODES.items() if projection.paced]
PROMPT = [name for name, projection in MODES.items() if not projection.paced]


@pytest.mark.parametrize("mode", PROMPT)
def test_mode_without_a_pace_takes_none(mode: str) -> None:
    """A parameter that would do nothing is refused, and the message says where it means something."""
    assert view_of(mode) == View(mode)
    with pytest.raises(BadRequest, match=mode):
        view_of(mode, "50")


@pytest.mark.parametrize("mode", PACED)
def test_mode_with_a_pace_has_a_default(mode: str) -> None:
    """And takes another, 0 for none."""
    assert view_of(mode) == View(mode, FLUSH_MS, FLUSH_BYTES)
    assert view_of(mode, "20", "100") == View(mode, 20, 100)
    assert view_of(mode, "0", "100") == View(mode)


@pytest.mark.parametrize("mode", PACED)
@pytest.mark.parametrize("number", ["", "-1", "x", "60001", "1e3", "9" * 40])
def test_pace_that_is_no_number_is_refused(mode: str, number: str) -> None:
    """The message names what is allowed."""
    with pytest.raises(BadRequest, match="60000"):
        view_of(mode, number)


def test_unknown_mode_is_refused() -> None:
    """The message names those there are."""
    with pytest.raises(UnknownMode, match="raw, events"):
        view_of("loud")
