"""What signals have a running server do: real processes, real signals, and the SDK of those who ask."""

import asyncio
import hashlib
import json
import os
import signal
from asyncio.subprocess import Process
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.certificates import Authority
from tests.event_loops import POLL_S
from tests.event_streams import DONE, FINISH, chunk_frame
from tests.http_client import Client, request
from tests.proxy_under_test import CHAT, chat_body
from tests.spawned import FREE, answered, serving_at, spawned
from tests.stage import Stage

SHORT_S = 0.5
MODES = ("raw", "events", "coalesced", "incremental", "cumulative")


async def asked(url: str, mode: str) -> list[str]:
    """Ask as openai-python does; return the texts, once the answer has ended as if it were whole."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="m", messages=[], stream=True, extra_headers={"Stream-Mode": mode}
        )
        return [chunk.choices[0].delta.content or "" async for chunk in stream]


async def logged(process: Process, words: str) -> str:
    """Read the log until a line has these words; return the line."""
    assert process.stderr is not None
    while words not in (said := (await process.stderr.readline()).decode()):
        assert said, f"the log ended without {words!r}"
    return said


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_drained_answer_is_an_exception_to_the_sdk_in_every_mode(stage: Stage, loop: str) -> None:
    """What the upstream has said is there, and never taken for all of it."""
    settings = {**FREE, "STREAMTEE_UPSTREAM__URL": stage.url, "STREAMTEE_DRAIN_S": "0.1"}
    async with spawned("serve", "--loop", loop, **settings) as process:
        url, _ = await serving_at(process)
        asking = [asyncio.create_task(asked(url, mode)) for mode in MODES]
        for _ in MODES:
            turn = await stage.next()
            turn.begin()
            turn.chunk(chunk_frame("w1 "))
            turn.chunk(chunk_frame("w2 "))
        while (await answered(url, request("GET", "/v1/streams", "Authorization: Bearer k")))[1].count(b'"open"') < 5:
            await asyncio.sleep(POLL_S)
        process.send_signal(signal.SIGTERM)
        raised = dict(zip(MODES, await asyncio.gather(*asking, return_exceptions=True), strict=True))
        assert {mode: isinstance(one, openai.APIError) for mode, one in raised.items()} == dict.fromkeys(MODES, True)
        assert [isinstance(raised[mode], openai.APIConnectionError) for mode in MODES] == [True] + [False] * 4
        assert await process.wait() == 0


async def test_calls_that_were_made_are_finished(stage: Stage) -> None:
    """Embeddings, a completion, and a stream whose head has not come, when SIGTERM does."""
    async with spawned("serve", **FREE, STREAMTEE_UPSTREAM__URL=stage.url) as process:
        url, admin = await serving_at(process)
        clients, turns = [], []
        for path, body in (("/v1/embeddings", b"{}"), (CHAT, b'{"model":"m"}'), (CHAT, chat_body())):
            client = await Client.connect(url)
            client.send(request("POST", path, body=body), method="POST")
            clients.append(client)
            turns.append(await stage.next())
        process.send_signal(signal.SIGTERM)
        while (await answered(admin, request("GET", "/readyz")))[0] != 503:
            await asyncio.sleep(POLL_S)
        for turn in turns[:2]:
            turn.reply("200 OK", body=b"whole")
        turns[2].begin()
        turns[2].end(chunk_frame(), DONE)
        bodies = [await (await client.answer()).read() for client in clients]
        assert bodies == [b"whole", b"whole", chunk_frame() + DONE]
        assert await process.wait() == 0


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_second_signal_ends_at_once(stage: Stage, loop: str) -> None:
    """Whatever time was left: the client is told, and the exit status is 0."""
    settings: dict[str, str] = {**FREE, "STREAMTEE_UPSTREAM__URL": stage.url, "STREAMTEE_DRAIN_S": "3600"}
    async with spawned("serve", "--loop", loop, **settings) as process:
        url, admin = await serving_at(process)
        client = await Client.connect(url)
        client.send(request("POST", CHAT, "Stream-Mode: events", body=chat_body()), method="POST")
        turn = await stage.next()
        turn.begin()
        turn.chunk(chunk_frame())
        answer = await client.answer()
        await answer.until(b"-1\n\n")
        process.send_signal(signal.SIGTERM)
        while (await answered(admin, request("GET", "/readyz")))[0] != 503:
            await asyncio.sleep(POLL_S)
        process.send_signal(signal.SIGINT)
        assert b'"code":"drained"' in await answer.read()
        assert await process.wait() == 0


def written(file: Path, stage: Stage, keys: list[str], **more: Any) -> None:
    """Write a configuration in which these keys are accepted."""
    digests = ", ".join(f'"{hashlib.sha256(key.encode()).hexdigest()}"' for key in keys)
    top = "\n".join(f"{key} = {value}" for key, value in more.items())
    file.write_text(
        f'listen = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n{top}\n'
        f'[upstream]\nurl = "{stage.url}"\nkey = "sk-{keys[0]}"\n[auth]\nmode = "keys"\nkeys = [{digests}]\n'
    )


async def test_sighup_reads_keys_again_while_streams_run(stage: Stage, tmp_path: Path) -> None:
    """A new key is accepted, an old one is not, upstream gets the new one; what runs goes on. No key is logged."""
    file = tmp_path / "c.toml"
    written(file, stage, ["old"])
    async with spawned("serve", "--config", str(file)) as process:
        url, _ = await serving_at(process)
        client = await Client.connect(url)
        client.send(request("POST", CHAT, "Authorization: Bearer old", body=chat_body()), method="POST")
        turn = await stage.next()
        turn.begin()
        turn.chunk(chunk_frame())
        answer = await client.answer()
        written(file, stage, ["new"], hosts='["a.example"]')
        process.send_signal(signal.SIGHUP)
        said = await logged(process, "read again")
        assert "changed: upstream.key, auth.keys; a restart is needed for: hosts\n" in said
        assert (await answered(url, request("GET", "/v1/models", "Authorization: Bearer old")))[0] == 401
        asking = asyncio.create_task(answered(url, request("GET", "/v1/models", "Authorization: Bearer new")))
        (second := await stage.next()).reply("200 OK")
        assert second.all("authorization") == [b"Bearer sk-new"]
        assert (await asking)[0] == 200
        turn.end(DONE)
        assert await answer.read() == chunk_frame() + DONE


async def test_sighup_with_a_bad_file_changes_nothing(stage: Stage, tmp_path: Path) -> None:
    """It is said what is wrong with it, without the value; the process goes on with what it has."""
    file = tmp_path / "c.toml"
    written(file, stage, ["old"])
    async with spawned("serve", "--config", str(file)) as process:
        url, _ = await serving_at(process)
        written(file, stage, ["new"], drain_s='"sk-secret"')
        process.send_signal(signal.SIGHUP)
        assert "nothing was changed: the configuration is not valid" in await logged(process, "SIGHUP")
        assert "drain_s: must be a number, not a string" in (said := await logged(process, "drain_s"))
        assert "sk-secret" not in said
        file.unlink()
        process.send_signal(signal.SIGHUP)
        assert "can't be read" in await logged(process, "SIGHUP")
        asking = asyncio.create_task(answered(url, request("GET", "/v1/models", "Authorization: Bearer old")))
        (await stage.next()).reply("200 OK")
        assert (await asking)[0] == 200


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_sighup_replaces_the_certificate_while_streams_run(stage: Stage, tmp_path: Path, loop: str) -> None:
    """New connections are shown the new one, also with no change of the configuration; a bad one changes nothing."""
    authority = Authority(tmp_path)
    certificate = authority.sign("localhost", file="server.pem")
    tls = {"STREAMTEE_UPSTREAM__URL": stage.url, "STREAMTEE_TLS__CERTIFICATE": str(certificate)}
    async with spawned("serve", "--loop", loop, **FREE, **tls) as process:
        url, _ = await serving_at(process)
        host, port = url.removeprefix("https://").split(":")

        async def connect() -> Client:
            context = authority.client()
            opened = asyncio.get_running_loop().create_connection(
                Client, host, int(port), ssl=context, server_hostname="localhost"
            )
            return (await opened)[1]

        first = await connect()
        first.send(request("POST", CHAT, body=chat_body()), method="POST")
        turn = await stage.next()
        turn.begin()
        turn.chunk(chunk_frame())
        answer = await first.answer()
        shown = [first.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)]
        for content, said in ((authority.sign("localhost").read_text(), "read again"), ("none", "stays in use")):
            certificate.write_text(content)
            process.send_signal(signal.SIGHUP)
            await logged(process, said)
            if said == "read again":
                assert (await answered_by(await connect()))[0] == 200
            shown.append((await connect()).transport.get_extra_info("ssl_object").getpeercert(binary_form=True))
        assert shown[0] != shown[1] == shown[2]
        turn.end(DONE)
        assert await answer.read() == chunk_frame() + DONE


async def answered_by(client: Client) -> tuple[int, bytes]:
    """Ask over a connection whether the process is well; return the status and the body."""
    client.send(request("GET", "/healthz"))
    answer = await client.answer()
    return answer.status, await answer.read()


async def test_sighup_never_ends_the_process(stage: Stage) -> None:
    """Not without a file, and not while it drains."""
    async with spawned("serve", **FREE, STREAMTEE_UPSTREAM__URL=stage.url) as process:
        url, _ = await serving_at(process)
        process.send_signal(signal.SIGHUP)
        assert "nothing has changed" in await logged(process, "SIGHUP")
        client = await Client.connect(url)
        client.send(request("POST", "/v1/embeddings", body=b"{}"), method="POST")
        turn = await stage.next()
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGHUP)
        assert "nothing has changed" in await logged(process, "SIGHUP")
        turn.reply("200 OK")
        assert (await client.answer()).status == 200
        assert await process.wait() == 0


def minds(pid: int, number: signal.Signals) -> bool:
    """Return whether a process has a signal wait, ignores it, or has a handler of it: if not, it would be ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [
        int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigBlk", "SigIgn", "SigCgt"))
    ]
    return any(mask >> number - 1 & 1 for mask in masks)


def processes(pid: int) -> list[int]:
    """Return a server and its workers, by their numbers; what was forked is a worker once it runs its program."""
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [pid, *(one for one in children if b"\0worker\0" in Path(f"/proc/{one}/cmdline").read_bytes())]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sighup_while_a_server_starts_is_heeded_once_it_runs(tmp_path: Path, workers: str) -> None:
    """From the first line of the program on, every few milliseconds, also to those of its workers that have begun."""
    file = tmp_path / "c.toml"
    file.write_text("drain_s = 1\n")
    async with spawned("serve", "--workers", workers, "--config", str(file), is_forked=False, **FREE) as process:
        listening, sent = asyncio.create_task(serving_at(process)), 0
        while not listening.done():
            with suppress(FileNotFoundError, ProcessLookupError):  # one has ended since
                for pid in processes(process.pid):
                    if minds(pid, signal.SIGHUP):
                        os.kill(pid, signal.SIGHUP)
                        sent += 1
            await asyncio.sleep(0.005)
        assert sent > 20
        await logged(process, "configuration was read again" if workers == "1" else "2 new workers have begun")
        assert (await answered((await listening)[0], request("GET", "/healthz")))[0] == 200


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_server_that_is_to_end_while_it_starts_ends_with_0(workers: str, told: signal.Signals) -> None:
    """As soon as it could serve, and without a traceback."""
    async with spawned("serve", "--workers", workers, is_forked=False, **FREE) as process:
        while not minds(process.pid, told) or not minds(process.pid, signal.SIGHUP):
            pass
        process.send_signal(told)
        assert process.stderr is not None
        assert b"Traceback" not in await process.stderr.read()
        assert await process.wait() == 0


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.fault("process", "between_frames")
async def test_process_that_was_stopped_heeds_what_came_meanwhile(stage: Stage, tmp_path: Path, loop: str) -> None:
    """Queue, connections, grace, keep_s and wait: each was due by then, and what ends the wait had come."""
    file = tmp_path / "c.toml"
    file.write_text(
        f'listen = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n[timeouts]\nconnect_s = {SHORT_S}\n'
        f'[[routes]]\npath = "/feed"\nupstream = "plain"\nshare = "url"\nkeep_s = {SHORT_S}\n'
        f'[[routes]]\npath = "/queued"\nupstream = "queued"\n[[routes]]\npath = "/few"\nupstream = "few"\n'
        f'[upstream]\nurl = "{stage.url}"\n[upstreams.plain]\nurl = "{stage.url}"\n'
        f'[upstreams.queued]\nurl = "{stage.url}"\nmax_concurrent = 1\nqueue_s = {SHORT_S}\n'
        f'[upstreams.few]\nurl = "{stage.url}"\nmax_connections = 1\n'
    )
    async with spawned("serve", "--loop", loop, "--config", str(file), is_forked=False) as process:
        url, _ = await serving_at(process)

        async def sent(data: bytes) -> Client:
            client = await Client.connect(url)
            client.send(data)
            return client

        graced = await sent(request("POST", CHAT, f"Stream-On-Disconnect: grace={SHORT_S}", body=chat_body()))
        (running := await stage.next()).begin()
        running.chunk(chunk_frame())
        ident = (await graced.answer()).stream_id
        fed = await sent(request("GET", "/feed"))
        (feed := await stage.next()).begin()
        feed.chunk(b"data: 1\n\n")
        feed_ident = (await fed.answer()).stream_id
        first = [await sent(request("GET", path)) for path in ("/queued", "/few")]
        turns = [await stage.next() for _ in first]
        behind = [await sent(request("GET", path)) for path in ("/queued", "/few")]
        waiting = await sent(request("GET", f"/v1/keys/k/stream?wait={SHORT_S}"))
        await waiting.answer()
        await graced.leave()
        await fed.leave()
        await answered(url, request("GET", "/healthz"))  # it has seen all of that
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2 * SHORT_S)
        back = await sent(request("GET", f"/v1/streams/{ident}"))
        again = await sent(request("GET", "/feed"))
        named = await sent(request("POST", CHAT, "Stream-Key: k", body=chat_body()))
        for turn in turns:
            turn.reply("200 OK", body=b"first")
        process.send_signal(signal.SIGCONT)
        asked = {(turn := await stage.next()).target: turn for _ in range(3)}
        for path in (b"/queued", b"/few"):
            asked[path].reply("200 OK", body=b"second")
        assert [await (await client.answer()).read() for client in behind] == [b"second"] * 2
        (named_turn := asked[b"/compatible-mode/v1/chat/completions"]).begin()
        named_turn.end(chunk_frame("named"), DONE)
        await waiting.wait_bytes(lambda buffer: b"named" in buffer)
        running.end(chunk_frame("after the stop"), DONE)
        assert (await (await back.answer()).read()).count(b"after the stop") == 1
        assert (await again.answer()).stream_id == feed_ident
        for client in (*first, *behind, waiting, back, again, named):
            await client.leave()


async def test_log_of_json_is_json_from_the_first_line_to_the_last(stage: Stage) -> None:
    """Also what a signal has it say, and each stream that has ended."""
    settings = {**FREE, "STREAMTEE_UPSTREAM__URL": stage.url, "STREAMTEE_LOG_FORMAT": "json"}
    async with spawned("serve", **settings) as process:
        url, _ = await serving_at(process)
        asking = asyncio.create_task(answered(url, request("POST", CHAT, body=chat_body())))
        turn = await stage.next()
        turn.begin()
        turn.end(chunk_frame(), FINISH, DONE)
        await asking
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        said = [json.loads(await logged(process, "stream ended")), json.loads(await logged(process, "SIGHUP"))]
        process.terminate()
        said += [json.loads(line) for line in (await process.stderr.read()).splitlines()]
        assert await process.wait() == 0
    assert (said[0]["ending"], said[0]["events"], said[0]["level"]) == ("complete", 3, "info")
    assert said[1]["level"] == "warning"
