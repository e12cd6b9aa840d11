"""proxy/console as a package for npm: what is in it, its types, and that Node can import it."""

import asyncio
import json
import re
import subprocess
import tarfile
from pathlib import Path

import proxy
from proxy.tools.fake.qwen import FakeQwen
from tests.clients.node import KEY
from tests.programs import system_tool
from tests.proxy_under_test import teed

CONSOLE = Path(__file__).parents[2] / "proxy" / "console"
PACKAGE = json.loads((CONSOLE / "package.json").read_text())
EXPORTED = re.compile(r"^export (?:async )?function\*? (\w+)\(", re.MULTILINE)
SCRIPT = """
import { follow } from "streamtee-follow";
const [url, key] = process.argv.slice(2);
for await (const { id, data } of follow(url, { headers: { authorization: `Bearer ${key}` } })) console.log(id, data);
"""


def test_package_is_of_the_same_version() -> None:
    """As the proxy, and for the same Nodes as its tests."""
    assert PACKAGE["version"] == proxy.__version__
    tested = json.loads((Path(__file__).parent / "package.json").read_text())
    assert PACKAGE["engines"] == tested["engines"]
    assert all((CONSOLE / name).is_file() for name in PACKAGE["files"])


def test_types_name_what_is_exported() -> None:
    """And the options that the code takes out of its argument."""
    code, types = ((CONSOLE / name).read_text() for name in ("follow.js", "follow.d.ts"))
    assert EXPORTED.findall(code) == EXPORTED.findall(types) != []
    taken = re.search(r"follow\(url, \{ (.*?), \.\.\.init \}", code)
    assert taken
    for name in re.findall(r"(\w+) =", taken[1]):
        assert re.search(rf"^  {name}\?: ", types, re.MULTILINE), name


def packed(folder: Path) -> Path:
    """Have npm pack the package, and unpack it as a module of a folder; return the folder of the module."""
    command = [system_tool("npm"), "pack", "--json", "--pack-destination", str(folder)]
    (described,) = json.loads(subprocess.check_output(command, cwd=CONSOLE))
    with tarfile.open(folder / described["filename"]) as archive:
        archive.extractall(folder / "node_modules", filter="data")
    return (folder / "node_modules" / "package").rename(folder / "node_modules" / PACKAGE["name"])


async def test_node_imports_what_npm_packs(tmp_path: Path, fake: FakeQwen) -> None:
    """By its name; it follows a stream to its end."""
    node, module = system_tool("node"), packed(tmp_path)
    assert {path.name for path in module.iterdir()} == {*PACKAGE["files"], "package.json"}
    (tmp_path / "script.mjs").write_text(SCRIPT)
    async with teed(fake.url) as tee:
        answer = await tee.chat(f"Authorization: Bearer {KEY}")
        body = await answer.read()
        url = f"{tee.proxy.url}/v1/streams/{answer.stream_id}"
        script = await asyncio.create_subprocess_exec(
            node, str(tmp_path / "script.mjs"), url, KEY, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await script.communicate()
    lines = out.decode().splitlines()
    assert len(lines) == body.count(b"data: ")
    assert lines[-1] == f"{answer.epoch}-{len(lines)} [DONE]"
