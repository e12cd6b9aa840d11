"""The base class and the number types of the configuration's tables. A room's tables are in its module `settings`."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """A table of the configuration file: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
