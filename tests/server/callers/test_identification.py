"""What identifies callers is made of the configuration, and named callers are kept up to date."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from proxy.access.account import Account
from proxy.access.limits import CallerLimits
from proxy.access.settings import AuthConfig
from proxy.downstream.connection import ERROR_TO_SEND
from proxy.server.callers import identification as module
from proxy.server.callers.identification import Identification, access_of, identification, operators_of
from proxy.server.config import Config
from proxy.wire.errors import CallerUnknowable
from tests.access.named import NamedCallers
from tests.event_loops import until
from tests.proxy_under_test import configured

HOOK = "http://127.0.0.1:9/who"


def named(callers: NamedCallers, **auth: Any) -> tuple[Config, Identification]:
    """Return a configuration with these callers, and what it makes."""
    config = configured("http://upstream.test", **callers.tables(**auth))
    made = identification(config.auth, has_certificates=False)
    assert made is not None
    return config, made


async def served(request: web.BaseRequest) -> web.StreamResponse:
    """Respond; the text is the code of the error that is to be sent."""
    error = request.get(ERROR_TO_SEND)
    return web.Response(text="" if error is None else error.code)


@pytest.mark.parametrize(
    ("auth", "has_certificates", "is_made"),
    [
        ({}, True, False),
        ({"mode": "keys", "keys": ["0" * 64]}, False, False),
        ({"mode": "keys", "keys": ["0" * 64]}, True, True),
        ({"mode": "keys", "hook_url": HOOK}, False, True),
    ],
)
def test_it_is_made_where_callers_have_names(auth: dict[str, Any], has_certificates: bool, is_made: bool) -> None:
    """By a file, a hook or their certificates; not by a list of keys, and not where every key is accepted."""
    assert (identification(AuthConfig(**auth), has_certificates=has_certificates) is not None) == is_made


def test_process_that_does_not_count_has_no_usage_file(tmp_path: Path) -> None:
    """Another one has it: two would write over each other's."""
    callers = NamedCallers(tmp_path, alice={})
    config, alone = named(callers, usage_file=str(tmp_path / "usage.json"))
    assert alone._usage is not None
    told = identification(config.auth, has_certificates=False, new_account=Account)
    assert told is not None
    assert told._usage is None


def test_change_of_the_file_is_heeded(tmp_path: Path) -> None:
    """Who is known, and the limits of those who are."""
    callers = NamedCallers(tmp_path, alice={"streams": 1})
    config, one = named(callers)
    known, _ = access_of(config, one)
    account = one.accounts.account("alice", known.digest_of("alice"))
    assert account.limits.streams == 1
    assert one.accounts.name_of(known.digest_of("bob")) is None
    callers.add("bob")
    record = callers.records.callers["alice"]
    callers.put("alice", record.model_copy(update={"limits": CallerLimits(streams=7)}))
    one.refresh()
    assert account.limits.streams == 7
    assert one.accounts.name_of(known.digest_of("bob")) == "bob"


async def test_hook_that_can_not_say_is_told_to_the_request(tmp_path: Path) -> None:
    """Which is then refused; whoever is in the file is not asked about."""
    callers = NamedCallers(tmp_path, alice={})
    config, one = named(callers, hook_url=HOOK)
    access_of(config, one)
    asked: list[list[str]] = []

    async def ask(keys: list[str]) -> None:
        asked.append(keys)
        if keys:
            raise CallerUnknowable("the hook is away")

    hook = one.known.hook
    assert hook is not None
    hook.ask = ask  # type: ignore[method-assign, assignment]
    serve = one.asking(served)
    alice = make_mocked_request("GET", "/", {"Authorization": f"Bearer {callers.keys['alice']}"})
    other = make_mocked_request("GET", "/", {"Authorization": "Bearer sk-other"})
    answers = [await serve(request) for request in (alice, other)]
    assert [answer.text for answer in answers if isinstance(answer, web.Response)] == ["", CallerUnknowable.code]
    assert asked == [[], ["sk-other"]]
    await one.close()


def test_without_a_hook_nothing_is_in_between(tmp_path: Path) -> None:
    """A request costs no more then."""
    config, one = named(NamedCallers(tmp_path, alice={}))
    access_of(config, one)
    assert one.asking(served) is served


async def test_usage_is_saved_at_the_end(tmp_path: Path) -> None:
    """And read by the next one: the requests of the day count on."""
    callers = NamedCallers(tmp_path, alice={"requests_per_day": 9})
    auth = {"usage_file": str(tmp_path / "usage.json")}
    config, one = named(callers, **auth)
    known, _ = access_of(config, one)
    one.accounts.account("alice", known.digest_of("alice")).count()
    await one.close()
    config, again = named(callers, **auth)
    known, _ = access_of(config, again)
    kept = again.accounts.account("alice", known.digest_of("alice"))
    assert [window.used for window in kept.requests][-1] == 1


def refuse() -> None:
    """Stand in for a refresh that fails."""
    raise RuntimeError("a fault")


async def test_turn_that_fails_is_not_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background_log: list[logging.LogRecord]
) -> None:
    """The fault is logged, and the next change of the file is heeded."""
    monkeypatch.setattr(module, "_TICK_S", 0.001)
    callers = NamedCallers(tmp_path, alice={})
    config, one = named(callers)
    known, _ = access_of(config, one)
    with monkeypatch.context() as broken:
        broken.setattr(one, "refresh", refuse)
        watching = asyncio.create_task(one.watch())
        await until(lambda: bool(background_log))
    callers.add("bob")
    await until(lambda: one.accounts.name_of(known.digest_of("bob")) == "bob")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert one.background.failures
    assert not one.background.alive


def test_operators_have_access_by_the_token() -> None:
    """Of the configuration; without an admin port there are none."""
    with_token = operators_of(configured("http://upstream.test", admin_token="t" * 32))
    assert with_token.token == "t" * 32
    assert operators_of(configured("http://upstream.test", admin="")).token != with_token.token


def test_secret_of_the_store_makes_the_digests_of_all_processes() -> None:
    """Else each process has digests of its own, unless it is given a secret."""
    shared = configured("http://upstream.test", store={"url": "redis://127.0.0.1", "secret": "s" * 32})
    alone = configured("http://upstream.test")
    first, second = (access_of(shared)[0].digest_of("alice") for _ in range(2))
    assert first == second
    assert access_of(alone)[0].digest_of("alice") != access_of(alone)[0].digest_of("alice")
    given = [access_of(alone, secret=b"5" * 32)[0].digest_of("alice") for _ in range(2)]
    assert given[0] == given[1]
