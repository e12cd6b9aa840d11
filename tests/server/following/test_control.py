"""Control by key: what is told, and that a cancel hits the stream that is meant."""

import pytest

from tests.proxy_under_test import Tee, begun
from tests.stage import Stage, Turn

CANCEL = "/v1/keys/k/cancel"


async def named(tee: Tee, stage: Stage, key: str = "k") -> tuple[str, Turn]:
    answer, turn = await begun(tee, stage, f"Stream-Key: {key}", frames=1)
    await answer.until(b"word 1")
    return answer.stream_id, turn


@pytest.mark.parametrize("headers", [[], ["*"], ["{}"], ['"st_other", {}'], ['"st_other"', "{}"], ['W/"st_other" ,{}']])
async def test_newest_stream_is_cancelled(tee: Tee, stage: Stage, headers: list[str]) -> None:
    """Without If-Match, or when its id is among those that are meant; once more changes nothing."""
    older, older_turn = await named(tee, stage)
    ident, turn = await named(tee, stage)
    matches = [f"If-Match: {value}".format(f'"{ident}"') for value in headers]
    for _ in range(2):
        answer = await tee.ask("POST", f"{CANCEL}?wait=5", *matches)
        told = await answer.json()
        assert (answer.status, answer.header("etag")) == (200, f'"{ident}"')
        assert (told["id"], told["state"], told["ending"]["reason"]) == (ident, "cancelled", "cancelled")
    await turn.wait_left()
    assert (await tee.info(older))["state"] == "open"
    assert not older_turn.left.is_set()


@pytest.mark.parametrize(
    ("value", "status"),
    [('"st_other"', 412), ('W/"{}"', 412), ('"*"', 412), ("{}", 400), ("", 400), ('"{}', 400), ('*, "{}"', 400)],
)
async def test_stream_that_is_not_meant_goes_on(tee: Tee, stage: Stage, value: str, status: int) -> None:
    """412 when it is another one, by the strong comparison; 400 for what is no list of entity tags."""
    ident, turn = await named(tee, stage)
    answer = await tee.ask("POST", CANCEL, f"If-Match: {value.format(ident)}")
    assert answer.status == status
    assert (await answer.json())["error"]["code"] == ("precondition_failed" if status == 412 else "bad_request")
    assert not turn.left.is_set()
    assert (await tee.info(ident))["state"] == "open"


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/keys/k"), ("HEAD", "/v1/keys/k"), ("POST", CANCEL)])
async def test_key_without_a_stream_is_unknown(tee: Tee, stage: Stage, method: str, path: str) -> None:
    """Nobody's or another caller's: one answer, also to If-Match."""
    await named(tee, stage, "other")
    await named(tee, stage)
    for target, header in (
        (path.replace("keys/k", "keys/none"), "If-Match: *"),
        (path, "Authorization: Bearer another"),
    ):
        assert (await tee.ask(method, target, header)).status == 404


@pytest.mark.parametrize("path", [CANCEL, "/v1/streams/{}/cancel"])
async def test_wait_that_is_none_is_refused_before_the_cancel(tee: Tee, stage: Stage, path: str) -> None:
    """By key as by id."""
    ident, _ = await named(tee, stage)
    answer = await tee.ask("POST", path.format(ident) + "?wait=soon")
    assert (answer.status, (await tee.info(ident))["state"]) == (400, "open")
    answer = await tee.ask("POST", path.format(ident) + "?wait=0.5")
    assert (answer.status, (await answer.json())["state"]) == (200, "cancelled")


async def test_newest_stream_is_told_of(tee: Tee, stage: Stage) -> None:
    """What info and HEAD tell by id, with the tag for If-Match."""
    await named(tee, stage)
    ident, _ = await named(tee, stage)
    got = await tee.ask("GET", "/v1/keys/k")
    assert (got.header("etag"), await got.json()) == (f'"{ident}"', await tee.info(ident))
    by_key, by_id = await tee.ask("HEAD", "/v1/keys/k"), await tee.ask("HEAD", f"/v1/streams/{ident}")
    assert by_key.header("etag") == f'"{ident}"'
    named_so = [header for header in by_id.headers if header[0].startswith(b"Stream-")]
    assert [header for header in by_key.headers if header[0].startswith(b"Stream-")] == named_so != []
