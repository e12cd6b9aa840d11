"""The command line: what each command prints, what it exits with, and how `serve` is told to stop."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy import __version__
from proxy.tools.cli import COMMANDS, main
from proxy.tools.fake.faults import FAULTS
from proxy.tools.fake.realtime import SOCKET_FAULTS
from tests.event_loops import until
from tests.event_streams import DONE, chunk_frame
from tests.http_client import Client, request
from tests.proxy_under_test import chat_body
from tests.spawned import FREE, answered, line, serving_at, spawned
from tests.stage import Stage, staged

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config" / "streamtee.toml"
BUILD = "compiled" if os.environ.get("TEST_COMPILED") else "interpreted"


def invoked(*arguments: str, **settings: str) -> Result:
    """Run a command within this process, with no setting of its environment but these."""
    unset = {name: None for name in os.environ if name.startswith("STREAMTEE_")}
    return CliRunner().invoke(main, arguments, env={**unset, **settings})


# serve


@pytest.mark.parametrize(
    ("arguments", "loop", "told"),
    [
        ((), "uvloop", signal.SIGTERM),
        (("--loop", "asyncio"), "asyncio", signal.SIGINT),
    ],
)
async def test_serve_prints_where_it_listens_and_drains_when_told_to_stop(
    stage: Stage, arguments: tuple[str, ...], loop: str, told: signal.Signals
) -> None:
    """A stream that runs when the signal comes is finished, nobody new is let in, and the exit status is 0."""
    async with spawned("serve", *arguments, STREAMTEE_UPSTREAM__URL=stage.url, **FREE) as process:
        first, second = await line(process), await line(process)
        says = rf"streamtee {__version__} on (http://127\.0\.0\.1:\d+), upstream {stage.url}, {BUILD}\n"
        listens = re.fullmatch(says, first)
        metrics = re.fullmatch(r"metrics on (http://127\.0\.0\.1:\d+)/metrics\n", second)
        assert listens, first
        assert metrics, second
        assert await answered(listens[1], request("GET", "/healthz")) == (200, b'{"status":"ok"}')
        _, page = await answered(metrics[1], request("GET", "/metrics"))
        assert re.search(rf'streamtee_build_info{{.*loop="{loop}"', page.decode())

        client = await Client.connect(listens[1])
        client.send(request("POST", "/v1/chat/completions", body=chat_body()), method="POST")
        turn = await stage.next()
        await turn.body()
        turn.begin()
        turn.chunk(chunk_frame("before"))
        answer = await client.answer()
        await answer.until(b"before")

        process.send_signal(told)
        assert await line(process) == "draining, for at most 30 s\n"
        status, body = await answered(metrics[1], request("GET", "/readyz"))
        assert (status, body) == (503, b'{"ready":false}')
        await wait_refused(listens[1])

        turn.end(chunk_frame("after"), DONE)
        assert await answer.read() == chunk_frame("before") + chunk_frame("after") + DONE
        assert answer.end == "whole"
        assert await process.wait() == 0
        await client.leave()
        assert process.stderr is not None
        said = (await process.stderr.read()).decode().splitlines()
        (logged,) = [line for line in said if "file descriptors" not in line]  # the one line of the one stream
        assert re.search(rf" INFO streamtee: stream={answer.stream_id} .* ending=complete events=3 ", logged)


async def wait_refused(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with suppress(ConnectionRefusedError):
        while True:
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            await writer.wait_closed()


async def test_console_with_its_token_is_shown_to_a_terminal_only(stage: Stage) -> None:
    """There its URL opens it; in a log, as in the output of the test above, it would be a key for everybody."""
    ours, theirs = pty.openpty()
    settings = {**FREE, "STREAMTEE_UPSTREAM__URL": stage.url}
    async with spawned("serve", stderr=theirs, **settings) as process:
        _, admin = await serving_at(process)
        told = await asyncio.to_thread(os.read, ours, 4096)
        shown = re.search(rf"console on {admin}/console#token=(\S{{40,}})\r\n", told.decode())
        assert shown, told
        for token, status in ((shown[1], 200), ("x", 401)):
            asked = request("GET", "/admin/streams", f"Authorization: Bearer {token}")
            assert (await answered(admin, asked))[0] == status
        process.terminate()
        assert process.stdout is not None
        assert b"token" not in await process.stdout.read()
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.fault("descriptors", "connect")
async def test_descriptors_that_run_out_take_idle_connections_first(stage: Stage, loop: str) -> None:
    """What runs goes on, what is new is served, probes and scrapes are answered; it is logged once, and counted."""
    settings = {**FREE, "STREAMTEE_UPSTREAM__URL": stage.url}
    async with spawned("serve", "--loop", loop, descriptors=(100, 128), **settings) as process:
        url, admin = (await line(process)).split()[3].rstrip(","), (await line(process)).split()[2]
        client = await Client.connect(url)
        client.send(request("POST", "/v1/chat/completions", body=chat_body()), method="POST")
        turn = await stage.next()
        turn.begin()
        turn.chunk(chunk_frame("before"))
        answer = await client.answer()
        await answer.until(b"before")
        idle = []
        for _ in range(40):
            idle += [await Client.connect(url) for _ in range(4)]
            status, page = await answered(admin.removesuffix("/metrics"), request("GET", "/metrics"))
            assert status == 200
        assert re.search(rb'connections_cut_total{reason="descriptors"} (\d+)', page)
        assert [one.gone for one in idle[:50]] == ["fin"] * 50
        assert not any(one.gone for one in idle[-50:])
        assert await answered(url, request("GET", "/healthz")) == (200, b'{"status":"ok"}')
        late = await Client.connect(url)
        late.send(request("POST", "/v1/embeddings", body=b"{}"), method="POST")
        (await stage.next()).reply("200 OK")
        assert (await late.answer()).status == 200
        turn.end(chunk_frame("after"), DONE)
        assert (await answer.read()).endswith(DONE)
        for one in (client, late, *idle):
            await one.leave()
        process.terminate()
        await process.wait()
        assert process.stderr is not None
        logged = (await process.stderr.read()).decode()
        assert "the limit of file descriptors was raised from 100 to 128" in logged
        assert logged.count("file descriptors run out") == 1


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_burst_of_connections_leaves_the_reserve_of_descriptors(stage: Stage, loop: str) -> None:
    """More connections wait than there are descriptors: both ports go on serving, and it is logged once."""
    settings = {**FREE, "STREAMTEE_UPSTREAM__URL": stage.url}
    async with spawned("serve", "--loop", loop, descriptors=(128, 128), **settings) as process:
        url, admin = await serving_at(process)
        process.send_signal(signal.SIGSTOP)
        idle = [await Client.connect(url) for _ in range(300)]
        process.send_signal(signal.SIGCONT)
        for where in (admin, url):
            assert await answered(where, request("GET", "/healthz")) == (200, b'{"status":"ok"}')
        for one in idle:
            await one.leave()
        process.terminate()
        await process.wait()
        assert process.stderr is not None
        logged = (await process.stderr.read()).decode()
        assert logged.count("file descriptors run out") == 1
        assert "ERROR" not in logged


async def test_requests_at_once_leave_the_reserve_of_descriptors(stage: Stage) -> None:
    """Connections to the upstream that are being made count, too: then the admin port has what is kept for it."""

    async def begin_all() -> None:
        while True:
            (await stage.next()).begin()

    settings = {**FREE, "STREAMTEE_UPSTREAM__URL": stage.url}
    async with spawned("serve", descriptors=(128, 128), **settings) as process:
        url, admin = await serving_at(process)
        process.send_signal(signal.SIGSTOP)
        clients = [await Client.connect(url) for _ in range(110)]
        for client in clients:
            client.send(request("POST", "/v1/chat/completions", body=chat_body()), method="POST")
        beginning = asyncio.create_task(begin_all())
        process.send_signal(signal.SIGCONT)
        await until(lambda: all(client.buffer or client.gone for client in clients))
        assert (await answered(admin, request("GET", "/metrics")))[0] == 200
        beginning.cancel()
        for client in clients:
            await client.leave()


@pytest.mark.fault("descriptors", "connect")
async def test_client_that_finds_no_descriptor_is_told_so(stage: Stage) -> None:
    """Where nobody is idle: 503, and whose fault it is; the admin port answers."""
    settings = {**FREE, "STREAMTEE_UPSTREAM__URL": stage.url}
    async with spawned("serve", descriptors=(128, 128), **settings) as process:
        url, admin = (await line(process)).split()[3].rstrip(","), (await line(process)).split()[2]
        clients = []
        statuses = []
        for _ in range(70):
            client = await Client.connect(url)
            clients.append(client)
            client.send(request("POST", "/v1/chat/completions", body=chat_body()), method="POST")
            asked = asyncio.create_task(stage.next())
            told = asyncio.create_task(client.answer())
            await asyncio.wait((asked, told), return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                turn = await asked
                turn.begin()
            asked.cancel()
            answer = await told
            statuses.append(answer.status)
            if answer.status == 503:
                assert b"file descriptor" in await answer.read()
        assert set(statuses) == {200, 503}
        assert statuses == sorted(statuses)
        assert (await answered(admin.removesuffix("/metrics"), request("GET", "/readyz")))[0] == 200
        for client in clients:
            await client.leave()


async def test_serve_on_a_taken_port_says_so() -> None:
    """It exits with 2, and the message has the address."""
    async with staged() as taken:
        where = taken.url.removeprefix("http://")
        async with spawned("serve", STREAMTEE_LISTEN=where, STREAMTEE_ADMIN="") as process:
            out, err = await process.communicate()
            assert process.returncode == 2
            assert out == b""
            assert b"streamtee: can't listen: " in err
            assert where.rpartition(":")[2].encode() in err


async def test_signal_straight_after_the_address_is_heeded(stage: Stage) -> None:
    """Whoever has read where it listens may end it; without an admin address that is one line."""
    settings = {**FREE, "STREAMTEE_ADMIN": "", "STREAMTEE_UPSTREAM__URL": stage.url}
    async with spawned("serve", **settings) as process:
        assert "streamtee" in await line(process)
        process.terminate()
        assert await line(process) == "draining, for at most 30 s\n"
        assert await process.wait() == 0


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_process_that_was_stopped_reads_before_anything_is_late(stage: Stage, loop: str) -> None:
    """What came while it was stopped is no silence, for longer than the idle time-out; where nothing came it is one."""
    settings = {**FREE, "STREAMTEE_UPSTREAM__URL": stage.url, "STREAMTEE_TIMEOUTS__IDLE_S": "0.6"}
    async with spawned("serve", "--loop", loop, is_forked=False, **settings) as process:
        url = (await line(process)).split()[3].rstrip(",")
        streams = []
        for _ in range(4):
            client = await Client.connect(url)
            client.send(request("POST", "/v1/chat/completions", body=chat_body()), method="POST")
            turn = await stage.next()
            turn.begin()
            turn.chunk(chunk_frame("before"))
            streams.append((await client.answer(), turn))
        (silent, _), *others = streams
        for answer, _ in streams:
            await answer.until(b"before")
        process.send_signal(signal.SIGSTOP)
        for step in range(
            100
        ):  # for a second; first nothing, so that its timers are due before there is anything to read
            for _, turn in others if step >= 50 else ():
                turn.chunk(chunk_frame("meanwhile"))
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGCONT)
        await silent.read()
        assert silent.end != "whole"
        for answer, turn in others:
            turn.end(DONE)
            assert (await answer.read()).count(b"meanwhile") == 50
            assert answer.end == "whole"
        for answer, _ in streams:
            await answer.client.leave()


# A configuration that is not valid


@pytest.mark.parametrize("command", ["serve", "check-config"])
@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("STREAMTEE_LISTEN", "nowhere", "listen"),
        ("STREAMTEE_LISTEN", "127.0.0.1:65536", "listen"),
        ("STREAMTEE_TRUSTED_PROXIES", '["10.0.0.1/8"]', "trusted_proxies"),
        ("STREAMTEE_UPSTREAM__URL", "ftp://qwen.example", "upstream.url"),
        ("STREAMTEE_UPSTREAM__KEYS", "sk-a-secret", "upstream.KEYS"),
        ("STREAMTEE_TIMEOUTS__IDLE_S", "-1", "timeouts.idle_s"),
        ("STREAMTEE_STREAMS__ON_DISCONNECT", "wait", "streams.on_disconnect"),
        ("STREAMTEE_LIMITS__LOG_BYTES", "64 MB", "limits.log_bytes"),
        ("STREAMTEE_AUTH__KEYS", '["sk-a-secret"]', "auth.keys"),
        ("STREAMTEE_AUTH__MODE", "keys", "auth.keys"),
    ],
)
def test_wrong_setting_is_named(command: str, name: str, value: str, key: str) -> None:
    """Exit status 2, the key on standard error, and no secret."""
    result = invoked(command, **{name: value})
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("streamtee: the configuration is not valid:\n")
    assert re.search(rf"\b{re.escape(key)}\b", result.stderr, re.IGNORECASE), result.stderr
    assert "secret" not in result.stderr


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[timeouts]\nidle_seconds = 1\n", "timeouts.idle_seconds"),
        ('[upstream]\nurl = "qwen.example"\n', "upstream.url"),
        ("streams = 3\n", "streams"),
        ("listen = \n", "line 1"),
    ],
)
def test_wrong_file_is_named_by_its_key_or_place(tmp_path: Path, content: str, named: str) -> None:
    """A key that does not exist is an error, too."""
    file = tmp_path / "streamtee.toml"
    file.write_text(content)
    result = invoked("check-config", "--config", str(file))
    assert result.exit_code == 2
    assert named in result.stderr


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    """A file that was asked for is not passed over."""
    result = invoked("check-config", "--config", str(tmp_path / "absent.toml"))
    assert result.exit_code == 2
    assert "streamtee: the configuration can't be read: " in result.stderr
    assert "absent.toml" in result.stderr


async def test_serve_exits_with_2_for_a_wrong_setting() -> None:
    """As a process does, before it has listened."""
    async with spawned("serve", STREAMTEE_TIMEOUTS__IDLE_S="soon", **FREE) as process:
        out, err = await process.communicate()
        assert process.returncode == 2
        assert out == b""
        assert b"timeouts.idle_s" in err
        assert b"Traceback" not in err


# check-config


def test_check_config_shows_what_is_in_force(tmp_path: Path) -> None:
    """The environment goes over the file, the file over the defaults; the key is not shown."""
    file = tmp_path / "streamtee.toml"
    file.write_text('listen = "127.0.0.1:1"\n[upstream]\nkey = "sk-of-the-file"\nkeepalive_s = 7\n')
    result = invoked("check-config", "--config", str(file), STREAMTEE_LISTEN="127.0.0.1:2")
    assert result.exit_code == 0
    config = json.loads(result.stdout)
    assert config["listen"] == "127.0.0.1:2"
    assert config["upstream"]["keepalive_s"] == 7
    assert config["timeouts"]["connect_s"] == 10
    assert "sk-of-the-file" not in result.output


def test_example_file_is_the_defaults() -> None:
    """What config/streamtee.toml says is what is in force without it."""
    result = invoked("check-config", "--config", str(EXAMPLE))
    assert result.exit_code == 0
    assert result.stdout == invoked("check-config").stdout


# The fake


async def test_fake_prints_where_it_listens_and_answers() -> None:
    """SIGTERM ends it with 0, an open answer or not."""
    async with spawned("fake", "--listen", "127.0.0.1:0", "--pace", "fast") as process:
        match = re.fullmatch(r"fake Qwen on (http://127\.0\.0\.1:\d+)\n", await line(process))
        assert match
        path = "/compatible-mode/v1/chat/completions"
        status, body = await answered(match[1], request("POST", path, body=chat_body()))
        assert status == 200
        assert body.endswith(DONE)
        client = await Client.connect(match[1])
        client.send(request("POST", path, "Fake-Fault: hang", body=chat_body()), method="POST")
        await (await client.answer()).bytes(1)
        process.terminate()
        assert await process.wait() == 0
        await client.leave()


async def test_replay_prints_where_it_listens_and_answers(tmp_path: Path) -> None:
    """With the recording, until SIGTERM ends it with 0."""
    file = tmp_path / "stream.jsonl"
    head = {"streamtee": "recording", "version": 1, "status": 200, "reason": "OK", "headers": [], "at_s": 0}
    lines = [head, {"at_s": 100, "text": "data: x\n\n"}, {"at_s": 200, "end": "complete"}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    async with spawned("replay", str(file), "--listen", "127.0.0.1:0", "--no-delay") as process:
        match = re.fullmatch(r"replaying on (http://127\.0\.0\.1:\d+)\n", await line(process))
        assert match
        assert await answered(match[1], request("POST", "/any", body=b"{}")) == (200, b"data: x\n\n")
        process.terminate()
        assert await process.wait() == 0


def test_faults_lists_every_fault() -> None:
    """One line each: its name and what it does."""
    result = invoked("faults")
    assert result.exit_code == 0
    rows = [row.split(maxsplit=1) for row in result.stdout.splitlines()]
    assert [name for name, _ in rows] == [*FAULTS, *SOCKET_FAULTS]
    known = {name: fault.__doc__ for name, fault in FAULTS.items()} | SOCKET_FAULTS
    assert all(known[name].startswith(text.strip()) for name, text in rows)


# The rest


def test_version_is_the_package_s() -> None:
    """`streamtee, version X`, and which of its two builds it is."""
    assert invoked("--version").stdout == f"streamtee, version {__version__}, {BUILD}\n"


def test_help_names_every_command_with_its_purpose() -> None:
    """A command without a purpose would be an empty line."""
    shown = invoked("--help").stdout
    for name in ("check-config", "demo", "fake", "faults", "serve", "tail"):
        assert re.search(rf"^  {name} +\w", shown, re.MULTILINE), name
    assert "..." not in shown.partition("First steps")[0].partition("Commands:")[2]  # none is cut off


@pytest.mark.parametrize("name", ["serve", *COMMANDS])
def test_help_of_each_command_has_examples(name: str) -> None:
    """They are what one copies."""
    assert re.search(rf"^ +Examples:\n( .*\n)*.*streamtee.* {name}\b", invoked(name, "--help").stdout, re.MULTILINE)


def test_shell_completes_commands() -> None:
    """By the script that `completion` prints, which asks this."""
    assert "_STREAMTEE_COMPLETE=bash_complete" in invoked("completion", "bash").stdout
    asked = {"_STREAMTEE_COMPLETE": "bash_complete", "COMP_WORDS": "streamtee che", "COMP_CWORD": "1"}
    environment = os.environ | asked
    command = [sys.executable, "-c", "from proxy.tools.cli import main; main(prog_name='streamtee')"]
    said = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert said.stdout.split() == ["plain,check-config", "plain,check"]


def test_package_runs_as_a_module() -> None:
    """Where no script is on the path."""
    said = subprocess.run([sys.executable, "-m", "proxy", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout == f"streamtee, version {__version__}, {BUILD}\n"


def test_unknown_command_exits_with_2() -> None:
    """And names it."""
    result = invoked("sevre")
    assert result.exit_code == 2
    assert "sevre" in result.stderr
