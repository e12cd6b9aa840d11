"""What must hold of an installation before it serves, and whether its modules are compiled."""

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from aiohttp import http_parser

from proxy.stream import stream


class SelfCheckError(Exception):
    """The installation can't serve; the message says why and what to do."""


def build() -> str:
    """Return which modules are imported: compiled ones, or sources that are interpreted."""
    return "interpreted" if Path(stream.__file__).suffix == ".py" else "compiled"


def check_installation() -> None:
    """Raises: SelfCheckError, when another distribution owns the package `proxy`, or aiohttp runs its slow parser."""
    owners = set(_owners("proxy")) - {"streamtee"}
    if owners:
        raise SelfCheckError(
            f"the import package 'proxy' also belongs to {', '.join(sorted(owners))}; "
            "install streamtee into a virtual environment of its own"
        )
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise SelfCheckError(
            "aiohttp runs its pure-Python HTTP parser; unset AIOHTTP_NO_EXTENSIONS, or install a wheel of aiohttp"
        )


def _owners(package: str) -> Iterator[str]:
    """Yield the names of the installed distributions that have an import package.

    Not `metadata.packages_distributions`, which makes a path of every installed file: 0.2 s for 17,000 of them.
    """
    for one in metadata.distributions():
        names = one.read_text("top_level.txt")
        installed = one.read_text("RECORD") or "" if names is None else ""
        if package in (names or "").split() or f"\n{package}/" in f"\n{installed}":
            yield one.metadata["Name"]
