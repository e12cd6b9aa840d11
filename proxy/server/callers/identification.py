"""Makes what identifies callers and operators, and keeps callers with names up to date while the proxy runs.

Those have names by the keys file, the hook or their certificates. Where `auth.mode` is "pass" there are none, and so no
Identification.
"""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from proxy.access.account import Account
from proxy.access.accounts import Accounts, NewAccount
from proxy.access.callers import Callers
from proxy.access.capabilities import Capabilities
from proxy.access.grants import Grants
from proxy.access.identity_hook import IdentityHook
from proxy.access.known_callers import KnownCallers
from proxy.access.operators import OperatorAccess
from proxy.access.settings import AuthConfig
from proxy.access.usage_file import UsageFile
from proxy.downstream.connection import ERROR_TO_SEND
from proxy.server.config import Config, address
from proxy.stream.faults import OVERDUE_S, BackgroundLoop
from proxy.timers import sleep
from proxy.wire.errors import CallerUnknowable

Serve = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_TICK_S = 1.0
_SAVE_TICKS = 5


class Identification:
    """Keeps the named callers, their limits and their usage up to date; asks the hook before requests are admitted."""

    def __init__(self, known: KnownCallers, accounts: Accounts, usage: UsageFile | None) -> None:
        self.known = known
        self.accounts = accounts
        self.background = BackgroundLoop("callers", time.monotonic, OVERDUE_S)
        self._usage = usage
        self._callers: Callers | None = None
        self._names: dict[bytes, str] = {}  # of the callers in the file, by their digests; made when one is asked for
        accounts.name_of = self._name_of

    def use(self, callers: Callers) -> None:
        """Tell `callers` of every change."""
        self._callers = callers
        if self.known.hook is not None:
            self.known.hook.on_answer = self._answered

    def asking(self, serve: Serve) -> Serve:
        """Return what asks the hook for unknown callers and then calls `serve`; without a hook, `serve` itself."""
        known, hook, callers = self.known, self.known.hook, self._callers
        if hook is None or callers is None:
            return serve

        async def ask(request: web.BaseRequest) -> web.StreamResponse:
            try:
                await hook.ask([key for key in callers.unlisted(request.headers) if not known.is_in_file(key)])
            except CallerUnknowable as error:
                request[ERROR_TO_SEND] = error
            return await serve(request)

        return ask

    def refresh(self) -> None:
        """Read the keys file again if it has changed, and forget the keys that have expired."""
        if self.known.refresh():
            self._forget()
            self.accounts.limit()

    async def watch(self) -> None:
        """Do this, and save the usage, from time to time."""
        ticks = 0
        while True:
            await sleep(_TICK_S)
            ticks += 1
            with self.background:
                self.refresh()
            with self.background:
                if self._usage is not None and ticks % _SAVE_TICKS == 0:
                    await self._usage.save()

    async def close(self) -> None:
        """Save the usage, and close the hook's connections."""
        if self._usage is not None:
            await self._usage.save()
        if self.known.hook is not None:
            await self.known.hook.close()

    def _answered(self, name: str | None) -> None:
        self._forget()
        if name is not None:
            self.accounts.limit(name)

    def _name_of(self, digest: bytes) -> str | None:
        """Return the name of the caller with a digest, if it is in the file."""
        if not self._names and self._callers is not None:
            self._names = {self._callers.digest_of(name): name for name in self.known.names}
        return self._names.get(digest)

    def _forget(self) -> None:
        self._names.clear()
        if self._callers is not None:
            self._callers.forget()


def identification(
    auth: AuthConfig, *, has_certificates: bool, new_account: NewAccount | None = None
) -> Identification | None:
    """Make what the configuration asks for; None, if no caller is known by name. Raises: OSError, ValueError.

    `new_account`: makes accounts of which another process keeps the counts, and also has the usage file.
    """
    if auth.mode != "keys" or not (auth.knows_names or has_certificates):
        return None
    hook = None
    if auth.hook_url:
        hook = IdentityHook(
            auth.hook_url,
            key=auth.hook_key.get_secret_value(),
            timeout_s=auth.hook_timeout_s,
            ttl_s=auth.hook_ttl_s,
            size=auth.hook_size,
        )
    known = KnownCallers(Path(auth.keys_file) if auth.keys_file else None, hook)
    accounts = Accounts(known.limits_of, new_account=new_account or Account)
    usage = UsageFile(Path(auth.usage_file), accounts) if auth.usage_file and new_account is None else None
    return Identification(known, accounts, usage)


def operators_of(config: Config) -> OperatorAccess:
    """Return who has access to the configured admin port."""
    host = address(config.admin)[0] if config.admin else ""
    return OperatorAccess.at(host, config.admin_token.get_secret_value())


def access_of(config: Config, named: Identification | None = None, secret: bytes = b"") -> tuple[Callers, Grants]:
    """Make the configured Callers and Grants. `secret`: of the callers' digests; b"": one of its own."""
    capabilities = Capabilities([secret.get_secret_value() for secret in config.capabilities.secrets])
    callers = Callers(
        capabilities,
        digests=config.auth.accepted,
        shares_anonymous=config.shares_anonymous,
        key_headers=config.key_headers,
        secret=config.store.secret.get_secret_value().encode() or secret,
        known=None if named is None else named.known,
    )
    if named is not None:
        named.use(callers)
    return callers, Grants(
        capabilities,
        callers,
        ttl_s=config.capabilities.ttl_s,
        ttl_max_s=config.capabilities.ttl_max_s,
        trusted_origins=config.cors.origins if config.cors.credentials else (),
    )
