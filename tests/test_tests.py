"""The order of the tests: what is used by several modules stands where its name says, and fixtures in conftest.py.

Read off the source; nothing runs.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.source import reads_source

pytestmark = reads_source
TESTS = Path(__file__).parent


def modules(folder: Path) -> dict[str, ast.Module]:
    """Return the source of each module below a folder, by its name."""
    paths = [path for path in sorted(folder.rglob("*.py")) if not any(part[0] == "." for part in path.parts[1:])]
    return {_name(folder, path): ast.parse(path.read_text(), str(path)) for path in paths}


def _name(folder: Path, path: Path) -> str:
    return ".".join(path.relative_to(folder.parent).with_suffix("").parts)


def private(module: str) -> bool:
    """Return whether pytest alone may import a module: one with tests, or with the fixtures of a folder."""
    name = module.rpartition(".")[2]
    return name.startswith("test_") or name == "conftest"


def borrowed(tests: dict[str, ast.Module]) -> list[str]:
    """Return the imports of modules that pytest alone may import."""
    return [
        f"{module}:{node.lineno} imports {name}"
        for module, tree in tests.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _imported(module, node)
        if private(name) and name in tests
    ]


def _imported(module: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Yield what a statement may import: modules, and names that are perhaps modules."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    home = module.split(".")[: -node.level] if node.level else []
    origin = ".".join([*home, *([node.module] if node.module else [])])
    yield origin
    yield from (f"{origin}.{alias.name}" for alias in node.names)


def copied(tests: dict[str, ast.Module]) -> list[str]:
    """Return the fixtures that several modules have, the same to the letter but for their docstrings."""
    fixtures = Counter(
        (node.name, _undocumented(node))
        for tree in tests.values()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_fixture(node)
    )
    return sorted(name for (name, _), count in fixtures.items() if count > 1)


def _is_fixture(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(".fixture" in ast.unparse(decorator) for decorator in node.decorator_list)


def _undocumented(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return "\n".join(map(ast.unparse, [*node.decorator_list, *body]))


@cache
def found() -> dict[str, ast.Module]:
    """Return the tests of this repository."""
    return modules(TESTS)


def test_modules_are_read() -> None:
    """Those that the other tests are about are there."""
    assert {"tests.conftest", "tests.fakes", "tests.test_tests", "tests.end_to_end.conftest"} <= set(found())
    assert len(found()) > 100


def test_no_module_imports_from_a_test_module() -> None:
    """What several modules use is in a module of its own, and fixtures are found by pytest."""
    assert borrowed(found()) == []


def test_no_fixture_is_copied() -> None:
    """One that several folders use is in tests/conftest.py."""
    assert copied(found()) == []


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Return a folder of tests in which everything is in order."""
    files = {
        "conftest.py": "from tests.stage import Stage\n@pytest.fixture\ndef stage():\n    return Stage()\n",
        "stage.py": "class Stage: ...\n",
        "room/test_a.py": "from tests.stage import Stage\n@pytest.fixture\ndef one():\n    return 1\n",
        "room/test_b.py": "import tests.stage\n@pytest.fixture\ndef one():\n    return 2\n",
    }
    for name, source in files.items():
        path = tmp_path / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path / "tests"


def test_folder_in_order_is_not_blamed(built: Path) -> None:
    """Two fixtures of one name may differ."""
    tests = modules(built)
    assert borrowed(tests) == copied(tests) == []


@pytest.mark.parametrize(
    "line",
    [
        "from tests.room.test_a import one",
        "from tests.room import test_a",
        "from .test_a import one",
        "from . import test_a",
        "import tests.room.test_a",
        "def f():\n    import tests.room.test_a",
        "from tests.conftest import stage",
    ],
)
def test_import_from_a_test_module_is_found(built: Path, line: str) -> None:
    """In every spelling."""
    with (built / "room/test_b.py").open("a") as source:
        source.write(line + "\n")
    assert borrowed(modules(built))


def test_copied_fixture_is_found(built: Path) -> None:
    """Its docstring does not make it another one."""
    with (built / "room/test_b.py").open("a") as source:
        source.write('@pytest.fixture\ndef stage():\n    """Again."""\n    return Stage()\n')
    assert copied(modules(built)) == ["stage"]
