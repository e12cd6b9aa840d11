"""What one client heard, beside what the upstream sent: the laws of the README, checked from outside.

`wrong` returns the law that was broken, in words, or nothing. It needs no proxy and no clock.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from proxy.tools.fake.connection import Received
from tests.answers import Said, documents, joined, latest
from tests.cuts import messages
from tests.soak.connection import End

_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_BOM = b"\xef\xbb\xbf"
Numbered = list[tuple[int, bytes]]
"""The data of events, each with the number of its frame."""


@dataclass
class Heard:
    """What one client was sent in a mode, over all its connections; `end` and the rest are of the last one."""

    mode: str
    body: bytes = b""
    status: int = 0
    end: End = "open"
    close_code: int = 0
    first: int = 1
    """The number of the first frame it asked for."""
    complete: bool = False
    """Whether it had all before, as the proxy said when it came back (204)."""


class Sent:
    """What the upstream sent for one request, as far as it has."""

    def __init__(self, received: Received, *, cumulative: bool, cut_cleanly: bool = False) -> None:
        """`cut_cleanly`: an answer that breaks off has a proper end for HTTP."""
        self.body = bytes(received.sent)
        self.state = received.state
        self._read = self._as_read()
        last_word = _says_last_word(self.body) or tells_error(self.body)  # more is not waited for
        self.ends_properly = self.state == "complete" or cut_cleanly or last_word
        self._cumulative = cumulative

    def _as_read(self) -> bytes:
        """Return the body as a reader takes it that forgives a last blank line which is missing."""
        body = self.body.removeprefix(_BOM)
        missing = self.state == "complete" and not body.endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))
        return body + b"\n" if missing else body

    @property
    def frames(self) -> Numbered:
        """Return those frames that have data."""
        blocks = _blocks(self._read)
        told = [(number, messages(block)) for number, block in enumerate(blocks, 1)]
        return [(number, found[0].data) for number, found in told if found]

    @property
    def said(self) -> Said:
        return latest(self._read) if self._cumulative else joined(self._read)

    def heard_as(self, mode: str, body: bytes) -> Said:
        """Return what a client in a mode makes of a body."""
        restated = {"incremental": False, "coalesced": False, "cumulative": True}
        return latest(body) if restated.get(mode, self._cumulative) else joined(body)

    @property
    def whole(self) -> bool | None:
        """Return whether the answer was whole; None where its last word was said, and more or no proper end came."""
        answer, done, more = self._read.partition(b"data: [DONE]")
        if tells_error(answer) or not _says_last_word(self._read):
            return False
        return True if self.state == "complete" and not tells_error(done + more) else None


def tells_error(body: bytes) -> bool:
    """Return whether an event of a body tells of an error, in whatever shape."""
    if any(message.type == b"error" for message in messages(body)):
        return True
    return any("error" in told or ("code" in told and "output" not in told) for told in documents(body))


def _says_last_word(body: bytes) -> bool:
    return any(message.data == b"[DONE]" for message in messages(body)) or _finished(documents(body))


def _finished(told: Iterable[dict[str, Any]]) -> bool:
    """Return whether each choice has a finish reason."""
    open_choices: dict[int, bool] = {}
    for document in told:
        output = document.get("output", document)
        for choice in output.get("choices") or ([output] if "text" in output else []):
            index = choice.get("index", 0)
            reason = choice.get("finish_reason")
            open_choices[index] = open_choices.get(index, True) and reason in (None, "", "null")
    return bool(open_choices) and not any(open_choices.values())


def wrong(heard: Heard, candidates: list[Sent], *, must_be_whole: bool) -> str:
    """Return what is wrong with what a client heard, if none of the upstream's answers explains it; else nothing."""
    found = ""
    for sent in candidates:
        found = _check(heard, sent, must_be_whole=must_be_whole)
        if not found:
            return ""
    return found or ("it was told what no upstream said" if _says_last_word(heard.body) else "")


def _check(heard: Heard, sent: Sent, *, must_be_whole: bool) -> str:
    if heard.end == "late":
        return "its response did not end"
    check = _CHECKS.get(heard.mode, _check_said)
    found = check(heard, sent)
    if found or not must_be_whole or heard.end == "left" or heard.complete:
        return found
    return "" if sent.whole is not True or looks_complete(heard) else "a whole answer looks failed"


def looks_complete(heard: Heard) -> bool:
    """Return whether a client takes what it heard for a whole answer."""
    if heard.close_code:
        return heard.close_code == 1000
    if heard.mode in ("text", "json"):
        return heard.end == "whole" and heard.status == 200
    return heard.end == "whole" and not tells_error(heard.body)


def _check_raw(heard: Heard, sent: Sent) -> str:
    if not sent.body.startswith(heard.body):
        return "raw is not what the upstream sent"
    if heard.end == "whole" and not heard.complete and heard.body != sent.body:
        return "raw ends properly before its end"
    if heard.end == "whole" and not heard.complete and not sent.ends_properly:
        return "raw ends properly, and the upstream did not"
    return ""


def _check_text(heard: Heard, sent: Sent) -> str:
    text = sent.said.get((0, "content", -1), "").encode()
    if not text.startswith(heard.body):
        return "text has a gap, a repeat, or what was not said"
    return _check_ending(heard, sent, heard.body == text)


def _check_json(heard: Heard, sent: Sent) -> str:
    if heard.status != 200 or heard.end != "whole":
        return ""
    try:
        said = joined(b"data: %b\n\n" % heard.body)
    except (KeyError, TypeError, ValueError) as error:
        return f"json can't be read: {error!r}"
    return _check_ending(heard, sent, said == _spoken(sent.said))


def _spoken(said: Said) -> Said:
    return {channel: text for channel, text in said.items() if text}


def _check_events(heard: Heard, sent: Sent) -> str:
    expected = [frame for frame in sent.frames if frame[0] >= heard.first]
    got = numbered(heard.body)
    if got and got[-1] not in expected and _is_error(got[-1][1]):
        got.pop()  # the proxy's own last word
    if got != expected[: len(got)]:
        return f"events have a gap or a repeat: {_first_difference(got, expected)}"
    return _check_ending(heard, sent, len(got) == len(expected))


def _check_said(heard: Heard, sent: Sent) -> str:
    """Check a mode that rewrites."""
    said, got = sent.said, sent.heard_as(heard.mode, heard.body)
    for channel, text in got.items():
        if not said.get(channel, "").startswith(text):
            return f"{channel} has a gap, a repeat, or what was not said: ...{text[-60:]!r}"
    lacks = [channel for channel, text in _spoken(said).items() if got.get(channel) != text]
    found = _check_ending(heard, sent, not lacks)
    return f"{found}: {lacks}, had {list(got)}" if found and lacks else found


def _check_ending(heard: Heard, sent: Sent, has_all: bool) -> str:
    if heard.complete:
        return "" if has_all or sent.whole is not True else "it was told that it had all, and had not"
    if not looks_complete(heard):
        return ""
    if sent.whole is False:
        return "a failed answer looks complete"
    return "" if has_all else "it looks complete, and is not"


_CHECKS = {"raw": _check_raw, "text": _check_text, "json": _check_json, "events": _check_events}


def numbered(body: bytes) -> Numbered:
    """Return the data of a body's events with the numbers in their ids."""
    told = [(message.id or b"", message.data) for message in messages(body)]
    return [(int(ident.rpartition(b"-")[2] or b"0"), data) for ident, data in told]


def _is_error(data: bytes) -> bool:
    return tells_error(b"data: %b\n\n" % data)


def _first_difference(got: Numbered, expected: Numbered) -> str:
    for one, other in zip(got, expected, strict=False):
        if one != other:
            return f"{one[0]} {one[1][:80]!r} instead of {other[0]} {other[1][:80]!r}"
    return f"{len(got)} instead of {len(expected)}"


def ticks_apart(body: bytes) -> str:
    """Return what is wrong with the events of the fake's ticker: each price follows from the one before it."""
    found = [round(json.loads(message.data)["price"] * 100) - 10_000 + 250 for message in messages(body)]
    for one, other in pairwise(found):
        if other != (one + _STEP) % _PRICES:
            return f"a tick is missing or came twice: {other} after {one}"
    return ""


_STEP, _PRICES = 7919 % 501, 501  # as in proxy/tools/fake/ticker.py


def first_id(body: bytes) -> str:
    """Return the first event id of a body that is one of the proxy's, or nothing."""
    return next(iter(_ids(body)), "")


def last_id(body: bytes) -> str:
    """Return the last one, which a client sends when it comes back."""
    return next(reversed(_ids(body)), "")


def epoch(ident: str) -> str:
    """Return which stream an event id is of."""
    return ident.rpartition("-")[0]


def resumable(body: bytes) -> bytes:
    """Return what of a body a client keeps that has lost its connection: all up to its last event with an id."""
    blocks = _blocks(body)
    while blocks and not _ids(blocks[-1]):
        blocks.pop()
    return b"".join(blocks)


def _blocks(body: bytes) -> list[bytes]:
    """Return the complete blocks of a body, without what is left over."""
    ends = [found.end() for found in _BLANK_LINE.finditer(body)]
    return [body[start:end] for start, end in pairwise([0, *ends])]


def _ids(body: bytes) -> list[str]:
    return [message.id.decode() for message in messages(body) if message.id and b"-" in message.id]
