"""What fails in mid-stream, with proxies in processes of their own and a real Redis: nothing is lost silently.

All rows are part of `make test-all`, the quick ones of `make test`.
"""

import os
from pathlib import Path

import pytest

from tests.store.failures import ROWS, Row, run

DOCS = Path(__file__).parents[2] / "docs" / "store.md"
CHOSEN = ROWS if os.environ.get("TEST_ALL") else [row for row in ROWS if row.is_quick]


@pytest.mark.parametrize("row", CHOSEN, ids=[row.what for row in CHOSEN])
async def test_followers_have_what_was_said_or_are_told_of_its_loss(row: Row) -> None:
    """From the first frame on, without a gap; and the stream ends for all in bounded time."""
    await run(row)


def test_documentation_has_every_row() -> None:
    """`python -m tests.store.failures` prints its table."""
    text = DOCS.read_text()
    assert [row.what for row in ROWS if f"| {row.what} |" not in text] == []
