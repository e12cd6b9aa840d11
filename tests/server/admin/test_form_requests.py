"""The requests of the console's form: what reaches the upstream of them, and what does not."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from tests.access.named import NamedCallers
from tests.certificates import Authority
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import request
from tests.proxy_under_test import CHAT, Tee, chat_body, response_body, teed
from tests.stage import Stage, staged

JSON = "Content-Type: application/json"
OWN = ("Host: localhost:9090", "Origin: http://localhost:9090", "Sec-Fetch-Site: same-origin", "Referer: http://x/")


def sign_in(tee: Tee, host: str = "") -> str:
    """Return the cookie of a browser that has signed in at this host, else at that of the admin port."""
    access = tee.proxy.operators
    named = {"Host": host or f"localhost:{tee.proxy.admin_url.rpartition(':')[2]}"}
    return access.sign_in(make_mocked_request("POST", "/", named), access.token).partition(";")[0]


def signed_in(tee: Tee) -> tuple[str, ...]:
    """Return the headers of a page that has signed in."""
    return (*OWN, JSON, f"Cookie: {sign_in(tee, 'localhost:9090')}")


async def test_request_goes_upstream_with_the_key_typed_in(tee: Tee, stage: Stage) -> None:
    """With nothing of the console: no cookie, no origin; its stream is in the list, and its bytes come as they are."""
    client = await tee.connect(admin=True)
    headers = ("Authorization: Bearer sk-typed", *signed_in(tee))
    client.send(request("POST", f"/admin/try{CHAT}?x=1", *headers, body=chat_body()), method="POST")
    turn = await stage.next()
    assert await turn.body() == chat_body()
    assert turn.target.endswith(b"/chat/completions?x=1")
    assert turn.all("authorization") == [b"Bearer sk-typed"]
    sent = {name.lower() for name, _ in turn.headers}
    assert not sent & {b"cookie", b"origin", b"referer", b"sec-fetch-site"}
    turn.begin()
    turn.end(chunk_frame("hello"), FINISH, DONE)
    answer = await client.answer()
    assert await answer.read() == chunk_frame("hello") + FINISH + DONE
    mine = await tee.listed("Authorization: Bearer sk-typed")
    assert [stream["id"] for stream in mine] == [answer.stream_id]


async def test_admin_token_never_goes_upstream(tee: Tee, stage: Stage) -> None:
    """With it as Bearer, as a command line would send it, there is no key for the upstream."""
    client = await tee.connect(admin=True)
    token = f"Authorization: Bearer {tee.proxy.operators.token}"
    client.send(request("POST", "/admin/try/v1/responses", token, JSON, body=response_body()), method="POST")
    turn = await stage.next()
    assert turn.all("authorization") == []
    assert tee.proxy.operators.token.encode() not in turn.head
    turn.reply("401 Unauthorized", body=b"{}")
    assert (await client.answer()).status == 401


async def test_page_that_leaves_ends_its_request(tee: Tee, stage: Stage) -> None:
    """As a client of the data port does: the upstream's connection is closed."""
    client = await tee.connect(admin=True)
    client.send(request("POST", f"/admin/try{CHAT}", *signed_in(tee), body=chat_body()), method="POST")
    turn = await stage.next()
    turn.begin()
    turn.chunk(chunk_frame())
    await (await client.answer()).bytes(1)
    await client.leave()
    await turn.wait_left()


@pytest.mark.parametrize("path", ["/metrics", "/admin/streams", "/v2/x", ""])
async def test_only_paths_of_the_data_port_are_there(tee: Tee, path: str) -> None:
    """What it does not serve is 404, the admin port's own paths too."""
    answer = await tee.admin(f"/admin/try{path}", JSON, method="POST", body=b"{}")
    assert answer.status == 404


async def test_key_that_is_no_text_is_refused(tee: Tee, stage: Stage) -> None:
    """A browser sends what is typed as Latin-1; it is the client's mistake, and told as such."""
    client = await tee.connect(admin=True)
    headers = (b"Authorization: Bearer \xfc", *signed_in(tee))
    client.send(request("POST", f"/admin/try{CHAT}", *headers, body=chat_body()), method="POST")
    assert (await client.answer()).status == 400
    assert not stage.turns


async def test_certificate_of_an_operator_makes_no_caller(stage: Stage, tmp_path: Path) -> None:
    """It opens the admin port; on the data port the same one would be a caller, so a key has to be typed in."""
    authority, callers = Authority(tmp_path), NamedCallers(tmp_path, bob={})
    callers.add("alice", subject="CN=alice")
    files = {"certificate": str(authority.sign("localhost")), "client_ca": str(authority.file)}
    alice = authority.client(authority.sign("alice"))
    async with (
        teed(stage.url, tls=files, admin_tls=files, **callers.tables()) as tee,
        aiohttp.ClientSession(headers={"Cookie": sign_in(tee)}, connector=aiohttp.TCPConnector(ssl=alice)) as session,
    ):
        port = tee.proxy.admin_url.rpartition(":")[2]
        url, named = f"https://localhost:{port}/admin/try{CHAT}", {"Authorization": callers.header("bob")[15:]}
        async with session.post(url, data=chat_body()) as refused:
            assert refused.status == 401
        assert not stage.turns
        asking = asyncio.create_task(session.post(url, data=chat_body(), headers=named))
        turn = await stage.next()
        turn.begin()
        turn.end(FINISH, DONE)
        async with await asking as answer:
            assert await answer.read() == FINISH + DONE


async def test_request_with_a_key_that_only_the_hook_knows_is_served(stage: Stage) -> None:
    """It is asked, as on the data port."""
    async with staged() as hook:
        auth = {"mode": "keys", "hook_url": f"{hook.url}/who"}
        async with teed(stage.url, upstream={"key": "sk-ours"}, auth=auth) as tee:
            client = await tee.connect(admin=True)
            headers = ("Authorization: Bearer sk-alices", *signed_in(tee))
            client.send(request("POST", f"/admin/try{CHAT}", *headers, body=chat_body()), method="POST")
            asked = await hook.next()
            assert json.loads(await asked.body()) == {"key": "sk-alices"}
            asked.reply("200 OK", "Content-Type: application/json", body=b'{"name":"alice"}')
            turn = await stage.next()
            turn.begin()
            turn.end(FINISH, DONE)
            assert await (await client.answer()).read() == FINISH + DONE


async def test_request_needs_what_the_data_port_needs(stage: Stage) -> None:
    """An operator is no caller: in mode keys a key has to be typed in."""
    async with teed(stage.url, upstream={"key": "sk-ours"}, auth={"mode": "keys", "keys": ["0" * 64]}) as tee:
        answer = await tee.admin(f"/admin/try{CHAT}", JSON, method="POST", body=chat_body())
        assert answer.status == 401
        assert not stage.turns
