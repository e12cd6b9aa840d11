"""GET /v1/usage: what a caller with a key of ours may use, and what it has used."""

from typing import Any

from aiohttp import web

from proxy.access.account import Account
from proxy.access.accounts import Accounts
from proxy.access.callers import Caller
from proxy.access.windows import Window
from proxy.server.json_responses import answer
from proxy.wire.errors import UnknownRoute


class UsageOfCaller:
    """The handler of `/v1/usage`."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def serve(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        """GET /v1/usage: the caller's own."""
        account = self._accounts.of(caller.digest)
        if account is None:
            raise UnknownRoute("the use of this key is not counted: it is one of auth.keys, which have no limits")
        told = _told(account) | await account.sums()
        if self._accounts.sums is not None:  # more than the workers of this machine
            now = account.roll()
            await self._accounts.sums.settle([account])
            told["requests"] |= _windows(account.requests, now)
            told["tokens"] |= _windows(account.tokens, now)
            for gauge in account.gauges.values():
                if gauge.limit:
                    told[gauge.key]["now"] = gauge.everywhere
        return answer(told, headers={"Cache-Control": "no-store"})


def counted(account: Account) -> dict[str, Any]:
    """Return what is told of that which an account counts."""
    now, limits = account.roll(), account.limits
    return {
        "requests": {"total": account.requests_total, **_windows(account.requests, now)},
        "tokens": {"total": account.tokens_total, **_windows(account.tokens, now)},
        "streams": {"now": account.streams, "limit": limits.streams or None},
        "followers": {"now": account.followers, "limit": limits.followers or None},
    }


def _told(account: Account) -> dict[str, Any]:
    limits = account.limits
    return {
        "object": "usage",
        "name": account.name,
        **counted(account),
        "body_bytes": {"limit": limits.body_bytes or None},
        "allowed": {"models": limits.models, "routes": limits.routes, "modes": limits.modes},
    }


def _windows(windows: tuple[Window, Window], unix_s: float) -> dict[str, Any]:
    return {
        period: {"used": window.used, "limit": window.limit or None, "ends_in_s": window.ends_in_s(unix_s)}
        for period, window in zip(("minute", "day"), windows, strict=True)
    }
