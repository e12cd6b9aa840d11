"""Limits of callers with several workers: they hold for all workers together, wherever a request lands."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from proxy.access import account
from proxy.access.limits import DIVIDED
from proxy.server.placement import key_name
from proxy.workers.counting import questions
from proxy.workers.counting.sums import Sums
from tests.access.named import NamedCallers
from tests.event_loops import POLL_S, until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Answer
from tests.proxy_under_test import CHAT, RESPONSES, chat_body, chatted, response_body
from tests.several_workers import Several, key_of, several
from tests.stage import Stage, Turn

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":30,"completion_tokens":12,"total_tokens":42}}\n\n'
SECRETS = {"secrets": ["a secret of thirty-two characters"]}
NOBODY: dict[str, int] = {}


async def begun(three: Several, stage: Stage, at: int, *headers: str) -> tuple[Answer, Turn]:
    """Begin a stream whose request lands on a worker; it has one frame."""
    client = await three.send_chat(at, *headers)
    turn = await stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(chunk_frame("a"))
    return await client.answer(), turn


async def ended(answer: Answer, turn: Turn, *frames: bytes) -> None:
    """End a stream; its client has all of it."""
    turn.end(*(frames or (FINISH, DONE)))
    await answer.read()


async def refused(answer: Answer) -> str:
    """Return the limit that a refusal names."""
    assert answer.status == 429, answer.status
    said: str = (await answer.json())["error"]["message"]
    return said.split()[2]


async def used(three: Several, at: int, header: str) -> dict[str, Any]:
    told: dict[str, Any] = await (await three.ask(at, "GET", "/v1/usage", header)).json()
    return told


async def test_requests_and_tokens_are_limited_wherever_they_land(stage: Stage, tmp_path: Path) -> None:
    """The headers tell of all workers; so does `/v1/usage`, at each of them."""
    callers = NamedCallers(tmp_path, alice={"requests_per_day": 4, "tokens_per_day": 80}, bob={})
    alice = callers.header("alice")
    async with several(stage.url, **callers.tables()) as three:
        for at, left in ((0, b"3"), (1, b"2")):
            answer, turn = await begun(three, stage, at, alice)
            assert answer.all("x-ratelimit-remaining-requests") == [left]
            await ended(answer, turn, FINISH, USAGE, DONE)
        await until(lambda: not any(three.proxy(at).hub.running for at in range(3)))
        assert await refused(await three.chat(2, alice)) == "tokens_per_day"
        for at in range(3):
            told = await used(three, at, alice)
            assert told["requests"] == {
                "total": 2,
                "minute": {**told["requests"]["minute"], "used": 2},
                "day": {**told["requests"]["day"], "used": 2, "limit": 4},
            }
            assert (told["tokens"]["day"]["used"], told["streams"]["now"]) == (84, 0)
            assert (await used(three, at, callers.header("bob")))["requests"]["total"] == 0


@pytest.mark.parametrize(("limit", "at_once"), [("streams", 4), ("requests_per_day", 7)])
async def test_burst_on_all_workers_gets_no_more_than_the_limit(
    limit: str, at_once: int, stage: Stage, tmp_path: Path
) -> None:
    """To the last one, and not one less."""
    callers = NamedCallers(tmp_path, alice={limit: at_once})
    async with several(stage.url, **callers.tables()) as three:
        clients = [await three.send_chat(number % 3, callers.header("alice")) for number in range(24)]
        turns = [await stage.next() for _ in range(at_once)]
        for turn in turns:
            await turn.body()
            turn.begin()
        answers = await asyncio.gather(*(client.answer() for client in clients))
        assert Counter(answer.status for answer in answers) == {200: at_once, 429: 24 - at_once}
        for turn in turns:
            turn.end(chunk_frame("a"), FINISH, DONE)
        for answer in answers:
            await answer.read()
        assert stage.idle


async def test_place_of_a_stream_is_free_for_all_workers_when_it_has_ended(stage: Stage, tmp_path: Path) -> None:
    """Also if its client has left it, and it went on."""
    callers = NamedCallers(tmp_path, alice={"streams": 1})
    alice = callers.header("alice")
    async with several(stage.url, **callers.tables()) as three:
        answer, turn = await begun(three, stage, 0, alice, "Stream-On-Disconnect: continue")
        await answer.client.leave()
        for at in range(3):
            assert await refused(await three.chat(at, alice)) == "streams"
        turn.end(FINISH, DONE)
        await until(lambda: not three.proxy(0).hub.running)
        again, turn = await begun(three, stage, 2, alice)
        await ended(again, turn)
        assert (await used(three, 1, alice))["streams"]["now"] == 0


async def test_client_that_leaves_before_it_is_let_in_takes_no_place(stage: Stage, tmp_path: Path) -> None:
    """The answer that nobody waits for any more gives its place back."""
    callers = NamedCallers(tmp_path, alice={"streams": 1})
    alice = callers.header("alice")
    async with several(stage.url, **callers.tables()) as three:
        said: list[bytes] = []
        told = three.told[0]
        count, told._count = told._count, said.append  # type: ignore[method-assign]
        client = await three.send_chat(0, alice)
        await until(lambda: bool(said))
        await client.leave()
        await until(lambda: not three.proxy(0).clients.open)
        told._count = count  # type: ignore[method-assign]
        count(said[0])
        again, turn = await begun(three, stage, 1, alice)
        await ended(again, turn)
        assert (await used(three, 1, alice))["streams"]["now"] == 0


@pytest.mark.parametrize("name", ["Stream-Key", "Idempotency-Key"])
async def test_request_that_is_handed_over_counts_once(name: str, stage: Stage, tmp_path: Path) -> None:
    """And has one place, of the one that its caller may have."""
    callers = NamedCallers(tmp_path, alice={"streams": 1, "requests_per_day": 30})
    alice = callers.header("alice")
    async with several(stage.url, **callers.tables()) as three:
        for number in range(8):
            answer, turn = await begun(three, stage, number % 3, alice, f"{name}: n{number}")
            await ended(answer, turn)
            await until(lambda: not any(three.proxy(at).hub.running for at in range(3)))
        assert three.handed_over() > 0
        told = await used(three, 0, alice)
        assert (told["requests"]["day"]["used"], told["requests"]["total"], told["streams"]["now"]) == (8, 8, 0)
        totals = [account.requests_total for at in range(3) for account in three.proxy(at).admission.accounts or ()]
        assert sum(totals) == 8


async def test_followers_are_limited_whichever_workers_the_streams_are_in(stage: Stage, tmp_path: Path) -> None:
    """By id, by token, and several on one connection; a place that was left is free everywhere."""
    callers = NamedCallers(tmp_path, alice={"followers": 3})
    alice = callers.header("alice")
    async with several(stage.url, **callers.tables(), capabilities=SECRETS) as three:
        streams = [await begun(three, stage, at, alice) for at in range(3)]
        idents = [answer.stream_id for answer, _ in streams]
        shared = await (await three.ask(0, "POST", f"/v1/streams/{idents[2]}/share", alice)).json()
        first = await three.ask(1, "GET", f"/v1/streams/{idents[0]}", alice)
        both = await three.ask(2, "GET", f"/v1/follow?stream={idents[1]}&stream={idents[2]}", alice)
        assert (first.status, both.status) == (200, 200)
        for at in range(3):
            for ident in idents:
                assert await refused(await three.ask(at, "GET", f"/v1/streams/{ident}", alice)) == "followers"
            assert await refused(await three.ask(at, "GET", shared["url"], "Authorization:")) == "followers"
        await first.client.leave()
        await until(lambda: not three.proxy(0).admission.accounts.of(owner(three, 0)).followers)  # type: ignore[union-attr]
        again = await three.ask(0, "GET", shared["url"], "Authorization:")
        assert again.status == 200
        assert await refused(await three.ask(1, "GET", f"/v1/streams/{idents[0]}", alice)) == "followers"
        for answer, turn in streams:
            await ended(answer, turn)
        for answer in (both, again):
            assert b"[DONE]" in await answer.read()


def owner(three: Several, at: int) -> bytes:
    """Return the digest of the only caller that has a stream in a worker."""
    return next(iter(three.proxy(at).hub)).info.caller


async def test_burst_of_followers_gets_no_more_than_the_limit(stage: Stage, tmp_path: Path) -> None:
    """To the last one, and not one less."""
    callers = NamedCallers(tmp_path, alice={"followers": 5})
    alice = callers.header("alice")
    async with several(stage.url, **callers.tables()) as three:
        streams = [await begun(three, stage, at, alice) for at in range(3)]
        idents = [answer.stream_id for answer, _ in streams]
        clients = [await three.send(n % 3, "GET", f"/v1/streams/{idents[n // 3 % 3]}", alice) for n in range(27)]
        answers = await asyncio.gather(*(client.answer() for client in clients))
        assert Counter(answer.status for answer in answers) == {200: 5, 429: 22}
        for answer, turn in streams:
            await ended(answer, turn)
        for answer in answers:
            await answer.read()


async def test_followers_that_wait_count_in_all_workers(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no longer when they have left."""
    monkeypatch.setattr(account, "_UNUSED_S", 0.05)
    callers = NamedCallers(tmp_path, alice={"followers": 1})
    alice = callers.header("alice")
    async with several(stage.url, **callers.tables()) as three:
        (answer, turn) = await begun(three, stage, 0, alice)
        caller = owner(three, 0)
        keys = [key_of(at, three.workers, lambda text: _named(caller, text)) for at in range(3)]
        waiting = await three.ask(0, "GET", f"/v1/keys/{keys[0]}/stream?wait=60", alice)
        assert waiting.status == 200
        assert await refused(await three.ask(0, "GET", f"/v1/keys/{keys[1]}/stream?wait=60", alice)) == "followers"
        await waiting.client.leave()
        async with asyncio.timeout(10):
            while (await three.ask(2, "GET", f"/v1/streams/{answer.stream_id}", alice)).status == 429:
                await asyncio.sleep(POLL_S)
        await ended(answer, turn)


def _named(caller: bytes, key: str) -> bytes:
    from proxy.workers.names import name_of

    return name_of(*key_name(caller, key))


async def test_supervisor_that_does_not_answer_lets_nobody_in(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, as nobody knows what the limits leave; callers without limits in the file are asked about as well."""
    monkeypatch.setattr(questions, "ANSWERED_S", 0.05)
    callers = NamedCallers(tmp_path, alice={"streams": 1})
    alice = callers.header("alice")
    async with several(stage.url, **callers.tables()) as three:
        three.told[0].is_answering = False
        answer = await three.chat(0, alice)
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "overloaded")
        assert (await three.ask(0, "GET", "/v1/usage", alice)).status == 503
        assert stage.idle


async def test_upstream_is_asked_for_the_usage_in_each_worker(stage: Stage, tmp_path: Path) -> None:
    """A response that is no stream counts its tokens, too."""
    callers = NamedCallers(tmp_path, alice={"tokens_per_day": 50})
    alice = callers.header("alice")
    async with several(stage.url, **callers.tables()) as three:
        for at, status in ((0, 200), (1, 200), (2, 429)):
            client = await three.send(at, "POST", RESPONSES, alice, body=response_body(stream=False))
            if status == 200:
                document = {"object": "response", "id": f"r{at}", "usage": {"input_tokens": 20, "output_tokens": 10}}
                turn = await stage.next()
                await turn.body()
                turn.reply("200 OK", "Content-Type: application/json", body=json.dumps(document).encode())
            assert (await client.answer()).status == status


async def test_usage_of_the_day_survives_all_workers(stage: Stage, tmp_path: Path) -> None:
    """The supervisor writes the file, and reads it when it begins again."""
    callers = NamedCallers(tmp_path, alice={"requests_per_day": 2})
    alice = callers.header("alice")
    tables = callers.tables(usage_file=str(tmp_path / "usage.json"))
    for at, status in ((0, 200), (1, 200), (2, 429)):
        async with several(stage.url, **tables) as three:
            client = await three.send(at, "POST", CHAT, alice, body=chat_body())
            assert await chatted(client, stage, admitted=status == 200) == status
            await until(lambda: not any(three.proxy(at).hub.running for at in range(3)))
        await three.sums.save()


# What the supervisor counts.


class Worker:
    """A worker, as the supervisor hears it."""

    def __init__(self, sums: Sums, number: int, **limits: int) -> None:
        self._sums = sums
        self._number = number
        self._limits = [limits.get(name, 0) for name in DIVIDED]

    def say(self, what: str, **said: Any) -> dict[str, Any]:
        message = {"what": what, "name": "alice", "limits": self._limits, **said}
        return self._sums.heed(self._number, message) or NOBODY

    def take(self) -> bool:
        return self.say("take", looks_up=False)["reached"] is None


def test_worker_that_is_gone_holds_nothing_and_what_it_used_stays_used() -> None:
    """Its streams and followers are gone with it; a window that began anew would let twice as much in."""
    sums = Sums()
    limits = {"streams": 3, "requests_per_day": 5, "followers": 4, "tokens_per_day": 100}
    one, other = (Worker(sums, number, **limits) for number in (1, 2))
    assert [one.take(), one.take(), other.take(), other.take()] == [True, True, True, False]
    assert one.say("follow", count=3)["reached"] is None
    assert other.say("follow", count=2)["reached"] is not None
    one.say("spent", tokens=60)
    sums.forget(1)
    told = other.say("sums")["sums"]
    assert (told["streams"]["now"], told["followers"]["now"]) == (1, 0)
    assert (told["requests"]["day"]["used"], told["tokens"]["day"]["used"]) == (3, 60)
    assert other.say("follow", count=4)["room"] == 4
    assert [other.take(), other.take(), other.take()] == [True, True, False]
    other.say("over")
    other.say("spent", tokens=40)
    assert other.say("take", looks_up=False)["reached"][0] == "requests_per_day"


def test_late_words_of_a_worker_free_no_place_of_others() -> None:
    """A place is given back once, by the worker that has it."""
    sums = Sums()
    one, other = (Worker(sums, number, streams=2) for number in (1, 2))
    assert [one.take(), other.take()] == [True, True]
    for _ in range(3):
        one.say("over")
    assert [one.take(), one.take()] == [True, False]
    one.say("withdraw")
    one.say("withdraw")
    assert one.say("sums")["sums"]["streams"]["now"] == 1


def test_limits_are_those_that_workers_say_last() -> None:
    """They read the keys file, and ask the operator's endpoint; what was used stays used."""
    sums = Sums()
    assert [Worker(sums, 1, requests_per_day=2).take() for _ in range(3)] == [True, True, False]
    assert [Worker(sums, 2, requests_per_day=3).take() for _ in range(2)] == [True, False]
    assert Worker(sums, 1).take()
