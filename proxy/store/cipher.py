"""Encrypts what a store keeps, and decrypts what it kept: AES-256-GCM of the library `cryptography`, with several keys.

What is encrypted names its key, so that keys can be replaced one after another:

    version, 1 byte | id of the key, 4 bytes | nonce, 12 bytes | ciphertext, with a tag of 16 bytes

Each place, such as the log of one stream, has a key of its own that is derived from the configured one: a random nonce
is good for 2**32 messages of a key (NIST SP 800-38D, section 8.3), which all streams together would exceed within days.
The place, and where in it something is, are authenticated: what was written elsewhere is not accepted.
Needs the extra `encryption`.
"""

import functools
import hashlib
import hmac
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.store.entries import UnreadableError

_VERSION = b"\x01"
_ID_BYTES, _NONCE_BYTES = 4, 12
_HEAD_BYTES = len(_VERSION) + _ID_BYTES + _NONCE_BYTES


class Cipher:
    """Encrypts with the first of several keys, and decrypts with any of them."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """`keys`: of 32 bytes each."""
        self.use(keys)

    def use(self, keys: Sequence[bytes]) -> None:
        """Use these keys from now on."""
        self._keys = {_ident(key): key for key in keys}
        self._first = _ident(keys[0])

    def encrypt(self, place: str, at: str, data: bytes) -> bytes:
        """Encrypt data for a place, and for where in it the data is."""
        nonce = os.urandom(_NONCE_BYTES)
        key = _derived(self._keys[self._first], place)
        return b"".join((_VERSION, self._first, nonce, key.encrypt(nonce, data, at.encode())))

    def decrypt(self, place: str, at: str, data: bytes) -> bytes:
        """Return what was encrypted for this place. Raises: UnreadableError, which says why it can't be."""
        if not data.startswith(_VERSION) or len(data) < _HEAD_BYTES:
            raise UnreadableError("it is not encrypted, and this process reads only what is")
        ident, nonce = data[1 : 1 + _ID_BYTES], data[1 + _ID_BYTES : _HEAD_BYTES]
        key = self._keys.get(ident)
        if key is None:
            raise UnreadableError(f"it is encrypted by a key that this process does not have ({ident.hex()})")
        try:
            return _derived(key, place).decrypt(nonce, data[_HEAD_BYTES:], at.encode())
        except InvalidTag:
            raise UnreadableError("it was changed, or written for another place") from None


def _ident(key: bytes) -> bytes:
    """Return the id of a key, from which nobody can compute the key."""
    return hashlib.sha256(b"streamtee id of a key" + key).digest()[:_ID_BYTES]


@functools.lru_cache(maxsize=4096)
def _derived(key: bytes, place: str) -> AESGCM:
    """Return the key of a place (NIST SP 800-108, with HMAC-SHA256 as the function)."""
    return AESGCM(hmac.digest(key, place.encode(errors="surrogatepass"), "sha256"))
