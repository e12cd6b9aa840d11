"""The proxy as `streamtee` runs it, with a thread that tells how many tasks there are: `python -m tests.soak.counted`.

For each byte that it reads from its standard input, the thread writes a line to the descriptor TASKS_FD.
"""

import asyncio
import os
import threading
from collections.abc import Iterable
from typing import Any, cast

from proxy.tools.cli import main


def tasks() -> int:
    """Return how many tasks of any loop have not ended."""
    known = getattr(asyncio.tasks, "_scheduled_tasks", None) or getattr(asyncio.tasks, "_all_tasks", ())
    while True:
        try:
            return sum(not task.done() for task in list(cast(Iterable[Any], known)))
        except RuntimeError:  # one was made meanwhile
            continue


def tell(descriptor: int) -> None:
    """Answer each byte of standard input, until its end."""
    while os.read(0, 1):
        os.write(descriptor, b"%d\n" % tasks())


if __name__ == "__main__":
    threading.Thread(target=tell, args=(int(os.environ["TASKS_FD"]),), daemon=True).start()
    main()
