"""`streamtee bench` as a command: what it prints and writes, and what it exits with."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.tools.cli import main
from proxy.tools.fake.steps import Close
from tests.proxy_under_test import faked
from tests.spawned import spawned


async def test_numbers_are_printed_and_written(tmp_path: Path) -> None:
    """A table for people, JSON for programs, SVG to look at; exit status 0."""
    document, plot = tmp_path / "run.json", tmp_path / "run.svg"
    async with faked() as fake:
        url = fake.url
        options = ("--duration", "0.5", "--concurrency", "2", "--json", str(document), "--plot", str(plot))
        async with spawned("bench", url, url, *options) as bench:
            out, err = await bench.communicate()
        assert (bench.returncode, err) == (0, b"")
    for words in ("first token, ms", "B adds", "requests complete", f"A  {url}/v1/chat/completions"):
        assert words in out.decode()
    told = json.loads(document.read_text())
    first, second = told["targets"]
    assert first["complete"] > 5
    assert abs(first["requests"] - second["requests"]) <= 2
    assert 0 < first["spreads"]["first_token_s"]["p50"] < 1
    assert set(told["added"]) == set(first["spreads"])
    svg = ElementTree.parse(plot).getroot()
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    text = "".join(svg.itertext())
    assert "first token" in text
    assert "script" not in plot.read_text()


async def test_document_on_stdout_is_all_there_is() -> None:
    """So that a program can read it; no terminal, no progress bar."""
    async with faked() as fake:
        async with spawned(
            "bench", f"{fake.url}/v1/responses", "--duration", "0.2", "--rate", "50", "--json", "-"
        ) as bench:
            out, err = await bench.communicate()
        assert (bench.returncode, err) == (0, b"")
    assert json.loads(out)["api"] == "responses"


async def test_failed_requests_are_exit_status_1(tmp_path: Path) -> None:
    """The first one counts for nothing, all that follow are cut off; the report says how many and how."""
    body = tmp_path / "body.json"
    asked = {"model": "qwen-plus+count,frames=5", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    body.write_text(json.dumps(asked))
    async with faked() as fake:
        answer = fake.plan
        fake.plan = lambda received: answer(received) if len(fake.requests) < 2 else iter((Close(),))  # type: ignore[method-assign]
        async with spawned("bench", fake.url, "--data", str(body), "--duration", "0.2") as bench:
            out, _ = await bench.communicate()
        assert bench.returncode == 1
    assert "0 of " in out.decode()
    assert "no connection" in out.decode()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ftp://x"], "no http:// or https:// URL"),
        (["http://x/v1/responses", "http://x/v1/messages"], "different APIs"),
        (["http://x", "http://y", "http://z"], "one URL, or two"),
        (["http://x", "--rate", "0"], "--rate"),
    ],
)
def test_malformed_command_line_is_exit_status_2(arguments: list[str], words: str) -> None:
    """Before anything is sent."""
    result = CliRunner().invoke(main, ["bench", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr


async def test_refusal_is_shown_in_the_servers_words() -> None:
    """That of the first request: a key that is missing, a model that is not there."""
    async with faked(require_key=True) as fake, spawned("bench", fake.url, OPENAI_API_KEY="") as process:
        _, err = await process.communicate()
    assert process.returncode == 3
    assert re.search(r"the first request failed: status 401: \{\"error\":.*API", err.decode())


def test_first_request_that_fails_ends_it_with_3() -> None:
    """There is nothing to measure; the key is not shown."""
    result = CliRunner().invoke(main, ["bench", "http://127.0.0.1:1", "--key", "sk-secret"])
    assert result.exit_code == 3
    assert result.stderr == (
        "streamtee: http://127.0.0.1:1/v1/chat/completions: the first request failed: no connection\n"
    )
