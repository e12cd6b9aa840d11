"""An API that nobody has, added by a row of the table alone, through a real proxy."""

import json
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from tests.dialects.made_up_row import ROW, registered
from tests.proxy_under_test import Serve, configured
from tests.stage import Stage
from tests.workers_under_test import in_one_process

pytestmark = in_one_process("the row is added to the tables of this process")

ANSWERS = "/made-up/v2/answers"
EVENT = b'event: item.delta\ndata: {"type":"item.delta","seq":1,"item":0,"delta":"Hel"}\n\n'
LAST = b'event: answer.ended\ndata: {"type":"answer.ended","seq":2,"answer":{"id":"a","items":[]}}\n\n'


@pytest.fixture(autouse=True)
def row() -> Iterator[None]:
    """Register the row; nothing else is touched."""
    with registered():
        yield


@pytest.mark.parametrize("path", ["answers", "agents/a1/answers"])
async def test_generation_leads_upstream_and_its_stream_back(path: str, perform: Serve, stage: Stage) -> None:
    """Below the prefix that its own stands for; the stream can be followed, and is counted by its row and model."""
    tee = await perform()
    body = b'{"engine":"m-1","live":true}'
    client = await tee.send("POST", f"/made-up/v2/{path}", "Stream-Key: k", body=body)
    turn = await stage.next()
    assert (turn.target, await turn.body()) == (f"/inner/made-up/{path}".encode(), body)
    turn.begin()
    turn.end(EVENT + LAST)
    answer = await client.answer()
    assert await answer.read() == EVENT + LAST
    info = await tee.wait_ended(answer.stream_id)
    assert (info["state"], info["model"]) == ("complete", "m-1")
    assert await tee.metric("streamtee_requests_total", route="made_up", status="200") == 1


async def test_request_without_streaming_is_asked_for_as_its_dialect_says(perform: Serve, stage: Stage) -> None:
    """When upgrades are on; all else of its body stays as it came."""
    tee = await perform(generations={"upgrade": "always"})
    client = await tee.send("POST", ANSWERS, body=b'{"engine": "m-1", "seed": 1e400}')
    turn = await stage.next()
    assert await turn.body() == b'{"live":true,"engine": "m-1", "seed": 1e400}'
    turn.reply("400 Bad Request", "Content-Type: application/json", body=b"{}")
    assert (await client.answer()).status == 400


async def test_headers_of_its_row_make_two_requests_one_or_two(perform: Serve, stage: Stage) -> None:
    """With sharing by body: what steers counts, what does not doesn't."""
    tee = await perform(generations={"share": "body"})
    asked = [("dry", "1"), ("dry", "2"), ("warm", "1")]
    clients = [
        await tee.send("POST", ANSWERS, f"X-Made-Up-Tone: {tone}", f"X-Other: {other}", body=b'{"live":true}')
        for tone, other in asked
    ]
    turns = [await stage.next() for _ in range(2)]
    for turn in turns:
        turn.begin()
        turn.end(EVENT)
    answers = [await client.answer() for client in clients]
    for answer in answers:
        await answer.read()
    assert [answer.stream_id == answers[0].stream_id for answer in answers] == [True, True, False]
    assert len(stage.turns) == 2


@pytest.mark.parametrize(
    ("method", "path", "passes"),
    [("POST", "answers", True), ("POST", "counts", True), ("GET", "engines/m-1", True), ("GET", "files", False)],
)
async def test_key_of_ours_opens_what_its_row_lends(
    method: str, path: str, passes: bool, perform: Serve, stage: Stage
) -> None:
    """And refuses the rest in the words of its dialect."""
    tee = await perform(upstream={"key": "sk-ours"})
    client = await tee.send(method, f"/made-up/v2/{path}", body=b"{}" if method == "POST" else b"")
    if passes:
        turn = await stage.next()
        assert turn.all("authorization") == [b"Bearer sk-ours"]
        turn.reply("200 OK", "Content-Type: application/json", body=b"{}")
    answer = await client.answer()
    assert answer.status == (200 if passes else 403)
    if not passes:
        assert set(json.loads(await answer.read())) == {"reason", "message"}


async def test_pages_may_send_the_headers_of_its_clients(perform: Serve) -> None:
    """A preflight says so."""
    tee = await perform(cors={"origins": ["https://page.test"]})
    answer = await tee.ask(
        "OPTIONS",
        ANSWERS,
        "Origin: https://page.test",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: x-made-up-tone, x-unknown",
    )
    assert answer.header("access-control-allow-headers") == "x-made-up-tone"


async def test_api_below_the_prefixes_of_another_is_a_row_too(perform: Serve, stage: Stage) -> None:
    """Its generations are counted as its own, below each of them; all else there stays the first row's."""
    with registered(ROW._replace(prefixes=("/v1/", "/compatible-mode/v1/"), upstream_prefix=None)):
        tee = await perform()
    for path in ("/v1/answers", "/compatible-mode/v1/answers", "/v1/models"):
        client = await tee.send("POST", path, body=b'{"live":true}')
        turn = await stage.next()
        assert turn.target == b"/compatible-mode/v1/" + path.rpartition("/")[2].encode()
        turn.reply("400 Bad Request", body=b"{}")
        await (await client.answer()).read()
    assert await tee.metric("streamtee_requests_total", route="made_up", status="400") == 2
    assert await tee.metric("streamtee_requests_total", route="chat", status="400") == 1


def test_routes_and_paths_of_the_operator_know_its_prefix() -> None:
    """A route can't stand below it, and a path below it can be lent."""
    with pytest.raises(ValidationError, match="clashes with /made-up/v2/"):
        configured("http://a.test", routes=[{"path": "/made-up/v2/events"}])
    assert configured("http://a.test", upstream={"paths": ["/made-up/v2/files/"]}).upstream.paths
