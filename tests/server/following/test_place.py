"""Where in a log a client begins whose last event had a number, whichever: of logs that go on or have ended."""

import pytest

from proxy.server.following.place import offset_after
from proxy.stream.endings import CANCELLED, COMPLETE, PRODUCER_LOST, Ending
from proxy.stream.log import NO_FRAME, FrameLog
from proxy.wire.errors import OffsetBeyond, OffsetGone

BEYOND, GONE = OffsetBeyond, OffsetGone


def log_of(ending: Ending | None, *, dropped: int = 0) -> FrameLog:
    """Return a log of three frames."""
    log = FrameLog()
    log.extend([b"1", b"2", b"3"])
    log.trim(3 - dropped, 3)
    if ending is not None:
        log.seal(ending)
    return log


@pytest.mark.parametrize(
    ("ending", "places"),
    [
        (None, {0: 0, 3: 3, 4: BEYOND, 5: BEYOND, NO_FRAME: BEYOND, NO_FRAME + 1: BEYOND}),
        (COMPLETE, {0: 0, 3: 3, 4: 4, 5: BEYOND, NO_FRAME: BEYOND, NO_FRAME + 1: BEYOND}),
        (CANCELLED, {0: 0, 3: 3, 4: 4, 5: BEYOND, NO_FRAME: BEYOND, NO_FRAME + 1: BEYOND}),
        (PRODUCER_LOST, {0: 0, 3: 3, 4: 3, 5: 3, NO_FRAME: NO_FRAME, NO_FRAME + 1: BEYOND}),
    ],
)
def test_number_has_one_place_in_a_log(ending: Ending | None, places: dict[int, int | type[Exception]]) -> None:
    """The number of the ending is beyond the end, and is that of no frame if there may have been more of them."""
    log = log_of(ending)
    for seq, place in places.items():
        if isinstance(place, int):
            assert offset_after(log, seq) == place
        else:
            with pytest.raises(place):
                offset_after(log, seq)


def test_number_before_what_is_held_is_gone() -> None:
    """Also of a log that was cut short: what is lost at its start is not told as lost at its end."""
    log = log_of(PRODUCER_LOST, dropped=2)
    assert offset_after(log, 2) == 2
    with pytest.raises(GONE) as gone:
        offset_after(log, 1)
    assert gone.value.earliest == 3
