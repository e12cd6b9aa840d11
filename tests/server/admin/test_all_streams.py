"""What operators do with the streams of others: read, cancel and share them."""

import json
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from tests.access.named import NamedCallers
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import request
from tests.proxy_under_test import Tee, begun, teed
from tests.stage import Stage
from tests.websocket_client import rest

SECRETS = {"secrets": ["0" * 64]}
JSON = "Content-Type: application/json"


async def test_stream_of_another_caller_is_followed(tee: Tee, stage: Stage) -> None:
    """From its start and from a cursor, in any mode, as its own caller follows it."""
    asked, turn = await begun(tee, stage, "Authorization: Bearer sk-somebody", frames=2)
    follower = await tee.admin(f"/admin/streams/{asked.stream_id}?mode=text")
    turn.end(chunk_frame("the end"), FINISH, DONE)
    assert await follower.read() == b"word 1word 2the end"
    later = await tee.admin(f"/admin/streams/{asked.stream_id}?mode=events", f"Last-Event-ID: {asked.epoch}-3")
    assert (await later.read()).count(b"\nid: ") == 2


async def test_details_have_times_gaps_and_followers(tee: Tee, stage: Stage) -> None:
    """Numbers alone; those of the list in it."""
    asked, turn = await begun(tee, stage, "Stream-Key: chat-1", frames=3)
    info = await (await tee.admin(f"/admin/streams/{asked.stream_id}/info")).json()
    assert (info["state"], info["events"], info["key"], info["follower_count"]) == ("open", 3, "chat-1", 1)
    assert 0 < info["first_byte_s"] <= info["first_token_s"] == info["ttft_s"] <= info["last_token_s"] <= info["age_s"]
    assert (sum(info["gap_counts"]), info["long_gaps_s"]) == (2, [])
    assert len(info["gap_counts"]) == len(info["gap_bounds_s"]) + 1
    assert info["caller"] is None
    assert info["followers"] == [{"mode": "raw", "seq": 3, "lag_events": 0, "lag_bytes": 0}]
    turn.end(FINISH, DONE)
    await asked.read()
    await tee.wait_ended(asked.stream_id)
    info = await (await tee.admin(f"/admin/streams/{asked.stream_id}/info")).json()
    assert (info["state"], info["reason"], info["silent_s"]) == ("complete", "complete", None)
    assert info["follower_count"] == 0
    assert info["ended_s"] >= 0


async def test_caller_with_a_name_is_named(stage: Stage, tmp_path: Path) -> None:
    """Operators see who it is; others have no name."""
    callers = NamedCallers(tmp_path, alice={})
    async with teed(stage.url, **callers.tables()) as tee:
        asked, turn = await begun(tee, stage, callers.header("alice"))
        info = await (await tee.admin(f"/admin/streams/{asked.stream_id}/info")).json()
        assert info["caller"] == "alice"
        assert json.loads(tee.proxy.overview.text(0.0))["streams"][0]["caller"] == "alice"
        turn.end(DONE)
        await asked.read()


async def test_head_has_the_state_and_no_body(tee: Tee, stage: Stage) -> None:
    """As on the data port, of a stream that runs: the connection is in order afterwards."""
    asked, turn = await begun(tee, stage, frames=1)
    client = await tee.connect(admin=True)
    token = f"Authorization: Bearer {tee.proxy.operators.token}"
    for _ in range(2):
        client.send(request("HEAD", f"/admin/streams/{asked.stream_id}", token), method="HEAD")
        answer = await client.answer()
        assert (answer.status, answer.header("stream-state")) == (200, "open")
        assert await answer.read() == b""
    turn.end(DONE)


async def test_stream_is_followed_by_websocket(tee: Tee, stage: Stage) -> None:
    """With the token; a page of another origin gets none."""
    asked, turn = await begun(tee, stage, frames=1)
    turn.end(DONE)
    await asked.read()
    url = f"{tee.proxy.admin_url.replace('http', 'ws', 1)}/admin/streams/{asked.stream_id}"
    token = {"Authorization": f"Bearer {tee.proxy.operators.token}"}
    async with connect(url, additional_headers=token) as socket:
        told, _ = await rest(socket)
    assert [message["id"] for message in told] == [f"{asked.epoch}-1", f"{asked.epoch}-2"]
    with pytest.raises(InvalidStatus, match="403"):
        async with connect(url, additional_headers=token, origin=Origin("https://evil.example")):
            pass


async def test_cancel_ends_it_for_all(tee: Tee, stage: Stage) -> None:
    """The upstream's connection is closed, and its caller sees that it is not complete; twice is once."""
    asked, turn = await begun(tee, stage, frames=1)
    for _ in range(2):
        answer = await tee.admin(f"/admin/streams/{asked.stream_id}/cancel", JSON, method="POST", body=b"{}")
        assert (answer.status, (await answer.json())["reason"]) == (200, "cancelled")
    await turn.wait_left()
    await asked.read()
    assert asked.end != "whole"


async def test_share_gives_a_url_of_the_data_port(stage: Stage) -> None:
    """With the rights that were asked for, and no others."""
    async with teed(stage.url, capabilities=SECRETS) as tee:
        asked, turn = await begun(tee, stage, frames=1)
        body = json.dumps({"rights": ["read"], "expires_in": 60}).encode()
        shared = await (
            await tee.admin(f"/admin/streams/{asked.stream_id}/share", JSON, method="POST", body=body)
        ).json()
        follower = await tee.ask("GET", shared["url"] + "&mode=text", "Authorization: ")
        turn.end(FINISH, DONE)
        assert await follower.read() == b"word 1"
        path, _, token = shared["url"].partition("?")
        assert (await tee.ask("POST", f"{path}/cancel?{token}", "Authorization: ")).status == 403


@pytest.mark.parametrize(("body", "status"), [(b"{}", 501), (b"[]", 501)])
async def test_share_without_secrets_says_so(tee: Tee, stage: Stage, body: bytes, status: int) -> None:
    """Nothing could sign a URL."""
    asked, turn = await begun(tee, stage, frames=1)
    answer = await tee.admin(f"/admin/streams/{asked.stream_id}/share", JSON, method="POST", body=body)
    assert (answer.status, (await answer.json())["error"]["code"]) == (status, "capabilities_off")
    turn.end(DONE)


@pytest.mark.parametrize("path", ["", "/info", "/cancel", "/share"])
async def test_stream_that_is_not_there_is_404(tee: Tee, path: str) -> None:
    """Whatever is asked of it."""
    method, body = ("POST", b"{}") if path in ("/cancel", "/share") else ("GET", b"")
    assert (await tee.admin(f"/admin/streams/st_nothing{path}", JSON, method=method, body=body)).status == 404


async def test_operators_follow_many_streams_over_one_connection(tee: Tee, stage: Stage) -> None:
    """Kept alive, as a browser does: a response that has ended leaves it in order."""
    asked, turn = await begun(tee, stage, frames=1)
    turn.end(FINISH, DONE)
    await asked.read()
    client = await tee.connect(admin=True)
    for _ in range(3):
        token = f"Authorization: Bearer {tee.proxy.operators.token}"
        client.send(request("GET", f"/admin/streams/{asked.stream_id}?mode=text", token))
        assert await (await client.answer()).read() == b"word 1"
