"""What is encrypted for one place: read there by who has a key, and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.store.cipher import Cipher
from proxy.store.entries import UnreadableError

FIRST, SECOND, THIRD = (bytes([n]) * 32 for n in range(3))


@given(st.binary(max_size=200), st.text(max_size=10), st.text(max_size=10))
def test_what_was_encrypted_is_read_again(data: bytes, place: str, at: str) -> None:
    """Also by who has the key among others; and it is not the same twice."""
    once, again = (Cipher([FIRST, SECOND]).encrypt(place, at, data) for _ in range(2))
    assert once != again
    assert Cipher([SECOND, FIRST]).decrypt(place, at, once) == data
    assert len(once) == len(data) + 33


@given(st.binary(max_size=40), st.integers(0, 8 * 73 - 1))
def test_any_bit_that_is_flipped_is_noticed(data: bytes, bit: int) -> None:
    """In the head, the text or the tag."""
    cipher = Cipher([FIRST])
    changed = bytearray(cipher.encrypt("log a", "1-2", data))
    changed[bit // 8 % len(changed)] ^= 1 << bit % 8
    with pytest.raises(UnreadableError):
        cipher.decrypt("log a", "1-2", bytes(changed))


@pytest.mark.parametrize(("place", "at"), [("log b", "1-2"), ("log a", "1-3"), ("value a", "1-2")])
def test_what_was_written_elsewhere_is_refused(place: str, at: str) -> None:
    """For another stream, or for another position."""
    cipher = Cipher([FIRST])
    with pytest.raises(UnreadableError, match="was changed, or written for another place"):
        cipher.decrypt(place, at, cipher.encrypt("log a", "1-2", b"text"))


def test_key_that_is_lacking_is_named_by_its_id() -> None:
    """From which nobody can tell the key."""
    with pytest.raises(UnreadableError, match=r"a key that this process does not have \([0-9a-f]{8}\)"):
        Cipher([FIRST]).decrypt("a", "", Cipher([SECOND]).encrypt("a", "", b"text"))


@pytest.mark.parametrize("data", [b"", b"plain text that is no less than a head", b"\x01short"])
def test_what_is_not_encrypted_is_refused(data: bytes) -> None:
    """It may be anybody's."""
    with pytest.raises(UnreadableError, match="not encrypted"):
        Cipher([FIRST]).decrypt("a", "", data)


def test_keys_are_replaced_one_after_another() -> None:
    """What the old one wrote is read until it is removed; the first one writes."""
    cipher = Cipher([FIRST])
    old = cipher.encrypt("a", "", b"old")
    cipher.use([SECOND, FIRST])
    new = cipher.encrypt("a", "", b"new")
    assert (cipher.decrypt("a", "", old), cipher.decrypt("a", "", new)) == (b"old", b"new")
    cipher.use([THIRD, SECOND])
    assert cipher.decrypt("a", "", new) == b"new"
    with pytest.raises(UnreadableError):
        cipher.decrypt("a", "", old)
