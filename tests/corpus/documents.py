"""Cumulative texts, envelopes and usages of chat completions: numbers 9, 10 and 14."""

from tests.corpus.entry import BASE, DONE, END, STOP, USAGE, Entry, chunk, event

HELLO = chunk({"role": "assistant", "content": "Hello"})
SONG = ["la", "la la", "la la la", "la la la la", "\n", "la", "la la", "la la la", "la la la la"]
COUNT = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
WORDS = [
    "The",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "the",
    "lazy",
    "dog,",
    "and",
    "runs",
    "away",
    "into",
    "woods.",
]


def increments(*texts: str, first: bytes = b"") -> Entry:
    """Return an answer of these texts, which are increments."""
    said = b"".join(chunk({"content": text}) for text in texts)
    return Entry(said + END, text="".join(texts), first=first or texts[0].encode())


def told(usage: bytes, wanted: tuple[int, int] | None = (7, 5)) -> Entry:
    """Return an answer with a usage somewhere."""
    return Entry(HELLO + usage + DONE, text="Hello", first=b"Hello", usage=wanted)


def envelope(body: bytes, **document: object) -> Entry:
    """Return an answer whose document has these fields."""
    return Entry(body, text="Hello", first=b"Hello", document=document)


CUMULATIVE = b"".join(chunk({"content": " ".join(WORDS[: n + 1])}) for n in range(len(WORDS)))

ENTRIES = {
    # Increments that look cumulative, and texts that are
    "song": increments(*SONG),
    "laughter": increments("ha", "haha", "hahaha", "hahahaha", "hahahahaha"),
    "banner": increments("=", "==", "===", "====", "=====", "======", "=======", "========", "=========="),
    "table": increments("|", "| |", "| | |", "| | | |", "| | | | |", "| | | | | |"),
    "counting": increments("1", "1, 2", "1, 2, 3", "1, 2, 3, 4", "\n"),
    "same word again": increments(*["no "] * 20),
    "same text twice": increments("Hello", "Hello"),
    "repeats what it said": increments("Hello", " world", "Hello world", "Hello world"),
    "the first text again, at last": increments("A", "B", "C", "ABC"),
    "triangle": increments(*["*" * n + "\n" for n in range(1, 30)], first=b'"*'),
    "two choices, index as text": Entry(
        chunk({"content": "Hel"}, index="0")
        + chunk({"content": "Bye"}, index="1")
        + chunk({"content": "lo"}, index="0")
        + chunk({}, "stop", "0")
        + chunk({}, "stop", "1")
        + USAGE
        + DONE,
        text="Hello",
        first=b"Hel",
    ),
    "all so far": Entry(CUMULATIVE + END, text=" ".join(WORDS), first=b"The"),
    "all so far, and again at the end": Entry(
        CUMULATIVE + chunk({"content": " ".join(WORDS)}, "stop") + USAGE + DONE, text=" ".join(WORDS), first=b"The"
    ),
    "all so far, asked for": Entry(
        chunk({"content": "Hel"}) + chunk({"content": "Hello"}) + END, text="Hello", first=b"Hel", cumulative=True
    ),
    # What a document takes over
    "ping": envelope(
        event({"type": "ping", "cost": "0"}) + HELLO + event({"type": "ping"}) + END, cost=None, type=None
    ),
    "another object": envelope(
        HELLO + event({"object": "thread.run", "id": "run-1", "status": "queued"}) + END, id="chatcmpl-1"
    ),
    "object of pings": envelope(
        HELLO + event({"id": "ping-1", "object": "chat.completion.ping", "choices": []}) + END, id="chatcmpl-1"
    ),
    "unknown fields": envelope(
        chunk({"role": "assistant", "content": "Hello"}, obfuscation="xyz", provider="p", x_id=1) + END,
        obfuscation=None,
        provider=None,
        object="chat.completion",
        id="chatcmpl-1",
    ),
    "Azure's first chunk": envelope(
        event({"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": []})
        + HELLO
        + END,
        id="chatcmpl-1",
        model="qwen-plus",
        created=1767225600,
    ),
    "role missing": Entry(
        chunk({"content": "Hello"}) + END, text="Hello", first=b"Hello", message={"role": "assistant"}
    ),
    "role empty": Entry(
        chunk({"role": "", "content": "Hello"}) + END, text="Hello", first=b"Hello", message={"role": "assistant"}
    ),
    "role null": Entry(
        chunk({"role": None, "content": "Hello"}) + END, text="Hello", first=b"Hello", message={"role": "assistant"}
    ),
    "role in every chunk": Entry(
        chunk({"role": "assistant", "content": "Hel"}) + chunk({"role": "assistant", "content": "lo"}) + END,
        text="Hello",
        first=b"Hel",
        message={"role": "assistant"},
    ),
    "id only in the first chunk": envelope(
        HELLO + STOP.replace(b'"id":"chatcmpl-1",', b"") + USAGE + DONE, id="chatcmpl-1"
    ),
    "id null later": envelope(HELLO + STOP.replace(b'"chatcmpl-1"', b"null") + USAGE + DONE, id="chatcmpl-1"),
    "object of another kind": envelope(
        HELLO + STOP.replace(b"chat.completion.chunk", b"chat.completion") + USAGE + DONE, object="chat.completion"
    ),
    "object missing": envelope(
        (HELLO + END).replace(b'"object":"chat.completion.chunk",', b""), object="chat.completion"
    ),
    "logprobs": Entry(
        HELLO.replace(b'"logprobs":null', b'"logprobs":{"content":[{"token":"Hello","logprob":-0.1}],"refusal":null}')
        + END,
        text="Hello",
        first=b"Hello",
        document={"choices": [{"logprobs": {"content": [{"token": "Hello", "logprob": -0.1}]}}]},
    ),
    "logprobs as numbers": Entry(
        HELLO.replace(b'"logprobs":null', b'"logprobs":{"token_logprob":-0.2}') * 1 + END, text="Hello", first=b"Hello"
    ),
    "annotations": Entry(
        HELLO + chunk({"annotations": [{"type": "url_citation", "url": "u"}]}) + END,
        text="Hello",
        first=b"Hello",
        message={"annotations": [{"type": "url_citation", "url": "u"}]},
    ),
    "service tier": envelope(
        chunk({"content": "Hello"}, service_tier="default", system_fingerprint="fp") + END,
        service_tier="default",
        system_fingerprint="fp",
    ),
    # Usage
    "usage in its own chunk": told(STOP + USAGE),
    "usage with the finish reason": told(chunk({}, "stop", usage=COUNT)),
    "usage before the finish reason": told(USAGE + STOP),
    "usage in a choice": told(
        event({**BASE, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": COUNT}]})
    ),
    "usage in every chunk": Entry(
        b"".join(
            chunk({"content": text}, usage={"prompt_tokens": 7, "completion_tokens": n, "total_tokens": 7 + n})
            for n, text in enumerate(["Hel", "lo", " you", " all", "!"], 1)
        )
        + STOP
        + DONE,
        text="Hello you all!",
        first=b"Hel",
    ),
    "usage null in every chunk": Entry(
        chunk({"content": "Hello"}, usage=None) + chunk({}, "stop", usage=None) + USAGE + DONE,
        text="Hello",
        first=b"Hello",
    ),
    "usage as floats": told(
        chunk({}, "stop", usage={"prompt_tokens": 7.0, "completion_tokens": 5.0, "total_tokens": 12.0})
    ),
    "usage as text": told(chunk({}, "stop", usage={"prompt_tokens": "7", "completion_tokens": "5"})),
    "usage of input and output": told(chunk({}, "stop", usage={"input_tokens": 7, "output_tokens": 5})),
    "usage, then zeros": told(USAGE + chunk({}, "stop", usage={"prompt_tokens": 0, "completion_tokens": 0})),
    "usage, then an empty one": told(USAGE + chunk({}, "stop", usage={})),
    "usage after [DONE]": Entry(HELLO + STOP + DONE + USAGE, text="Hello", first=b"Hello"),
    "usage of Groq": told(chunk({}, "stop", x_groq={"id": "req", "usage": COUNT})),
    "usage in the delta": told(STOP + event({**BASE, "choices": [{"index": 0, "delta": {"usage": COUNT}}]}), None),
    "usage without object": told(STOP + event({"usage": COUNT})),
    "usage with choices null": told(STOP + event({**BASE, "choices": None, "usage": COUNT})),
    "usage too large": told(chunk({}, "stop", usage={"prompt_tokens": 7, "completion_tokens": 10**30}), (7, 0)),
    "usage below zero": told(chunk({}, "stop", usage={"prompt_tokens": -7, "completion_tokens": 5}), (0, 5)),
    "usage in an event of its own name": told(STOP + b"event: usage\n" + USAGE),
    "no usage": told(STOP, None),
}
