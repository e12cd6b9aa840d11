"""Web pages, which can send requests to any port of their reader's machine: what they can't do with a key of ours."""

import pytest

from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import request
from tests.proxy_under_test import CHAT, Serve, chat_body
from tests.stage import Stage

KEYED = {"upstream": {"key": "sk-ours"}}
LISTED = "https://chat.example.com"
PLAIN = "Content-Type: text/plain"
JSON = "Content-Type: application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((PLAIN, "Origin: https://evil.example", "Sec-Fetch-Site: cross-site"), 403),
        ((JSON, "Origin: https://evil.example", "Sec-Fetch-Site: cross-site"), 403),
        ((JSON, "Origin: null"), 403),
        ((PLAIN, f"Origin: {LISTED}"), 415),
        (("Sec-Fetch-Site: cross-site",), 415),
        ((PLAIN, "Sec-Fetch-Site: cross-site"), 415),
        ((PLAIN, "Host: localhost:8080", "Origin: http://localhost:8080"), 415),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/own/events"])
async def test_page_that_may_not_use_the_key_is_refused(
    perform: Serve, stage: Stage, path: str, headers: tuple[str, ...], status: int
) -> None:
    """The upstream hears nothing of it."""
    own = {"path": "/own/events", "share": "url"}
    tee = await perform(**KEYED, cors={"origins": [LISTED]}, routes=[own])
    answer = await tee.ask("POST", path, *headers, body=chat_body())
    assert answer.status == status
    assert not stage.turns


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Type: application/x-www-form-urlencoded",),  # curl's default
        (),
        (JSON, f"Origin: {LISTED}", "Sec-Fetch-Site: cross-site"),
        (JSON, "Host: localhost:8080", "Origin: http://localhost:8080", "Sec-Fetch-Site: same-origin"),
        (JSON, "Host: 127.0.0.1:8080", "Origin: http://127.0.0.1:8080"),
    ],
)
async def test_others_may(perform: Serve, stage: Stage, headers: tuple[str, ...]) -> None:
    """Clients that are no pages, pages of the origins that are listed, and the proxy's own."""
    tee = await perform(**KEYED, cors={"origins": [LISTED]})
    client = await tee.send("POST", CHAT, *headers, body=chat_body())
    turn = await stage.next()
    assert turn.all("authorization") == [b"Bearer sk-ours"]
    turn.begin()
    turn.end(chunk_frame(), FINISH, DONE)
    assert (await client.answer()).status == 200


async def test_pages_use_their_own_keys_as_they_like(perform: Serve, stage: Stage) -> None:
    """Without a key of ours nothing is lent to them."""
    tee = await perform()
    client = await tee.send("POST", CHAT, PLAIN, "Origin: https://evil.example", body=chat_body())
    (await stage.next()).reply("200 OK")
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("admin", [False, True])
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example:8080", 421),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example.", 421),
        ("localhost:8080", 200),
        ("LOCALHOST", 200),
        ("a.localhost", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("proxy", 200),
        ("qwen.example.com:443", 200),
        ("", 400),
        ("a b", 400),
        ("x/y", 400),
        ("user@localhost", 400),
        ("localhost:port", 400),
        ("[::1", 400),
        ("<script>", 400),
    ],
)
async def test_port_on_loopback_answers_for_its_own_names(perform: Serve, host: str, status: int, admin: bool) -> None:
    """So a page whose own name leads to it (DNS rebinding) gets nothing; what is no host at all is a bad request."""
    tee = await perform(hosts=["qwen.example.com"])
    client = await tee.connect(admin=admin)
    client.send(request("GET", "/healthz", f"Host: {host}"))
    assert (await client.answer()).status == status


async def test_page_of_another_origin_reads_nothing_of_the_admin_port(perform: Serve) -> None:
    """Its own pages may."""
    tee = await perform()
    for origin, status in (("https://evil.example", 403), ("http://localhost:9090", 200)):
        assert (await tee.admin("/admin/streams", "Host: localhost:9090", f"Origin: {origin}")).status == status
