"""Which tests `make test` runs, and which of them first: of each large matrix a sample, on one event loop.

`make test-all` runs all of them.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

LONG = ("tests/soak/", "tests/tools/test_documented.py", "tests/test_documents.py", "tests/workers/test_supervisor.py")
"""Tests of many seconds, most of which they wait. They come first: one that began last would be waited for alone."""
SAMPLE = 16
"""Cases of one test function, at most."""
_FIRST_LOOP, _OTHER_LOOP = "uvloop", "asyncio"


def is_long(name: str) -> bool:
    """Return whether a test is one of those that come first."""
    return name.startswith(LONG)


def left_out(names: Iterable[str]) -> set[str]:
    """Return which of these tests are left out; each name is as pytest's node ids are, FUNCTION[CASE].

    Those on the other event loop, if the same case is there for the first one; then, of a function that has more than
    SAMPLE cases, all but that many, which are evenly spread.
    """
    cases: dict[str, list[str]] = defaultdict(list)
    for name in names:
        cases[name.partition("[")[0]].append(name)
    out: set[str] = set()
    for several in cases.values():
        known = set(several)
        first = [name for name in several if _on_first_loop(name) not in known - {name}]
        out |= known - set(_spread(first))
    return out


def _on_first_loop(name: str) -> str:
    """Return the name of the same case on the first event loop."""
    function, bracket, case = name.partition("[")
    parts = [_FIRST_LOOP if part == _OTHER_LOOP else part for part in case.removesuffix("]").split("-")]
    return f"{function}{bracket}{'-'.join(parts)}]" if bracket else name


def _spread(names: Sequence[str]) -> Sequence[str]:
    if len(names) <= SAMPLE:
        return names
    return [names[place * len(names) // SAMPLE] for place in range(SAMPLE)]
