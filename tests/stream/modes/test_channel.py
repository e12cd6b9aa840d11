"""Pieces of a text, and telling increments from texts that repeat all before them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.dialects.documents.increment import Kind
from proxy.stream.modes.channel import IncrementDetector, Pieces, utf8

texts = st.lists(st.text(st.sampled_from("ab你"), max_size=4), max_size=8)


def pieces_of(*texts: str) -> Pieces:
    """Return pieces that come with every second frame: 2, 4, 6, ..."""
    pieces = Pieces()
    for place, text in enumerate(texts, 1):
        pieces.add(2 * place, text)
    return pieces


def heard(expected: bool, *texts: str) -> list[str]:
    """Return the increments that texts bring, and then what is still to be said when the choice finishes."""
    detector = IncrementDetector()
    return [*(detector.read(text, expected) for text in texts), detector.settle(expected)]


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
    assert (pieces.extent(2, 6), pieces.extent(0, 3), pieces.extent(4, 5)) == ((4, 6), (2, 2), None)
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


@given(st.lists(st.text(st.sampled_from("ab你"), max_size=4), max_size=8))
def test_texts_that_repeat_all_before_are_said_once(more: list[str]) -> None:
    """Where that is expected, from the second on only the increments are said, and all of them in the end."""
    increments = ["The answer", " is ", *more]
    assert heard(True, *repeated(increments)) == [*increments, ""]


@pytest.mark.parametrize("words", [["The", " answer"], ["我", "是"], ["Wo", "rd "], ["#", " T"]])
def test_upstream_that_repeats_all_before_is_found_out(words: list[str]) -> None:
    """Where increments are expected, it takes nine texts; nothing is said twice, then or later."""
    told = heard(False, *repeated([*words * 2, " x", "yz", " a", "ns", "we", "r i", "s this", " and", " that"]))
    assert "".join(told) == "".join([*words * 2, " x", "yz", " a", "ns", "we", "r i", "s this", " and", " that"])
    assert told[0] == words[0]
    assert told[-2] == " that"


def growing(line: str, seam: str, count: int) -> list[str]:
    """Return increments each of which begins with the whole one before."""
    return [seam + line[: size + 1] for size in range(count)]


@pytest.mark.parametrize(
    "told",
    [
        [
            "Happy birthday to you,\n",
            "Happy birthday to you,\nHappy birthday dear ",
            "Ada,\n",
            "Happy birthday to you!",
        ],
        ["==========", "==========\n= Report =", "\nDone"],
        ["|------|------|", "|------|------|\n| a | b |", "\n"],
        ["1", "10", "100", "1000", " done"],
        ["1", "10", "100", "1000", "10000", "100000", "1000000"],
        ["No", "No, not", " that"],
        ["A", "An", "And", "And so"],
        growing("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJ", " ", 30),
        growing("*" * 40, "\n", 40),
        growing("1234567890abcdefghijklmnopqrstuvwxyz", "\n", 36),
        growing("I packed my bag and took a hat with me", "\n", 36),
        ["x", "xy"] * 9,
        ["a\n", "a\nb\n", "a\nb\nc\n", "a\nb\nc\nd\n"] * 3,
        ["".join(f"{n}\n" for n in range(size)) for size in range(1, 30)],
        ["<", "<p", "<p>", "<p>x"],
    ],
)
def test_what_a_model_may_write_is_not_taken_for_cumulative_text(told: list[str]) -> None:
    """Songs, banners, tables, triangles of letters: every text is said, as often as it came."""
    assert "".join(heard(False, *told)) == "".join(told)


def test_held_back_is_not_more_than_some_texts() -> None:
    """What is in doubt for long is increments: nothing waits for the end of a stream."""
    told = heard(False, *growing("1234567890abcdefghijklmnopqrstuvwxyz", "\n", 30), "!")
    assert told[-2] == "!"
    assert told[20]


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


def test_empty_texts_tell_nothing() -> None:
    """An idle channel says "" beside another that speaks."""
    assert "".join(heard(True, "", "Once", "", "Once upon", "Once upon a", "")) == "Once upon a"


def test_label_that_is_said_again_says_nothing() -> None:
    """A name may come in pieces, though, or longer than before."""
    for told, said in (
        (["f", "f"], "f"),
        (["get_", "weather"], "get_weather"),
        (["get", "get_weather"], "get_weather"),
    ):
        pieces = Pieces(Kind.LABEL)
        for seq, text in enumerate(told, 1):
            pieces.add(seq, pieces.read(text, False))
        assert pieces.so_far(9) == said


def test_mark_is_what_was_said_last() -> None:
    """Up to any offset."""
    pieces = Pieces(Kind.MARK)
    pieces.add(1, "assistant")
    pieces.add(3, "tool")
    assert [pieces.so_far(end) for end in range(4)] == ["", "assistant", "assistant", "tool"]


@pytest.mark.parametrize(
    ("increments", "wholes", "said"),
    [
        ([], ["Hello"], "Hello"),
        (["Hel", "lo"], ["Hello"], "Hello"),
        (["Hel"], ["Hello"], "Hello"),
        (["Hello "], ["Hello"], "Hello "),
        ([], ["Hel", "Hello"], "Hello"),
        ([], ["Hel", "lo"], "Hello"),
        ([], ["Hello", "Hello"], "Hello"),
    ],
)
def test_text_that_is_all_there_is_adds_what_is_missing(increments: list[str], wholes: list[str], said: str) -> None:
    """Some servers end with the whole message, or send nothing but messages, whole ones or in pieces."""
    pieces = Pieces()
    for text in increments:
        pieces.add(1, pieces.read(text, False))
    for text in wholes:
        pieces.add(2, pieces.read_whole(text))
    pieces.add(2, pieces.settle(True))
    assert pieces.text(0, 9) == said


def test_half_a_character_is_written_as_its_replacement() -> None:
    """A text may end within one."""
    assert utf8("a\ud83d") == "a\ufffd".encode()
    assert utf8("溪") == "溪".encode()


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
