"""What one frame adds to a response: which channels go together, and a frame that is sent as it came."""

import pytest

from proxy.dialects.documents.increment import Channel, Kind, Statement

NAME, ARGUMENTS = Channel(0, "tool_calls", 2, "name", Kind.LABEL), Channel(0, "tool_calls", 2, "arguments")


@pytest.mark.parametrize(
    ("other", "goes_along"),
    [
        (ARGUMENTS, True),
        (ARGUMENTS._replace(kind=Kind.DATA), True),
        (ARGUMENTS._replace(place=1), False),
        (ARGUMENTS._replace(part=1), False),
        (ARGUMENTS._replace(name="content"), False),
    ],
)
def test_channels_of_one_call_are_a_group(other: Channel, goes_along: bool) -> None:
    """Its id, name and arguments may be merged into one frame; those of another call, part or kind of text may not."""
    assert (other.group == NAME.group) is goes_along


def test_statement_is_sent_as_it_came_whatever_is_put_into_it() -> None:
    """What it says counts for other modes alone: its own data stays, byte for byte."""
    data = b'{"type":  "content_block_start"}'
    one = Statement(data, [(NAME, "get_weather"), (ARGUMENTS._replace(part=0), "{}")])
    one.put(NAME, "other")
    one.keep_only((9, "content", -1))
    assert one.data() is data
    assert [text for _, text in one.texts] == ["get_weather", "{}"]
    assert (one.parts, one.alone, one.altered, one.whole) == ((0,), True, False, False)
