"""The requests of the console's form: what reaches the upstream of them, and what does not."""

import pytest
from aiohttp.test_utils import make_mocked_request

from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import request
from tests.proxy_under_test import CHAT, Tee, chat_body, response_body, teed
from tests.stage import Stage

JSON = "Content-Type: application/json"
OWN = ("Host: localhost:9090", "Origin: http://localhost:9090", "Sec-Fetch-Site: same-origin", "Referer: http://x/")


def signed_in(tee: Tee) -> tuple[str, ...]:
    """Return the headers of a page that has signed in."""
    access = tee.proxy.operators
    cookie = access.sign_in(make_mocked_request("POST", "/", {"Host": "localhost:9090"}), access.token)
    return (*OWN, JSON, f"Cookie: {cookie.partition(';')[0]}")


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


async def test_request_needs_what_the_data_port_needs(stage: Stage) -> None:
    """An operator is no caller: in mode keys a key has to be typed in."""
    async with teed(stage.url, upstream={"key": "sk-ours"}, auth={"mode": "keys", "keys": ["0" * 64]}) as tee:
        answer = await tee.admin(f"/admin/try{CHAT}", JSON, method="POST", body=chat_body())
        assert answer.status == 401
        assert not stage.turns
