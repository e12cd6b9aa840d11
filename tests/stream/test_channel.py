"""Pieces of a text, and telling increments from texts that repeat all before them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.stream.channel import Listener, Pieces

texts = st.lists(st.text(st.sampled_from("ab你"), max_size=4), max_size=8)


def pieces_of(*texts: str) -> Pieces:
    """Return pieces that come with every second frame: 2, 4, 6, ..."""
    pieces = Pieces()
    for place, text in enumerate(texts, 1):
        pieces.add(2 * place, text)
    return pieces


def heard(expected: bool, *texts: str) -> list[str]:
    """Return the increments that texts bring, and then what is still to be said when the choice finishes."""
    listener = Listener()
    return [*(listener.hear(text, expected) for text in texts), listener.settle(expected)]


def repeated(increments: list[str]) -> list[str]:
    """Return what a cumulative upstream sends."""
    return ["".join(increments[: place + 1]) for place in range(len(increments))]


@given(texts, st.integers(0, 16), st.integers(0, 16))
def test_text_of_a_span_is_what_its_frames_said(texts: list[str], one: int, other: int) -> None:
    """The span begins after one offset and goes to the other; spans that meet add up."""
    pieces, (start, end) = pieces_of(*texts), sorted((one, other))
    assert pieces.text(start, end) == "".join(text for place, text in enumerate(texts, 1) if start < 2 * place <= end)
    assert pieces.text(0, start) + pieces.text(start, end) + pieces.text(end, 99) == "".join(texts)


def test_span_knows_which_of_its_frames_spoke() -> None:
    """First and last, and whether any did before an offset."""
    pieces = pieces_of("a", "b", "c")
    assert (pieces.spoken(2, 6), pieces.spoken(0, 3), pieces.spoken(4, 5)) == ((4, 6), (2, 2), None)
    assert (pieces.begun(1), pieces.begun(2), Pieces().begun(9)) == (False, True, False)


def test_byte_is_found_in_the_piece_that_says_it() -> None:
    """In UTF-8; the one behind the last is in no piece, and beyond it there is none."""
    pieces = pieces_of("a你", "b")
    assert [pieces.locate(at) for at in range(6)] == [(2, 0), (2, 1), (2, 2), (2, 3), (4, 0), (0, 0)]
    with pytest.raises(IndexError, match="5"):
        pieces.locate(6)


@pytest.mark.parametrize("expected", [False, True])
@given(texts)
def test_texts_that_differ_from_the_first_are_increments(expected: bool, texts: list[str]) -> None:
    """One that does not begin with the whole text before it is enough, whatever was expected; nothing is held back."""
    told = ["We", " think", *texts]
    assert heard(expected, *told) == [*told, ""]


@pytest.mark.parametrize("expected", [False, True])
@given(st.lists(st.text(st.sampled_from("ab你"), max_size=4), max_size=8))
def test_texts_that_repeat_all_before_are_said_once(expected: bool, more: list[str]) -> None:
    """As soon as it is certain only the increments are said, and all of them in the end."""
    increments = ["The answer", " is ", *more]
    assert heard(expected, *repeated(increments)) == [*increments, ""]


@pytest.mark.parametrize("expected", [False, True])
@pytest.mark.parametrize("beginning", [["我", "是"], ["We", " think"], ["1", "0"], ["The answer", " is"]])
def test_short_beginning_of_a_cumulative_upstream_is_not_said_twice(expected: bool, beginning: list[str]) -> None:
    """Where increments were expected, the second text is held back until the third makes it certain."""
    told = heard(expected, *repeated([*beginning, ": yes", ", certainly"]))
    assert "".join(told) == "".join(beginning) + ": yes, certainly"
    assert told[0] == beginning[0]
    assert told[3] == ", certainly"


@pytest.mark.parametrize("expected", [False, True])
@pytest.mark.parametrize(
    "told",
    [
        ["ha", "haha", "!"],
        ["ha", "haha", "hahaha", "!"],
        ["1", "1", "1", "0"],
        ["\n", "\n\n", "So"],
        ["-", "---", "\n"],
    ],
)
def test_repetition_is_not_taken_for_cumulative_text(expected: bool, told: list[str]) -> None:
    """Both readings agree on what is said until a text tells them apart; then all of it has been said."""
    assert "".join(heard(expected, *told)) == "".join(told)


def test_chance_beginning_is_made_good() -> None:
    """A second text that begins with the first is no proof where increments are expected."""
    assert heard(False, "A", "An", "d then", " some") == ["A", "", "And then", " some", ""]


@pytest.mark.parametrize(("expected", "said"), [(False, "hahaha"), (True, "haha")])
def test_what_can_not_be_told_is_as_expected_in_the_end(expected: bool, said: str) -> None:
    """When the choice finishes."""
    assert "".join(heard(expected, "ha", "haha")) == said


@pytest.mark.parametrize("expected", [False, True])
def test_empty_texts_tell_nothing(expected: bool) -> None:
    """An idle channel says "" beside another that speaks."""
    assert "".join(heard(expected, "", "Once", "", "Once upon", "Once upon a", "")) == "Once upon a"


@given(st.booleans(), texts)
@example(False, ["a", "ab", "aba"])
def test_first_text_is_said_at_once(expected: bool, texts: list[str]) -> None:
    """The first token never waits."""
    first = next((text for text in texts if text), "")
    told = heard(expected, *texts)
    assert next((text for text in told if text), "") == first


def test_cumulative_text_that_begins_anew_is_said_whole() -> None:
    """As when the upstream drops what it said: nothing can be taken back."""
    assert heard(True, "Hello", "Hello there", "Bye", "Bye now") == ["Hello", " there", "Bye", " now", ""]
