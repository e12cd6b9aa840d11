"""Who is an operator: the admin token, and the cookie that a sign-in exchanges it for."""

from typing import Any
from unittest.mock import patch

import pytest
from aiohttp.test_utils import make_mocked_request

from proxy.access.admission import Needs
from proxy.access.capabilities import RIGHTS, Capabilities, Capability
from proxy.access.operators import SIGNED_IN_S, OperatorAccess
from proxy.wire.errors import AdminClosed, AdminTokenNeeded, ProxyError

TOKEN = "a-token-of-sixteen-or-more"


def asked(**headers: str) -> Any:
    """Return a request with these headers, underscores for dashes."""
    return make_mocked_request("GET", "/", {name.replace("_", "-"): value for name, value in headers.items()})


def is_admitted(access: OperatorAccess, request: Any) -> bool:
    try:
        access.admit(request, Needs.IDENTITY)
    except AdminTokenNeeded:
        return False
    return True


def cookie_of(access: OperatorAccess, **headers: str) -> str:
    """Return the Cookie header that a browser sends after it has signed in."""
    return access.sign_in(asked(Host="localhost:9090", **headers), TOKEN).partition(";")[0]


@pytest.mark.parametrize(
    ("authorization", "admitted"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN}", True),
        (TOKEN, False),
        (f"Basic {TOKEN}", False),
        ("Bearer ", False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        ("Bearer ü", False),
        ("", False),
    ],
)
def test_token_is_needed_whole_and_as_bearer(authorization: str, admitted: bool) -> None:
    """No other, no part of it, in no other scheme."""
    assert is_admitted(OperatorAccess(TOKEN), asked(Authorization=authorization)) is admitted


@pytest.mark.parametrize("token", [TOKEN, ""])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x"}, {"Cookie": "streamtee_admin=x"}])
def test_open_paths_need_nothing(token: str, headers: dict[str, str]) -> None:
    """Probes and metrics, with or without a token configured; what is closed to the same request is not open by it."""
    access, request = OperatorAccess(token), asked(**headers)
    assert access.admit(request, Needs.NOTHING).digest == b"operator"
    with pytest.raises((AdminTokenNeeded, AdminClosed)):
        access.admit(request, Needs.IDENTITY)


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer x"])
def test_without_a_token_nobody_is_an_operator(authorization: str) -> None:
    """An empty one does not match an empty one; the error says what to do."""
    with pytest.raises(AdminClosed, match="admin_token"):
        OperatorAccess("").admit(asked(Authorization=authorization), Needs.IDENTITY)


def test_cookie_says_where_it_is_sent() -> None:
    """For this port, for pages of its own, not for scripts; and it does not hold the token."""
    set_cookie = OperatorAccess(TOKEN).sign_in(asked(Host="localhost:9090"), TOKEN)
    assert set_cookie.startswith("streamtee_admin_9090=")
    assert "; Path=/admin; " in set_cookie
    assert set_cookie.endswith(f"; Max-Age={SIGNED_IN_S}; HttpOnly; SameSite=Strict")
    assert TOKEN not in set_cookie
    secure = OperatorAccess(TOKEN).sign_in(asked(Host="console.example", Origin="https://console.example"), TOKEN)
    assert secure.startswith("streamtee_admin=")
    assert secure.endswith("; Secure")


@pytest.mark.parametrize(
    ("site", "admitted"),
    [(None, True), ("same-origin", True), ("none", True), ("same-site", False), ("cross-site", False)],
)
def test_cookie_is_for_pages_of_the_port_itself(site: str | None, admitted: bool) -> None:
    """A page of another port of this host is of the same site, so browsers send it the cookie."""
    access = OperatorAccess(TOKEN)
    headers = {} if site is None else {"Sec_Fetch_Site": site}
    assert is_admitted(access, asked(Host="localhost:9090", Cookie=cookie_of(access), **headers)) is admitted


def test_sign_in_expires() -> None:
    """The browser drops it then, and so do we."""
    access = OperatorAccess(TOKEN)
    cookie = cookie_of(access)
    request = asked(Host="localhost:9090", Cookie=cookie)
    assert is_admitted(access, request)
    with patch("proxy.access.operators.time.time", return_value=2e9 * 2):
        assert not is_admitted(access, request)


def test_sign_in_ends_with_its_token() -> None:
    """Another token, after a reload, accepts none of the old cookies."""
    access = OperatorAccess(TOKEN)
    request = asked(Host="localhost:9090", Cookie=cookie_of(access))
    access.use(TOKEN + "2")
    assert not is_admitted(access, request)


def test_token_of_a_stream_is_no_sign_in() -> None:
    """Even if the same secret signs both."""
    access = OperatorAccess(TOKEN)
    other = Capabilities([TOKEN]).sign(Capability("st_aaaaaaaaaaaaaaaaaaaaaaaaaa", RIGHTS, 4_000_000_000))
    assert not is_admitted(access, asked(Host="localhost:9090", Cookie=f"streamtee_admin_9090={other}"))


@pytest.mark.parametrize(("token", "given", "error"), [(TOKEN, "x", AdminTokenNeeded), ("", "", AdminClosed)])
def test_sign_in_needs_the_token(token: str, given: str, error: type[ProxyError]) -> None:
    """And there has to be one."""
    with pytest.raises(error):
        OperatorAccess(token).sign_in(asked(Host="localhost:9090"), given)
