"""What each API of the fake Qwen has: how its answers, refusals and errors are spelled."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from proxy.tools.fake.refusals import Refusal
from proxy.tools.fake.text import Ask, Stamp


class Answer(Protocol):
    """An answer in one API."""

    def frames(self) -> Iterator[bytes]:
        """Yield it as a stream."""

    def whole(self) -> bytes:
        """Return it as one body."""


class Api(NamedTuple):
    """One API: how answers and refusals are spelled in it."""

    answer: Callable[[Ask, Stamp], Answer]
    refusal_body: Callable[[Refusal, Stamp, str], bytes]
    """Return the JSON body of an HTTP 4xx or 5xx, to a request for a model."""
    error_frame: Callable[[Refusal, Stamp, str, int], bytes]
    """Return the frame that tells of an error inside a stream, of which it is the frame with this number."""
    flat_error_frame: Callable[[Refusal, Stamp, str, int], bytes]
    """Return it in the form that is not every client's."""
    last: bytes
    """The frame at the end of every stream; empty: there is no such frame."""
    refusal_frame: Callable[[Refusal, Stamp, str, int], bytes] | None = None
    """Return the frame that refuses a stream; None: a stream is refused as other requests are."""
    refuses_streams_with: int = 0
    """The HTTP status of that; 0: the refusal's own."""
    native: bool = False
    """Whether headers ask for streams, and heads are those of DashScope's own API."""
