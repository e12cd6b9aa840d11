"""Laws 5 to 8 in every view: all modes, at their paces and as WebSocket messages, beside each other on one stream.

What happens to the stream is made up: reads, joins, drops, resumes at ids that were received, clogs, time, turns of the
loop, endings. What a follower must have had is rendered a second time, from a stream that nobody else ever followed,
and, where the words of the upstream are increments or all so far by their dialect, added up from its plain fields.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from proxy.dialects.chat import CHAT
from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from proxy.dialects.messages import MESSAGES
from proxy.dialects.responses import RESPONSES
from proxy.stream.endings import CANCELLED, CAPABILITY_EXPIRED, COMPLETE, DRAINED, ENDINGS, Ending
from proxy.stream.modes.envelopes import NOT_IN_EVENTS
from proxy.stream.modes.projection import Heartbeat, Projection, Span, View
from proxy.stream.modes.projections import MODES, Coalesced, Cumulative
from proxy.stream.stream import Stream
from proxy.stream.subscription import Subscription
from proxy.tools.fake.chat import ChatAnswer
from proxy.tools.fake.messages import MessagesAnswer
from proxy.tools.fake.native import NativeAnswer
from proxy.tools.fake.responses import ResponseAnswer
from proxy.upstream.on_disconnect import OnDisconnect
from proxy.upstream.pump import Pump
from proxy.wire.errors import Garbled, IdleTimeout, OffsetGone, Truncated, UpstreamError
from proxy.wire.sse import Splitter
from proxy.wire.websocket import TEXT
from tests.answers import Said, chats, joined, latest, made_cumulative, messages_of_blocks, natives, responses
from tests.cuts import messages
from tests.fakes import FakeLoop, FakeSink
from tests.frames import heard
from tests.streams import EPOCH, new_stream

NATIVE = DASHSCOPE
INTRUDERS = [b": keep-alive\n\n", b"data: alive\n\n", b"event: ping\n\n"]
FLAT = b'event:error\nstatus:400\ndata:{"code":"DataInspectionFailed","message":"blocked"}\n\n'
REPORTED = [b'data: {"error":{"message":"blocked","code":"data_inspection_failed"}}\n\n', FLAT]
PACES = [(0, 0), (50, 4096), (20, 300), (1000, 100)]
PACED = [View(mode, *pace) for mode, found in MODES.items() if found.paced for pace in PACES]
VIEWS = PACED + [View(mode) for mode, found in MODES.items() if not found.paced]
VIEWS += [view._replace(websocket=True) for view in VIEWS if view.mode not in NOT_IN_EVENTS]
THOUGHT = "reasoning_content"
Step = tuple[Any, ...]


# Bodies


class Body:
    """What an upstream sends: frames, and whether their texts add up by what their dialect says."""

    def __init__(self, dialect: Dialect, frames: list[bytes], *, plain: bool, cumulative: bool = False) -> None:
        self.dialect = dialect
        self.frames = frames
        self.plain = plain
        self.cumulative = cumulative
        self.alone = new_stream(dialect)  # followed by nobody
        self.alone.extend(frames)

    def render(self, view: View, start: int, end: int) -> bytes:
        return self.alone.projection(view).render(start, end) if start < end else b""

    def said(self, end: int) -> Said:
        """Return the text of every channel after so many frames."""
        return (latest if self.cumulative else joined)(b"".join(self.frames[:end]))


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    """Draw an answer in any dialect, incremental or cumulative; other frames may be in it, or an error last."""
    dialect = draw(st.sampled_from([CHAT, NATIVE, RESPONSES, MESSAGES]))
    native = dialect is NATIVE
    drawn: Any = {CHAT: chats, NATIVE: natives, RESPONSES: responses, MESSAGES: messages_of_blocks}[dialect]
    answer: NativeAnswer | ChatAnswer | ResponseAnswer | MessagesAnswer = draw(drawn())
    frames = list(answer.frames())
    respelled = dialect is CHAT and draw(st.booleans())
    if respelled:
        frames = made_cumulative(frames)
    for place, frame in draw(st.lists(st.tuples(st.integers(0, 60), st.sampled_from(INTRUDERS)), max_size=2)):
        frames.insert(min(place, len(frames)), frame)
    if draw(st.integers(0, 7)) == 0:
        frames[draw(st.integers(0, len(frames))) :] = [FLAT if native else draw(st.sampled_from(REPORTED))]
    cumulative = isinstance(answer, NativeAnswer) and not answer.ask.incremental
    return Body(dialect, frames, plain=not respelled, cumulative=cumulative)


# What happens

which = st.integers(0, 7)
joins = st.tuples(st.just("join"), st.sampled_from(VIEWS), st.floats(0, 1) | st.just(0.0), st.booleans())
steps = st.one_of(
    st.tuples(st.just("receive"), st.integers(1, 4000)),
    st.tuples(st.just("receive"), st.integers(1, 400)),
    joins,
    st.tuples(st.just("resume"), which, st.floats(0, 1)),
    st.tuples(st.just("resume"), which, st.just(1.0)),
    st.tuples(st.just("elapse"), st.sampled_from([0.01, 0.02, 0.05, 2.0])),
    st.tuples(st.sampled_from(["clog", "drain", "drain", "leave", "expire", "beat"]), which),
    st.tuples(st.sampled_from(["turn", "rest"])),
)
BREAKS = [Truncated("broke off"), Garbled("no HTTP"), IdleTimeout("nothing came for 5 s")]
STOPS = [CANCELLED, DRAINED]
ends = st.one_of(st.just(("finish",)), st.tuples(st.just("end"), st.sampled_from([*BREAKS, *STOPS])))


@st.composite
def scripts(draw: st.DrawFn) -> list[Step]:
    """Draw followers, what happens before the end, how it ends, and what happens then."""
    first, before = draw(st.lists(joins, min_size=1, max_size=5)), draw(st.lists(steps, min_size=4, max_size=24))
    return [*first, *before, draw(ends), *draw(st.lists(steps, max_size=6))]


# Who follows


class SpanSink(FakeSink):
    """A sink that notes which spans it is sent, and keeps heartbeats apart."""

    def __init__(self, *, clogged: bool = False) -> None:
        super().__init__(clogged=clogged)
        self.projection: Span
        """Of its view: the span that is sent."""
        self.spans: list[tuple[int, int]] = []
        self.beats = 0

    def write(self, span: Span) -> bool:
        if isinstance(span, Heartbeat):
            assert self.ended is None, "a heartbeat after the end"
            self.beats += not self.clogged
            return not self.clogged
        return super().write(span)

    def take(self, data: bytes) -> None:
        super().take(data)
        if data is self.projection.plain:  # else it is of lines that are sent ahead, in mode raw
            self.spans.append((self.projection.start, self.projection.end))


class Follower:
    """One connection of a client, with what the client kept of those before."""

    def __init__(self, stream: Stream, view: View, offset: int, sink: SpanSink, began: int, kept: bytes) -> None:
        self.view = view
        self.offset = offset
        self.began = began  # of the first of its connections
        self.kept = kept
        self.sink = sink
        self.over = False
        self.final: tuple[bytes, str | None] = (b"", None)
        sink.projection = stream.projection(view)
        self.subscription = Subscription(stream, view, sink, offset, heartbeat_s=15)
        stream.attach(self.subscription)

    @property
    def body(self) -> bytes:
        """What came, as SSE: a WebSocket's messages are written as what they are made from."""
        if not self.view.websocket:
            return self.sink.received
        texts = [payload for kind, payload in heard(self.sink.received) if kind == TEXT]
        if self.view.mode == "text":
            return b"".join(text for text in texts if isinstance(text, bytes))
        told = [json.loads(text) for text in texts if isinstance(text, bytes)]
        return b"".join(
            f"data: {event['data']}\nid: {event['id']}\n\n".encode() for event in told if event["event"] != "error"
        )


class Play:
    """One stream and its followers; each step is checked."""

    def __init__(self, body: Body, *, max_log_bytes: int = 1 << 30) -> None:
        self.body = body
        self.loop = FakeLoop()
        self.stream = new_stream(body.dialect, max_log_bytes=max_log_bytes, loop=self.loop)
        self.pump = Pump(
            self.stream,
            OnDisconnect(None),
            max_frame_bytes=1 << 20,
            overhead=lambda seconds: None,
        )
        self.bytes = b"".join(body.frames)
        self.sent = 0
        self.followers: list[Follower] = []

    def run(self, script: list[Step]) -> None:
        for name, *args in script:
            if name in ("clog", "drain", "leave", "expire", "beat", "resume"):
                if self.followers:
                    getattr(self, name)(self.followers[args[0] % len(self.followers)], *args[1:])
            else:
                getattr(self, name)(*args)
            self.check()
        for follower in self.followers:
            follower.sink.drain()
        self.rest()
        assert all(follower.over for follower in self.followers), "somebody never ended"
        assert not self.stream.subscriptions

    # Steps

    def receive(self, size_bytes: int) -> None:
        if self.stream.log.ending is None and self.sent < len(self.bytes):
            data = self.bytes[self.sent : self.sent + size_bytes]
            self.sent += len(data)
            self.pump.received(data, 1 + self.loop.now)

    def finish(self) -> None:
        data, self.sent = self.bytes[self.sent :], len(self.bytes)
        self.pump.ended(data, 1 + self.loop.now, None)

    def end(self, why: UpstreamError | Ending) -> None:
        if isinstance(why, Ending):
            self.pump.stop(why)
        else:
            self.pump.ended(b"", 1 + self.loop.now, why)

    def join(self, view: View, where: float, clogged: bool) -> None:
        if MODES[view.mode].restates and not self.body.dialect.documents.has_cumulative:
            view = view._replace(mode="events" if not view.flush_ms else "coalesced")
        log = self.stream.log
        offset = log.start + round(where * (log.end - log.start))
        self.attach(view, offset, SpanSink(clogged=clogged), offset, b"")

    def attach(self, view: View, offset: int, sink: SpanSink, began: int, kept: bytes) -> None:
        try:
            self.stream.projection(view)
        except OffsetGone:
            event("a mode that needs the start")
            assert self.stream.log.start, "refused, though all is held"
            return
        self.followers.append(Follower(self.stream, view, offset, sink, began, kept))

    def resume(self, follower: Follower, where: float) -> None:
        """Drop a client, who comes again after one of the ids it has had; all it had beyond is thrown away."""
        if follower.view.mode in ("raw", "text", "json"):
            return
        blocks = Splitter(1 << 20).feed(follower.body)
        numbered = [(place, seq) for place, block in enumerate(blocks, 1) if (seq := number(block)) is not None]
        if not numbered or numbered[-1][1] > self.stream.log.end:
            return
        self.leave(follower)
        place, seq = numbered[int(where * (len(numbered) - 1))]
        if seq >= self.stream.log.start:
            event("resumed")
            kept = follower.kept + b"".join(blocks[:place])
            self.attach(follower.view, seq, SpanSink(), follower.began, kept)

    def clog(self, follower: Follower) -> None:
        follower.sink.clogged = True

    def drain(self, follower: Follower) -> None:
        follower.sink.drain()

    def leave(self, follower: Follower) -> None:
        follower.subscription.leave("left")
        self.close(follower)

    def expire(self, follower: Follower) -> None:
        follower.subscription.fail(CAPABILITY_EXPIRED.saying("the capability has expired"))
        if not follower.over:
            self.check_cut_short(follower, "capability_expired")

    def beat(self, follower: Follower) -> None:
        """As the hub does it: where the mode allows it, to who is there."""
        if follower.subscription.heartbeat_s and not follower.over:
            before = follower.sink.beats
            follower.subscription.beat()
            if follower.sink.beats > before:
                assert follower.subscription.offset == self.stream.log.end, "a heartbeat to one who is due frames"

    def elapse(self, seconds: float) -> None:
        self.loop.elapse(seconds)

    def turn(self) -> None:
        self.loop.turn()

    def rest(self) -> None:
        """Let all that is due happen: then who takes writes has everything."""
        self.loop.settle()
        self.loop.elapse(60)
        self.loop.settle()
        self.check()
        for follower in self.followers:
            if not follower.over and not follower.sink.clogged:
                assert follower.subscription.offset == self.stream.log.end, "left behind"

    # What must be

    def check(self) -> None:
        log = self.stream.log
        assert log.span(log.start, log.end) == self.body.frames[log.start : log.end]
        for follower in self.followers:
            if follower.over:
                assert follower.final == (follower.sink.received, follower.sink.ended), "something came after the end"
            elif follower.sink.ended is None:
                had, at = self.rendered(follower)
                ahead_bytes = follower.subscription.ahead_bytes
                ahead = self.bytes[log.position(at) :][:ahead_bytes] if ahead_bytes else b""
                assert follower.sink.received == had + ahead
                if not self.stream.vitals.first_token_at and not follower.subscription.parked:
                    assert follower.subscription.offset == log.end, "what is before the first token waited"
                if follower.view.flush_bytes and not follower.subscription.parked:
                    assert follower.subscription.lag_bytes < follower.view.flush_bytes, "more waits than may"
            elif follower.subscription.ended == "too_slow":
                event("fell out of the window")
                assert follower.subscription.offset < log.start
                self.check_cut_short(follower, "too_slow")
            else:
                self.check_ended(follower)

    def rendered(self, follower: Follower) -> tuple[bytes, int]:
        """Return what its spans are when nobody else is there, and where they end. Between them is nothing to say."""
        had, at = b"", follower.offset
        if follower.view.mode == "raw":  # as it came, also the first lines of a frame, which belong to no span
            at = follower.subscription.offset
            return self.body.render(follower.view, follower.offset, at), at
        for start, end in follower.sink.spans:
            assert at <= start < end <= self.stream.log.end
            had += self.body.render(follower.view, at, start) + self.body.render(follower.view, start, end)
            at = end
        return had, at

    def check_ended(self, follower: Follower) -> None:
        """Hold a follower to its last span and the stream's ending."""
        log, view = self.stream.log, follower.view
        ending = self.stream.outcome if view.mode in ("text", "json") and not view.websocket else log.ending
        assert ending is not None, "ended before the stream, or what it had to say"
        had, at = self.rendered(follower)
        had += self.body.render(view, at, log.end)
        self.check_words(follower, had, ending, log.end + 1)
        if self.body.plain and not follower.began and view.mode != "json":
            self.check_said(follower, complete=log.ending is COMPLETE)
        self.close(follower)

    def check_cut_short(self, follower: Follower, code: str) -> None:
        had, at = self.rendered(follower)
        had += self.body.render(follower.view, at, follower.subscription.offset)
        self.check_words(follower, had, ENDINGS[code], follower.subscription.offset)
        self.close(follower)

    def check_words(self, follower: Follower, had: bytes, ending: Ending, seq: int) -> None:
        """Hold what comes behind the frames to how this view tells the ending: a failure never looks complete."""
        sink, mode = follower.sink, follower.view.mode
        assert sink.received.startswith(had)
        words = sink.received[len(had) :]
        if mode == "chat" and not self.body.dialect.documents.chunks:
            self.check_last_chunks(follower, words, ending, seq)
            return
        unknown = {CHAT: [FLAT], RESPONSES: REPORTED, MESSAGES: REPORTED[:1]}
        forms = unknown.get(self.body.dialect, [])  # that its clients don't know
        unrecognised = ending.reason == "upstream_error" and self.body.frames[-1] in forms
        loud = unrecognised or not ending.clean
        if follower.view.websocket:
            *told, (_, closed) = heard(words)
            assert closed == (ending.close_code, ending.reason)
            assert sink.ended == "closed"
            assert len(told) == (mode != "text" and loud)
            words = f"data: {json.loads(told[0][1])['data']}\n\n".encode() if told else b""  # type: ignore[arg-type]
            assert not told or json.loads(told[0][1])["id"] == f"{EPOCH.decode()}-{seq}"  # type: ignore[arg-type]
        elif mode == "raw":
            assert (words, sink.ended) == (self.tail(ending, seq), "closed" if ending.clean else "aborted")
            return
        elif mode == "text":
            assert (words, sink.ended) == (b"", "closed" if ending is COMPLETE else "aborted")
        elif mode == "json":
            found = self.body.alone.projection(View("json"))
            document = found.ending(COMPLETE, 0)[0] if ending is COMPLETE else b""
            assert (words, sink.ended) == (document, "closed" if ending is COMPLETE else "aborted")
            return
        else:
            assert sink.ended == "closed"
            assert ids_of(words) == ([seq] if loud else [])
        if mode != "text" and loud:
            [said] = messages(words)
            document = json.loads(said.data)
            document = document.get("response") or document
            code = (document.get("error") or document)["code"]
            assert code == ending.reason or (self.body.dialect is RESPONSES and code == "invalid_prompt")

    def check_last_chunks(self, follower: Follower, words: bytes, ending: Ending, seq: int) -> None:
        """Hold the end of a retold stream to [DONE] if it is complete, else to one error, with the last id."""
        assert follower.sink.ended == "closed"
        if follower.view.websocket:
            *told, (_, closed) = heard(words)
            assert closed == (ending.close_code, ending.reason)
            texts = [json.loads(text) for _, text in told]  # type: ignore[arg-type]
            words = "".join(f"data: {one['data']}\nid: {one['id'] or ''}\n\n" for one in texts).encode()
        *before, last = messages(words)
        assert ids_of(words) == [seq]
        if ending is COMPLETE:
            assert last.data == b"[DONE]"
            assert all(json.loads(one.data)["object"] == "chat.completion.chunk" for one in before)
        else:
            assert (before, json.loads(last.data)["error"]["code"]) == ([], ending.reason)

    def tail(self, ending: Ending, seq: int) -> bytes:
        """Return what raw has behind the last frame: the tail, if it has come so far."""
        return self.stream.log.tail if ending is self.stream.log.ending and seq > self.stream.log.end else b""

    def check_said(self, follower: Follower, *, complete: bool) -> None:
        """Hold a client that was there from the start to the text of every channel, over all its connections.

        Before the end a text may be held back, as long as it is not known whether it repeats the one before.
        """
        view, end = follower.view, self.stream.log.end
        body, final = follower.kept + follower.body, self.body.said(end)
        if view.mode == "text":
            parts = [text for (part, name, _), text in sorted(final.items()) if name == "content"
                     and (part == 0 or not self.body.dialect.documents.has_cumulative)]  # fmt: skip
            said, final = {(0, "content", -1): body.decode()}, {(0, "content", -1): "".join(parts)}
        elif view.mode == "chat" and not self.body.dialect.documents.has_cumulative:
            said = {channel: text for channel, text in joined(body).items() if channel[1] in ("content", THOUGHT)}
            final = retold(final)
        elif view.mode == "cumulative" or (self.body.cumulative and view.mode in ("raw", "events", "spaced")):
            said = latest(body)
        else:
            said = joined(body)
        assert said.keys() <= final.keys()
        for channel, text in final.items():
            assert text == said.get(channel, "") if complete else text.startswith(said.get(channel, ""))

    def close(self, follower: Follower) -> None:
        follower.over = True
        follower.final = (follower.sink.received, follower.sink.ended)


def retold(said: Said) -> Said:
    """Return the content and the reasoning of items or blocks, in their order, as those of one choice."""
    found: Said = {}
    for (_, name, _), text in sorted(said.items()):
        channel = (0, "content" if name == "content" else THOUGHT, -1)
        if name == "content" or name.startswith(("thinking", "reasoning")):
            found[channel] = found.get(channel, "") + text
    return found


def number(block: bytes) -> int | None:
    return next(iter(ids_of(block)), None)


def ids_of(rendered: bytes) -> list[int]:
    """Return the numbers of the events of a body that have one of ours, in order."""
    return [int(m.id[len(EPOCH) + 1 :]) for m in messages(rendered) if m.id and m.id.startswith(EPOCH)]


@contextmanager
def spans_of(size_bytes: int) -> Iterator[None]:
    """Let spans have so many bytes of frames at most, and a follower that is behind so few a turn."""
    with pytest.MonkeyPatch.context() as patch:
        for projection in (Projection, Coalesced, Cumulative):
            patch.setattr(projection, "span_bytes", size_bytes)
        yield


@given(bodies(), scripts(), st.sampled_from([100, 700, 1 << 20]))
def test_laws_5_to_8_in_every_view(body: Body, script: list[Step], span_bytes: int) -> None:
    """No gap, no repeat, one ending, and after a resume exactly the rest, whoever else is there."""
    with spans_of(span_bytes):
        Play(body).run(script)


@given(bodies().filter(lambda body: body.plain and not body.cumulative), scripts(), st.integers(300, 3000))
def test_laws_5_to_8_in_every_view_within_a_window(body: Body, script: list[Step], max_log_bytes: int) -> None:
    """The same while the log drops old frames: who falls out of it is told."""
    Play(body, max_log_bytes=max_log_bytes).run(script)
