"""Names of the proxy's in deploy/ and in the pages on operating it: variables, keys, paths of its ports, metrics."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from proxy.server.config import Config

ROOT = Path(__file__).parents[2]
PAGES = ("docs/alerts.md", "docs/metrics.md", "docs/operations.md")
FILES = [path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in (*FILES, *(ROOT / page for page in PAGES))}
NOT_KEYS = {"streams.example", "store.md"}
"""What looks like a key, and is none."""


def has(model: type[BaseModel], path: list[str]) -> bool:
    """Return whether a configuration has a key; of a table by names (`upstreams`), the name may be any."""
    name, *rest = path
    field = model.model_fields.get(name)
    if field is None:
        return False
    inner = type(field.default)
    if name == "upstreams":
        return len(rest) < 2 or has(type(Config.model_fields["upstream"].default), rest[1:])
    return not rest or (issubclass(inner, BaseModel) and has(inner, rest))


TABLES = [name for name, field in Config.model_fields.items() if isinstance(field.default, BaseModel)]


@pytest.mark.parametrize("name", list(TEXTS))
def test_variables_are_keys_of_the_configuration(name: str) -> None:
    """Each STREAMTEE_... that a file sets or mentions."""
    variables = set(re.findall(r"STREAMTEE_([A-Z][A-Z0-9_]*[A-Z0-9])", TEXTS[name]))
    unknown = {one for one in variables if not has(Config, one.lower().split("__"))}
    assert set(unknown) == set()


@pytest.mark.parametrize("name", list(TEXTS))
def test_keys_that_are_mentioned_are_there(name: str) -> None:
    """Each TABLE.KEY in a comment or on a page."""
    mentioned = set(re.findall(rf"(?<![\w./-])((?:{'|'.join(TABLES)})\.[a-z][a-z_]*[a-z])(?![\w(-]*\()", TEXTS[name]))
    assert {one for one in mentioned if not has(Config, one.split("."))} - NOT_KEYS == set()


def test_configuration_is_looked_up_as_it_should_be() -> None:
    """A key that is missing is found missing, at any depth."""
    assert has(Config, ["limits", "streams"])
    assert has(Config, ["upstreams", "spare", "key"])
    assert not has(Config, ["limits", "stream"])
    assert not has(Config, ["limit"])
    assert not has(Config, ["upstreams", "spare", "kee"])
    assert not has(Config, ["drain_s", "x"])
