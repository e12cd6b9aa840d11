"""Several workers as real processes: what happens when one is killed, when they reload, and when they end."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.event_loops import POLL_S, on_one_loop, until
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Client, request
from tests.proxy_under_test import CHAT, chat_body
from tests.spawned import FREE, answered, serving_at, spawned
from tests.stage import Stage
from tests.supervised import GUARD_S, TOKEN, Served, begun, finish, served, worker_of

pytestmark = on_one_loop


def is_alive(pid: int) -> bool:
    """Return whether there is a process of this number."""
    return Path(f"/proc/{pid}").exists()


async def test_killed_worker_is_replaced_and_only_its_clients_are_cut(stage: Stage) -> None:
    """Visibly; the others' streams go on, and within a second all workers are there again."""
    async with served(stage.url) as one:
        streams = [await begun(one, stage) for _ in range(12)]
        homes = {worker_of(answer) for answer, _ in streams}
        doomed = worker_of(streams[0][0])
        assert len(homes) > 1
        killed = asyncio.get_running_loop().time()
        os.kill(await one.pid_of(doomed), signal.SIGKILL)
        await one.logged("SIGKILL; it is replaced")
        await one.wait_up(0, 1, 2)
        took_s = asyncio.get_running_loop().time() - killed
        for answer, turn in streams:
            if worker_of(answer) == doomed:
                assert answer.end == "open"
                await answer.read()
                assert answer.end in ("cut", "reset")
            else:
                finish(turn)
                assert b"last" in await answer.read()
                assert answer.end == "whole"
        lost = await answered(one.url, request("GET", f"/v1/streams/{streams[0][0].stream_id}"))
        assert lost[0] == 404
        again, turn = await begun(one, stage)
        finish(turn)
        await again.read()
        assert again.end == "whole"
        assert took_s < 8  # on a machine with other work; docs/workers.md has what it is on an idle one


async def test_counts_of_a_killed_worker_stay_in_the_sums(stage: Stage) -> None:
    """Prometheus would take a smaller sum for a restart of all."""
    async with served(stage.url) as one:
        for _ in range(6):
            answer, turn = await begun(one, stage)
            finish(turn)
            await answer.read()
        assert b'streamtee_streams_ended_total{ending="complete",model="m",route="chat"} 6.0' in await ended(one)
        os.kill(await one.pid_of(worker_of(answer)), signal.SIGKILL)
        await one.logged("it is replaced")
        await one.wait_up(0, 1, 2)
        assert b'streamtee_streams_ended_total{ending="complete",model="m",route="chat"} 6.0' in await ended(one)


async def ended(one: Served) -> bytes:
    page = (await one.admin("/metrics"))[1]
    return re.sub(rb'model="[^"]*"', b'model="m"', page)


async def test_worker_that_hangs_holds_no_page_up(stage: Stage) -> None:
    """It is missing from the metrics, which say so; the others serve."""
    async with served(stage.url) as one:
        stopped = await one.pid_of(1)
        os.kill(stopped, signal.SIGSTOP)
        try:
            began = asyncio.get_running_loop().time()
            pages = ("/metrics", "/readyz", "/admin/streams")
            (_, page), (status, body), (_, listed) = await asyncio.gather(*map(one.admin, pages))
            assert asyncio.get_running_loop().time() - began < 3
            assert b'streamtee_worker_up{worker="1"} 0.0' in page
            assert b'streamtee_worker_up{worker="0"} 1.0' in page
            assert (status, json.loads(body)["workers"]) == (200, {"0": True, "1": False, "2": True})
            assert json.loads(listed)["has_more"] is True
            clients = [await Client.connect(one.url) for _ in range(8)]  # some of them come to the others
            for client in clients:
                client.send(request("GET", "/v1/streams"))
            waiting = {asyncio.create_task(client.answer()) for client in clients}
            statuses: set[int] = set()
            while waiting and not statuses:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                statuses = {task.result().status for task in done if task.exception() is None}
            assert statuses == {503}  # a list that lacks its streams would be a lie
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        finally:
            os.kill(stopped, signal.SIGCONT)


async def test_admin_port_has_the_streams_and_events_of_all(stage: Stage) -> None:
    """Whichever workers they are in."""
    async with served(stage.url) as one:
        feed = await Client.connect(one.admin_url)
        feed.send(request("GET", "/admin/events", f"Authorization: Bearer {TOKEN}"))
        events = await feed.answer()
        streams = []
        while len({worker_of(answer) for answer, _ in streams}) < 2:
            streams.append(await begun(one, stage))
        listed = json.loads((await one.admin("/admin/streams"))[1])
        assert {stream["id"] for stream in listed["data"]} == {answer.stream_id for answer, _ in streams}
        for answer, turn in streams:
            status, body = await one.admin(f"/admin/streams/{answer.stream_id}/info")
            assert (status, json.loads(body)["id"]) == (200, answer.stream_id)
            finish(turn)
            await answer.read()
        status, body = await one.admin(f"/admin/streams/{streams[0][0].stream_id}?mode=text")
        assert (status, body) == (200, b"firstlast")
        await events.until(streams[-1][0].stream_id.encode())
        await feed.leave()
        assert (await answered(one.admin_url, request("GET", "/admin/streams")))[0] == 401


async def test_console_of_all_workers_shows_and_tries(stage: Stage) -> None:
    """Its files are open; the overview has the streams of all; its form's request reaches a worker, with its key."""
    async with served(stage.url) as one:
        assert (await answered(one.admin_url, request("GET", "/console", "Authorization: ")))[0] == 200
        as_operator = f"Authorization: Bearer {TOKEN}"
        feed = await Client.connect(one.admin_url)
        feed.send(request("GET", "/admin/events?every=0.2", as_operator))
        overviews = await feed.answer()
        streams = [await begun(one, stage) for _ in range(4)]
        for answer, _ in streams:
            await overviews.until(answer.stream_id.encode())
        workers = re.findall(rb'"name":"(\d)","pid":(\d+)', await overviews.until(b"event: overview"))
        assert len({pid for _, pid in workers}) == 3
        sign_in = request("POST", "/admin/sign-in", "Authorization: ", body=json.dumps({"token": TOKEN}).encode())
        client = await Client.connect(one.admin_url)
        client.send(sign_in, method="POST")
        cookie = ((await client.answer()).header("set-cookie") or "").partition(";")[0]
        headers = ("Authorization: Bearer sk-typed", f"Cookie: {cookie}", "Origin: http://proxy")
        client.send(request("POST", f"/admin/try{CHAT}", *headers, "Content-Type: application/json", body=chat_body()))
        turn = await stage.next()
        assert turn.all("authorization") == [b"Bearer sk-typed"]
        assert not turn.all("cookie")
        turn.begin()
        turn.end(chunk_frame("tried"), FINISH, DONE)
        tried = await client.answer()
        assert await tried.read() == chunk_frame("tried") + FINISH + DONE
        assert await one.admin(f"/admin/streams/{tried.stream_id}?mode=text") == (200, b"tried")
        for answer, turn in streams:
            finish(turn)
            await answer.read()
        await feed.leave()
        await client.leave()


async def test_reload_under_load_cuts_and_loses_nothing(stage: Stage, tmp_path: Path) -> None:
    """Streams go on in old workers, are found by all, and what is new begins in new ones."""
    file = tmp_path / "streamtee.toml"
    file.write_text(f'drain_s = 4\n[upstream]\nurl = "{stage.url}"\n')
    async with served("", "--config", str(file)) as one:
        streams = [await begun(one, stage, f"Stream-Key: k{n}", f"Idempotency-Key: i{n}") for n in range(8)]
        kept = await Client.connect(one.url)
        kept.send(request("GET", "/healthz"))
        await (await kept.answer()).read()
        one.process.send_signal(signal.SIGHUP)
        asked = asyncio.create_task(ask_all_the_time(one, streams[0][0].stream_id))
        await one.logged("3 new workers have begun")
        for number, (answer, _) in enumerate(streams):
            status, body = await answered(one.url, request("GET", f"/v1/keys/k{number}"))
            assert (status, json.loads(body)["id"]) == (200, answer.stream_id)
            again = await one.send(f"Idempotency-Key: i{number}")
            assert (await again.answer()).stream_id == answer.stream_id
            follower = await Client.connect(one.url)
            resumed = f"Last-Event-ID: {answer.epoch}-1"
            follower.send(request("GET", f"/v1/streams/{answer.stream_id}", resumed))
            followed = await follower.answer()
            finish(streams[number][1])
            said = await followed.read()
            assert (followed.end, said.count(b'"last"'), said.count(b'"first"')) == ("whole", 1, 0)
            assert b"last" in await answer.read()
            assert answer.end == "whole"
        newer, turn = await begun(one, stage)
        assert worker_of(newer) in (3, 4, 5)
        finish(turn)
        await newer.read()
        asked.cancel()
        failed = (await asyncio.gather(asked, return_exceptions=True))[0]
        assert isinstance(failed, asyncio.CancelledError), failed
        await one.wait_up(3, 4, 5)  # once the old ones have drained
        kept.send(request("GET", "/v1/streams"))
        assert (await kept.answer()).status == 200


async def ask_all_the_time(one: Served, ident: str) -> None:
    """Ask for a stream on one new connection after the other: none is refused, no request fails."""
    while True:
        status, _ = await answered(one.url, request("HEAD", f"/v1/streams/{ident}"))
        assert status == 200


async def test_reload_while_a_worker_hangs_refuses_nothing(stage: Stage) -> None:
    """What is new on connections of a worker of the reload before waits for those that take over."""
    async with served(stage.url) as one:
        answer, turn = await begun(one, stage)
        clients = [await Client.connect(one.url) for _ in range(3)]
        for client in clients:  # their connections go to the worker of the stream
            client.send(request("GET", f"/v1/streams/{answer.stream_id}/info"))
            await (await client.answer()).read()
        one.process.send_signal(signal.SIGHUP)
        await one.logged("3 new workers have begun")
        hangs, *others = [await one.pid_of(number) for number in (3, 4, 5)]
        os.kill(hangs, signal.SIGSTOP)
        try:
            one.process.send_signal(signal.SIGHUP)
            await until(lambda: not any(map(is_alive, others)))
            for client in clients:
                client.send(request("POST", CHAT, body=chat_body()), method="POST")
            for _ in clients:
                new = await stage.next()
                new.begin()
                finish(new)
            for client in clients:
                answered_anew = await client.answer()
                assert b"last" in await answered_anew.read()
                assert worker_of(answered_anew) != worker_of(answer)
        finally:
            os.kill(hangs, signal.SIGCONT)
        finish(turn)
        assert b"last" in await answer.read()


async def test_requests_of_operators_count_once(stage: Stage) -> None:
    """However many workers are asked for the answer."""
    async with served(stage.url) as one:
        for _ in range(2):
            assert (await one.admin("/admin/streams"))[0] == 200
        page = (await one.admin("/metrics"))[1].decode()
    counted = re.findall(r"^streamtee_requests_total\{(.*?)\} (\S+)", page, re.MULTILINE)
    assert counted == [('method="GET",route="admin",status="200"', "2.0")]


async def test_reload_replaces_the_admin_token(stage: Stage, tmp_path: Path) -> None:
    """The port is the supervisor's, which goes on: the old token lets nobody in. What needs a restart is named."""
    file = tmp_path / "streamtee.toml"
    tokens = ("the-token-of-before", "the-token-from-now-on")
    written = 'admin_token = "{}"\nworkers = {}\n[upstream]\nurl = "{}"\n'
    file.write_text(written.format(tokens[0], 2, stage.url))
    async with spawned("serve", "--config", str(file), guard_s=GUARD_S, **FREE) as process:
        one = Served(process, *await serving_at(process))
        file.write_text(written.format(tokens[1], 3, stage.url))
        one.process.send_signal(signal.SIGHUP)
        await one.logged("a restart is needed for: workers")

        async def statuses() -> list[int]:
            asked = [request("GET", "/admin/streams", f"Authorization: Bearer {token}") for token in tokens]
            return [(await answered(one.admin_url, each))[0] for each in asked]

        while await statuses() != [401, 200]:
            await asyncio.sleep(POLL_S)


async def test_bad_configuration_changes_nothing(stage: Stage, tmp_path: Path) -> None:
    """The log says what is wrong with it; the workers of before go on."""
    file = tmp_path / "streamtee.toml"
    file.write_text(f'[upstream]\nurl = "{stage.url}"\n')
    async with served("", "--config", str(file)) as one:
        file.write_text("[limits]\nstreams = 2\n")
        one.process.send_signal(signal.SIGHUP)
        refused = await one.logged("SIGHUP: nothing was changed")
        assert "limits.streams is 2, which can't be divided among 3 workers" in refused
        assert await one.up() == [0, 1, 2]
        answer, turn = await begun(one, stage)
        finish(turn)
        await answer.read()
        assert answer.end == "whole"


async def test_limit_that_can_not_be_divided_starts_nothing() -> None:
    """With a message that names it."""
    async with spawned("serve", "--workers", "3", **FREE, STREAMTEE_LIMITS__FOLLOWERS="2") as process:
        assert await process.wait() == 2
        assert process.stderr is not None
        assert b"limits.followers is 2, which can't be divided among 3 workers" in await process.stderr.read()


async def test_terminated_workers_drain(stage: Stage) -> None:
    """As one process does: what runs may finish, and then all have ended."""
    async with served(stage.url) as one:
        streams = [await begun(one, stage) for _ in range(4)]
        pids = [await one.pid_of(number) for number in range(3)]
        one.process.send_signal(signal.SIGTERM)
        assert one.process.stdout is not None
        assert b"draining" in await one.process.stdout.readline()
        for answer, turn in streams:
            finish(turn)
            await answer.read()
            assert answer.end == "whole"
        assert await one.process.wait() == 0
        assert not any(map(is_alive, pids))


async def test_second_signal_ends_all_at_once(stage: Stage) -> None:
    """What is cut does not look complete."""
    async with served(stage.url) as one:
        answer, _ = await begun(one, stage)
        one.process.send_signal(signal.SIGTERM)
        assert one.process.stdout is not None
        await one.process.stdout.readline()
        one.process.send_signal(signal.SIGTERM)
        assert await one.process.wait() == 0
        await answer.read()
        assert answer.end in ("cut", "reset")


async def test_workers_end_when_their_supervisor_is_killed(stage: Stage) -> None:
    """They drain: nobody would replace or end them any more; and leave nothing behind."""
    with TemporaryDirectory() as directory:
        async with served(stage.url, TMPDIR=directory) as one:
            pids = [await one.pid_of(number) for number in range(3)]
            assert len(os.listdir(directory)) == 1
            one.process.kill()
            await until(lambda: not any(map(is_alive, pids)))
            assert os.listdir(directory) == []


async def test_address_that_is_taken_is_refused(stage: Stage) -> None:
    """By other workers, too, whose address could be shared."""
    async with served(stage.url) as one:
        address = one.url.removeprefix("http://")
        async with spawned("serve", "--workers", "2", **{**FREE, "STREAMTEE_LISTEN": address}) as second:
            assert await second.wait() == 2
            assert second.stderr is not None
            assert b"can't listen" in await second.stderr.read()
