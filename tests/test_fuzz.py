"""Whatever an upstream sends, in every dialect and mode: nothing is raised, nobody waits, mode raw is byte for byte.

`make fuzz` looks longer (docs/fuzzing.md). Hypothesis keeps what failed in .hypothesis, and tries it first.
"""

import asyncio
from random import Random

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.dialects.dashscope import DASHSCOPE
from proxy.dialects.dialect import Dialect
from tests.complaints import no_complaints
from tests.event_streams import FINISH, chunk_frame
from tests.made_up_streams import DEEP, DONE, mutated, noise, streams
from tests.played import MODES_OF, Play
from tests.pumped import Connected

HALF_BESIDE_LOGPROBS = (
    b'data: {"output":{"choices":[{"message":{},"finish_reason":"\\ud800","logprobs":{"choices":[null]}}]}}\n\n'
)


@given(st.sampled_from(list(MODES_OF)), st.one_of(streams, noise, mutated()), st.integers(0, 1 << 16), st.booleans())
@example(next(iter(MODES_OF)), [chunk_frame("a")[:-3] + b',"x":' + DEEP + b"}\n\n", FINISH, DONE], 0, False)
@example(next(iter(MODES_OF)), [chunk_frame("a", seq=1849372918237462528)] * 12 + [FINISH, DONE], 0, False)
@example(next(iter(MODES_OF)), [b'data: {"code": "\\ud800", "detail": 1}\n\n'], 0, False)
@example(next(iter(MODES_OF)), [b"data:{}\n", b"\0", b"\n", b"data:{"], 1, False)
@example(DASHSCOPE, [HALF_BESIDE_LOGPROBS], 0, False)
def test_whatever_comes_hurts_nobody(dialect: Dialect, said: list[bytes], seed: int, alone: bool) -> None:
    """Cut into reads at random, or a frame a read; with all modes, or to one client of mode raw."""
    body = b"".join(said)
    asyncio.run(
        _play(dialect, body, said if seed % 2 else _cut(body, Random(seed)), ["raw"] if alone else MODES_OF[dialect])
    )


def _cut(body: bytes, random: Random) -> list[bytes]:
    places = sorted(random.randrange(len(body) + 1) for _ in range(random.randrange(12)))
    return [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]


async def _play(dialect: Dialect, body: bytes, reads: list[bytes], modes: list[str]) -> None:
    with no_complaints():
        one = Play(dialect)
        for mode in modes:
            one.follow(mode, Connected())
        one.play(reads)
    one.assert_over([body])
    assert one.sinks[0].received == body
