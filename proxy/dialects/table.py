"""The table of APIs: what is served where, and by which dialect. A row, and the module it names, add an API.

Everything above this room asks here which prefixes, paths and headers there are, and spells none of an API's itself.
Source: Alibaba Cloud Model Studio's API references.
"""

from typing import NamedTuple

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.dialects.plain import PLAIN
from proxy.dialects.route import Route

OWN = CHAT
"""What the proxy's own paths speak: the body of an error there."""
UNKNOWN = PLAIN
"""What is assumed of routes of the user's own."""
BASE = "/compatible-mode/v1"
"""The path of an upstream whose URL has none: where rows without an upstream prefix lead."""
PROVIDER = "dashscope"
"""Who serves all of these APIs, by the name that OpenTelemetry's conventions have for it."""

# Of X-DashScope-SDK headers the values tell who asks (a session's id among them), not what for.
_STEERING = r"accept|x-dashscope-(?!sdk-).*"
_DASHSCOPE_HEADERS = r"x-dashscope-[a-z0-9-]+"


class Row(NamedTuple):
    """An API: its label in metrics, where it is served, what that stands for upstream, and how it is spoken."""

    name: str
    prefixes: tuple[str, ...]
    """They stand for each other. Of rows with the same ones, the first has all that is a generation of none."""
    dialect: Dialect
    upstream_prefix: str | None = None
    """None: the path of the upstream's URL."""
    generations: tuple[str, ...] = ()
    """Paths that are asked for with POST and answered with a stream; read whole, so that they can be sent again."""
    lent: tuple[str, ...] = ()
    """What else may be asked for with POST and a key of ours; `{}` stands for one segment."""
    lent_to_read: tuple[str, ...] = ()
    """The same with GET and HEAD."""
    steering: str = "accept"
    """A regular expression: names, in lower case, of headers that two requests for one answer have alike."""
    headers: str = ""
    """A regular expression: names, in lower case, of headers that its clients send beside the usual ones."""


ROWS = [
    Row(
        "chat",
        ("/v1/", "/compatible-mode/v1/"),
        CHAT,
        generations=("chat/completions",),
        lent=("completions", "responses", "messages", "messages/count_tokens", "embeddings", "rerank", "reranks"),
        lent_to_read=("models", "models/{}"),
        steering=_STEERING,
        headers=rf"(?:x-stainless|openai)-[a-z0-9-]+|{_DASHSCOPE_HEADERS}",
    ),
    Row("compatible", ("/compatible-mode/",), CHAT, "/compatible-mode/"),
    Row(
        "dashscope",
        ("/api/v1/",),
        DASHSCOPE,
        "/api/v1/",
        generations=(
            "services/aigc/text-generation/generation",
            "services/aigc/multimodal-generation/generation",
            "apps/{app_id}/completion",
        ),
        lent=(
            "services/embeddings/text-embedding/text-embedding",
            "services/embeddings/multimodal-embedding/multimodal-embedding",
            "services/rerank/text-rerank/text-rerank",
        ),
        lent_to_read=("models",),
        steering=_STEERING,
        headers=_DASHSCOPE_HEADERS,
    ),
]


def routes(base: str = BASE) -> list[tuple[Route, tuple[str, ...]]]:
    """Return the routes, the more special first, and the paths of generations below each.

    `base` is the path of the upstream's URL.
    """
    found = [
        (
            Route(row.name, prefix, row.upstream_prefix or f"{base}/", row.dialect, steering=row.steering),
            row.generations,
        )
        for row in ROWS
        for prefix in row.prefixes
    ]
    return sorted(found, key=lambda one: len(one[0].prefix), reverse=True)


def served() -> tuple[str, ...]:
    """Return the prefixes that are served, without those below another."""
    prefixes = dict.fromkeys(prefix for row in ROWS for prefix in row.prefixes)
    return tuple(one for one in prefixes if not any(one != other and one.startswith(other) for other in prefixes))


def lent() -> dict[str, list[str]]:
    """Return the paths that may be asked for with a key of ours, by method."""
    posted = [row.prefixes[0] + path for row in ROWS for path in (*row.generations, *row.lent)]
    read = [row.prefixes[0] + path for row in ROWS for path in row.lent_to_read]
    return {"POST": posted, "GET": read, "HEAD": read}


def spellings(path: str) -> list[str]:
    """Return a path below the first prefix of an API as it is spelt below each of them; any other as it is."""
    for row in ROWS:
        first = row.prefixes[0]
        if path.startswith(first):
            return [prefix + path.removeprefix(first) for prefix in row.prefixes]
    return [path]


def request_headers() -> str:
    """Return a regular expression for the names, in lower case, of all headers that clients of the APIs send."""
    return "|".join(row.headers for row in ROWS if row.headers)
