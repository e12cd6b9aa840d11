"""The protocol of a stream in a store, as a small state machine: who may do what next, and what must never happen.

Pure: a `State` is a value, `steps` returns all states that may follow it. One stream of `FRAMES` frames; its owner,
which may stall, be cut off from the store, or die; a sweeper and a canceller, who may seal; one follower at another
node; clients that go on at the node where they were not before. Messages between owner and store may be lost on the way
there or back. `SAFEGUARDS` are the rules that the protocol rests on: each can be left out, to see which fault then goes
unnoticed.
"""

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

FRAMES = 2
OWN = ("complete", "client_gone")
"""The words of seals that the owner alone writes; others are written by whoever takes it for lost, or cancels."""

SAFEGUARDS = {
    "fencing id": "an entry's id is its last frame's number, and the store refuses an id that is not above the last",
    "seal": "a seal has the highest id there is, so that the store refuses whatever comes after it",
    "exclusive cursor": "a follower reads the entries after its cursor, not from it on",
    "gap check": "a follower compares where an entry begins with where its log ends",
    "last-leaver rule": "the owner closes upstream only if nobody follows at other nodes either",
    "lease": "only a stream whose owner's lease is over is sealed as lost",
    "settling": "what was sent and not answered is not taken for stored: the owner goes on after what is",
    "verified seal": "the owner looks once more whether its seal is there, since a failover may lose it",
    "key check": "a follower that is sent nothing asks whether the log is still there",
    "number of no frame": "an ending that the owner did not write has a number that no frame can have",
}

CHANCE = ("stall", "cut", "die", "lose request", "lose answer", "fail over", "delete", "cancel", "leave", "recover",
          "go over", "go back")  # fmt: skip
"""Steps that may never come; all others do, sooner or later."""


class State(NamedTuple):
    """The store, the owner, the messages between them, the follower, and the faults so far."""

    log: tuple[str | tuple[int, int], ...] = ()  # entries: (first frame, last frame), from 1, or the word of a seal
    exists: bool = True
    lease: bool = True
    owner: str = "alive"  # or stalled, cut, dead
    made: int = 0  # frames that came from upstream
    ending: str = ""  # how the stream ended at the owner
    stored: int = 0  # frames that the owner knows to be in the store
    sealed: bool = False  # the owner knows that the seal is there
    unstored: bool = False  # the owner knows that the log is gone
    sending: tuple[int, int] | str | None = None  # on its way to the store
    answer: str = ""  # on its way back: stored, refused, gone, or nothing (none: it was lost)
    local: bool = True  # a client follows at the owner
    heard: bool = False  # the owner knows of the follower at the other node
    follows: bool = False
    cursor: int = 0  # the number of the last frame of the last entry that the follower was sent
    had: tuple[int, ...] = ()  # the frames that it was sent
    told: str = ""  # how the stream ended for it; gap and gone are errors, too
    late: int = 0  # the last frame of a client that had it at the owner, and goes on at the other node
    misled: bool = False  # a client went on elsewhere, and lacks something that it was not told of
    wrongly_closed: bool = False  # closed for want of followers, although the owner knew of one
    faults: frozenset[str] = frozenset()
    fault_count: int = 0


def is_sealed(state: State) -> bool:
    """Return whether the last entry is a seal."""
    return bool(state.log) and isinstance(state.log[-1], str)


def top(state: State) -> int:
    """Return the number of the last frame in the store."""
    return max((entry[1] for entry in state.log if not isinstance(entry, str)), default=0)


class Protocol:
    """The protocol without some of its safeguards, under at most so many faults."""

    def __init__(self, without: str = "", faults: int = 2) -> None:
        assert not without or without in SAFEGUARDS
        self._without = without
        self._faults = faults

    def _has(self, safeguard: str) -> bool:
        return safeguard != self._without

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Yield what may happen next, and the state after it. What changes nothing is no step."""
        for name, after in (*self._owner(state), *self._store(state), *self._others(state), *self._fails(state)):
            if after != state:
                yield name, after

    # The owner

    def _owner(self, s: State) -> Iterator[tuple[str, State]]:
        if s.owner not in ("alive", "cut"):
            return
        if not s.ending and s.made < FRAMES:
            yield "make", s._replace(made=s.made + 1)
        if not s.ending and s.made == FRAMES:
            yield "end", s._replace(ending="complete")
        if s.owner == "cut" or s.unstored:
            return
        yield "renew", s._replace(lease=True)
        if s.follows and not s.heard:
            yield "hear", s._replace(heard=True)
        if s.sending is None and not s.answer:
            yield from self._send(s)
        if s.answer:
            yield "hear answer", self._answered(s._replace(answer=""), s.answer)

    def _send(self, s: State) -> Iterator[tuple[str, State]]:
        if s.stored < s.made:
            yield "append", s._replace(sending=(s.stored + 1, s.made))
        elif s.ending and not s.sealed:
            yield "seal", s._replace(sending=s.ending)
        elif s.sealed and self._has("verified seal"):
            yield "verify", self._settled(s._replace(sealed=False)) if s.exists else s

    def _answered(self, s: State, answer: str) -> State:
        sent, s = s.sending, s._replace(sending=None)
        if answer == "gone":
            return s._replace(unstored=True)
        if answer in ("refused", "none") and (self._has("settling") or answer == "refused"):
            return self._settled(s) if s.exists else s._replace(unstored=True)
        if isinstance(sent, str):
            return s._replace(sealed=True)
        return s if sent is None else s._replace(stored=sent[1])

    def _settled(self, s: State) -> State:
        """Read the last entry: what is stored, and whether somebody has sealed the stream, which ends it here, too."""
        if is_sealed(s):
            return s._replace(sealed=True, ending=str(s.log[-1]), stored=s.made)
        return s._replace(stored=top(s)) if self._has("fencing id") else s

    # The store

    def _store(self, s: State) -> Iterator[tuple[str, State]]:
        if s.sending is not None and not s.answer:
            after, answer = self._put(s, s.sending)
            yield "take", after._replace(answer=answer)

    def _put(self, s: State, entry: tuple[int, int] | str) -> tuple[State, str]:
        if not s.exists:
            return s, "gone"
        if is_sealed(s) and self._has("seal"):
            return s, "refused"
        if not isinstance(entry, str) and self._has("fencing id") and entry[1] <= top(s):
            return s, "refused"
        return s._replace(log=(*s.log, entry)), "stored"

    # The sweeper, the follower, and clients that go on elsewhere

    def _others(self, s: State) -> Iterator[tuple[str, State]]:
        if s.owner != "alive":
            yield "expire", s._replace(lease=False)
        if (not s.lease or not self._has("lease")) and not is_sealed(s):
            yield "sweep", self._put(s, "producer_lost")[0]
        if not s.follows and s.exists:
            yield "join", s._replace(follows=True)
        if s.follows and not s.told:
            yield "read", self._read(s)
        if s.made and not s.late:
            yield "go over", s._replace(late=s.made)
        if s.told and s.late:
            yield "resume", s._replace(late=0, misled=s.misled or s.late == self._number_of_ending(s))
        if s.told and s.owner in ("alive", "cut") and self._number_of_ending(s) <= s.made:
            yield "go back", s._replace(misled=True)  # to the owner, which takes the number for that of its frame

    def _number_of_ending(self, s: State) -> float:
        """Return the number by which a client says that it was told how the stream ended at the follower's node.

        A client that says so is told that nothing comes after it.
        """
        is_frameless = s.told not in OWN and self._has("number of no frame")
        return math.inf if is_frameless else len(s.had) + 1

    def _read(self, s: State) -> State:
        if not s.exists:
            return s._replace(told="gone") if self._has("key check") else s
        lowest = s.cursor + 1 if self._has("exclusive cursor") else max(1, s.cursor)
        entry = next((one for one in s.log if isinstance(one, str) or one[1] >= lowest), None)
        if entry is None:
            return s
        if isinstance(entry, str):  # the owner's seal says where its log ends
            short = entry in OWN and len(s.had) < s.made and self._has("gap check")
            return s._replace(told="gap" if short else entry)
        first, last = entry
        if self._has("gap check"):
            if first > len(s.had) + 1:
                return s._replace(told="gap")
            first = len(s.had) + 1
        return s._replace(cursor=last, had=(*s.had, *range(first, last + 1)))

    # What goes wrong

    def _fails(self, s: State) -> Iterator[tuple[str, State]]:
        if s.owner in ("stalled", "cut"):
            yield "recover", s._replace(owner="alive")
        if s.fault_count >= self._faults:
            return
        for name, after in self._faulty(s):
            yield name, after._replace(faults=s.faults | {name}, fault_count=s.fault_count + 1)

    def _faulty(self, s: State) -> Iterator[tuple[str, State]]:
        if s.owner == "alive":
            yield "stall", s._replace(owner="stalled")
            yield "cut", s._replace(owner="cut")
            yield "die", s._replace(owner="dead")
        if s.sending is not None:
            yield ("lose answer" if s.answer else "lose request"), s._replace(answer="none")
        if s.log and s.exists:
            yield "fail over", s._replace(log=s.log[:-1])
        if s.exists:
            yield "delete", s._replace(exists=False, log=())
            yield "cancel", self._put(s, "cancelled")[0]
        if s.local and s.owner in ("alive", "cut") and not s.ending:
            yield "leave", self._left(s._replace(local=False))

    def _left(self, s: State) -> State:
        if s.heard and not s.told and self._has("last-leaver rule"):
            return s
        return s._replace(ending="client_gone", wrongly_closed=s.heard and not s.told)


def broken(state: State) -> str:
    """Return which law a state breaks; "" if it breaks none."""
    seals = [at for at, entry in enumerate(state.log) if isinstance(entry, str)]
    if len(seals) > 1:
        return "two seals"
    if seals and seals[0] != len(state.log) - 1:
        return "an entry after the seal"
    ends = [entry[1] for entry in state.log if not isinstance(entry, str)]
    if ends != sorted(set(ends)):
        return "an entry that is there twice"
    if state.had != tuple(range(1, len(state.had) + 1)) or len(state.had) > state.made:
        return "a follower's log is no prefix of the owner's"
    if state.told == "complete" and len(state.had) < FRAMES:
        return "a follower was told complete, and lacks frames"
    if state.misled:
        return "a client that goes on elsewhere lacks a frame, and is not told"
    if state.wrongly_closed:
        return "closed while somebody followed"
    if "producer_lost" in state.log and not {"stall", "cut", "die"} & state.faults:
        return "sealed as lost, although the owner was well"
    return ""


def unfinished(state: State) -> str:
    """Return what is still open in a state that nothing must follow; "" if all has come to its end."""
    if state.exists and not is_sealed(state):
        return "never sealed"
    if state.follows and not state.told:
        return "a follower waits for ever"
    if not state.faults - {"lose request", "lose answer"} and state.told != "complete":
        return "a lost message was noticed"
    return ""


class Exploration(NamedTuple):
    """What an exploration has found: the number of states, and the first schedule that breaks a law."""

    states: int
    law: str = ""
    schedule: tuple[str, ...] = ()


def explore(protocol: Protocol) -> Exploration:
    """Visit every state there is, nearest first, until one breaks a law."""
    start = State()
    came: dict[State, tuple[State, str] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        after = list(protocol.steps(state))
        goes_on = any(name not in CHANCE for name, _ in after)
        law = broken(state) or ("" if goes_on else unfinished(state))
        if law:
            return Exploration(len(came), law, _schedule(came, state))
        for name, following in after:
            if following not in came:
                came[following] = state, name
                waiting.append(following)
    return Exploration(len(came))


def _schedule(came: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    steps: list[str] = []
    while (before := came[state]) is not None:
        state, name = before
        steps.append(name)
    return tuple(reversed(steps))


class Start(NamedTuple):
    """Two nodes that are asked for the same Idempotency-Key: what each knows, and who has called upstream."""

    claim: str = ""
    seen: tuple[str, str] = ("?", "?")
    called: tuple[bool, bool] = (False, False)


def start_steps(state: Start, *, one_attach: bool) -> Iterator[Start]:
    """Yield what may follow. With `one_attach` a claim is made and read at once (SET NX), else in two steps."""
    for node in (0, 1):
        seen = list(state.seen)
        if seen[node] == "?":
            seen[node] = state.claim or "free"
            claim = state.claim or (str(node) if one_attach else "")
            yield state._replace(claim=claim, seen=(seen[0], seen[1]))
        elif seen[node] == "free" and not state.called[node]:
            called = list(state.called)
            called[node] = True
            yield state._replace(claim=str(node), called=(called[0], called[1]))


def most_calls(*, one_attach: bool) -> int:
    """Return how many upstream calls the two nodes can make, at most."""
    seen, waiting = {Start()}, [Start()]
    while waiting:
        for after in start_steps(waiting.pop(), one_attach=one_attach):
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return max(sum(state.called) for state in seen)
