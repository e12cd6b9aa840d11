"""The table of APIs: where each is served, and by which dialect. A new API is one row and the module it names.

All rooms above get the prefixes, paths and headers of APIs from this table, and contain none themselves.
Source: Alibaba Cloud Model Studio's API references.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from proxy.dialects.allowance import Allowance
from proxy.dialects.chat import ASK_CHAT, CHAT
from proxy.dialects.chat import CHUNKS as CHUNKS
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.dialects.messages import ASK_MESSAGES, MESSAGES
from proxy.dialects.plain import PLAIN
from proxy.dialects.question import Asking
from proxy.dialects.realtime import REALTIME
from proxy.dialects.responses import ASK_RESPONSES, RESPONSES
from proxy.dialects.route import AUTHORIZATION, Route

OWN: Final = CHAT
"""The dialect of error responses at the proxy's own paths."""
UNKNOWN: Final = PLAIN
"""The dialect of routes that the configuration defines."""
BASE: Final = "/compatible-mode/v1"
"""The upstream path for rows without an upstream prefix, if the URL of the upstream has no path."""
PROVIDER: Final = "dashscope"
"""The provider of all of these APIs, as OpenTelemetry's conventions name it."""

# X-DashScope-SDK headers are left out: their values describe the client (a session id, say), not the request.
_STEERING: Final = r"accept|x-dashscope-(?!sdk-).*"
_DASHSCOPE_HEADERS: Final = r"x-dashscope-[a-z0-9-]+"


class Row(NamedTuple):
    """An API: its label in metrics, the prefixes where it is served, its dialect, and its paths and headers."""

    name: str
    prefixes: tuple[str, ...]
    """Equivalent prefixes; paths in the settings are below the first one. Where two rows have the same prefixes, the
    first row also gets every request that is no generation of either. One that ends without a slash is a path itself
    and the prefix of all paths below it."""
    dialect: Dialect
    upstream_prefix: str | None = None
    """The path upstream that a prefix stands for; None: the path of the upstream's URL, followed by `below`."""
    below: str = "/"
    generations: tuple[str, ...] = ()
    """Paths of POST requests that respond with a stream. Their bodies are read completely, so they can be retried."""
    unlent: tuple[str, ...] = ()
    """Those of them that may not be sent with the proxy's own key, as all others may."""
    lent: tuple[str, ...] = ()
    """Other paths of POST requests that may be sent with the proxy's own key; `{}` stands for one segment."""
    lent_to_read: tuple[str, ...] = ()
    """The same for GET and HEAD."""
    steering: str = "accept"
    """A regular expression for the names, in lower case, of headers that must be equal to share one response."""
    headers: str = ""
    """A regular expression for the names, in lower case, of headers that only clients of this API send."""
    models: str = ""
    """The path at which its models are listed in the format of `model_list`; "": they are not listed."""
    key_header: str = AUTHORIZATION
    """The header in which the upstream expects its key."""
    asking: Asking | None = None
    """How clients ask for a stream; None: the commands and the console are no clients of this API."""


ROWS: Final = [
    Row(
        "chat",
        ("/v1/", "/compatible-mode/v1/"),
        CHAT,
        generations=("chat/completions",),
        lent=("completions", "embeddings", "rerank", "reranks"),
        lent_to_read=("models", "models/{}"),
        steering=_STEERING,
        headers=rf"(?:x-stainless|openai)-[a-z0-9-]+|{_DASHSCOPE_HEADERS}",
        models="models",
        asking=ASK_CHAT,
    ),
    Row("compatible", ("/compatible-mode/",), CHAT, "/compatible-mode/"),
    Row("reranks", ("/compatible-api/",), CHAT, "/compatible-api/", lent=("v1/reranks",)),
    Row(
        "responses",
        (
            "/v1/responses",
            "/compatible-mode/v1/responses",
            "/api/v2/apps/protocols/compatible-mode/v1/responses",  # where Qwen served it first
        ),
        RESPONSES,
        below="/responses",
        generations=("",),
        lent=("/input_tokens", "/compact"),
        steering=_STEERING,
        asking=ASK_RESPONSES,
    ),
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
        # They go on with any conversation of the key's account whose `session_id` or `memory_id` a body names.
        unlent=("apps/{app_id}/completion",),
        lent=(
            "services/embeddings/text-embedding/text-embedding",
            "services/embeddings/multimodal-embedding/multimodal-embedding",
            "services/rerank/text-rerank/text-rerank",
        ),
        lent_to_read=("models",),
        steering=_STEERING,
        headers=_DASHSCOPE_HEADERS,
    ),
    Row("apps", ("/api/v2/",), DASHSCOPE, "/api/v2/"),
    Row(
        "messages",
        ("/v1/messages", "/apps/anthropic/v1/messages"),
        MESSAGES,
        "/apps/anthropic/v1/messages",
        generations=("",),
        lent=("/count_tokens",),
        steering=rf"{_STEERING}|anthropic-(?:version|beta)",
        headers=r"(?:x-stainless|anthropic)-[a-z0-9-]+",
        key_header="x-api-key",
        asking=ASK_MESSAGES,
    ),
    Row("anthropic", ("/apps/anthropic/",), MESSAGES, "/apps/anthropic/", key_header="x-api-key"),
    Row("realtime", ("/api-ws/",), REALTIME, "/api-ws/"),
]


def dialect(name: str) -> Dialect:
    """Return the dialect of that name. Raises: KeyError."""
    return {row.dialect.name: row.dialect for row in ROWS}.get(name) or {UNKNOWN.name: UNKNOWN}[name]


def routes(upstream_prefixes: Mapping[str, str] | None = None) -> list[tuple[Route, Row]]:
    """Return the routes, the longest prefix first, each with its row.

    `upstream_prefixes` has the path upstream of each row, by name, as the function of that name returns it.
    """
    paths = upstream_prefixes or prefixes_upstream()
    found = [
        (Route(row.name, prefix, paths[row.name], row.dialect, row.steering, row.key_header), row)
        for row in ROWS
        for prefix in row.prefixes
    ]
    return sorted(found, key=lambda one: len(one[0].prefix), reverse=True)


def prefixes_upstream(base: str = BASE, own: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the path upstream of each row, by name; `base`: the path of the upstream's URL, `own`: other paths."""
    known = {row.name: row.upstream_prefix or base + row.below for row in ROWS}
    return known | {name: path for name, path in (own or {}).items() if path}


def served() -> tuple[str, ...]:
    """Return the prefixes that are served, without those below another."""
    prefixes = dict.fromkeys(prefix for row in ROWS for prefix in row.prefixes)
    return tuple(one for one in prefixes if not any(one != other and is_below(one, other) for other in prefixes))


def model_lists() -> list[tuple[str, Row]]:
    """Return the paths at which models are listed, and the API of each."""
    return [(prefix + row.models, row) for row in ROWS if row.models for prefix in row.prefixes]


def model_list(names: Iterable[str]) -> dict[str, Any]:
    """Return the list of the models with these names, in the format that all APIs which list them share."""
    return {"object": "list", "data": [model(name) for name in names]}


def model(name: str) -> dict[str, Any]:
    """Return the description of one model; when it was created is not known."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "system"}


def lent() -> dict[str, list[str]]:
    """Return, by method, the paths that may be requested with the proxy's own key."""
    posted = [
        row.prefixes[0] + path for row in ROWS for path in (*row.generations, *row.lent) if path not in row.unlent
    ]
    read = [row.prefixes[0] + path for row in ROWS for path in row.lent_to_read]
    return {"POST": posted, "GET": read, "HEAD": read}


def spellings(path: str) -> list[str]:
    """Return a path below the first prefix of an API with each of the API's prefixes; any other path unchanged."""
    rows = [row for row in ROWS if is_below(path, row.prefixes[0])]
    if not rows:
        return [path]
    row = max(rows, key=lambda row: len(row.prefixes[0]))
    return [prefix + path.removeprefix(row.prefixes[0]) for prefix in row.prefixes]


def is_below(path: str, prefix: str) -> bool:
    """Return whether a path is a prefix itself, or below it."""
    return path == prefix or path.startswith(prefix if prefix.endswith("/") else f"{prefix}/")


def limit_headers() -> list[str]:
    """Return the names of all response headers that tell a client of any API what its limits leave."""
    one = Allowance(1, 1, 1)
    return list(dict.fromkeys(name.decode() for row in ROWS for name, _ in row.dialect.limit_headers(one, one, 0.0)))


def request_headers() -> str:
    """Return a regular expression for the names, in lower case, of all headers that clients of these APIs send."""
    return "|".join(row.headers for row in ROWS if row.headers)
