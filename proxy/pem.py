"""Certificates, keys and authorities from PEM files, for TLS on either side; what is wrong is said of its file.

OpenSSL's own errors name no file, and "PEM lib" is all that they say of most mistakes.
"""

import re
import ssl

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")
_ENCRYPTED = (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED")


def load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Have a context show the certificate of a file; an empty `key` is in the same file. Raises: OSError."""
    chain, secret = _read(certificate), _read(key or certificate)
    _check_certificate(certificate, chain)
    if any(mark in secret for mark in _ENCRYPTED):
        raise OSError(f"the key in {key or certificate} is encrypted; only keys without a password can be used")
    if not _KEY.search(secret):
        raise OSError(f"{key or certificate} has no private key in PEM: there is no line -----BEGIN PRIVATE KEY-----")
    try:
        context.load_cert_chain(certificate, key or None, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise OSError(f"the key in {key or certificate} is not that of the certificate in {certificate}") from None
        files = f"{certificate} or {key}" if key else certificate
        raise OSError(f"a certificate or a key in {files} is damaged: {_why(error)}") from None


def load_authorities(context: ssl.SSLContext, path: str) -> None:
    """Have a context trust the certificates of a file. Raises: OSError."""
    _check_certificate(path, _read(path))
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise OSError(f"a certificate in {path} is damaged: {_why(error)}") from None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        if "-----BEGIN" in path:  # not to be shown
            raise OSError("the text of a key or a certificate is given in the place of its file's name") from None
        raise OSError(f"{path} can't be read: {error.strerror}") from None


def _check_certificate(path: str, content: bytes) -> None:
    if _CERTIFICATE not in content:
        raise OSError(f"{path} has no certificate in PEM: there is no line {_CERTIFICATE.decode()}")


def _no_password() -> str:
    """Return none: OpenSSL would ask for the password of an encrypted key on the terminal."""
    return ""


def _why(error: ssl.SSLError) -> str:
    return error.reason or "OpenSSL can't read it"
