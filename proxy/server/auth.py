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
        raw = authorization.encode("utf-8", "surrogateescape").strip()
        scheme, _, key = raw.partition(b" ")
        bearer = key.strip() if scheme.lower() == b"bearer" else None
        if self._own_keys:
            given = hashlib.sha256(bearer or b"").digest()
            if bearer is None or not any(hmac.compare_digest(given, d) for d in self._digests):
                raise Unauthorised("the Authorization header holds no key that is known here")
        return hashlib.blake2b(raw if bearer is None else bearer, digest_size=16, key=self._secret).digest()
