"""What goes upstream with a key of ours: only what the table of APIs lends, since the key opens more than that.

Behind it are everybody's files, batches and tasks, and the proxy can't tell whose they are; deployments; and temporary
keys that work without the proxy.
"""

import re
from collections.abc import Iterable

from proxy.dialects import table
from proxy.wire.errors import PathNotAllowed

# No escapes, no empty and no dot segments, no path parameters: nothing that whoever reads it next may take otherwise.
SEGMENT = r"(?!\.\.?(?:/|$))[A-Za-z0-9._~:@+,=-]+"


class AllowedPaths:
    """The requests that are sent with a key of ours: these, and any method at the `added` paths.

    An added path that ends with a slash stands for everything below it. One below an API's first prefix stands for
    the same below its others, too: /v1/ for /compatible-mode/v1/.
    """

    def __init__(self, added: Iterable[str]) -> None:
        self._always = _any(added)
        self._by_method = {method: _any(paths) for method, paths in table.lent().items()}

    def check(self, method: str, path: str) -> None:
        """Raises: PathNotAllowed, for a path, as the client wrote it, that is not listed for the method."""
        listed = self._by_method.get(method)
        if not (listed and listed.fullmatch(path)) and not self._always.fullmatch(path):
            raise PathNotAllowed(
                f"{method} {path[:100]} is not among what goes upstream with the key of this proxy;"
                " upstream.paths in its configuration can add it, unless it has escapes, empty or dot segments"
            )


def _any(paths: Iterable[str]) -> re.Pattern[str]:
    """Return what matches any of these paths: of none, nothing."""
    return re.compile("|".join(map(_pattern, paths)) or r"(?!)")


def _pattern(path: str) -> str:
    """Return what matches a path, in which {} stands for one segment, and a slash at its end for all below it."""
    patterns = [re.sub(r"\\\{\w*\\\}", lambda _: SEGMENT, re.escape(one)) for one in table.spellings(path)]
    return f"(?:{'|'.join(patterns)})" + (f"(?:{SEGMENT}/)*(?:{SEGMENT})?" if path.endswith("/") else "")
