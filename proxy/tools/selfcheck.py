"""What must hold of an installation before it serves, and whether its modules are compiled."""

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
    owners = set(metadata.packages_distributions().get("proxy", ())) - {"streamtee"}
    if owners:
        raise SelfCheckError(
            f"the import package 'proxy' also belongs to {', '.join(sorted(owners))}; "
            "install streamtee into a virtual environment of its own"
        )
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise SelfCheckError(
            "aiohttp runs its pure-Python HTTP parser; unset AIOHTTP_NO_EXTENSIONS, or install a wheel of aiohttp"
        )
