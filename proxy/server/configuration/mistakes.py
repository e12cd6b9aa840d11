"""What is wrong with a configuration, in words: the key, where it was given, and the nearest right name.

Values are never shown: one may be a secret that was put in the wrong place.
"""

import ast
import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from proxy.objections import objection
from proxy.server.config import Config
from proxy.server.configuration.places import Key, Places
from proxy.settings import is_table, table_below

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_KEYS = re.compile(r"\((?:'[^']*'|\"[^\"]*\"),(?: (?:'[^']*'|\"[^\"]*\"),?)*\)")  # tomllib's name of a table: a tuple


def explained(error: OSError | ValueError, path: Path | None = None) -> str:
    """Return what is wrong with a configuration, by an error that `load` raised. `path`: of its file, if it has one."""
    if not isinstance(error, ValidationError):  # TOMLDecodeError is a ValueError, too
        file = f" {path}:" if path is not None and str(path) not in str(error) else ""
        return f"the configuration can't be read:{file} {_KEYS.sub(_dotted, str(error))}"
    places = Places(path)
    lines = [f"  {_objection(one, places)}" for one in error.errors(include_url=False)]
    return "the configuration is not valid:\n" + "\n".join(lines)


def _dotted(keys: re.Match[str]) -> str:
    """Return the name of a table as TOML has it."""
    return ".".join(ast.literal_eval(keys[0]))


def _objection(error: "ErrorDetails", places: Places) -> str:
    """Return one line on one error of pydantic: the key, what is wrong with it, and where it was given."""
    key = error["loc"]
    place = places.nearest(key)
    where = "" if place is None else f" ({place})"
    name = ".".join(map(str, key))
    text = objection(error) + (_suggestion(key) if error["type"] == "extra_forbidden" else "")
    return f"{name}: {text}{where}" if name else text


def _suggestion(key: Key) -> str:
    """Return the right names that are nearest to one that is not known."""
    *outer, last = map(str, key)
    names = keys_below(outer)
    near = difflib.get_close_matches(last.lower(), names, n=1)
    elsewhere = [found for found in _everywhere() if found.rpartition(".")[2] == last.lower()] if not near else []
    if near or elsewhere:
        return "; did you mean " + " or ".join([*(".".join([*outer, name]) for name in near), *elsewhere[:2]]) + "?"
    return f"; there are {', '.join(names)}" if names else ""


def keys_below(outer: list[str]) -> list[str]:
    """Return the names that a table of the configuration knows; [] if it is none."""
    table: Any = Config
    for name in outer:
        table = table_below(table, name)
    return list(table.model_fields) if is_table(table) else []


def _everywhere() -> list[str]:
    """Return the keys of all tables, with the names of their tables."""
    tables = [name for name, field in Config.model_fields.items() if is_table(field.annotation)]
    return [f"{table}.{name}" for table in tables for name in keys_below([table])] + list(Config.model_fields)
