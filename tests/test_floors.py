"""The house: folders are floors, and a floor imports only what stands below it. Read off the source, nothing runs."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "proxy"
FLOORS = {"wire": 1, "stream": 2, "edge": 3, "store": 3, "server": 4, "tools": 5}
NOT_IN = {
    "wire": {"asyncio", "time", "logging", "aiohttp", "redis", "socket", "threading"},
    "stream": {"asyncio", "time", "aiohttp", "redis", "socket", "threading"},
}
PURE = {"wire": {"orjson"}, "stream": set[str]()}
"""Floors that live on the standard library, and what else they may have."""


class Import(NamedTuple):
    """`importer` names `imported`, at `line`; both are module names."""

    importer: str
    imported: str
    line: int
    at_import: bool
    """Run when the importer is imported: not in a function, not for the type checker only."""

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


class House:
    """The modules of a package, and what each imports."""

    def __init__(self, package: Path) -> None:
        self.name = package.name
        files = {self._module(path.relative_to(package)): path for path in sorted(package.rglob("*.py"))}
        self.modules = set(files)
        self.packages = {module for module, path in files.items() if path.name == "__init__.py"}
        self.imports = [one for module, path in files.items() for one in self._imports(module, path)]
        self.inner = [one for one in self.imports if one.imported in self.modules]

    def _module(self, path: Path) -> str:
        parts = [self.name, *path.with_suffix("").parts]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _imports(self, module: str, path: Path) -> Iterator[Import]:
        for node, at_import in _import_nodes(ast.parse(path.read_text(), str(path))):
            for name in self._named(module, node):
                yield Import(module, name, node.lineno, at_import)

    def _named(self, module: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            return
        origin = node.module or ""
        if node.level:
            home = module.split(".") if module in self.packages else module.split(".")[:-1]
            origin = ".".join([*home[: len(home) - node.level + 1], *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{origin}.{alias.name}"
            yield inner if inner in self.modules else origin


def _import_nodes(node: ast.AST, at_import: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_import
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _for_types_only(child)
            yield from _import_nodes(child, at_import and not later)


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def folder(module: str) -> str:
    """Return the folder of the package that a module stands in; "" for the package itself."""
    return [*module.split("."), ""][1]


def floor(module: str) -> int:
    """Return a module's floor; the package itself is the ground."""
    return FLOORS[folder(module)] if folder(module) else 0


def edge(module: str) -> str:
    """Return the edge that a module is, or is a part of: `upstream_wire` is of `upstream`; "" for the folder itself."""
    return [*module.split("."), ""][2].partition("_")[0]


def upward(house: House) -> list[str]:
    """Return the imports of a higher floor."""
    return [str(one) for one in house.inner if floor(one.imported) > floor(one.importer)]


def sideways(house: House) -> list[str]:
    """Return the imports between two folders of one floor, and those of an edge that names another edge or the hub."""
    found = []
    for one in house.inner:
        here, there = folder(one.importer), folder(one.imported)
        beside = here != there and floor(one.importer) == floor(one.imported)
        another_edge = here == there == "edge" and edge(one.imported) not in ("", edge(one.importer))
        the_hub = here == "edge" and one.imported == f"{house.name}.stream.hub"
        if beside or another_edge or the_hub:
            found.append(str(one))
    return found


def impure(house: House) -> list[str]:
    """Return the imports of what a floor must not know."""
    found = []
    for one in house.imports:
        here, top = folder(one.importer), one.imported.partition(".")[0]
        foreign = top not in sys.stdlib_module_names and top != house.name
        if top in NOT_IN.get(here, ()) or (here in PURE and foreign and top not in PURE[here]):
            found.append(str(one))
    return found


def cycle(house: House) -> list[str]:
    """Return modules each of which, when it is imported, imports the next, and the last the first; [] without any."""
    after: dict[str, list[str]] = {module: [] for module in house.modules}
    for one in house.inner:
        if one.at_import and one.imported not in house.packages:
            after[one.importer].append(one.imported)
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        for imported in after[module]:
            if found := walk(imported, [*path, module]):
                return found
        done.add(module)
        return []

    return next(filter(None, (walk(module, []) for module in sorted(after))), [])


HOUSE = House(PACKAGE)


def test_house_is_read() -> None:
    """The modules and imports that the other tests are about are there."""
    assert {"proxy.wire.sse", "proxy.stream.stream", "proxy.edge.upstream", "proxy.server.app"} <= HOUSE.modules
    assert len(HOUSE.inner) > 50


def test_every_folder_with_code_is_a_floor() -> None:
    """A new folder gets a number first."""
    assert {folder(module) for module in HOUSE.modules} - {""} <= set(FLOORS)


def test_floor_imports_only_what_stands_below() -> None:
    """Or its own modules."""
    assert upward(HOUSE) == []


def test_edges_know_neither_each_other_nor_the_hub() -> None:
    """`server/app.py` makes the introductions."""
    assert sideways(HOUSE) == []


def test_wire_and_stream_know_no_io_no_time_no_clock() -> None:
    """They are words and decisions: time is handed in, sockets are somebody else's."""
    assert impure(HOUSE) == []


def test_no_module_needs_itself() -> None:
    """No cycle of imports at module level."""
    assert cycle(HOUSE) == []


_WIRE_KNOWS_DOWNSTREAM = "proxy.edge.upstream_wire:3 imports proxy.edge.downstream"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Return a package in which everything is in order."""
    files = {
        "__init__.py": "",
        "wire/__init__.py": "",
        "wire/sse.py": "import re\nimport orjson\nfrom proxy import __version__\n",
        "stream/log.py": "from proxy.wire import sse\nfrom proxy.wire.sse import feed\n",
        "stream/hub.py": "from proxy.stream.log import FrameLog\n",
        "edge/upstream.py": "import asyncio, time, aiohttp\nfrom proxy.stream.log import FrameLog\n",
        "edge/upstream_wire.py": "import socket\nfrom proxy.wire import sse\n",
        "edge/upstream_pool.py": "from proxy.edge.upstream_wire import Wire\n",
        "edge/downstream.py": "import proxy.wire.sse\n",
        "store/redis.py": "import redis\n",
        "server/app.py": "from proxy.edge import upstream, downstream\nfrom proxy.stream.hub import Hub\n",
        "tools/cli.py": "def serve():\n    from proxy.server.app import Proxy\n",
    }
    for name, source in files.items():
        path = tmp_path / "proxy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path / "proxy"


def found(package: Path) -> list[str]:
    house = House(package)
    return [*upward(house), *sideways(house), *impure(house), *cycle(house)]


def test_house_in_order_is_not_blamed(built: Path) -> None:
    """What is allowed is found to be."""
    assert found(built) == []


@pytest.mark.parametrize(
    ("path", "line", "blamed"),
    [
        ("wire/sse.py", "from proxy.stream.log import FrameLog", "proxy.wire.sse:4 imports proxy.stream.log"),
        ("wire/sse.py", "def f():\n    import proxy.edge.upstream", "proxy.wire.sse:5 imports proxy.edge.upstream"),
        ("wire/sse.py", "from ..stream import log", "proxy.wire.sse:4 imports proxy.stream.log"),
        ("stream/hub.py", "from proxy.server.app import Proxy", "proxy.stream.hub:2 imports proxy.server.app"),
        ("server/app.py", "from proxy.tools import cli", "proxy.server.app:3 imports proxy.tools.cli"),
        ("edge/upstream.py", "from .downstream import Sink", "proxy.edge.upstream:3 imports proxy.edge.downstream"),
        (
            "edge/upstream_wire.py",
            "from . import downstream",
            "proxy.edge.upstream_wire:3 imports proxy.edge.downstream",
        ),
        ("edge/upstream.py", "from . import downstream", "proxy.edge.upstream:3 imports proxy.edge.downstream"),
        ("edge/upstream.py", "from proxy.stream import hub", "proxy.edge.upstream:3 imports proxy.stream.hub"),
        ("edge/upstream.py", "from proxy.store.redis import x", "proxy.edge.upstream:3 imports proxy.store.redis"),
        ("store/redis.py", "import proxy.edge.upstream", "proxy.store.redis:2 imports proxy.edge.upstream"),
        ("wire/sse.py", "import asyncio.events", "proxy.wire.sse:4 imports asyncio.events"),
        ("wire/sse.py", "from time import monotonic", "proxy.wire.sse:4 imports time"),
        ("wire/sse.py", "def f():\n    import logging", "proxy.wire.sse:5 imports logging"),
        ("wire/sse.py", "import yarl", "proxy.wire.sse:4 imports yarl"),
        ("wire/sse.py", "if TYPE_CHECKING:\n    import aiohttp", "proxy.wire.sse:5 imports aiohttp"),
        ("stream/log.py", "import redis.asyncio", "proxy.stream.log:3 imports redis.asyncio"),
        ("stream/log.py", "from time import time", "proxy.stream.log:3 imports time"),
        ("stream/log.py", "from proxy.stream.hub import Hub", "proxy.stream.log"),
        ("stream/log.py", "class C:\n    from proxy.stream.hub import Hub", "proxy.stream.log"),
    ],
)
def test_fault_in_the_house_is_found(built: Path, path: str, line: str, blamed: str) -> None:
    """Each rule, broken in a package made up for it."""
    with (built / path).open("a") as source:
        source.write(line + "\n")
    assert blamed in found(built)


def test_import_in_a_function_makes_no_cycle(built: Path) -> None:
    """It runs later."""
    with (built / "stream/log.py").open("a") as source:
        source.write("def f():\n    from proxy.stream.hub import Hub\n")
    assert found(built) == []
