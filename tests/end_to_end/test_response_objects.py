"""Responses by their ids: made in the background, fetched, resumed, cancelled, deleted, though Qwen has no such thing.

With raw clients, and with the openai SDK as it is.
"""

import asyncio
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from proxy.server.config import Config
from proxy.tools.fake.qwen import FakeQwen
from tests.cuts import messages
from tests.dialects.response_events import ID, message, numbered, response
from tests.event_loops import GUARD_S, on_one_loop, until
from tests.proxy_under_test import CHAT, PROMPT, Serve, Tee
from tests.stage import Stage, Turn, staged

PATH = "/v1/responses"
WORDS = [f"word {number}. " for number in range(12)]
FRAMES = numbered(response(message(0, WORDS)), by_dashscope=True)
ALICE, BOB = "Authorization: Bearer sk-alice", "Authorization: Bearer sk-bob"


def body_of(**more: Any) -> bytes:
    return json.dumps({"model": "qwen3.7-plus", "input": PROMPT, **more}).encode()


def events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(said.data) for said in messages(body)]


def say(turn: Turn, *frames: bytes) -> None:
    """Begin an event stream with these frames."""
    turn.begin()
    for frame in frames:
        turn.chunk(frame)


async def begun(tee: Tee, stage: Stage, *headers: str, **more: Any) -> tuple[dict[str, Any], Turn]:
    """Begin a response in the background; return its object, and the turn, which has sent three frames."""
    client = await tee.send("POST", PATH, *headers, body=body_of(background=True, **more))
    turn = await stage.next()
    asked = json.loads(await turn.body())
    assert (asked["stream"], asked["background"]) == (True, False)
    say(turn, *FRAMES[:3])
    answer = await client.answer()
    assert (answer.status, answer.header("content-type")) == (200, "application/json; charset=utf-8")
    return json.loads(await answer.read()), turn


async def fetched(tee: Tee, ident: str, *headers: str) -> dict[str, Any]:
    answer = await tee.ask("GET", f"{PATH}/{ident}", *headers)
    assert answer.status == 200, await answer.read()
    return json.loads(await answer.read())


async def ended(tee: Tee, ident: str, status: str) -> dict[str, Any]:
    """Fetch a response again and again until it is in a state."""
    async with asyncio.timeout(GUARD_S):
        while (told := await fetched(tee, ident))["status"] != status:
            await asyncio.sleep(0)
    return told


async def test_response_in_the_background_is_answered_at_once_and_fetched_later(perform: Serve, stage: Stage) -> None:
    """As the upstream stated it last; its client may leave, and at the end it is the completed response, verbatim."""
    tee = await perform()
    told, turn = await begun(tee, stage)
    assert told["status"] in ("queued", "in_progress")
    running = await fetched(tee, ID)
    assert (running["id"], running["status"]) == (ID, "in_progress")
    turn.end(*FRAMES[3:])
    done = await ended(tee, ID, "completed")
    assert done == events(FRAMES[-1])[0]["response"]
    assert (await fetched(tee, told["id"]))["id"] == ID


async def test_response_in_the_background_is_kept_as_long_as_is_set_for_it(perform: Serve, stage: Stage) -> None:
    """An hour by default, however short others are kept; nobody follows it meanwhile."""
    assert Config().generations.background_retain_s == 3600
    tee = await perform(streams={"retain_s": 0}, generations={"background_retain_s": 0.5})
    _, turn = await begun(tee, stage)
    turn.end(*FRAMES[3:])
    await ended(tee, ID, "completed")
    async with asyncio.timeout(GUARD_S):
        while (await tee.ask("GET", f"{PATH}/{ID}?stream=true")).status == 200:
            await asyncio.sleep(0)
    assert (await tee.ask("GET", f"{PATH}/{ID}?stream=true")).status == 404


async def test_response_that_has_not_begun_is_queued(perform: Serve, stage: Stage) -> None:
    """Under the stream's id until the upstream has said its own; both find it afterwards."""
    tee = await perform()
    client = await tee.send("POST", PATH, body=body_of(background=True))
    turn = await stage.next()
    told = json.loads(await (await client.answer()).read())
    assert (told["object"], told["status"], told["output"], told["background"]) == ("response", "queued", [], True)
    assert (await fetched(tee, told["id"]))["status"] == "queued"
    turn.begin()
    turn.end(*FRAMES)
    assert (await ended(tee, told["id"], "completed"))["id"] == ID
    assert (await fetched(tee, ID))["status"] == "completed"


async def test_refusal_of_a_response_in_the_background_is_the_answer(serve: Serve) -> None:
    """With the upstream's status and body, if it comes in a moment."""
    tee = await serve()
    answer = await tee.ask("POST", PATH, "Fake-Fault: status; status=401", body=body_of(background=True))
    assert answer.status == 401
    assert "error" in await answer.json()


@pytest.mark.parametrize(
    ("fault", "status"), [("error_inside; after=6", "failed"), ("cut_mid_chunk; after=6", "failed")]
)
async def test_failure_in_the_background_is_told(fault: str, status: str, serve: Serve) -> None:
    """By the object's status and error."""
    tee = await serve()
    answer = await tee.ask("POST", PATH, f"Fake-Fault: {fault}", body=body_of(background=True))
    told = await ended(tee, (await answer.json())["id"], status)
    assert told["error"]["code"]
    assert told["error"]["message"]


async def test_events_are_resumed_after_any_number(perform: Serve, stage: Stage) -> None:
    """While it runs and when it has ended: none lost, none repeated."""
    tee = await perform()
    told, turn = await begun(tee, stage)
    early = [await tee.ask("GET", f"{PATH}/{told['id']}?stream=true&starting_after={n}") for n in (-1, 0, 2)]
    turn.end(*FRAMES[3:])
    everything = events(b"".join(FRAMES))
    for answer, number in zip(early, (-1, 0, 2), strict=True):
        assert events(await answer.read()) == everything[number + 1 :]
    for number in range(-1, len(FRAMES)):
        answer = await tee.ask("GET", f"{PATH}/{ID}?stream=true&starting_after={number}")
        assert events(await answer.read()) == everything[number + 1 :]
    answer = await tee.ask("GET", f"{PATH}/{ID}?stream=true")
    assert events(await answer.read()) == everything


async def test_client_that_had_the_failure_is_not_sent_it_again(serve: Serve) -> None:
    """It has the failure's own number, beyond those of the upstream."""
    tee = await serve()
    answer = await tee.ask("POST", PATH, "Fake-Fault: cut_mid_chunk; after=6", body=body_of(background=True))
    told = await ended(tee, (await answer.json())["id"], "failed")
    first = await tee.ask("GET", f"{PATH}/{told['id']}?stream=true&starting_after=4")
    *_, failure = events(await first.read())
    assert failure["type"] == "response.failed"
    again = await tee.ask("GET", f"{PATH}/{told['id']}?stream=true&starting_after={failure['sequence_number']}")
    assert again.status == 204


async def test_stream_that_was_no_background_is_found_too(perform: Serve, stage: Stage) -> None:
    """As long as it is kept: its client, cut off, resumes with its number alone."""
    tee = await perform(streams={"on_disconnect": "continue"})
    client = await tee.send("POST", PATH, body=body_of(stream=True))
    turn = await stage.next()
    say(turn, *FRAMES[:5])
    answer = await client.answer()
    await answer.bytes(len(b"".join(FRAMES[:5])))
    await client.leave()
    resumed = await tee.ask("GET", f"{PATH}/{ID}?stream=true&starting_after=4")
    turn.end(*FRAMES[5:])
    assert events(await resumed.read()) == events(b"".join(FRAMES[5:]))


async def test_kept_document_is_found_by_its_own_id_alone(perform: Serve, stage: Stage) -> None:
    """Not by one that another document quotes, nor by one that is no text."""
    tee = await perform(upstream={"key": "sk-ours"})
    for ident, quoted in (("first", "second third"), ("second", "first")):
        client = await tee.send("POST", PATH, ALICE, f"Idempotency-Key: {ident}", body=body_of())
        document = json.dumps({"id": ident, "object": "response", "output": [quoted]}).encode()
        turn = await stage.next()
        await turn.body()
        turn.reply("200 OK", "Content-Type: application/json", body=document)
        assert await (await client.answer()).read() == document
    for ident in ("first", "second"):
        assert (await fetched(tee, ident, ALICE))["id"] == ident
    for ident in ("third", "%ff", "%ED%A0%80"):
        assert (await tee.ask("GET", f"{PATH}/{ident}", ALICE)).status == 404
    refused = await tee.ask("POST", PATH, ALICE, body=body_of(previous_response_id="\ud800"))
    assert refused.status == 404


async def test_cancelled_response_says_so(perform: Serve, stage: Stage) -> None:
    """To who cancels, to who fetches it, and to who follows; the upstream's connection is closed."""
    tee = await perform()
    told, turn = await begun(tee, stage)
    follower = await tee.ask("GET", f"{PATH}/{told['id']}?stream=true")
    answer = await tee.ask("POST", f"{PATH}/{told['id']}/cancel")
    assert (answer.status, (await answer.json())["status"]) == (200, "cancelled")
    await turn.wait_left()
    assert (await fetched(tee, ID))["status"] == "cancelled"
    last = events(await follower.read())[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "cancelled")
    again = await tee.ask("POST", f"{PATH}/{ID}/cancel")
    assert (await again.json())["status"] == "cancelled"


async def test_deleted_response_is_gone_and_does_not_pass_upstream(perform: Serve, stage: Stage) -> None:
    """By neither id, and at no path of the API."""
    tee = await perform()
    told, turn = await begun(tee, stage)
    answer = await tee.ask("DELETE", f"{PATH}/{ID}")
    assert await answer.json() == {"id": ID, "object": "response", "deleted": True}
    await turn.wait_left()
    for ident in (ID, told["id"]):
        for prefix in ("", "/compatible-mode", "/api/v2/apps/protocols/compatible-mode"):
            assert (await tee.ask("GET", f"{prefix}{PATH}/{ident}")).status == 404
    assert stage.idle


async def test_id_that_is_not_ours_passes_upstream_with_the_callers_key(perform: Serve, stage: Stage) -> None:
    """But for its events, which the upstream has no way to send."""
    tee = await perform()
    client = await tee.send("GET", f"{PATH}/elsewhere", ALICE)
    turn = await stage.next()
    turn.reply("200 OK", "Content-Type: application/json", body=b'{"id":"elsewhere"}')
    assert await (await client.answer()).json() == {"id": "elsewhere"}
    refused = await tee.ask("GET", f"{PATH}/elsewhere?stream=true", ALICE)
    assert (refused.status, (await refused.json())["error"]["code"]) == (404, "response_not_found")


async def test_response_is_found_by_its_own_caller_alone(perform: Serve, stage: Stage) -> None:
    """To others it is none of theirs, and with a key of ours nothing of it passes upstream."""
    tee = await perform(upstream={"key": "sk-ours"})
    told, turn = await begun(tee, stage, ALICE)
    for method, path in (
        ("GET", ""),
        ("HEAD", ""),
        ("GET", "?stream=true"),
        ("POST", "/cancel"),
        ("DELETE", ""),
        ("GET", "/input_items"),
    ):
        for ident in (ID, told["id"]):
            assert (await tee.ask(method, f"{PATH}/{ident}{path}", BOB)).status == 404
    assert (await tee.ask("GET", f"{PATH}/{ID}", ALICE)).status == 200
    turn.end(*FRAMES[3:])
    assert stage.idle


@pytest.mark.parametrize("name", ["previous_response_id", "conversation"])
async def test_with_a_key_of_ours_only_what_was_given_is_continued(name: str, perform: Serve, stage: Stage) -> None:
    """The upstream would continue anybody's."""
    tee = await perform(upstream={"key": "sk-ours"})
    _, turn = await begun(tee, stage, ALICE)
    client = await tee.send("POST", PATH, ALICE, body=body_of(**{name: ID}))
    running = await stage.next()
    await running.body()
    running.reply("200 OK", "Content-Type: application/json", body=b'{"object":"response","id":"second"}')
    assert (await client.answer()).status == 200
    turn.end(*FRAMES[3:])
    client = await tee.send("POST", PATH, ALICE, body=body_of(**{name: "second"}))
    last = await stage.next()
    await last.body()
    last.reply("200 OK", "Content-Type: application/json", body=b"{}")
    assert (await client.answer()).status == 200
    for caller, ident in ((BOB, ID), (BOB, "second"), (ALICE, "another"), (ALICE, 7)):
        refused = await tee.ask("POST", PATH, caller, body=body_of(**{name: ident}))
        assert (refused.status, (await refused.json())["error"]["code"]) == (404, "response_not_found")
    assert stage.idle


def referring(ident: str) -> bytes:
    """Return the body of a request whose input refers to an item of an earlier response."""
    return body_of(input=[{"type": "item_reference", "id": ident}, {"role": "user", "content": "?"}])


@pytest.mark.parametrize("retain_s", [0, 60])
async def test_items_of_a_response_may_be_referred_to_by_its_caller(
    retain_s: int, perform: Serve, stage: Stage
) -> None:
    """While it runs, when it has ended, kept or not, and if no stream; by nobody else, nor once it is deleted."""
    tee = await perform(upstream={"key": "sk-ours"}, streams={"retain_s": retain_s})

    async def answered(asked: bytes, document: bytes) -> int:
        client = await tee.send("POST", PATH, ALICE, body=asked)
        turn = await stage.next()
        await turn.body()
        turn.reply("200 OK", "Content-Type: application/json", body=document)
        return (await client.answer()).status

    client = await tee.send("POST", PATH, ALICE, body=body_of(stream=True))
    turn = await stage.next()
    await turn.body()
    say(turn, *FRAMES[:3])
    answer = await client.answer()
    await answer.bytes(len(b"".join(FRAMES[:3])))
    assert await answered(referring("msg_0"), b"{}") == 200
    turn.end(*FRAMES[3:])
    await answer.read()
    assert await answered(referring("msg_0"), b"{}") == 200
    document = json.dumps({"object": "response", "id": "second", "output": [{"id": "rs_7"}, {"id": 7}, None]}).encode()
    assert await answered(body_of(), document) == 200
    assert await answered(referring("rs_7"), b"{}") == 200
    for caller, ident in ((BOB, "msg_0"), (BOB, "rs_7"), (ALICE, "msg_1"), (ALICE, "")):
        assert (await tee.ask("POST", PATH, caller, body=referring(ident))).status == 404
    if retain_s:
        assert (await tee.ask("DELETE", f"{PATH}/{ID}", ALICE)).status == 200
        assert (await tee.ask("POST", PATH, ALICE, body=referring("msg_0"))).status == 404
    assert stage.idle


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"previous_respons\\u0065_id":"theirs"}', 404),
        (b'{"previous_response_id":"theirs","previous_response_id":null}', 404),
        (b'{"Previous_Response_ID":"theirs"}', 404),
        (b'{"conversation":{"id":"theirs"},"conversation":{}}', 404),
        (b'{"input":[{"role":"user","content":"?"},{"type":"item_reference","id":"theirs"}]}', 404),
        (b'{"input":[{"id":"theirs"}]}', 404),
        (b'{"tools":[{"type":"file_search","vector_store_ids":["theirs"]}]}', 403),
        (b'{"input":[{"role":"user","content":[{"type":"input_image","image_url":"oss://theirs"}]}]}', 403),
        (b'{"previous_response_id":"theirs",}', 400),
        (b'{} {"previous_response_id":"theirs"}', 400),
        (b'{"input":%b,"previous_response_id":"theirs"}' % (b"[" * 5000 + b"]" * 5000), 400),
        ('{"previous_response_id":"theirs"}'.encode("utf-16"), 415),
    ],
)
async def test_no_spelling_continues_a_response_of_others(
    body: bytes, status: int, perform: Serve, stage: Stage
) -> None:
    """Whatever some parser may take for it; what can't be read goes upstream with no key of ours."""
    tee = await perform(upstream={"key": "sk-ours"})
    assert (await tee.ask("POST", PATH, BOB, body=body)).status == status
    assert stage.idle


@pytest.mark.parametrize("path", [PATH, CHAT])
@pytest.mark.parametrize(
    "header",
    ["Content-Encoding: gzip", "Content-Encoding: identity, br", "Content-Type: application/json; charset=utf-7"],
)
async def test_body_in_another_coding_is_not_sent_with_a_key_of_ours(
    header: str, path: str, perform: Serve, stage: Stage
) -> None:
    """Nobody here can see whose response or file it names."""
    tee = await perform(upstream={"key": "sk-ours"})
    refused = await tee.ask("POST", path, BOB, header, body=gzip.compress(body_of()))
    assert (refused.status, (await refused.json())["error"]["code"]) == (415, "unsupported_media_type")
    assert stage.idle


async def test_with_their_own_keys_callers_name_what_they_like(perform: Serve, stage: Stage) -> None:
    """The upstream knows what is theirs."""
    tee = await perform()
    client = await tee.send("POST", PATH, ALICE, body=body_of(previous_response_id="another"))
    (await stage.next()).reply("200 OK", "Content-Type: application/json", body=b"{}")
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("key", ["", "sk-coding"])
async def test_response_is_asked_for_where_it_was_made(key: str, perform: Serve, stage: Stage) -> None:
    """By its id, by what continues it, streamed or not, kept here no more; and there alone, not at a spare."""
    async with staged() as coding:
        tee = await perform(
            upstream={"key": key},
            upstreams={
                "coding": {"url": f"{coding.url}/v1", "key": key, "spares": ["spare"]},
                "spare": {"url": f"{stage.url}/spare/v1", "key": key, "weight": 1000},
            },
            models=[{"name": "coder-*", "upstream": "coding"}],
            streams={"retain_s": 0},
        )
        for streams in (True, False):
            client = await tee.send("POST", PATH, ALICE, body=body_of(model="coder-1", stream=streams))
            made, (turn, other) = await one_of(coding, stage)
            if streams:
                say(turn, *FRAMES)
                turn.end()
            else:
                whole = json.dumps({"object": "response", "id": ID}).encode()
                turn.reply("200 OK", "Content-Type: application/json", body=whole)
            await (await client.answer()).read()
            for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/input_items")):
                client = await tee.send(method, f"{PATH}/{ID}{path}", ALICE)
                turn = await made.next()
                assert turn.target.endswith(f"/v1/responses/{ID}{path}".encode())
                turn.reply("200 OK", body=b"{}")
                assert (await client.answer()).status == 200
            client = await tee.send("POST", PATH, ALICE, body=body_of(previous_response_id=ID))
            turn = await made.next()
            await turn.body()
            turn.reply("200 OK", "Content-Type: application/json", body=b"{}")
            assert (await client.answer()).status == 200
            assert other.idle


async def one_of(*stages: Stage) -> tuple[Stage, tuple[Turn, Stage]]:
    """Wait for the next request at any of two stages; return that one, the request, and the other stage."""
    async with asyncio.timeout(GUARD_S):
        while all(one.idle for one in stages):
            await asyncio.sleep(0.01)
    found, other = stages if not stages[0].idle else stages[::-1]
    turn = await found.next()
    await turn.body()
    return found, (turn, other)


@pytest.mark.parametrize("key", ["", "sk-ours"])
async def test_endless_id_is_no_response(key: str, perform: Serve, stage: Stage) -> None:
    """It is not even sent upstream."""
    tee = await perform(upstream={"key": key})
    for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/input_items")):
        refused = await tee.ask(method, f"{PATH}/{'x' * 257}{path}", ALICE)
        assert (refused.status, (await refused.json())["error"]["code"]) == (404, "response_not_found")
    assert stage.idle


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("stream=perhaps", "perhaps"),
        ("stream=true&starting_after=x", "starting_after"),
        ("stream=true&starting_after=99", "beyond"),
    ],
)
async def test_malformed_query_is_named(query: str, told: str, perform: Serve, stage: Stage) -> None:
    """And changes nothing."""
    tee = await perform()
    begun_, turn = await begun(tee, stage)
    refused = await tee.ask("GET", f"{PATH}/{begun_['id']}?{query}")
    assert refused.status == 400
    assert told in (await refused.json())["error"]["message"]
    turn.end(*FRAMES[3:])
    await ended(tee, ID, "completed")


# The openai SDK


def client_of(tee: Tee) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{tee.proxy.url}/v1", api_key="sk-alice", max_retries=0)


@on_one_loop
async def test_sdk_makes_fetches_and_deletes_a_response_in_the_background(serve: Serve, fake: FakeQwen) -> None:
    """One upstream call in all."""
    tee = await serve()
    async with client_of(tee) as client:
        told = await client.responses.create(model="qwen3.7-plus", input=PROMPT, background=True)
        assert told.status in ("queued", "in_progress", "completed")
        async with asyncio.timeout(GUARD_S):
            while told.status in ("queued", "in_progress"):
                told = await client.responses.retrieve(told.id)
        assert told.status == "completed"
        assert told.output_text
        await client.responses.delete(told.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(told.id)
    assert len(fake.requests) == 1


@on_one_loop
async def test_sdk_cancels_a_response(perform: Serve, stage: Stage) -> None:
    """It is told that the response is cancelled."""
    tee = await perform()
    told, turn = await begun(tee, stage, ALICE)
    async with client_of(tee) as client:
        assert (await client.responses.cancel(told["id"])).status == "cancelled"
    await turn.wait_left()


@on_one_loop
async def test_sdk_resumes_after_every_event(serve: Serve, fake: FakeQwen) -> None:
    """A client leaves after n events, for every n; another retrieves the rest: no event lost or repeated, one call."""
    tee = await serve()
    number, left = 0, True
    while left:
        async with client_of(tee) as first, client_of(tee) as second:
            had: list[Any] = []
            stream = await first.responses.create(model="qwen3.7-plus", input=PROMPT, background=True, stream=True)
            async for event in stream:
                had.append(event)
                if len(had) > number:
                    break
            left = had[-1].type != "response.completed"
            await stream.close()
            ident, last = had[0].response.id, had[-1].sequence_number
            more = await second.responses.retrieve(ident, stream=True, starting_after=last)
            rest = [event async for event in more]
        numbers = [event.sequence_number for event in [*had, *rest]]
        assert numbers == sorted(set(numbers))
        assert [*had, *rest][-1].type == "response.completed"
        told = "".join(event.delta for event in [*had, *rest] if event.type == "response.output_text.delta")
        assert told == [*had, *rest][-1].response.output_text
        number += 1
    assert len(fake.requests) == number


_BEGIN = """
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1], api_key="sk-alice", max_retries=0)
for event in client.responses.create(model="qwen3.7-plus", input="x", background=True, stream=True):
    if event.type == "response.created":
        print(event.response.id, flush=True)
    print(event.sequence_number, flush=True)
"""


@on_one_loop
async def test_response_outlives_its_killed_client(perform: Serve, stage: Stage, tmp_path: Path) -> None:
    """A process is killed in mid-stream; another goes on where it was."""
    tee = await perform()
    script = tmp_path / "begin.py"
    script.write_text(_BEGIN)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), f"{tee.proxy.url}/v1", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    turn = await stage.next()
    say(turn, *FRAMES[:5])
    lines = [(await process.stdout.readline()).decode().strip() for _ in range(6)]
    process.kill()
    await process.wait()
    turn.chunk(FRAMES[5])
    async with client_of(tee) as client:
        more = await client.responses.retrieve(lines[0], stream=True, starting_after=int(lines[-1]))
        turn.end(*FRAMES[6:])
        rest = [event.sequence_number async for event in more]
    assert [*map(int, lines[1:]), *rest] == [event["sequence_number"] for event in events(b"".join(FRAMES))]
    await until(lambda: not tee.proxy.hub.running)
