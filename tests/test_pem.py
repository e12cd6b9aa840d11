"""PEM files that can't be used: the error names the file, and what is wrong with it."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from proxy.pem import load_authorities, load_pair
from tests.certificates import Authority

ENCODING, FORMAT = serialization.Encoding.PEM, serialization.PrivateFormat
DAMAGED = "-----BEGIN {0}-----\nbm9uc2Vuc2U=\n-----END {0}-----\n"


class Files:
    """A folder with a good pair, and with files that are none."""

    def __init__(self, folder: Path, good: Path) -> None:
        """`good`: the file with a certificate and its key."""
        text = good.read_text()
        at = text.index("-----BEGIN PRIVATE KEY")
        other = ec.generate_private_key(ec.SECP256R1())
        secret = serialization.BestAvailableEncryption(b"x")
        contents = {
            "good.pem": text[:at],
            "good.key": text[at:],
            "other.key": other.private_bytes(ENCODING, FORMAT.PKCS8, serialization.NoEncryption()).decode(),
            "locked.key": other.private_bytes(ENCODING, FORMAT.PKCS8, secret).decode(),
            "old.key": other.private_bytes(ENCODING, FORMAT.TraditionalOpenSSL, secret).decode(),
            "text": "no PEM",
            "empty": "",
            "bad.pem": DAMAGED.format("CERTIFICATE"),
            "bad.key": DAMAGED.format("PRIVATE KEY"),
        }
        for name, content in contents.items():
            (folder / name).write_text(content)
        self.folder = folder

    def path(self, name: str) -> str:
        return str(self.folder / name) if name else ""


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Files:
    return Files(tmp_path, authority.sign("localhost"))


def refusal(load: Callable[[], None]) -> str:
    try:
        load()
    except OSError as error:
        return str(error)
    return "it was loaded"


def context_of_a_server() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("none.pem", "good.key", "none.pem can't be read: No such file"),
        ("good.pem", "none.key", "none.key can't be read: No such file"),
        ("", "good.key", "can't be read"),
        ("text", "good.key", "text has no certificate in PEM"),
        ("empty", "good.key", "empty has no certificate in PEM"),
        ("good.key", "good.key", "good.key has no certificate in PEM"),
        ("good.pem", "", "good.pem has no private key in PEM"),
        ("good.pem", "text", "text has no private key in PEM"),
        ("good.pem", "other.key", "other.key is not that of the certificate in"),
        ("good.pem", "locked.key", "locked.key is encrypted; only keys without a password"),
        ("good.pem", "old.key", "old.key is encrypted; only keys without a password"),
        ("bad.pem", "good.key", "bad.pem or"),
        ("good.pem", "bad.key", "bad.key is damaged"),
    ],
)
def test_pair_that_cannot_be_used_is_named(files: Files, certificate: str, key: str, said: str) -> None:
    """With the file that is wrong, and nothing of what it holds; nobody is asked for a password."""
    words = refusal(lambda: load_pair(context_of_a_server(), files.path(certificate), files.path(key)))
    assert said in words
    assert "bm9uc2Vuc2U" not in words


def test_key_in_the_place_of_its_file_is_not_shown(files: Files) -> None:
    """Others' configurations have the text of a key where ours has the name of its file."""
    text = Path(files.path("good.key")).read_text(encoding="ascii")
    words = refusal(lambda: load_pair(context_of_a_server(), files.path("good.pem"), text))
    assert words == "the text of a key or a certificate is given in the place of its file's name"


@pytest.mark.parametrize("name", ["none.pem", "text", "good.key", "bad.pem"])
def test_authorities_that_cannot_be_used_are_named(files: Files, name: str) -> None:
    """A key is no authority."""
    assert name in refusal(lambda: load_authorities(context_of_a_server(), files.path(name)))


def test_pair_and_authorities_that_are_good_are_used(files: Files, tmp_path: Path) -> None:
    """In two files, or in one."""
    load_pair(context_of_a_server(), files.path("good.pem"), files.path("good.key"))
    both = tmp_path / "both.pem"
    both.write_text(Path(files.path("good.pem")).read_text() + Path(files.path("good.key")).read_text())
    load_pair(context_of_a_server(), str(both), "")
    trusting = context_of_a_server()
    load_authorities(trusting, files.path("good.pem"))
    assert trusting.cert_store_stats()["x509"] == 1
