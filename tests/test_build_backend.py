"""The build backend: when a wheel has compiled modules, what it does if it can't, and that it leaves nothing behind."""

import importlib.util
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("build_backend", ROOT / "build_backend.py")
assert _SPEC is not None
assert _SPEC.loader is not None
backend: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(backend)
COMPILER = "mypy>=2.4,<2.5"
PURE = "streamtee-0.1.0-py3-none-any.whl"


class Hatchling:
    """Stands for hatchling's builds: it notes whether the hook is switched on, and in which folder it is."""

    def __init__(self, fail: Exception | SystemExit | None = None) -> None:
        self.fail = fail  # raised by a build with the hook
        self.built: list[tuple[bool, Path]] = []

    def build(self, wheel_directory: str, *given: Any) -> str:
        """Build a wheel, or fail to compile it."""
        compiles = os.environ.get(backend.SWITCH) == "1" and not os.environ.get(backend.NO_HOOKS)
        self.built.append((compiles, Path.cwd()))
        assert Path(wheel_directory).is_dir()
        if compiles:
            assert sorted(os.listdir()) == sorted(backend.SOURCES)
            Path("proxy", "left.so").touch()
            if self.fail is not None:
                raise self.fail
        return "compiled.whl" if compiles else PURE


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A clone to build in, without a word in the environment on how."""
    for name in (backend.SWITCH, backend.NO_HOOKS, "CC"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "proxy", folder / "proxy", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "build_backend.py"):
        shutil.copy(ROOT / name, folder)
    monkeypatch.chdir(folder)
    yield folder
    assert list(folder.rglob("*.so")) == [], "what is compiled hides what is edited"
    assert Path.cwd() == folder


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that can compile, by what can be seen of it."""
    (tmp_path / "Python.h").touch()
    (tmp_path / "cc").touch(0o755)
    monkeypatch.setenv("CC", f"{tmp_path / 'cc'} -pthread")
    monkeypatch.setattr(backend.sysconfig, "get_config_var", lambda name: str(tmp_path))
    monkeypatch.setattr(backend, "compile_c", lambda source, folder: (folder / "machine.so").touch())


def without_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CC", "no-such-compiler")
    return "there is no C compiler, no-such-compiler"


def without_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "Python.h").unlink()
    return "there are no headers of Python"


def switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(backend.SWITCH, "0")
    return "HATCH_BUILD_HOOK_ENABLE_MYPYC is 0"


def test_modules_are_compiled_where_there_is_a_compiler(
    sources: Path, compiler: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a copy of the sources; mypy is asked for only then."""
    hatchling = Hatchling()
    monkeypatch.setattr(backend.hatchling, "build_wheel", hatchling.build)
    assert COMPILER in backend.get_requires_for_build_wheel()
    assert backend.build_wheel(".") == "compiled.whl"
    ((compiled, folder),) = hatchling.built
    assert compiled
    assert folder != sources
    assert not folder.exists()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("lacking", [without_compiler, without_headers, switched_off])
def test_wheel_is_of_sources_alone_without_a_compiler(
    lacking: Callable[..., str], sources: Path, compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It is built by hatchling and nothing else, and says why."""
    why = lacking(tmp_path, monkeypatch)
    assert backend.get_requires_for_build_wheel() == []
    assert backend.build_wheel(str(tmp_path)) == PURE
    assert f"streamtee is built without compiled modules: {why}" in capfd.readouterr().err
    names = zipfile.ZipFile(tmp_path / PURE).namelist()
    assert "proxy/stream/stream.py" in names
    assert not [name for name in names if name.endswith(".so")]


@pytest.mark.parametrize("error", [RuntimeError("Error while invoking Mypyc: x.c:1"), SystemExit(1)])
def test_build_that_fails_falls_back_to_sources(
    error: Exception | SystemExit, sources: Path, compiler: None, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Unless it must compile: then the build fails."""
    monkeypatch.setattr(backend.hatchling, "build_wheel", Hatchling(error).build)
    assert backend.build_wheel(".") == PURE
    assert f"compiling them failed: {error}" in capfd.readouterr().err
    monkeypatch.setenv(backend.SWITCH, "1")
    with pytest.raises(type(error)):
        backend.build_wheel(".")


def test_compiler_that_is_asked_for_and_missing_fails_the_build(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no image or wheel is slower than it should be without anybody's knowledge."""
    monkeypatch.setenv(backend.SWITCH, "1")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert COMPILER in backend.get_requires_for_build_wheel()
    with pytest.raises(Exception):  # noqa: B017, PT011  # what hatchling raises without the hook, or the hook does
        backend.build_wheel(str(tmp_path))


def test_editable_installation_is_never_compiled(
    sources: Path, compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it is asked for: by the name of the hook, or of all hooks."""
    hatchling = Hatchling()
    monkeypatch.setattr(backend.hatchling, "build_editable", hatchling.build)
    monkeypatch.setenv(backend.SWITCH, "1")
    monkeypatch.setenv("HATCH_BUILD_HOOKS_ENABLE", "1")
    assert COMPILER not in backend.get_requires_for_build_editable()
    assert backend.build_editable(".") == PURE
    assert hatchling.built == [(False, sources)]


def test_all_that_hatchling_offers_is_offered() -> None:
    """Its metadata, too: otherwise a wheel would be compiled for each look at them, as `deploy/lock.sh` takes one."""
    assert {name for name in backend.hatchling.__all__ if name != "__all__"} <= set(dir(backend))


def test_no_name_of_the_sources_is_missing() -> None:
    """A wheel is built of these alone when it is compiled: the pure one has nothing that they lack."""
    configured = (ROOT / "pyproject.toml").read_text()
    assert 'packages = ["proxy"]' in configured
    assert all((ROOT / name).exists() for name in backend.SOURCES)
