"""The two versions of the same functions: in Python, and in C."""

import asyncio
import importlib.util
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvloop

from proxy.machine import plain
from tests.programs import c_compiler

_ROOT = Path(__file__).parents[2]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Only the transports of uvloop are written past."""
    return {"uvloop": uvloop.new_event_loop}


def _module(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """compiled.c, compiled as for a wheel."""
    c_compiler()
    folder = tmp_path_factory.mktemp("compiled")
    backend = _module("build_backend", _ROOT / "build_backend.py")
    backend.compile_c(_ROOT / "proxy/machine/compiled.c", folder)
    return _module("compiled", folder / f"compiled{sysconfig.get_config_var('EXT_SUFFIX')}")


@pytest.fixture(params=["plain", "machine"])
def version(request: pytest.FixtureRequest) -> ModuleType:
    """One of the two."""
    module: ModuleType = plain if request.param == "plain" else request.getfixturevalue("machine")
    return module
