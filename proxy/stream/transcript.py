"""What a stream has said so far, by choice and channel: the index from which rewriting modes take their text.

Fed every frame once, in order. Knows no log, clock or socket. It keeps the increments of each channel with the number
of the frame they came with, what names choices and tool calls, and where runs of frames begin that may be merged:
O(text), never O(text x frames). All it is asked for between two offsets, or up to one, depends on the frames up to
there alone, however many more it has heard; only `whole` tells of all of them.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from proxy.dialects.delta import Channel, Delta, record
from proxy.dialects.dialect import Dialect, says_anything
from proxy.stream.channel import Listener, Pieces


class Fact(NamedTuple):
    """That from frame number `seq` on a choice's field, or that of one of its tool calls, has a value."""

    seq: int
    call: Channel | None
    field: str
    value: str


class Voice:
    """One choice of the answer: its channels, and what was said of it."""

    __slots__ = ("_beside", "_calls", "_facts", "_listeners", "_logprobs", "_message", "_shape", "_values", "channels")

    def __init__(self, shape: Delta) -> None:
        self.channels: dict[Channel, Pieces] = {}
        self._listeners: dict[Channel, Listener] = {}
        self._facts: list[Fact] = []
        self._values: dict[tuple[Channel | None, str], str] = {}
        self._shape = shape
        self._message: dict[str, Any] = {}  # fields of the message that are no text
        self._beside: dict[str, Any] = {}  # fields of the choice
        self._calls: dict[Channel, dict[str, Any]] = {}  # fields of tool calls that are none of the known
        self._logprobs: dict[str, list[bytes]] = {}  # by field, as JSON without brackets

    # Hearing

    def hear(self, delta: Delta, seq: int, expected: bool) -> tuple[int, bool, bool | None]:
        """Take in an increment.

        Return how many channels have a piece of it, whether that is literally what it says, and whether the upstream
        turned out to be cumulative (None: not known yet).
        """
        literal, cumulative, spoken = True, None, dict[Channel, str]()
        for channel, text in delta.texts():
            listener = self._listeners.get(channel) or self._listen(channel)
            piece = text if listener.cumulative is False else listener.hear(text, expected)
            spoken[channel] = spoken[channel] + piece if channel in spoken else piece
            literal = literal and piece == text
            cumulative = listener.cumulative if cumulative is None else cumulative
        if "tool_calls" in delta.message:
            literal = self._name(delta, seq, spoken) and literal
        if self._tell(seq, None, "finish_reason", delta.choice.get("finish_reason")):
            literal = self._settle(spoken, expected) and literal
        pieces = 0
        for channel, piece in spoken.items():
            if piece:
                self.channels[channel].add(seq, piece)
                pieces += 1
        return pieces, literal, cumulative

    def _listen(self, channel: Channel) -> Listener:
        self.channels[channel] = Pieces()
        listener = self._listeners[channel] = Listener()
        return listener

    def _name(self, delta: Delta, seq: int, spoken: dict[Channel, str]) -> bool:
        """Take in what names tool calls; tell whether none of it was said before."""
        told = [(channel, self._tell(seq, channel, field, value)) for channel, field, value in delta.named()]
        for channel in dict.fromkeys(channel for channel, new in told if new and not spoken[channel]):
            self.channels[channel].add(seq, "")  # named before it says anything
        return all(new for _, new in told)

    def _settle(self, spoken: dict[Channel, str], expected: bool) -> bool:
        """Add what is to be said yet when the choice has finished; tell whether that is nothing."""
        rests = {channel: rest for channel, one in self._listeners.items() if (rest := one.settle(expected))}
        for channel, rest in rests.items():
            spoken[channel] = spoken.get(channel, "") + rest
        return not rests

    def note(self, delta: Delta, rest: tuple[dict[str, Any], dict[str, Any]], dialect: Dialect) -> None:
        """Take in what is no text."""
        message, beside = rest
        for key, value in message.items():
            if key == "tool_calls":
                for call, fields in value:
                    self._calls.setdefault(call, {}).update(fields)
            else:
                dialect.documents.accumulate(self._message, key, value)
        self._beside.update(
            {key: value for key, value in beside.items() if says_anything(value) or key not in self._beside}
        )

    def note_logprobs(self, logprobs: dict[str, Any]) -> None:
        """Take in logprobs, in the form in which they take least memory."""
        for field, found in logprobs.items():
            kept = self._logprobs.setdefault(field, [])
            if found and isinstance(found, list):
                kept.append(orjson.dumps(found)[1:-1])

    def opens(self, seq: int, delta: Delta) -> bool:
        """Take in the role; tell whether it is new."""
        return self._tell(seq, None, "role", delta.message.get("role"))

    def _tell(self, seq: int, call: Channel | None, field: str, value: Any) -> bool:
        if value is None or not says_anything(value) or self._values.get((call, field)) == value:
            return False
        self._values[call, field] = value
        self._facts.append(Fact(seq, call, field, value))
        return True

    # Telling

    def last_seq(self, start: int, end: int) -> int:
        """Return the number of the last frame between two offsets that has anything of this choice; 0 for none."""
        told = [fact.seq for fact in self._facts if start < fact.seq <= end]
        spoken = [found[1] for pieces in self.channels.values() if (found := pieces.spoken(start, end))]
        return max([0, *told, *spoken])

    def increment(self, delta: Delta, start: int, end: int) -> bool:
        """Put into a delta what the frames between two offsets say in every channel; tell whether that changed it."""
        said = dict(delta.texts())
        changed = False
        for channel, pieces in self.channels.items():
            text = pieces.text(start, end)
            if text != said.get(channel, ""):
                delta.put(channel, text)
                changed = True
        for call in dict.fromkeys(call for call, _, _ in delta.named()):
            changed = self.name(delta, call, start, end) or changed
        return changed

    def name(self, delta: Delta, call: Channel, start: int, end: int) -> bool:
        """Name a tool call in a delta by what was first told of it between two offsets; tell whether that changed it.

        Not again by what an upstream repeats with each fragment: clients that add up increments would add up names.
        """
        told = {fact.field: fact.value for fact in self._facts if fact.call == call and start < fact.seq <= end}
        if {field: value for named, field, value in delta.named() if named == call} == told:
            return False
        delta.name(call, told.get("id"), told.get("name"))
        return True

    def state(self, delta: Delta, end: int) -> None:
        """Put into a delta all that is said up to an offset."""
        for channel, pieces in self.channels.items():
            if pieces.begun(end):
                delta.put(channel, pieces.text(0, end))
                self.name(delta, channel, 0, end)
        for fact in self._facts:
            if fact.call is None and fact.seq <= end:
                (delta.choice if fact.field == "finish_reason" else delta.message)[fact.field] = fact.value

    def whole(self, dialect: Dialect, end: int) -> Delta:
        """Return the finished choice."""
        delta = dialect.documents.blank(self._shape)
        delta.message.update(self._message)
        delta.choice.update(self._beside)
        for channel in self.channels:
            delta.put(channel, "")
        self.state(delta, end)
        for call, fields in self._calls.items():
            delta.add(call, fields)
        if self._logprobs:
            delta.choice["logprobs"] = {
                field: orjson.Fragment(b"[%b]" % b",".join(found)) if found else None
                for field, found in self._logprobs.items()
            }
        return delta


class Transcript:
    """What a stream has said so far, from offset `start` to `end`."""

    __slots__ = (
        "_dialect", "_ended", "_envelope", "_expected", "_rest", "_role", "_seams", "_usage", "_walls",
        "choices", "end", "literal", "logprobs", "start",
    )  # fmt: skip

    def __init__(self, dialect: Dialect, start: int = 0, *, cumulative: bool | None = None) -> None:
        """`cumulative`: whether the upstream was asked for all so far, or for increments; None: the dialect's way."""
        self.start = start
        self.end = start
        self.choices: dict[int, Voice] = {}
        self.literal = True  # every frame said the increment that it brought
        self.logprobs = False  # there are some
        self._dialect = dialect
        self._expected = dialect.documents.cumulative if cumulative is None else cumulative
        self._envelope: dict[str, Any] = {}
        self._usage: Any = None
        self._seams: list[int] = []  # offsets before which a frame may not be merged with one after them
        self._walls: list[int] = []  # those of them where more than role and finish reason changes
        self._rest: Any = None  # of the last frame: what makes two frames alike but for their text
        self._role: Any = None
        self._ended = False

    def feed(self, frames: Iterable[bytes]) -> None:
        """Take in the next frames."""
        for frame in frames:
            self.end += 1
            document = self._dialect.documents.document(frame)
            deltas = [] if document is None else self._dialect.documents.deltas(document)
            if document is not None:
                envelope = self._dialect.documents.envelope(document)
                self._note(envelope, document.get("usage"))
            if document is None or not deltas:
                self._cut(wall=True)
                self._rest, self._ended = None, True
            else:
                self._hear(deltas, envelope, bool(document.get("usage")))

    def _hear(self, deltas: list[Delta], envelope: dict[str, Any], counted: bool) -> None:
        seq, alone, pieces = self.end, False, 0
        ends, rests = False, list[Any]()
        for delta in deltas:
            voice = self.choices.get(delta.index)
            if voice is None:
                voice = self.choices[delta.index] = Voice(delta)
            spoken, literal, cumulative = voice.hear(delta, seq, self._expected)
            pieces += spoken
            if not literal:
                self.literal = False
            if cumulative is not None:
                self._expected = cumulative
            if voice.opens(seq, delta) and not spoken:
                alone = True
            rest = delta.rest()
            if rest[0] or rest[1]:
                voice.note(delta, rest, self._dialect)
            if rest not in rests:
                rests.append(rest)
            if logprobs := record(delta.choice.get("logprobs")):
                self.logprobs = True
                voice.note_logprobs(logprobs)
            ends = ends or says_anything(delta.choice.get("finish_reason"))
        role, alike = deltas[0].message.get("role"), (counted, rests, envelope)
        if alike != self._rest:
            self._cut(wall=True)
        elif alone or self._ended or role != self._role or (ends and (pieces != 1 or len(deltas) > 1)):
            self._cut(wall=False)
        self._rest, self._role, self._ended = alike, role, ends or alone

    def _cut(self, wall: bool) -> None:
        self._seams.append(self.end - 1)
        if wall:
            self._walls.append(self.end - 1)

    def _note(self, envelope: dict[str, Any], usage: Any) -> None:
        known = self._envelope
        if says_anything(usage):
            self._usage = usage
        if envelope == known:
            return
        for key, value in envelope.items():
            if isinstance(value, dict) and isinstance(known.get(key), dict):
                known[key] = known[key] | {field: told for field, told in value.items() if says_anything(told)}
            elif says_anything(value) or key not in known:
                known[key] = value

    def runs(self, start: int, end: int, *, walls: bool = False) -> Iterator[tuple[int, int]]:
        """Yield the spans into which the one between two offsets falls when only what is alike is merged.

        `walls`: frames that differ by text, role and finish reason are alike, else those that differ by text.
        """
        seams = self._walls if walls else self._seams
        inside = seams[bisect_right(seams, start) : bisect_right(seams, end - 1)]
        yield from zip([start, *inside], [*inside, end], strict=True)

    def forget(self, start: int) -> None:
        """Be asked for no span from below an offset any more; texts are kept, since later ones tell of them."""
        for seams in (self._seams, self._walls):
            del seams[: bisect_left(seams, start)]

    def whole(self) -> bytes:
        """Return the finished document of all that was heard, in JSON."""
        choices = [self.choices[index].whole(self._dialect, self.end) for index in sorted(self.choices)]
        return orjson.dumps(self._dialect.documents.whole(self._envelope, self._usage, choices))
