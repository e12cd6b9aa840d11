"""The numbers of workers, and how the id of a stream says in which worker it is: by its last two characters.

The other 24 characters are random: 120 bits. No table is needed to find a stream, and none can be out of date.
"""

from collections.abc import Iterable

_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_ID_LENGTH = 29  # "st_" and 26 letters
NUMBERS = len(_LETTERS) ** 2


def ending_of(number: int) -> str:
    """Return the last two characters of the ids of a worker's streams."""
    high, low = divmod(number, len(_LETTERS))
    return _LETTERS[high] + _LETTERS[low]


def worker_of(ident: str) -> int | None:
    """Return the number of the worker in the id of a stream; None if the text is not such an id."""
    if len(ident) != _ID_LENGTH or not ident.startswith("st_"):
        return None
    high, low = _LETTERS.find(ident[-2]), _LETTERS.find(ident[-1])
    return None if high < 0 or low < 0 else high * len(_LETTERS) + low


def free_numbers(count: int, taken: Iterable[int]) -> list[int]:
    """Return the lowest numbers that no worker has. Raises: ValueError, if there are too few."""
    used = set(taken)
    free = [number for number in range(NUMBERS) if number not in used][:count]
    if len(free) < count:
        raise ValueError(f"{len(used)} of {NUMBERS} numbers of workers are taken; {count} more are needed")
    return free
