"""Tokens: what is signed is known again, and nothing else is; and how they are kept from going upstream."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hmac import digest

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.access.capabilities import (
    RIGHTS,
    Capabilities,
    Capability,
    cookie,
    url,
    without_cookie,
    without_parameter,
)

SECRET, OLDER = "the secret that signs, 32 and more", "the secret that signed, 32 and more"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

secrets = st.text(min_size=32, max_size=64)
capabilities = st.builds(
    Capability,
    st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26).map("st_".__add__),
    st.sets(st.sampled_from(RIGHTS), min_size=1).map(lambda rights: tuple(r for r in RIGHTS if r in rights)),
    st.integers(1, 10**12),
)
signer = Capabilities([SECRET])


def signed(body: bytes) -> str:
    """Return a token of any body, well signed."""
    written = urlsafe_b64encode(body).rstrip(b"=")
    return b".".join([written, urlsafe_b64encode(digest(SECRET.encode(), written, "sha256")).rstrip(b"=")]).decode()


@given(capabilities, secrets)
def test_what_was_signed_is_known_again(capability: Capability, secret: str) -> None:
    """Whatever the stream, the rights, the time and the secret."""
    ours = Capabilities([secret])
    assert ours.verify(ours.sign(capability)) == capability


@given(capabilities)
def test_token_is_as_documented(capability: Capability) -> None:
    """`base64url(id|rights|expiry).base64url(HMAC-SHA256)`; it needs no escape in a URL, a cookie or a header."""
    token = signer.sign(capability)
    body = f"{capability.ident}|{','.join(capability.rights)}|{capability.expires_at}".encode()
    assert token == signed(body)
    assert set(token) <= {*ALPHABET, "."}
    assert url(capability, token) == f"/v1/streams/{capability.ident}?t={token}"


@given(capabilities, st.data())
def test_token_with_any_bit_flipped_is_refused(capability: Capability, data: st.DataObject) -> None:
    """In what it says, in its signature, in the dot."""
    token = bytearray(signer.sign(capability).encode())
    bit = data.draw(st.integers(0, len(token) * 8 - 1))
    token[bit // 8] ^= 1 << bit % 8
    assert signer.verify(token.decode("utf-8", "surrogateescape")) is None


@given(capabilities)
def test_every_other_last_character_is_refused(capability: Capability) -> None:
    """Also those that stand for the same bytes: base64 leaves bits of the last one unused."""
    token = signer.sign(capability)
    body, _, signature = token.partition(".")
    for spelled in (f"{body[:-1]}%s.{signature}", f"{body}.{signature[:-1]}%s"):
        known = [character for character in ALPHABET if signer.verify(spelled % character) is not None]
        assert len(known) == 1


@given(capabilities, st.data())
def test_token_cut_or_lengthened_is_refused(capability: Capability, data: st.DataObject) -> None:
    """Padding and white space included."""
    token = signer.sign(capability)
    assert signer.verify(token[: data.draw(st.integers(0, len(token) - 1))]) is None
    for more in ("=", "==", ".", " ", "\n", data.draw(st.text(min_size=1, max_size=9))):
        assert signer.verify(token + more) is None
        assert signer.verify(more + token) is None
    assert signer.verify(token.replace(".", "=.")) is None


@given(st.text(max_size=300))
def test_text_is_no_token(text: str) -> None:
    """Nor is anything an error, surrogates included."""
    assert signer.verify(text) is None
    assert signer.verify(text + ".\udc80\ud800") is None


@given(capabilities, capabilities)
def test_signature_of_one_is_none_of_another(one: Capability, other: Capability) -> None:
    """Its stream, its rights and its time are all signed."""
    assume(one != other)
    mixed = signer.sign(one).partition(".")[0] + "." + signer.sign(other).partition(".")[2]
    assert signer.verify(mixed) is None


@pytest.mark.parametrize(
    "body",
    [
        b"", b"st_x", b"st_x|read", b"st_x|read|", b"st_x||1", b"st_x|write|1", b"st_x|read,|1", b"st_x|read|-1",
        b"st_x|read|01", b"st_x|read|1.5", b"|read|1", b"st_x|read|1|2", b"st_x|read|1\n", b"\xff|read|1",
        b"st_x|read|" + b"9" * 99,
    ],
)  # fmt: skip
def test_body_that_would_not_be_signed_is_refused(body: bytes) -> None:
    """Even where the signature is good."""
    assert signer.verify(signed(body)) is None
    assert signer.verify(signed(b"st_x|read|1")) == Capability("st_x", ("read",), 1)


def test_secrets_rotate() -> None:
    """The first signs, all verify; who has left the list is not believed any more."""
    one = Capability("st_x", ("read",), 1)
    old, both, new = Capabilities([OLDER]), Capabilities([SECRET, OLDER]), Capabilities([SECRET])
    assert both.verify(old.sign(one)) == one
    assert both.sign(one) == new.sign(one) != old.sign(one)
    assert new.verify(old.sign(one)) is None
    assert old.verify(new.sign(one)) is None


def test_without_secrets_nothing_is_believed() -> None:
    """Not what an empty secret would have signed, either."""
    nobody = Capabilities([])
    assert not nobody
    assert signer
    assert nobody.verify(Capabilities([""]).sign(Capability("st_x", ("read",), 1))) is None


@pytest.mark.parametrize(
    ("target", "left"),
    [
        ("/a", "/a"),
        ("/a?", "/a?"),
        ("/a?t=x", "/a"),
        ("/a?t", "/a"),
        ("/a?%74=x", "/a"),
        ("/a?b=1&t=x&c=%20+", "/a?b=1&c=%20+"),
        ("/a?t=x&t=y&b", "/a?b"),
        ("/a?b=t=x&tt=1&T=2", "/a?b=t=x&tt=1&T=2"),
        ("/a?b&&c?t=x", "/a?b&&c?t=x"),
        ("/t=x", "/t=x"),
        ("http://h/a?t=x&b", "http://h/a?b"),
    ],
)
def test_parameter_is_taken_out_of_a_target(target: str, left: str) -> None:
    """However it is escaped; every other byte stays."""
    assert without_parameter(target) == left


@pytest.mark.parametrize(
    ("header", "token", "left"),
    [
        (b"", None, b""),
        (b"a=1; b=2", None, b"a=1; b=2"),
        (b"stream_token=x.y", "x.y", b""),
        (b"a=1; stream_token=x.y", "x.y", b"a=1"),
        (b"stream_token=x.y; a=\xe9", "x.y", b"a=\xe9"),
        (b"a=1;stream_token=x; b=2;  stream_token=y", "x", b"a=1; b=2"),
        (b'stream_token="x.y"', "x.y", b""),
        (b"my_stream_token=x", None, b"my_stream_token=x"),
        (b"stream_token=", "", b""),
    ],
)
def test_cookie_is_read_and_taken_out(header: bytes, token: str | None, left: bytes) -> None:
    """The first of several is meant; the other cookies stay as they are."""
    assert cookie(header.decode("latin-1")) == token
    headers = [(b"X-A", b"stream_token=x"), (b"COOKIE", header), (b"X-B", b"")]
    assert without_cookie(headers) == [headers[0], *([(b"COOKIE", left)] if left else []), headers[2]]


def test_body_is_plain_to_read() -> None:
    """A token says for whom it is without the secret: it is signed, not hidden."""
    body = signer.sign(Capability("st_x", ("read", "info"), 7)).partition(".")[0]
    assert urlsafe_b64decode(body + "==") == b"st_x|read,info|7"
