"""Many streams and many followers at once, at two proxies in processes of their own: nobody lacks an event."""

import asyncio
from collections import Counter

from tests.event_streams import DONE, FINISH, chunk_frame
from tests.store.ground import Ground, ground

STREAMS, FOLLOWERS, EVENTS = 20, 3, 20
LOOK_UPS = 150  # more than 100, at which redis-py refuses more connections
WORDS = [chunk_frame(f"word {n}") for n in range(EVENTS)]


async def followed(there: Ground) -> list[tuple[int, bytes]]:
    """Run one stream; return the status and the body of each follower at the other node."""
    client = await there.owner.tee.send_chat()
    turn = await there.stage.next()
    await turn.body()
    turn.begin()
    turn.chunk(WORDS[0])
    answer = await client.answer()
    answers = await asyncio.gather(*(there.other.tee.follow(answer.stream_id, "mode=raw") for _ in range(FOLLOWERS)))
    for frame in WORDS[1:]:
        turn.chunk(frame)
        await asyncio.sleep(0)
    turn.end(FINISH, DONE)
    bodies = await asyncio.gather(*(one.read() for one in (*answers, answer)))
    return list(zip([one.status for one in (*answers, answer)], bodies, strict=True))


async def test_followers_of_many_streams_get_every_event() -> None:
    """Also while hundreds of others ask for streams that there are not: these are told so."""
    async with ground(STREAMTEE_STORE__LEASE_S="15") as there:
        unknown = [f"st_{n:026}".translate(str.maketrans("0123456789", "abcdefghij")) for n in range(LOOK_UPS)]
        looking = asyncio.gather(*(there.other.tee.follow(ident) for ident in unknown))
        found = await asyncio.gather(*(followed(there) for _ in range(STREAMS)))
        assert Counter(answer.status for answer in await looking) == {404: LOOK_UPS}
    assert Counter(one for ones in found for one in ones) == {
        (200, b"".join([*WORDS, FINISH, DONE])): STREAMS * (FOLLOWERS + 1)
    }
