"""What a running proxy takes over from another configuration, and what it says needs a restart."""

import asyncio
import hashlib
from typing import Any

import pytest

from proxy.server.configuration.settings import LimitsConfig
from proxy.server.reload import Changes, reload
from tests.event_loops import GUARD_S
from tests.event_streams import DONE, chunk_frame
from tests.http_client import KEY as CALLER
from tests.http_client import request
from tests.proxy_under_test import CHAT, Tee, begun, chat_body, configured, teed
from tests.stage import Stage

KEYED = {"key": "sk-ours"}


def reloaded(tee: Tee, stage: Stage, **tables: Any) -> Changes:
    return reload(tee.proxy, configured(stage.url, **tables))


async def test_same_configuration_changes_nothing(tee: Tee, stage: Stage) -> None:
    """And says so."""
    assert str(reloaded(tee, stage)) == "nothing has changed"


async def test_number_of_streams_changes_in_place(tee: Tee, stage: Stage) -> None:
    """Those that run go on; the next one is refused."""
    answer, turn = await begun(tee, stage)
    assert reloaded(tee, stage, limits={"streams": 1}).made == ["limits.streams"]
    assert (await tee.chat()).status == 503
    turn.end(chunk_frame(), DONE)
    assert (await answer.read()).endswith(DONE)


async def test_limits_reach_whoever_keeps_them(tee: Tee, stage: Stage) -> None:
    """Each of the table: none has been forgotten where it was copied."""
    limits = dict.fromkeys(LimitsConfig.model_fields, 7)
    reloaded(tee, stage, limits=limits)
    proxy = tee.proxy
    hub, clients = proxy.hub, proxy.clients
    assert (hub.max_streams, hub.max_followers, hub.max_followers_per_stream) == (7, 7, 7)
    assert (hub.max_pending_bytes, clients.max_pending_bytes, clients.max_body_bytes) == (7, 7, 7)
    assert (hub.ledger.max_bytes, proxy.metrics.max_models) == (7, 7)
    assert all((one.header_bytes, one.max_headers) == (7, 7) for one in proxy.ports.listeners)
    assert vars(proxy.config.limits) == limits
    reloaded(tee, stage)
    assert (await tee.ask("GET", "/healthz")).status == 200


async def test_heads_are_read_again_after_any_change(tee: Tee, stage: Stage) -> None:
    """What is remembered of them may depend on it: a key is not sent on once it is the admin port's token."""
    client = await tee.connect()
    (heads,) = {one.heads for one in tee.proxy.ports.listeners if not one.is_admin}
    for kept in (0, 1):
        client.send(request("POST", CHAT, body=chat_body()))
        turn = await stage.next()
        await turn.body()
        turn.reply("200 OK", body=b"{}")
        await (await client.answer()).read()
        assert len(heads._known) == kept
    reloaded(tee, stage)
    assert len(heads._known) == 1
    reloaded(tee, stage, drain_s=7)
    assert len(heads._known) == 0


async def test_body_limit_changes_in_place(tee: Tee, stage: Stage) -> None:
    """For the next request."""
    reloaded(tee, stage, limits={"body_bytes": 10})
    assert (await tee.chat()).status == 413


async def test_body_limit_of_a_recorded_route_changes_in_place(stage: Stage) -> None:
    """As that of generations."""
    routes = [{"path": "/agent", "record": True}]
    async with teed(stage.url, routes=routes) as tee:
        reloaded(tee, stage, routes=routes, limits={"body_bytes": 10})
        headers = ("Stream-Key: k",)  # its body is held
        assert (await tee.ask("POST", "/agent", *headers, body=b"x" * 11)).status == 413


async def test_time_outs_change_in_place(tee: Tee, stage: Stage) -> None:
    """Of upstreams, and of clients: also for what waits already, in place of 5 minutes."""
    client = await tee.send_chat()
    await stage.next()
    silent = await tee.connect()
    reloaded(tee, stage, timeouts={"first_byte_s": 0.05}, clients={"head_s": 0.05})
    async with asyncio.timeout(GUARD_S):
        assert (await client.answer()).status == 504
        await silent.wait_gone()


async def test_admin_token_changes_in_place(stage: Stage) -> None:
    """The old one opens nothing any more."""
    async with teed(stage.url, admin_token="an-old-token-of-ours") as tee:
        assert reloaded(tee, stage, admin_token="a-new-token-of-ours").made == ["admin_token"]
        for token, status in (("an-old-token-of-ours", 401), ("a-new-token-of-ours", 200)):
            assert (await tee.admin("/admin/streams", f"Authorization: Bearer {token}")).status == status


async def test_key_of_ours_is_not_given_where_there_was_none(stage: Stage) -> None:
    """Nor taken away: who may use it was decided at the start."""
    async with teed(stage.url) as tee:
        assert reloaded(tee, stage, upstream=KEYED).later == ["upstream.key"]
        assert not tee.proxy.upstreams.has_key("default")
    async with teed(stage.url, upstream=KEYED) as tee:
        assert reloaded(tee, stage).later == ["upstream.key"]
        assert tee.proxy.upstreams.has_key("default")


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ({"listen": "127.0.0.1:1"}, "listen"),
        ({"routes": [{"path": "/r"}]}, "routes"),
        ({"upstream": {"max_connections": 3}}, "upstream.max_connections"),
        ({"upstreams": {"b": {"url": "http://b"}}}, "upstreams.b.url"),
        ({"streams": {"retain_s": 1}}, "streams.retain_s"),
        ({"log_format": "json"}, "log_format"),
    ],
)
async def test_what_needs_a_restart_is_named(tee: Tee, stage: Stage, tables: dict[str, Any], key: str) -> None:
    """And what goes with it in place is changed all the same."""
    changes = reloaded(tee, stage, drain_s=5, **tables)
    assert key in changes.later
    assert changes.made == ["drain_s"]
    assert tee.proxy.config.drain_s == 5


async def test_routes_are_kept_as_they_were_given(stage: Stage) -> None:
    """A route that shares nothing has no window: putting the configuration together again does not give it one."""
    tables: dict[str, Any] = {"routes": [{"path": "/r"}]}
    async with teed(stage.url, **tables) as tee:
        assert reloaded(tee, stage, drain_s=5, **tables).made == ["drain_s"]


async def test_streams_stay_their_callers_when_keys_change(stage: Stage) -> None:
    """A caller is known by the same digest as before."""
    own = hashlib.sha256(CALLER.encode()).hexdigest()
    async with teed(stage.url, upstream=KEYED, auth={"mode": "keys", "keys": [own]}) as tee:
        answer, turn = await begun(tee, stage)
        changes = reloaded(tee, stage, upstream=KEYED, auth={"mode": "keys", "keys": ["0" * 64, own]})
        assert changes.made == ["auth.keys"]
        assert (await tee.info(answer.stream_id))["state"] == "open"
        turn.end(DONE)
        await answer.read()
