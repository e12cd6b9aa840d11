"""Texts of chat completions: how they are written, where they stand, how they are framed: numbers 6, 7, 11 and 12."""

from tests.corpus.entry import BASE, DONE, END, STOP, USAGE, Entry, chunk, event

HELLO = chunk({"role": "assistant", "content": "Hello"})
HEL = chunk({"role": "assistant", "content": "Hel"})
LO = chunk({"content": "lo"})


def said(body: bytes, first: bytes = b"Hel", text: str = "Hello", **message: object) -> Entry:
    """Return an answer that says hello, whatever else there is."""
    return Entry(body, text=text, first=first, message=dict(message))


def legacy(text: str, reason: str | None = None) -> bytes:
    """Return a chunk of what came before chat completions."""
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}
    return event({**BASE, "object": "text_completion", "choices": [choice]})


def lines(*frames: bytes) -> bytes:
    """Return frames without the blank lines between them."""
    return b"".join(frame[:-1] for frame in frames)


ENTRIES = {
    # JSON that strict parsers refuse
    "NaN": said(HEL + LO.replace(b'"logprobs":null', b'"logprobs":null,"score":NaN') + END),
    "Infinity": said(HEL + LO.replace(b'"created":1767225600', b'"created":-Infinity') + END),
    "number beyond a float": said(HEL + LO.replace(b'"created":1767225600', b'"created":1e999') + END),
    "integer of 30 digits": said(HEL + LO.replace(b'"index":0', b'"index":0,"seq":' + b"9" * 30) + END),
    "integer of 5,000 digits": said(HEL + LO.replace(b'"index":0', b'"index":0,"seq":' + b"9" * 5000) + END),
    "half a character": said(
        HEL
        + chunk({"content": "@"}).replace(b"@", b"\\ud83d")
        + chunk({"content": "@"}).replace(b"@", b"\\ude00")
        + END,
        text="Hel\U0001f600",
    ),
    "half a character alone": said(
        HEL + chunk({"content": "@lo"}).replace(b"@", b"\\ud83d") + END, text="Hel\ufffdlo", content="Hel\ud83dlo"
    ),
    "control characters": said(HEL + chunk({"content": "@lo"}).replace(b"@", b"\x01\t") + END, text="Hel\x01\tlo"),
    "bytes that are no UTF-8": said(HEL + chunk({"content": "@lo"}).replace(b"@", b"\xff") + END, text="Hel\ufffdlo"),
    "character cut in two frames": said(
        HEL
        + chunk({"content": "@"}).replace(b"@", b"\xe4\xbd")
        + chunk({"content": "@lo"}).replace(b"@", b"\xa0")
        + END,
        text="Hel\ufffd\ufffdlo",
    ),
    "byte order mark": said(b"\xef\xbb\xbf" + HEL + LO + END),
    "byte order mark in the data": said(HEL + LO.replace(b"data: ", b"data: \xef\xbb\xbf") + END),
    "300 levels": said(HEL + LO.replace(b'"index":0', b'"index":0,"deep":' + b"[" * 300 + b"]" * 300) + END),
    "duplicate members": said(HEL + LO.replace(b'"content":"lo"', b'"content":"x","content":"lo"') + END),
    "white space around": said(HEL + LO.replace(b"data: ", b"data:   ").replace(b"\n\n", b"  \n\n") + END),
    "JSON over several lines": said(HEL + LO.replace(b',"', b',\ndata: "') + END),
    "null byte": said(HEL + chunk({"content": "\0lo"}) + END, text="Hel\0lo"),
    "word as data": Entry(HEL + b"data: ping\n\n" + LO + END, text="Hello", first=b"Hel"),
    # Where a text stands
    "message in place of delta": said(
        event({**BASE, "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}}]}) + END
    ),
    "message after deltas": said(
        HEL
        + LO
        + event({**BASE, "choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]})
        + USAGE
        + DONE
    ),
    "message null beside delta": said(
        event({**BASE, "choices": [{"index": 0, "delta": {"content": "Hello"}, "message": None}]}) + END
    ),
    "whole completion as one event": said(
        event(
            {
                **BASE,
                "object": "chat.completion",
                "usage": {"prompt_tokens": 7, "completion_tokens": 5},
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
                ],
            }
        )
        + DONE
    ),
    "parts": said(
        chunk({"content": [{"type": "text", "text": "Hel"}]})
        + chunk({"content": [{"type": "text", "text": "lo"}]})
        + END
    ),
    "parts without types": said(chunk({"content": [{"text": "Hel"}, {"text": "lo"}]}) + END),
    "parts with annotations": said(
        chunk({"content": [{"type": "text", "text": "Hel", "annotations": [{"url": "u"}]}]}) + LO + END,
        content=[{"type": "text", "text": "Hello", "annotations": [{"url": "u"}]}],
    ),
    "parts as texts": said(chunk({"content": ["Hel"]}) + chunk({"content": ["lo"]}) + END),
    "a part in place of parts": said(
        chunk({"content": {"type": "text", "text": "Hel"}}) + chunk({"content": {"type": "text", "text": "lo"}}) + END
    ),
    "text in place of content": said(chunk({"text": "Hel"}) + chunk({"text": "lo"}) + END),
    "text in a message": said(
        event({**BASE, "choices": [{"index": 0, "message": {"text": "Hello"}, "finish_reason": "stop"}]}) + USAGE + DONE
    ),
    "text in the choice": said(legacy("Hel") + legacy("lo") + legacy("", "stop") + USAGE + DONE),
    "text in the choice that finishes": said(legacy("Hel") + legacy("lo", "stop") + USAGE + DONE),
    "part null": said(chunk({"content": [None, {"type": "text", "text": "Hello"}]}) + END),
    "image": said(
        chunk({"content": [{"type": "image_url", "image_url": {"url": "u"}}]}) + HEL + LO + END, b"image_url"
    ),
    "number as content": said(chunk({"content": 7}) + HEL + LO + END, first=b'"content":7'),
    "thinking of Ollama": said(chunk({"thinking": "Hm"}) + HEL + LO + END, first=b"Hm"),
    "output_text parts": said(chunk({"content": [{"type": "output_text", "text": "Hello", "annotations": []}]}) + END),
    "thinking parts": said(
        chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]}) + HEL + LO + END,
        first=b"Hm",
    ),
    "reasoning_content": said(
        chunk({"reasoning_content": "Hm", "content": None}) + chunk({"reasoning_content": "m"}) + HEL + LO + END,
        first=b"Hm",
        reasoning_content="Hmm",
    ),
    "reasoning": said(
        chunk({"reasoning": "Hm"}) + chunk({"reasoning": "m"}) + HEL + LO + END, first=b"Hm", reasoning="Hmm"
    ),
    "both names of it": said(
        chunk({"reasoning": "Hm", "reasoning_content": "Hm"}) + HEL + LO + END,
        first=b"Hm",
        reasoning="Hm",
        reasoning_content="Hm",
    ),
    "OpenRouter's details": said(
        chunk({"reasoning": "Hm", "reasoning_details": [{"type": "reasoning.text", "text": "Hm", "index": 0}]})
        + HEL
        + LO
        + END,
        first=b"Hm",
        reasoning="Hm",
    ),
    "details alone": said(
        chunk({"content": "", "reasoning_details": [{"type": "reasoning.text", "text": "Hm", "index": 0}]})
        + HEL
        + LO
        + END,
        first=b"Hm",
    ),
    "litellm's thinking blocks": said(
        chunk({"reasoning_content": "Hm", "thinking_blocks": [{"type": "thinking", "thinking": "Hm"}]})
        + HEL
        + LO
        + END,
        first=b"Hm",
        reasoning_content="Hm",
    ),
    "refusal": said(chunk({"refusal": "No"}) + chunk({"refusal": "pe"}) + END, b"No", "", refusal="Nope"),
    "audio": said(
        chunk({"audio": {"id": "a-1", "data": "AAAA", "transcript": "Hel"}})
        + chunk({"audio": {"id": "a-1", "data": "BBBB", "transcript": "lo", "expires_at": 1767225600}})
        + END,
        first=b"AAAA",
        content=None,
        audio={"id": "a-1", "data": "AAAABBBB", "transcript": "Hello", "expires_at": 1767225600},
    ),
    "empty content first": said(chunk({"role": "assistant", "content": ""}) + HEL + LO + END),
    "content null first": said(chunk({"role": "assistant", "content": None}) + HEL + LO + END),
    "text in the chunk that finishes": said(HEL + chunk({"content": "lo"}, "stop") + USAGE + DONE),
    "two choices": said(HEL + chunk({"content": "Bye"}, index=1) + LO + STOP + chunk({}, "stop", 1) + USAGE + DONE),
    "second choice first": said(
        chunk({"content": "Bye"}, index=1) + HEL + LO + STOP + chunk({}, "stop", 1) + USAGE + DONE, b"Bye"
    ),
    "no index": said(event({**BASE, "choices": [{"delta": {"content": "Hello"}}]}) + END),
    "index as text": said(chunk({"content": "Hel"}, index="0") + chunk({"content": "lo"}, index="0") + END),
    "index as a float": said(
        HEL.replace(b'"index":0', b'"index":0.0') + LO.replace(b'"index":0', b'"index":0.0') + END
    ),
    "choice null": said(HEL + event({**BASE, "choices": [None]}) + LO + END),
    "choices null": said(event({**BASE, "choices": None}) + HEL + LO + END),
    "delta null": said(
        HEL + LO + event({**BASE, "choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}) + USAGE + DONE
    ),
    # Clients that split by lines
    "line separators": said(
        HEL + chunk({"content": "@lo"}).replace(b"@", b"\\u2028\\u2029\\u0085") + END, text="Hel\u2028\u2029\u0085lo"
    ),
    "blocks without data": said(HEL + b"\n\n\nevent: ping\n\nretry: 3000\n\nx: y\n\nid: 7\n\n" + LO + END),
    "ids of its own": said(b"id: 1\n" + HEL + b"id: 2\n" + LO + END),
    "names of events": said(b"event: message\n" + HEL + b"event: chunk\n" + LO + END),
    "empty data": said(HEL + b"data:\n\ndata: \n\ndata\n\n" + LO + END),
    # Framing
    "CRLF": said((HEL + LO + END).replace(b"\n", b"\r\n")),
    "CR": said((HEL + LO + END).replace(b"\n", b"\r")),
    "LF, then CRLF": said(HEL + LO.replace(b"\n", b"\r\n") + END),
    "no blank lines": said(lines(HEL, LO, STOP, USAGE, DONE)),
    "no blank lines, CRLF": said(lines(HEL, LO, STOP, USAGE, DONE).replace(b"\n", b"\r\n")),
    "no blank lines, comments between": said(lines(HEL) + b": ping\n" + lines(LO) + b":\n" + lines(STOP, USAGE, DONE)),
    "no blank lines, and a space less": said(lines(HEL, LO, STOP, USAGE, DONE).replace(b"data: ", b"data:")),
    "no blank lines, names": said(b"".join(b"event: message\n" + lines(one) for one in (HEL, LO, STOP, USAGE, DONE))),
    "no blank lines, ids": said(b"".join(b"id: 1\n" + lines(one) for one in (HEL, LO, STOP, USAGE, DONE))),
    "comment first, no blank lines": said(b": OPENROUTER PROCESSING\n\n" + lines(HEL, LO, STOP, USAGE, DONE)),
    "blank lines with spaces": said(HEL.replace(b"\n\n", b"\n \n") + LO.replace(b"\n\n", b"\n \n") + END),
    "three line feeds": said(HEL + b"\n" + LO + b"\n" + END),
}
