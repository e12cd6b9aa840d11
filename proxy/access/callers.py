"""Identifies the caller of a request by the keys in its headers.

Keys are compared and stored as digests; no key and no token reaches a log or a metric. Knows no stream.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from secrets import token_bytes
from typing import Final, NamedTuple, Protocol

from multidict import MultiMapping, istr

from proxy.access.capabilities import Capabilities
from proxy.dialects.route import KEY_HEADERS, PROTOCOL, protocol_keys, shown_key
from proxy.wire.errors import MissingRight, RequestError, Unauthorised

_PROTOCOL: Final = istr(PROTOCOL)
_WHY_A_KEY: Final = (
    "callers are told apart by their keys. Send one, or set auth.anonymous in the configuration of the proxy"
)

_REMEMBERED, _REMEMBERED_CHARS = 4096, 1000  # callers, and how much of each
_NAMED: Final = "\0"  # before a name, in what a digest is made of: no header holds it, so no key is taken for a name


class Known(Protocol):
    """Finds callers that are known by name."""

    def of_key(self, key: str) -> str | None:
        """Return the name of a key's caller; None if it is not known."""

    def of_subject(self, subject: str) -> str | None:
        """Return the name of the caller with a certificate of this subject; None if it is not accepted."""


class Refusal(NamedTuple):
    """The class and message of an error. The error itself is not kept, since a raised one keeps its traceback alive."""

    kind: type[RequestError]
    message: str

    def error(self) -> RequestError:
        """Return a new error."""
        return self.kind(self.message)


class Caller(NamedTuple):
    """Who sent a request, identified by the keys in its headers; streams belong to a caller."""

    digest: bytes  # identifies the caller, for its streams, shared calls, and turns in queues
    shows_key: bool = True  # a key or a token came in a header that holds keys
    may_send: bool = True  # it may send requests upstream; if not, it may access only what its capability names
    refusal: Refusal | None = None  # the error if it can't have streams of its own; None if it can
    name: str = ""  # of a caller with a key of ours, or with a certificate

    @property
    def owns_streams(self) -> bool:
        """Return whether it can have streams of its own, which later requests with the same digest find."""
        return self.refusal is None

    def check_may_send(self) -> None:
        """Raises: Unauthorised, MissingRight, if the caller may access only what its capability names."""
        if not self.may_send:
            self.check_owns_streams()

    def check_owns_streams(self) -> None:
        """Raises: Unauthorised, MissingRight, if the caller can't have streams of its own."""
        if self.refusal is not None:
            raise self.refusal.error()


class Callers:
    """Identifies callers by all the keys in a request; the same key identifies the same caller in whatever header.

    A request with two different keys has another caller than one with either of them alone, since the upstream's
    response may depend on both.
    """

    def __init__(
        self,
        capabilities: Capabilities,
        *,
        digests: Sequence[str] | None = None,
        shares_anonymous: bool = False,
        key_headers: Iterable[str] = (),
        known: Known | None = None,
        secret: bytes = b"",
    ) -> None:
        """`digests`: SHA-256 digests, in hex, of the keys that are accepted; None: every key is accepted.

        `known`: finds the names of callers by their keys and certificates, which are then accepted, too.

        `shares_anonymous`: all requests without a key have the same caller, which has streams of its own; else such a
        request has a caller without. `key_headers`: names of further headers that hold keys.
        `secret`: processes with the same one give a caller the same digest; b"": no other process does.
        """
        self._capabilities = capabilities
        self._digests = _read(digests)
        self._known = known
        self._shares_anonymous = shares_anonymous
        names = {name.lower(): istr(name) for name in (*KEY_HEADERS, *key_headers)}
        self._names = tuple(names.values())
        self._names_text = f"{', '.join(self._names[:-1])} or {self._names[-1]}"
        # A caller's digest has no meaning outside this process, or outside those that share the secret.
        self._secret = hashlib.sha256(secret).digest() if secret else token_bytes(16)
        self._identified: dict[tuple[str, ...], Caller] = {}  # by what they showed, if that is short

    def accept(self, digests: Sequence[str] | None) -> None:
        """Accept the keys with these digests from now on, and no others; None: all. Callers keep their streams."""
        self._digests = _read(digests)
        self._identified.clear()

    def forget(self) -> None:
        """Look at keys anew: which ones are known has changed. Callers keep their streams."""
        self._identified.clear()

    def caller(self, headers: MultiMapping[str]) -> Caller:
        """Return who sent a request with these headers."""
        shown = self._shown(headers)
        return self._identified.get(shown) or self._identify(shown, shown)

    def caller_with(self, headers: MultiMapping[str], subject: str) -> Caller:
        """Return who sent a request with these headers, and with a certificate of this subject; "": without one."""
        shown = self._shown(headers)
        everything = (_NAMED + subject, *shown)
        return self._identified.get(everything) or self._identify(everything, shown, subject)

    def keys(self, headers: MultiMapping[str]) -> list[str]:
        """Return the keys in these headers, each once."""
        return _distinct(self._shown(headers))

    def unlisted(self, headers: MultiMapping[str]) -> list[str]:
        """Return the keys in these headers that are neither accepted by their digests nor tokens."""
        keys = _distinct(self._shown(headers))
        return [key for key in keys if not self._is_listed(key) and self._capabilities.verify(key) is None]

    def _shown(self, headers: MultiMapping[str]) -> tuple[str, ...]:
        """Return the values of the headers that hold keys; a repeated header is one value (RFC 9110 section 5.3)."""
        shown: tuple[str, ...] = ()
        for name in self._names:
            if name in headers:
                shown += (", ".join(headers.getall(name)),)
        if _PROTOCOL in headers:
            shown += tuple(protocol_keys(", ".join(headers.getall(_PROTOCOL))))
        return shown

    def _identify(self, everything: tuple[str, ...], shown: tuple[str, ...], subject: str = "") -> Caller:
        """Return the caller, and remember it, unless so much was shown that many of them would fill the memory."""
        caller = self._caller(shown, subject)
        if sum(map(len, everything)) <= _REMEMBERED_CHARS:
            if len(self._identified) >= _REMEMBERED:
                self._identified.clear()
            self._identified[everything] = caller
        return caller

    def _caller(self, shown: tuple[str, ...], subject: str = "") -> Caller:
        keys = _distinct(shown)
        if any(self._capabilities.verify(key) is not None for key in keys):
            why = Refusal(MissingRight, "a token gives access to one stream only; this request needs a key")
            return Caller(self._digest(keys), may_send=False, refusal=why)
        if self._digests is not None:
            names = self._names_of(keys)
            by_certificate = not names and subject != ""
            if by_certificate and self._known is not None and (name := self._known.of_subject(subject)) is not None:
                names.add(name)
            if names:
                return self._named(names, shows_key=not by_certificate)
            keys = list(filter(self._is_listed, keys))  # other keys are not sent upstream, so they identify nobody
            if not keys:
                why = Refusal(Unauthorised, f"none of the accepted keys came in {self._names_text}")
                return Caller(self._digest(keys), shows_key=bool(shown), may_send=False, refusal=why)
        shows_key = bool(keys)
        if self._digests is None and subject:
            keys.append(_NAMED + subject)
        if keys or self._shares_anonymous:
            return Caller(self._digest(keys), shows_key=shows_key)
        why = Refusal(Unauthorised, f"this request needs a key, and none came in {self._names_text}: {_WHY_A_KEY}")
        return Caller(self._digest(keys), shows_key=False, refusal=why)

    def _names_of(self, keys: list[str]) -> set[str]:
        """Return the names of the callers with these keys."""
        if self._known is None:
            return set()
        return {name for key in keys if (name := self._known.of_key(key)) is not None}

    def _named(self, names: set[str], *, shows_key: bool) -> Caller:
        """Return the caller of a name, whichever of its keys came; one that is refused, if they are of several."""
        digest = self._digest([_NAMED + name for name in sorted(names)])
        if len(names) == 1:
            return Caller(digest, shows_key=shows_key, name=names.pop())
        why = Refusal(Unauthorised, f"keys of {len(names)} callers came in {self._names_text}; send one")
        return Caller(digest, may_send=False, refusal=why)

    def digest_of(self, name: str) -> bytes:
        """Return the digest of the caller of a name."""
        return self._digest([_NAMED + name])

    def _is_listed(self, key: str) -> bool:
        given = hashlib.sha256(_encoded(key)).digest()
        return any(hmac.compare_digest(given, listed) for listed in self._digests or ())

    def _digest(self, keys: list[str]) -> bytes:
        digest = hashlib.blake2b(digest_size=16, key=self._secret)
        for key in map(_encoded, keys):
            digest.update(b"%d:%b" % (len(key), key))
        return digest.digest()


def _read(digests: Sequence[str] | None) -> list[bytes] | None:
    return None if digests is None else [bytes.fromhex(digest) for digest in digests]


def _distinct(shown: tuple[str, ...]) -> list[str]:
    return sorted({shown_key(value) for value in shown} - {""})


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
