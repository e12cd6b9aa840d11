"""Who the caller is. Keys are compared and kept as digests; none reaches a log or a metric."""

import functools
import hashlib
import hmac
import secrets

from proxy.server.config import Config
from proxy.wire.errors import Unauthorised


class Auth:
    """Tells callers apart, and what goes upstream in `Authorization`."""

    def __init__(self, config: Config) -> None:
        self._own_keys = config.auth.mode == "keys"
        self._digests = [bytes.fromhex(key) for key in config.auth.keys]
        self._secret = secrets.token_bytes(16)  # so that a caller's digest tells nothing outside this process
        self.caller = functools.lru_cache(maxsize=4096)(self._caller)
        key = config.upstream.key.get_secret_value()
        self.upstream_authorization = f"Bearer {key}".encode() if key else None

    def _caller(self, authorization: str) -> bytes:
        """Return the digest of the caller with this Authorization header.

        Raises: Unauthorised, in mode keys, for a key that is not listed.
        """
        raw = authorization.encode("utf-8", "surrogateescape")
        if self._own_keys:
            scheme, _, key = raw.partition(b" ")
            given = hashlib.sha256(key.strip()).digest()
            if scheme.lower() != b"bearer" or not any(hmac.compare_digest(given, d) for d in self._digests):
                raise Unauthorised("the Authorization header holds no key that is known here")
        return hashlib.blake2b(raw, digest_size=16, key=self._secret).digest()
