"""Event ids: what is written is read back, and nothing else is read."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.event_id import EventId, prefix, read_event_id

EPOCHS = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=6, max_size=6)
PACKAGE = Path(__file__).parents[2] / "proxy"
SIGNS = ("-%d", "%b-", "-([0-9]", "-)?([0-9]")


@given(EPOCHS, st.integers(0, 10**18 - 1))
def test_id_that_is_written_is_read(epoch: str, seq: int) -> None:
    """By both ways of writing one."""
    written = bytes(EventId(epoch, seq))
    assert prefix(epoch) + b"%d" % seq == written == f"{epoch}-{seq}".encode()
    assert read_event_id(written.decode()) == EventId(epoch, seq)


@pytest.mark.parametrize(
    "text",
    ["", "7", "abcdef", "abcdef-", "-7", "abcde-7", "abcdefg-7", "ABCDEF-7", "abcde1-7", "abcdef--7", "abcdef-7\n",
     "abcdef-+7", "abcdef-7 ", "abcdef-٧", "abcdef-" + "1" * 19],
)  # fmt: skip
def test_text_that_is_no_id_of_ours_is_none(text: str) -> None:
    """It is an upstream's own, a bare number, or nothing."""
    assert read_event_id(text) is None


def test_ids_are_written_and_read_in_one_module() -> None:
    """Nobody else spells one, nor a pattern of one."""
    paths = {path for path in PACKAGE.rglob("*.py") if "tools" not in path.parts}
    spelt = {path.relative_to(PACKAGE).as_posix() for path in paths if any(map(looks_like_one, constants(path)))}
    assert spelt == {"wire/event_id.py"}


def constants(path: Path) -> list[str]:
    """Return the strings of a module."""
    values = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    texts = [value.decode("latin-1") if isinstance(value, bytes) else value for value in values]
    return [text for text in texts if isinstance(text, str)]


def looks_like_one(text: str) -> bool:
    """Return whether a string puts a number behind a hyphen, or looks for one there."""
    return any(sign in text.replace("%m-%d", "") for sign in SIGNS)  # which is of a date
