"""The base class and the types of the configuration's tables. A room's tables are in its module `settings`."""

from collections.abc import Mapping
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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


class Table(BaseModel):
    """A table of the configuration file: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
