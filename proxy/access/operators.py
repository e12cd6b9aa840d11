"""Access to the admin port: probes and metrics are open, all else needs the admin token.

The token comes as a Bearer token. The console's sign-in exchanges it for a signed cookie, which expires and does not
hold the token, since browsers send a cookie to every port of a host. Only pages of the port itself may use it. Without
a token nobody has access.
"""

import hmac
import time
from hashlib import sha256
from secrets import token_urlsafe

from aiohttp import web

from proxy.access.admission import Needs
from proxy.access.callers import Caller
from proxy.access.capabilities import RIGHTS, Capabilities, Capability
from proxy.access.pages import is_loopback
from proxy.wire.errors import AdminClosed, AdminTokenNeeded

SIGNED_IN_S = 12 * 3600
COOKIE = "streamtee_admin"  # its name, where the host has no port
PATH = "/admin"  # what needs the cookie is below it, so that the cookie goes nowhere else
_OPERATOR = Caller(b"operator")
_IDENT = "operator"  # what the cookie is for; ids of streams begin otherwise
_OWN_PAGES = (None, "same-origin", "none")  # values of Sec-Fetch-Site (W3C Fetch Metadata); "none": typed by the user


class OperatorAccess:
    """Decides whether a request to the admin port is an operator's."""

    def __init__(self, token: str, *, is_made: bool = False) -> None:
        """Without a `token`, "", nobody is an operator. `is_made`: it is not configured, so nobody knows it yet."""
        self._is_made = is_made
        self.use(token)

    @classmethod
    def at(cls, host: str, configured: str) -> "OperatorAccess":
        """Return who has access to a port at this address: by the configured token; on loopback else by a new one."""
        if configured or not is_loopback(host):
            return cls(configured)
        return cls(token_urlsafe(32), is_made=True)

    def console_url(self, admin_url: str) -> str:
        """Return the URL of the console of the port at a URL, with the token if it was made; "" if there is none.

        The token is in the fragment, which browsers send to nobody: no log, no Referer and no other proxy has it.
        """
        if not self.token or not admin_url:
            return ""
        return f"{admin_url}/console" + (f"#token={self.token}" if self._is_made else "")

    def use(self, token: str) -> None:
        """Accept this token from now on, and no cookies of an earlier one."""
        self.token = token
        self._cookies = Capabilities([token] if token else [])

    def admit(self, request: web.BaseRequest, needs: Needs) -> Caller:
        """Return the caller of a request. Raises: AdminClosed, AdminTokenNeeded."""
        if needs is not Needs.NOTHING:
            self.check_open()
            if not (self.is_token(bearer(request)) or self._is_signed_in(request)):
                raise AdminTokenNeeded("this needs the admin token, as Authorization: Bearer, or a sign-in at /console")
        return _OPERATOR

    def check_open(self) -> None:
        """Raises: AdminClosed, if there is no token."""
        if not self.token:
            raise AdminClosed(
                "this port is not on loopback and has no admin_token, so it serves only /readyz, /healthz and /metrics"
            )

    def is_token(self, given: str) -> bool:
        """Return whether this is the admin token."""
        # Digests have one length, so the time says nothing about the token's.
        return bool(self.token) and hmac.compare_digest(_digest(given), _digest(self.token))

    def sign_in(self, request: web.BaseRequest, token: str) -> str:
        """Return the Set-Cookie header that a browser gets for the token. Raises: AdminClosed, AdminTokenNeeded."""
        self.check_open()
        if not self.is_token(token):
            raise AdminTokenNeeded("this is not the admin token")
        return set_cookie(request, self.signed(), SIGNED_IN_S)

    def signed(self) -> str:
        """Return the value of a cookie that stands for the token."""
        return self._cookies.sign(Capability(_IDENT, RIGHTS, int(time.time()) + SIGNED_IN_S))

    def _is_signed_in(self, request: web.BaseRequest) -> bool:
        value = request.cookies.get(_cookie_name(request), "")
        if not value or request.headers.get("Sec-Fetch-Site") not in _OWN_PAGES:
            return False
        signed = self._cookies.verify(value)
        return signed is not None and signed.ident == _IDENT and signed.expires_at > time.time()


def bearer(request: web.BaseRequest) -> str:
    """Return the Bearer token of a request; "" without one."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def set_cookie(request: web.BaseRequest, value: str, max_age_s: int) -> str:
    """Return a Set-Cookie header; a `max_age_s` of 0 removes it."""
    secure = "; Secure" if request.headers.get("Origin", "").startswith("https://") else ""
    return f"{_cookie_name(request)}={value}; Path={PATH}; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}"


def _cookie_name(request: web.BaseRequest) -> str:
    """Return the name of the cookie: with the port, since the ports of a host share their cookies (RFC 6265, 8.5)."""
    port = request.headers.get("Host", "").rpartition(":")[2]
    return f"{COOKIE}_{port}" if port.isdecimal() else COOKIE


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogateescape")).digest()
