"""Builds the wheel of this project (PEP 517), with compiled modules where there is a C compiler.

Hatchling builds all packages, and hatch-mypyc compiles modules; both are configured in pyproject.toml. C sources are
compiled here, and here is decided whether a wheel has compiled modules, by HATCH_BUILD_HOOK_ENABLE_MYPYC, hatchling's
own variable for the hook:

* unset: it has them if there is a C compiler and the build succeeds; otherwise this says why it has none
* 1: it must have them, or the build fails
* 0: it has none

An editable installation never has any: they would hide what is edited in the sources.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling import build as hatchling

build_sdist = hatchling.build_sdist
get_requires_for_build_sdist = hatchling.get_requires_for_build_sdist
# Where hatchling has them: without them a wheel is built, and perhaps compiled, to read its metadata.
if hasattr(hatchling, "prepare_metadata_for_build_wheel"):
    prepare_metadata_for_build_wheel = hatchling.prepare_metadata_for_build_wheel
    prepare_metadata_for_build_editable = hatchling.prepare_metadata_for_build_editable

SWITCH = "HATCH_BUILD_HOOK_ENABLE_MYPYC"
NO_HOOKS = "HATCH_BUILD_NO_HOOKS"
SOURCES = ("proxy", "pyproject.toml", "README.md", "LICENSE", "build_backend.py")
"""All that a wheel is built of."""

_WARNINGS = ("-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Wno-cast-function-type")


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return what building a wheel needs: mypy, and what the modules import, only if they are compiled."""
    with _set(NO_HOOKS if _objection() else SWITCH):
        return hatchling.get_requires_for_build_wheel(config_settings)


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel in a folder, and return its name. Raises what hatchling and the compiler raise."""
    objection = _objection()
    if not objection:
        try:
            return _compiled(wheel_directory)
        except (Exception, SystemExit) as error:
            if os.environ.get(SWITCH):
                raise
            objection = f"compiling them failed: {error}"
    print(f"streamtee is built without compiled modules: {objection}", file=sys.stderr)
    with _set(NO_HOOKS):
        return hatchling.build_wheel(wheel_directory)


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return what an editable installation needs."""
    with _set(NO_HOOKS):
        return hatchling.get_requires_for_build_editable(config_settings)


def build_editable(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Build what makes an editable installation, and return its name."""
    with _set(NO_HOOKS):
        return hatchling.build_editable(wheel_directory)


def _objection() -> str:
    """Return why modules are not compiled; "" if they are."""
    switch = os.environ.get(SWITCH, "")
    if switch:
        return "" if switch.lower() in ("1", "true") else f"{SWITCH} is {switch}"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler, {compiler}"
    headers = Path(sysconfig.get_config_var("INCLUDEPY") or "", "Python.h")
    return "" if headers.exists() else f"there are no headers of Python, {headers}"


def _compiled(wheel_directory: str) -> str:
    """Build a wheel with compiled modules, from a copy: the hook leaves them beside the sources."""
    wheels, root = Path(wheel_directory).absolute(), Path.cwd()
    with TemporaryDirectory() as folder:
        for name in SOURCES:
            if (root / name).is_dir():
                shutil.copytree(root / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy(root / name, folder)
        os.chdir(folder)
        try:
            for source in Path("proxy").rglob("*.c"):
                compile_c(source, source.parent)  # hatchling takes in what it finds there
            with _set(SWITCH):
                return hatchling.build_wheel(str(wheels))
        finally:
            os.chdir(root)


def compile_c(source: Path, folder: Path) -> None:
    """Make an extension module of a C source, in a folder. Raises: CalledProcessError, OSError."""
    link = shlex.split(sysconfig.get_config_var("LDSHARED"))  # the compiler, and how it makes a library
    compiler = shlex.split(os.environ.get("CC", "")) or link[:1]
    flags = shlex.split(sysconfig.get_config_var("CCSHARED"))
    target = folder / (source.stem + sysconfig.get_config_var("EXT_SUFFIX"))
    include = "-I" + sysconfig.get_config_var("INCLUDEPY")
    subprocess.run(
        [*compiler, *link[1:], *flags, *_WARNINGS, "-O2", include, str(source), "-o", str(target)], check=True
    )


@contextmanager
def _set(name: str) -> Iterator[None]:
    """Set a variable of the environment to 1."""
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
