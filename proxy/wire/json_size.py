"""Whether a JSON text has so few values that reading it keeps nobody waiting.

A parser can't be interrupted, and its time depends on the number of values more than on that of bytes: 64 MB of one
text take 20 ms, 28 MB of small objects 300, and seconds where members are replaced. So long texts are scanned before,
in steps.
"""

from collections.abc import Iterator
from typing import Final

from proxy.wire.errors import TooLarge

LONG_BYTES: Final = 256 * 1024  # shorter texts need not be scanned: they are read in some 20 ms
MOST_PLACES: Final = 100_000  # of arrays, objects and their members
MOST_ITEMS: Final = 500_000  # and what else stands between commas, as numbers: embeddings are asked for by tokens, too
_STEP: Final = 4000  # strings and pieces between them: some 5 ms
_PIECE_BYTES: Final = 1 << 16
_BACKSLASH: Final = 92
_LOOKED_BACK_BYTES: Final = (64, 1 << 12, 1 << 18, 1 << 24)


def check(text: bytes) -> Iterator[None]:
    """Check that a JSON text is read in a short time; others may have their turn between the steps.

    Raises: TooLarge.
    """
    at = places = items = 0
    within_string = False
    while True:
        for _ in range(_STEP):
            quote = text.find(b'"', at)
            if within_string:
                within_string = quote >= 0 and _is_escaped(text, quote)
            else:
                end = min(len(text) if quote < 0 else quote, at + _PIECE_BYTES)
                places += text.count(b"[", at, end) + text.count(b"{", at, end) + text.count(b":", at, end)
                items += text.count(b",", at, end)
                if places > MOST_PLACES or items > MOST_ITEMS:
                    raise TooLarge(
                        f"the JSON has more than {MOST_PLACES} arrays, objects and members, or {MOST_ITEMS} items;"
                        " a body that is read here may not"
                    )
                within_string = end == quote
                if end < len(text) and not within_string:
                    at = end
                    continue
            if quote < 0:
                return
            at = quote + 1
        yield


def _is_escaped(text: bytes, quote: int) -> bool:
    """Return whether a quotation mark has an odd number of backslashes before it."""
    if text[quote - 1] != _BACKSLASH:
        return False
    for size in _LOOKED_BACK_BYTES:
        before = text[max(0, quote - size) : quote]
        run = len(before) - len(before.rstrip(b"\\"))
        if run < size:
            return run % 2 == 1
    raise TooLarge(f"the JSON has more than {run} backslashes in a row")
