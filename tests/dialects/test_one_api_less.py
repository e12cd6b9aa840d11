"""Each of two APIs is taken away: its own modules, its rows, its fake. Nothing else of the proxy knows of it.

So adding one touches no more. CONTRIBUTING.md names the same files.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import source

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "proxy"
TABLES = ("dialects/table.py", "tools/fake/qwen.py")
"""Where the rows of all APIs stand."""


class Api(NamedTuple):
    """The modules of an API, what only it says, and which modules say that in their own right, each with the reason."""

    modules: tuple[str, ...]
    words: str
    elsewhere: dict[str, str]


APIS = {
    "responses": Api(
        (
            "dialects/responses.py",
            "dialects/response_reader.py",
            "dialects/documents/response_documents.py",
            "tools/fake/responses.py",
        ),
        r"response\.(?:created|in_progress|completed|incomplete|failed|output_)|/responses\b|output_text"
        r"|max_output_tokens|previous_response|item_reference|x_tools",
        {
            "dialects/realtime.py": "sessions have events with some of the same names",
            "tools/fake/realtime.py": "the same",
            "dialects/documents/delta.py": "parts of texts in chat completions are called so, too",
        },
    ),
    "messages": Api(
        ("dialects/messages.py", "dialects/documents/blocks.py", "tools/fake/messages.py"),
        r"anthropic|message_(?:start|stop|delta)|content_block|(?:text|thinking|input_json|signature)_delta|/messages\b"
        r"|stop_reason|server_tool_use|cache_read_input|overloaded_error|count_tokens",
        {},
    ),
}


def strings(path: Path) -> Iterator[str]:
    """Yield the strings of a module that are no docstrings; of a page or a script, all of it."""
    if path.suffix != ".py":
        yield path.read_text()
        return
    nodes = source.nodes(path.relative_to(PACKAGE).as_posix())
    loose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and id(node) not in loose and isinstance(node.value, str | bytes):
            yield node.value if isinstance(node.value, str) else node.value.decode("latin-1")


@source.reads_source
@pytest.mark.parametrize("name", APIS)
def test_no_other_module_says_its_words(name: str) -> None:
    """Nor a page of the console; but for what is listed above, which does say them."""
    api = APIS[name]
    said = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".js", ".html") and any(re.search(api.words, text) for text in strings(path))
    }
    assert said - {*api.modules, *TABLES} == set(api.elsewhere)


class _Without(ast.NodeTransformer):
    """Takes imports of modules away, and the items of tables that need what was imported."""

    def __init__(self, modules: set[str]) -> None:
        self._modules = modules
        self._gone: set[str] = set()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        if node.module not in self._modules:
            return node
        self._gone |= {alias.asname or alias.name for alias in node.names}
        return None

    def visit_List(self, node: ast.List) -> ast.List:
        node.elts = [one for one in node.elts if self._is_left(one)]
        return node

    def visit_Tuple(self, node: ast.Tuple) -> ast.Tuple:
        node.elts = [one for one in node.elts if self._is_left(one)]
        return node

    def visit_Dict(self, node: ast.Dict) -> ast.Dict:
        left = [(key, value) for key, value in zip(node.keys, node.values, strict=True) if self._is_left(value)]
        node.keys, node.values = [key for key, _ in left], [value for _, value in left]
        return node

    def _is_left(self, item: ast.AST) -> bool:
        return not any(isinstance(node, ast.Name) and node.id in self._gone for node in ast.walk(item))


def without(package: Path, modules: tuple[str, ...]) -> None:
    """Take modules of a package away, and the rows that need them."""
    for module in modules:
        (package / module).unlink()
    names = {f"proxy.{module.removesuffix('.py').replace('/', '.')}" for module in modules}
    for table in TABLES:
        path = package / table
        path.write_text(ast.unparse(_Without(names).visit(ast.parse(path.read_text()))))


LOOKS = """
import asyncio, importlib, json, pkgutil, urllib.request
import proxy
from proxy.dialects import table
for one in pkgutil.walk_packages(proxy.__path__, "proxy."):
    if not one.name.endswith("__main__"):
        importlib.import_module(one.name)

from proxy.server.app import Proxy
from proxy.server.config import Config
from proxy.tools.endpoint import APIS, Endpoint
from proxy.dialects.question import Question
from proxy.tools.fake.qwen import FakeQwen

class Heard:
    def __init__(self): self.body, self.over = b"", asyncio.get_running_loop().create_future()
    def received(self, data, at): self.body += data
    def ended(self, data, at, error): self.over.set_result(self.body + data)
    def failed(self, fault): self.over.set_exception(fault)

async def asked(url, name):
    endpoint = Endpoint(url, name, "sk-key")
    exchange = await endpoint.ask(endpoint.body(Question("qwen-plus", "Hello", 50)))
    exchange.attach(heard := Heard())
    body = await heard.over
    await endpoint.close()
    reader = endpoint.api.dialect.frames.reader()
    for frame in body.split(b"\\n\\n")[:-1]:
        reader.note(frame + b"\\n\\n")
    return exchange.status, reader.finished

async def main():
    fake = FakeQwen()
    await fake.start()
    tee = Proxy(Config.model_validate(
        {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "upstream": {"url": fake.url + "/compatible-mode/v1"}}
    ))
    await tee.start()
    answers = {name: await asked(tee.url, name) for name in APIS}
    await tee.stop()
    await fake.stop()
    print(json.dumps({"package": proxy.__file__, "rows": [row.name for row in table.ROWS], "answers": answers}))

asyncio.run(main())
"""


@pytest.mark.parametrize("name", APIS)
def test_proxy_without_it_serves_the_others(name: str, tmp_path: Path) -> None:
    """Every module can be imported, and each API that is left is asked through a proxy before the fake."""
    package = tmp_path / "proxy"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("*.so"))
    without(package, APIS[name].modules)
    command = [sys.executable, "-c", LOOKS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["package"] == str(package / "__init__.py")
    assert name not in told["rows"]
    others = {"chat", *APIS} - {name}
    assert told["answers"] == {other: [200, True] for other in others}
