"""POST /v1/streams/{id}/share, and what a token that was given there can do: with real sockets."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.access.capabilities import Capabilities, Capability
from tests.event_streams import DONE, chunk_frame, stamped
from tests.http_client import Answer
from tests.proxy_under_test import Tee, begun, teed
from tests.stage import Stage

SECRET = "a secret of thirty-two characters"
NOBODY = "Authorization:"
OTHER = "Authorization: Bearer sk-somebody-else"


@pytest.fixture
async def tee(stage: Stage) -> AsyncIterator[Tee]:
    async with teed(stage.url, capabilities={"secrets": [SECRET], "ttl_s": 60, "ttl_max_s": 600}) as one:
        yield one


async def share(tee: Tee, ident: str, *headers: str, body: Any = None) -> Answer:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return await tee.ask("POST", f"/v1/streams/{ident}/share", *headers, body=data)


async def test_caller_shares_its_stream(tee: Tee, stage: Stage) -> None:
    """With a body of nothing: read and info, for as long as configured; nobody may keep the answer."""
    answer, _ = await begun(tee, stage, frames=1)
    before = int(time.time())
    given = await share(tee, answer.stream_id)
    assert given.status == 200
    assert given.header("cache-control") == "no-store"
    told = await given.json()
    assert told.keys() == {"url", "token", "rights", "expires_at"}
    assert told["url"] == f"/v1/streams/{answer.stream_id}?t={told['token']}"
    assert told["rights"] == ["read", "info"]
    assert before + 60 <= told["expires_at"] <= int(time.time()) + 60
    assert Capabilities([SECRET]).verify(told["token"]) == Capability(
        answer.stream_id, ("read", "info"), told["expires_at"]
    )


async def test_shared_url_is_enough_to_follow(tee: Tee, stage: Stage) -> None:
    """From anywhere, without a key; more parameters can be added to it."""
    answer, turn = await begun(tee, stage, frames=2)
    told = await (await share(tee, answer.stream_id)).json()
    first = await tee.ask("GET", told["url"], NOBODY)
    raw = await tee.ask("GET", told["url"] + "&mode=raw&after=1", NOBODY)
    turn.end(DONE)
    said = await answer.read()
    assert await first.read() == stamped(said, answer.epoch)
    assert await raw.read() == chunk_frame("word 2") + DONE
    assert (first.end, raw.end) == ("whole", "whole")


@pytest.mark.parametrize(
    ("asked", "rights", "lasts_s"),
    [
        ({}, ["read", "info"], 60),
        ({"rights": ["info", "cancel", "read", "info"]}, ["read", "cancel", "info"], 60),
        ({"rights": ["cancel"], "expires_in": 1}, ["cancel"], 1),
        ({"expires_in": 600}, ["read", "info"], 600),
        ({"expires_in": 10**9}, ["read", "info"], 600),
    ],
)
async def test_rights_and_time_are_as_asked_for(
    tee: Tee, stage: Stage, asked: Any, rights: list[str], lasts_s: int
) -> None:
    """The rights in one order; no longer than allowed, as the answer tells."""
    answer, _ = await begun(tee, stage)
    before = int(time.time())
    told = await (await share(tee, answer.stream_id, body=asked)).json()
    assert told["rights"] == rights
    assert before + lasts_s <= told["expires_at"] <= int(time.time()) + lasts_s


@pytest.mark.parametrize(
    "asked",
    [
        b"{", b"[]", b'"read"', b"null", b"\xff", {"right": ["read"]}, {"rights": []}, {"rights": "read"},
        {"rights": ["write"]}, {"rights": [["read"]]}, {"rights": None}, {"expires_in": 0}, {"expires_in": -1},
        {"expires_in": 1.5}, {"expires_in": "60"}, {"expires_in": True}, {"expires_in": None},
    ],
)  # fmt: skip
async def test_wish_that_is_none_is_refused(tee: Tee, stage: Stage, asked: Any) -> None:
    """400, which says what is allowed."""
    answer, _ = await begun(tee, stage)
    refused = await share(tee, answer.stream_id, body=asked)
    assert refused.status == 400
    assert (await refused.json())["error"]["code"] == "bad_request"


async def test_body_that_is_too_large_is_refused(tee: Tee, stage: Stage) -> None:
    """A wanted is short."""
    answer, _ = await begun(tee, stage)
    refused = await share(tee, answer.stream_id, body=b" " * 5000)
    assert refused.status == 413


async def test_only_the_caller_shares(tee: Tee, stage: Stage) -> None:
    """To others the stream is not there; to one who holds a token itself, with all rights, it is not to be given on."""
    answer, _ = await begun(tee, stage)
    told = await (await share(tee, answer.stream_id, body={"rights": ["read", "cancel", "info"]})).json()
    for headers in ((OTHER,), (NOBODY,)):
        assert (await share(tee, answer.stream_id, *headers)).status == 404
    bearer = f"Authorization: Bearer {told['token']}"
    refused = await share(tee, answer.stream_id, bearer)
    assert refused.status == 403
    assert (await refused.json())["error"]["code"] == "missing_right"
    assert (await share(tee, "st_none")).status == 404


async def test_without_secrets_nothing_is_shared(stage: Stage) -> None:
    """501 and why; no answer names a URL, and `t` is an unknown parameter like any other."""
    async with teed(stage.url) as tee:
        answer, _ = await begun(tee, stage, frames=1)
        assert answer.header("stream-follow-url") is None
        refused = await share(tee, answer.stream_id)
        assert refused.status == 501
        error = (await refused.json())["error"]
        assert error["code"] == "capabilities_off"
        assert "capabilities.secrets" in error["message"]
        token = Capabilities([""]).sign(Capability(answer.stream_id, ("read",), 10**11))
        assert (await tee.follow(answer.stream_id, f"t={token}", NOBODY)).status == 404
        assert (await tee.follow(answer.stream_id, f"t={token}")).status == 200
