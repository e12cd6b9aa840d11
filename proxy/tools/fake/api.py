"""What each API of the fake Qwen defines: how its answers and errors are written."""

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
    """One API: how answers and errors are written in it."""

    answer: Callable[[Ask, Stamp], Answer]
    refusal_body: Callable[[Refusal, Stamp, str], bytes]
    """Return the JSON body of an HTTP 4xx or 5xx, for a request with a model."""
    error_frame: Callable[[Refusal, Stamp, str, int], bytes]
    """Return the frame that reports an error inside a stream; the number is its place in the stream."""
    flat_error_frame: Callable[[Refusal, Stamp, str, int], bytes]
    """Return that frame in a form that some gateways send, and not every client reads."""
    last: bytes
    """The frame that ends every stream; empty: there is no such frame."""
    refusal_frame: Callable[[Refusal, Stamp, str, int], bytes] | None = None
    """Return the frame that refuses a request for a stream; None: it is refused as other requests are."""
    refuses_streams_with: int = 0
    """The HTTP status of a refusal in such a frame; 0: the refusal's own."""
    native: bool = False
    """Whether headers ask for streams, and responses have the headers of DashScope's own API."""
