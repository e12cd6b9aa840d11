"""What goes upstream with a key of ours: a list of paths, since the key opens more than its owner means to lend.

Behind it are everybody's files, batches and tasks, and the proxy can't tell whose they are; deployments; and temporary
keys that work without the proxy.
"""

import re
from collections.abc import Iterable

from proxy.wire.errors import PathNotAllowed

_OPENAI, _ALIAS = "/v1/", "/compatible-mode/v1/"
_NATIVE = "/api/v1/services/"
_MODELS = ("/v1/models", "/v1/models/{}", "/api/v1/models")
_ALLOWED = {
    "POST": (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/reranks",
        f"{_NATIVE}aigc/text-generation/generation",
        f"{_NATIVE}aigc/multimodal-generation/generation",
        "/api/v1/apps/{}/completion",
        f"{_NATIVE}embeddings/text-embedding/text-embedding",
        f"{_NATIVE}embeddings/multimodal-embedding/multimodal-embedding",
        f"{_NATIVE}rerank/text-rerank/text-rerank",
    ),
    "GET": _MODELS,
    "HEAD": _MODELS,
}
# No escapes, no empty and no dot segments, no path parameters: nothing that whoever reads it next may take otherwise.
SEGMENT = r"(?!\.\.?(?:/|$))[A-Za-z0-9._~:@+,=-]+"


class AllowedPaths:
    """The requests that are sent with a key of ours: these, and any method at the `added` paths.

    An added path that ends with a slash stands for everything below it, and one of /v1/ also for that of
    /compatible-mode/v1/.
    """

    def __init__(self, added: Iterable[str]) -> None:
        self._always = _any(added)
        self._by_method = {method: _any(paths) for method, paths in _ALLOWED.items()}

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
    pattern = re.escape(path).replace(r"\{\}", SEGMENT)
    if path.startswith(_OPENAI):
        pattern = f"(?:{_ALIAS}|{_OPENAI}){pattern.removeprefix(_OPENAI)}"
    return pattern + (f"(?:{SEGMENT}/)*(?:{SEGMENT})?" if path.endswith("/") else "")
