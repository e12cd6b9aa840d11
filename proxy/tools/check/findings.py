"""What is found: a verdict and what was seen; and a table of what each check asks, means, and advises."""

from enum import Enum
from typing import Any, NamedTuple


class Verdict(Enum):
    """What a check says of a server."""

    PASS = "pass"
    WARN = "warn"
    """It works, but not for every client, or not as well as it could."""
    FAIL = "fail"
    NONE = "none"
    """It has no such thing, or nothing shows: no fault."""


class Finding(NamedTuple):
    """The result of one check: its name in MEANINGS, the verdict, and what was seen."""

    check: str
    verdict: Verdict
    saw: str

    def document(self) -> dict[str, Any]:
        """Return it as JSON values, with what it means."""
        meaning = MEANINGS[self.check]
        more = {"means": meaning.failure, "advice": meaning.advice} if self.verdict in _WITH_ADVICE else {}
        return {"check": self.check, "verdict": self.verdict.value, "saw": self.saw, "asks": meaning.question, **more}


_WITH_ADVICE = (Verdict.FAIL, Verdict.WARN)


class Meaning(NamedTuple):
    """What a check asks, what it means if the answer is no, and what to do then."""

    question: str
    failure: str
    advice: str


MEANINGS = {
    "stream": Meaning(
        "Does a stream come through, with status 200, as text/event-stream, uncompressed and complete?",
        "SDKs take the response for something else, or for incomplete.",
        "Look at the status and the body; see that the server's upstream is this command's, and that it does not"
        " compress event streams (gzip holds back what it has not compressed yet).",
    ),
    "bytes": Meaning(
        "Do clients receive the bytes that the upstream sent?",
        "Lost or altered events are lost or altered text. Rewritten ones are read alike by parsers that follow the"
        " standard, but fields that the server does not know may be gone, and some clients depend on the spelling.",
        "Have the server pass bodies through instead of parsing and writing them again.",
    ),
    "endings": Meaning(
        "Does a stream that failed look failed, and never complete?",
        "SDKs return half an answer as if it were whole: a sentence, a JSON document or a tool call is cut off, and"
        " nobody knows.",
        "When the upstream breaks off, the server must abort the response (no last chunk), or send an error event."
        " nginx: `proxy_http_version 1.1`, as with 1.0 a body that was cut off looks complete. Caddy: 2.7.6 or later;"
        " earlier ones end a response that broke off as if it were whole. In your own proxy: let the"
        " upstream's exception end the response, do not catch it and finish.",
    ),
    "repeats": Meaning(
        "Is a request that may have been billed sent upstream once?",
        "The same answer is generated and paid for more than once.",
        "Limit retries to requests that made no connection. nginx: no `non_idempotent` in"
        " `proxy_next_upstream` (its default). LiteLLM and others: `num_retries = 0` for streams.",
    ),
    "first event": Meaning(
        "Does the first event arrive when it is sent, while the upstream is still writing?",
        "Something buffers: users look at an empty page while the model writes.",
        "nginx: `proxy_buffering off`, or let the upstream send `X-Accel-Buffering: no`. Caddy sends on what has no"
        " length by itself. Turn compression of text/event-stream off. CDNs often buffer what they can't cache.",
    ),
    "every event": Meaning(
        "Do later events arrive one by one, when they are sent?",
        "Text comes in bursts, and voice output and typing effects stall.",
        "As for the first event; and look for a busy process: every event waits for its turn of the event loop.",
    ),
    "disconnect": Meaning(
        "Does the upstream learn that the client has gone?",
        "The model goes on generating for nobody, is paid for, and holds one of the places that your limit allows.",
        "nginx: `proxy_ignore_client_abort off` (its default). Caddy: no `flush_interval -1`. aiohttp:"
        " `handler_cancellation=True`. ASGI: watch for `http.disconnect` while waiting for the upstream. In front of"
        " streamtee, `streams.on_disconnect` decides.",
    ),
    "refusals": Meaning(
        "Does a refusal (429 with Retry-After) reach the client as it was sent?",
        "Clients can't tell a full queue from a fault, and wait too long or not at all.",
        "Pass the upstream's status, body and Retry-After on.",
    ),
    "heartbeats": Meaning(
        "Is something sent while the upstream is silent, and can the parsers of SDKs read it?",
        "A heartbeat that is not an event of the API makes SDKs raise an exception in the middle of an answer.",
        "Send a comment line (`: x`) without a blank line behind it, so that it becomes part of the next event."
        " streamtee: `streams.client_keepalive_s`.",
    ),
    "resume": Meaning(
        "Can a client that lost its connection go on where it was, and can others follow the stream?",
        "Events are missing or come twice after a reconnection.",
        "Compare the ids of events before and after; the server must send exactly what comes after Last-Event-ID.",
    ),
}
