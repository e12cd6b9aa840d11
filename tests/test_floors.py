"""The house: folders are rooms on numbered floors, and a room imports only what stands below it.

Read off the source; nothing runs. `proxy/__init__.py` says in words what is held here.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import source

pytestmark = source.reads_source
PACKAGE = source.PACKAGE
FLOORS = {
    "wire": 1,
    "machine": 0,
    "dialects": 2,
    "stream": 3,
    "upstream": 4,
    "downstream": 4,
    "store": 4,
    "access": 5,
    "telemetry": 5,
    "server": 6,
    "workers": 7,
    "tools": 8,
    "console": 8,
    "__main__": 9,
}
GROUND = {"objections", "pem", "settings", "timers"}
"""The package's own modules, which any floor may import."""

_IO = {"asyncio", "time", "logging", "aiohttp", "redis", "socket", "threading"}
NOT_IN = {"wire": _IO, "dialects": _IO, "stream": _IO - {"logging"}}
PURE = {"wire": {"orjson"}, "dialects": {"orjson"}, "stream": {"orjson"}}
"""Rooms that live on the standard library, and what else they may have."""

ENGINE = ("wire", "dialects", "stream", "upstream", "downstream", "store")
SETTINGS = ("settings", "config")
"""The modules that read the configuration: what they hold reaches the engine as plain values."""

OPEN = {
    "allowance", "allowed_paths", "dialect", "error_codes", "failure", "increment", "presets", "question", "route",
    "table", "usage",
}  # fmt: skip
"""The modules of `dialects` that are of no API: all that the rooms above may import."""

API_NAMES = ("openai", "dashscope", "anthropic")

KNOT = {"stream", "subscription", "rank", "cohort"}
"""The one circle of imports, which stream/cohort.py explains: types only, never run."""


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
        trees = {module: ast.parse(path.read_text(), str(path)) for module, path in files.items()}
        self.imports = [one for module, tree in trees.items() for one in self._imports(module, tree)]
        self.strings = {module: list(_strings(tree)) for module, tree in trees.items()}
        self.inner = [one for one in self.imports if one.imported in self.modules]

    def _module(self, path: Path) -> str:
        parts = [self.name, *path.with_suffix("").parts]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _imports(self, module: str, tree: ast.Module) -> Iterator[Import]:
        for node, at_import in _import_nodes(tree):
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
    """Return the folder of the package that a module stands in; "" for the package itself and for its own modules."""
    room = [*module.split("."), ""][1]
    return "" if room in GROUND else room


def floor(module: str) -> int:
    """Return a module's floor; the package itself is the ground."""
    return FLOORS[folder(module)] if folder(module) else 0


def upward(house: House) -> list[str]:
    """Return the imports of a higher floor."""
    return [str(one) for one in house.inner if floor(one.imported) > floor(one.importer)]


def sideways(house: House) -> list[str]:
    """Return the imports between two rooms of one floor, and those of the hub from the two ends of a stream."""
    found = []
    for one in house.inner:
        here, there = folder(one.importer), folder(one.imported)
        beside = here != there and floor(one.importer) == floor(one.imported)
        the_hub = FLOORS.get(here) == FLOORS["upstream"] and one.imported == f"{house.name}.stream.hub"
        if beside or the_hub:
            found.append(str(one))
    return found


def configured(house: House) -> list[str]:
    """Return the imports of settings by the engine."""
    return [
        str(one)
        for one in house.inner
        if folder(one.importer) in ENGINE
        and one.importer.rpartition(".")[2] not in SETTINGS
        and one.imported.rpartition(".")[2] in SETTINGS
    ]


def impure(house: House) -> list[str]:
    """Return the imports of what a floor must not know."""
    found = []
    for one in house.imports:
        here, top = folder(one.importer), one.imported.partition(".")[0]
        foreign = top not in sys.stdlib_module_names and top != house.name
        if top in NOT_IN.get(here, ()) or (here in PURE and foreign and top not in PURE[here]):
            found.append(str(one))
    return found


def apis_imported(house: House) -> list[str]:
    """Return the imports of an API's module above the room of dialects; `tools` may read JSON as `delta` does."""
    return [
        str(one)
        for one in house.inner
        if floor(one.importer) > FLOORS["dialects"]
        and not (folder(one.importer) == "tools" and _last(one.imported) == "delta")
        and folder(one.imported) == "dialects"
        and one.imported not in house.packages
        and _last(one.imported) not in OPEN
    ]


def apis_named(house: House) -> list[str]:
    """Return the strings, but for docstrings, that name an API above the room of dialects, `tools` excepted."""
    return [
        f"{module}:{line} says {text!r}"
        for module, strings in house.strings.items()
        if floor(module) > FLOORS["dialects"] and folder(module) != "tools"
        for text, line in strings
        if any(name in text.lower() for name in API_NAMES)
    ]


def _strings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Return the strings and bytes that are used for anything, and their lines."""
    loose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in loose and isinstance(node.value, str | bytes):
            yield node.value if isinstance(node.value, str) else node.value.decode("latin-1"), node.lineno


def cycle(house: House, *, run: bool = True) -> list[str]:
    """Return modules each of which imports the next, and the last the first; [] without any.

    `run`: only imports that are run when a module is imported count; else those in functions and for types, too, but
    for the ones within the documented knot.
    """
    after: dict[str, list[str]] = {module: [] for module in house.modules}
    for one in house.inner:
        knotted = folder(one.importer) == "stream" and {_last(one.importer), _last(one.imported)} <= KNOT
        if one.imported not in house.packages and (one.at_import if run else not knotted):
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


def _last(module: str) -> str:
    return module.rpartition(".")[2]


PACKAGES = [".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in sorted(PACKAGE.rglob("__init__.py"))]


@pytest.fixture(scope="module")
def house() -> House:
    """The proxy's own."""
    return House(PACKAGE)


def test_house_is_read(house: House) -> None:
    """The modules and imports that the other tests are about are there."""
    assert {"proxy.wire.sse", "proxy.stream.stream", "proxy.upstream.pool", "proxy.server.app"} <= house.modules
    assert len(house.inner) > 50


@pytest.mark.parametrize("package", [package for package in PACKAGES if folder(package)])
def test_map_of_a_folder_names_each_of_its_modules(house: House, package: str) -> None:
    """A new module gets a word in the docstring of its folder's `__init__.py`; one that has gone, loses it."""
    path = package.replace(".", "/") + "/__init__.py"
    named = set(re.findall(r"`([a-z_]+)`", (PACKAGE.parent / path).read_text())) - set(FLOORS)
    modules = {_last(module) for module in house.modules if module.rpartition(".")[0] == package}
    assert modules <= named | {_last(package)}, f"{path} does not say what these are: {modules - named}"
    assert named <= modules, f"{path} names modules that are not there: {named - modules}"


def test_every_folder_with_code_is_a_floor(house: House) -> None:
    """A new folder gets a number first."""
    assert {folder(module) for module in house.modules} - {""} <= set(FLOORS)


def test_floor_imports_only_what_stands_below(house: House) -> None:
    """Or its own modules."""
    assert upward(house) == []


def test_rooms_of_one_floor_do_not_know_each_other(house: House) -> None:
    """Upstream, downstream and store are handed what they need, and never the hub; neither do access and telemetry."""
    assert sideways(house) == []


def test_wire_dialects_and_stream_know_no_io_and_no_clock(house: House) -> None:
    """They are words and decisions: time is handed in, sockets are somebody else's."""
    assert impure(house) == []


def test_settings_reach_no_engine(house: House) -> None:
    """What is configured is handed to it as plain values."""
    assert configured(house) == []


def test_nobody_above_dialects_imports_an_api(house: House) -> None:
    """They ask the table, so that a row is all that adds one."""
    assert apis_imported(house) == []


def test_nobody_above_dialects_names_an_api(house: House) -> None:
    """Nor a header or a host of one."""
    assert apis_named(house) == []


def test_no_module_needs_itself(house: House) -> None:
    """No circle of imports when modules are imported."""
    assert cycle(house) == []


def test_only_the_documented_knot_is_a_circle(house: House) -> None:
    """Imports for types and within functions make none either."""
    assert cycle(house, run=False) == []


def test_no_folder_is_a_drawer(house: House) -> None:
    """At most 20 modules in a folder, beside the page that is its map."""
    counts: dict[str, int] = {}
    for module in house.modules - house.packages:
        package = module.rpartition(".")[0]
        counts[package] = counts.get(package, 0) + 1
    assert {package: count for package, count in counts.items() if count > 20} == {}


def test_handler_of_generations_knows_few_modules(house: House) -> None:
    """It reads a request, gets a call and delivers its response; how each is done stands in modules of their own."""
    handler = "proxy.server.generations.generate"
    known = {one.imported for one in house.inner if one.importer == handler}
    assert 0 < len(known) <= 14, sorted(known)


def test_no_function_is_long() -> None:
    """At most 60 lines, so that one is read without scrolling."""
    functions = [
        (f"{path}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for path in source.trees()
        for node in source.nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(functions) > 1000
    assert [one for one in functions if one[1] > 60] == []


def test_core_has_no_room_of_a_quarter() -> None:
    """The largest folder is below 25 % of the core's lines; the command line is not the core."""
    lines: dict[str, int] = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0]
        if room not in ("tools", "console", "__init__.py"):
            lines[room] = lines.get(room, 0) + path.read_text().count("\n")
    assert {room: count for room, count in lines.items() if 4 * count >= sum(lines.values())} == {}


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Return a package in which everything is in order."""
    files = {
        "__init__.py": "",
        "wire/__init__.py": "",
        "wire/sse.py": "import re\nimport orjson\nfrom proxy import __version__\n",
        "stream/log.py": "from proxy.wire import sse\nfrom proxy.wire.sse import feed\n",
        "stream/hub.py": "from proxy.stream.log import FrameLog\n",
        "stream/cohort.py": "",
        "stream/rank.py": "from proxy.stream.cohort import Cohort\n",
        "dialects/chat.py": 'HEADER = b"openai-beta"\nfrom proxy.wire import sse\n',
        "dialects/table.py": "from proxy.dialects.chat import HEADER\n",
        "upstream/pool.py": "import asyncio, time, aiohttp\nfrom proxy.stream.log import FrameLog\n",
        "upstream/connection.py": "import socket\nfrom proxy.wire import sse\n",
        "upstream/settings.py": "import pydantic\n",
        "downstream/response.py": "import proxy.wire.sse\n",
        "store/redis.py": "import redis\n",
        "access/callers.py": "import proxy.wire.sse\n",
        "telemetry/metrics.py": "from proxy.upstream.pool import Pool\nfrom proxy.stream.hub import Hub\n",
        "server/config.py": '"""Of OpenAI, too."""\nfrom proxy.upstream.settings import Upstream\n',
        "server/app.py": "from proxy.upstream import pool\nfrom proxy.stream.hub import Hub\nfrom . import config\n",
        "tools/cli.py": "import proxy.dialects.table\ndef serve():\n    from proxy.server.app import Proxy\n",
    }
    for name, text in files.items():
        path = tmp_path / "proxy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "proxy"


def found(package: Path) -> list[str]:
    one = House(package)
    rules = (upward, sideways, impure, configured, apis_imported, apis_named)
    return [*(blamed for rule in rules for blamed in rule(one)), *cycle(one, run=False)]


def test_house_in_order_is_not_blamed(built: Path) -> None:
    """What is allowed is found to be."""
    assert found(built) == []


@pytest.mark.parametrize(
    ("path", "line", "blamed"),
    [
        ("wire/sse.py", "from proxy.stream.log import FrameLog", "proxy.wire.sse:4 imports proxy.stream.log"),
        ("wire/sse.py", "def f():\n    import proxy.upstream.pool", "proxy.wire.sse:5 imports proxy.upstream.pool"),
        ("wire/sse.py", "from ..stream import log", "proxy.wire.sse:4 imports proxy.stream.log"),
        ("stream/hub.py", "from proxy.server.app import Proxy", "proxy.stream.hub:2 imports proxy.server.app"),
        ("server/app.py", "from proxy.tools import cli", "proxy.server.app:4 imports proxy.tools.cli"),
        (
            "upstream/pool.py",
            "from ..downstream import response",
            "proxy.upstream.pool:3 imports proxy.downstream.response",
        ),
        (
            "telemetry/metrics.py",
            "import proxy.access.callers",
            "proxy.telemetry.metrics:3 imports proxy.access.callers",
        ),
        ("telemetry/metrics.py", "import proxy.server.app", "proxy.telemetry.metrics:3 imports proxy.server.app"),
        ("upstream/pool.py", "import proxy.upstream.settings", "pool:3 imports proxy.upstream.settings"),
        ("stream/log.py", "def f():\n    import proxy.stream.hub", "proxy.stream.log"),
        ("stream/log.py", "if TYPE_CHECKING:\n    import proxy.stream.hub", "proxy.stream.log"),
        ("upstream/pool.py", "from proxy.stream import hub", "proxy.upstream.pool:3 imports proxy.stream.hub"),
        ("upstream/pool.py", "from proxy.store.redis import x", "proxy.upstream.pool:3 imports proxy.store.redis"),
        ("store/redis.py", "import proxy.upstream.pool", "proxy.store.redis:2 imports proxy.upstream.pool"),
        ("stream/hub.py", "from proxy.dialects.chat import X", "proxy.stream.hub:2 imports proxy.dialects.chat"),
        ("upstream/pool.py", "def f():\n    import proxy.dialects.chat", "pool:4 imports proxy.dialects.chat"),
        ("tools/cli.py", "import proxy.dialects.chat", "proxy.tools.cli:4 imports proxy.dialects.chat"),
        ("server/app.py", "if dialect.name == 'openai':\n    pass", "proxy.server.app:4 says 'openai'"),
        ("access/callers.py", "NAMES = {b'X-DashScope-SSE'}", "proxy.access.callers:2 says 'X-DashScope-SSE'"),
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
    with (built / path).open("a") as module:
        module.write(line + "\n")
    assert any(one.endswith(blamed) for one in found(built))


def test_import_in_a_function_is_not_run_with_its_module(built: Path) -> None:
    """So it can't make an import fail, though it is a circle."""
    with (built / "stream/log.py").open("a") as module:
        module.write("def f():\n    from proxy.stream.hub import Hub\n")
    assert cycle(House(built)) == []


def test_types_within_the_knot_are_no_circle(built: Path) -> None:
    """Stream, subscription, rank and cohort name each other."""
    with (built / "stream/cohort.py").open("a") as module:
        module.write("if TYPE_CHECKING:\n    from proxy.stream.rank import Rank\n")
    assert found(built) == []
