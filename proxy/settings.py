"""The base class and the types of the configuration's tables. A room's tables are in its module `settings`.

A secret is a field of type SecretStr, or a tuple of them. With a field of its name and `_file` beside it, it can be
given as a file that holds it; of a tuple, each line is one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

Row = TypeVar("Row")


def _check_pattern(name: str) -> str:
    if not name or "*" in name[:-1]:
        raise ValueError(f"{name!r} is not the name of a model, or its beginning and a * at the end")
    return name


Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=1)]
ModelPattern = Annotated[str, AfterValidator(_check_pattern)]
"""The name of a model, or the beginning of several and a *."""
FILE = "_file"
"""The end of the name of a field that names the file of a secret."""


class Table(BaseModel):
    """A table of the configuration file: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, given: Any) -> Any:
        return with_secrets(cls, given) if isinstance(given, dict) else given


def secrets_of(table: type[BaseModel]) -> dict[str, bool]:
    """Return the fields of a table that are secrets which can be given as files; True: it is a tuple of them."""
    fields = table.model_fields
    kinds = {name: field.annotation for name, field in fields.items() if name + FILE in fields}
    return {
        name: kind is not SecretStr for name, kind in kinds.items() if kind is SecretStr or SecretStr in get_args(kind)
    }


def with_secrets(table: type[BaseModel], given: dict[str, Any]) -> dict[str, Any]:
    """Return what is given of a table, with what the files of secrets hold in place of their names.

    Raises: ValueError, which names the file, if it has a path, and never what it holds.
    """
    for name, several in secrets_of(table).items():
        path = given.get(name + FILE)
        if not (path and isinstance(path, str)):  # else the field of the path says what is wrong with it
            continue
        if given.get(name):
            raise ValueError(f"{name} and {name}{FILE} are both given; one is enough")
        held = _read(f"{name}{FILE}", path)
        given = {key: value for key, value in given.items() if key != name + FILE}
        given[name] = tuple(held.split()) if several else held
    return given


def _read(field: str, path: str) -> str:
    try:
        held = Path(path).read_text(encoding="utf-8").strip()
    except UnicodeError:
        raise ValueError(f"{field}: {path} is no text") from None
    except OSError as error:
        named = path if "/" in path else "the file of that name"  # which may be the secret itself, in the wrong place
        raise ValueError(f"{field}: {named} can't be read: {error.strerror}") from None
    if not held:
        raise ValueError(f"{field}: {path} is empty")
    return held


def table_below(table: Any, name: str) -> Any:
    """Return the type of a field of a table: a class of tables if it is one, or holds some under any name or number.

    None, if there is no such field.
    """
    if is_table(table):
        field = table.model_fields.get(name)
        return None if field is None else field.annotation
    return next((one for one in get_args(table) if is_table(one)), None)


def is_table(found: Any) -> bool:
    """Return whether a type is that of a table."""
    return isinstance(found, type) and issubclass(found, BaseModel)


class ByModel(Generic[Row]):
    """Rows of a table by the models that they are for."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        """`rows`: by ModelPattern."""
        self._exact = {name: row for name, row in rows.items() if not name.endswith("*")}
        beginnings = [(name[:-1], row) for name, row in rows.items() if name.endswith("*")]
        self._beginnings = sorted(beginnings, key=lambda item: len(item[0]), reverse=True)

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._exact or self._beginnings)

    def find(self, name: str) -> Row | None:
        """Return the row for a model: that with its whole name, or else with its longest beginning."""
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        return next((row for beginning, row in self._beginnings if name.startswith(beginning)), None)
