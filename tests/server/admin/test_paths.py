"""The admin port as a whole: what is open, what needs the token, and what pages may do."""

import json

import pytest

from tests.event_streams import DONE, chunk_frame
from tests.proxy_under_test import Tee, begun, teed
from tests.stage import Stage

TOKEN = "a-token-of-sixteen-or-more"
OPEN = ["/healthz", "/readyz", "/metrics"]
GUARDED = [
    ("GET", "/admin/streams"),
    ("GET", "/admin/streams/{ident}"),
    ("GET", "/admin/streams/{ident}/info"),
    ("GET", "/admin/events"),
    ("GET", "/admin/overview"),
    ("POST", "/admin/streams/{ident}/cancel"),
    ("POST", "/admin/streams/{ident}/share"),
    ("POST", "/admin/try/v1/chat/completions"),
]
JSON = "Content-Type: application/json"


@pytest.mark.parametrize("path", [*OPEN, "/console", "/console/main.js"])
async def test_probes_metrics_and_files_are_open(tee: Tee, path: str) -> None:
    """The files hold no data; scrapers have no token."""
    assert (await tee.admin(path, "Authorization: ")).status == 200


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_all_else_needs_the_token(tee: Tee, stage: Stage, method: str, path: str) -> None:
    """With none, a wrong one, or the key of the stream's caller: 401, and nothing has happened."""
    asked, turn = await begun(tee, stage, frames=1)
    path = path.replace("{ident}", asked.stream_id)
    for headers in (["Authorization: "], ["Authorization: Bearer wrong"], ["Authorization: Bearer sk-the-caller"]):
        answer = await tee.admin(path, *headers, method=method, body=b"{}" if method == "POST" else b"")
        assert answer.status == 401
        assert (await answer.json())["error"]["code"] == "admin_token_needed"
    assert len(stage.turns) == 1
    turn.end(DONE)
    assert (await asked.read()).endswith(DONE)


async def test_sign_in_opens_all_by_a_cookie(tee: Tee) -> None:
    """And a sign-out has the browser drop it."""
    body = json.dumps({"token": tee.proxy.operators.token}).encode()
    answer = await tee.admin("/admin/sign-in", "Authorization: ", JSON, method="POST", body=body)
    assert (answer.status, answer.header("cache-control")) == (204, "no-store")
    cookie = (answer.header("set-cookie") or "").partition(";")[0]
    assert (await tee.admin("/admin/streams", "Authorization: ", f"Cookie: a=b; {cookie}")).status == 200
    gone = await tee.admin("/admin/sign-out", "Authorization: ", f"Cookie: {cookie}", method="POST")
    assert "Max-Age=0" in (gone.header("set-cookie") or "")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"token": 1}', b'{"token": "wrong"}'])
async def test_sign_in_without_the_token_is_refused(tee: Tee, body: bytes) -> None:
    """Whatever is sent in its place."""
    answer = await tee.admin("/admin/sign-in", "Authorization: ", JSON, method="POST", body=body)
    assert answer.status == (401 if b"wrong" in body else 400)
    assert answer.header("set-cookie") is None


@pytest.mark.parametrize(
    "headers",
    [
        ("Origin: https://evil.example", "Sec-Fetch-Site: cross-site"),
        ("Origin: null",),
        ("Origin: http://localhost:3000", "Sec-Fetch-Site: same-site"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [*GUARDED, ("POST", "/admin/sign-in"), ("GET", "/metrics"), ("POST", "/admin/sign-out")]
)
async def test_page_of_another_origin_is_refused(
    stage: Stage, method: str, path: str, headers: tuple[str, ...]
) -> None:
    """Even with the token, and even if cors.origins lets it use the data port; it can't read that it was, either."""
    async with teed(stage.url, cors={"origins": ["*"]}) as tee:
        answer = await tee.admin(path, "Host: localhost:9090", JSON, *headers, method=method, body=b"{}")
        assert (answer.status, (await answer.json())["error"]["code"]) == (403, "origin_not_allowed")
        assert answer.header("access-control-allow-origin") is None
        assert answer.header("cross-origin-resource-policy") == "same-origin"


async def test_link_from_another_page_leads_to_the_console(tee: Tee) -> None:
    """A runbook may have one: the files are open, and framed by nobody."""
    answer = await tee.admin("/console", "Authorization: ", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate")
    assert answer.status == 200
    assert "frame-ancestors 'none'" in (answer.header("content-security-policy") or "")


async def test_off_loopback_only_probes_and_metrics_are_served_without_a_token(stage: Stage) -> None:
    """The others say what is missing; a token on the command changes that."""
    for tables, status in (({}, 403), ({"admin_token": TOKEN}, 200)):
        async with teed(stage.url, admin="0.0.0.0:0", **tables) as tee:
            for path in (*OPEN, "/openapi.json", "/console", "/console/main.js", "/admin/streams"):
                answer = await tee.admin(path)
                assert answer.status == (200 if path in OPEN else status), path
                if answer.status == 403:
                    assert "admin_token" in (await answer.json())["error"]["message"]
            assert tee.proxy.console_url == (f"{tee.proxy.admin_url}/console" if tables else "")


async def test_on_loopback_each_start_makes_a_token_of_its_own(stage: Stage) -> None:
    """The console's URL has it in the fragment, which browsers keep to themselves."""
    tokens = []
    for _ in range(2):
        async with teed(stage.url) as tee:
            tokens.append(tee.proxy.operators.token)
            assert tee.proxy.console_url == f"{tee.proxy.admin_url}/console#token={tokens[-1]}"
    assert tokens[0] != tokens[1]
    assert min(map(len, tokens)) > 40


async def test_responses_keep_to_their_port(tee: Tee, stage: Stage) -> None:
    """None is guessed to be of another type or embedded elsewhere; texts and lists are kept by no cache."""
    asked, turn = await begun(tee, stage, frames=1)
    for path in ("/admin/streams", f"/admin/streams/{asked.stream_id}?mode=text", "/console", "/nothing"):
        answer = await tee.admin(path)
        assert answer.header("x-content-type-options") == "nosniff", path
        assert answer.header("cross-origin-resource-policy") == "same-origin", path
        assert (answer.header("cache-control") or "").startswith(("no-store", "no-cache")), path
    turn.end(chunk_frame(), DONE)
