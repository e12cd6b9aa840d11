"""How clients ask an API for a stream: what the commands and the console, which are such clients, send.

Must not know: upstreams. An API's `Asking` stands in its own module, and in its row of the table.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Question(NamedTuple):
    """What is asked for: a model, a prompt, and how long the answer may be in tokens (0: as long as it likes)."""

    model: str
    prompt: str
    max_tokens: int = 0

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as a conversation, in the format that several APIs share."""
        return [{"role": "user", "content": self.prompt}]


class Asking(NamedTuple):
    """How clients ask an API for a stream, but for their key."""

    title: str
    """What the API is called where one is chosen."""
    path: str
    """What SDKs add to a base URL that ends with a version."""
    body: Callable[[Question], dict[str, Any]]
    headers: Sequence[tuple[bytes, bytes]] = ()
    """Headers that the API demands."""
    by_name: bool = False
    """Whether its SDKs read events by their names, and skip those whose names don't begin as `Dialect.events` says."""
