"""What the tables of the configuration are made of. Each room has its own tables in a module `settings`."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """A table: no key but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)
