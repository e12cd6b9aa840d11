"""What is done to an owner in some rows of the failure table: it is told to end, or another node is asked for the same.

Requests are the same if their Idempotency-Key is.
"""

import asyncio
import random

from tests.event_streams import DONE, FINISH
from tests.http_client import Client
from tests.store.ground import BEFORE, WORDS, Ground, Node, told
from tests.store.node_failures import held_elsewhere

_RACES = 10


async def ends_in_time(there: Ground) -> None:
    """One follower elsewhere comes while the owner drains; of another stream nobody is left at the owner."""
    turn, elsewhere = await held_elsewhere(there)
    there.owner.tell_to_end()
    await there.say(WORDS[BEFORE:4])
    late = await there.follow()
    await there.say(WORDS[4:])
    there.turn.end(FINISH, DONE)
    assert await told(late) == await told(there.remote) == await told(there.local)
    for frame in WORDS[BEFORE:]:
        turn.chunk(frame)
        await elsewhere.until(frame.strip())
        await asyncio.sleep(0.03)  # the pace of the upstream
    turn.end(FINISH, DONE)
    assert (await told(elsewhere)).ending == "complete"
    assert await there.owner.wait_ended() == 0


async def goes_on_beyond_its_time(there: Ground) -> None:
    """Followers elsewhere are sent all that the owner's client is sent, and the same ending."""
    there.owner.tell_to_end()
    await there.say(WORDS[BEFORE:])
    await there.turn.wait_left()
    local, remote = await told(there.local), await told(there.remote)
    assert local == remote
    assert local.frames == len(WORDS)
    assert await there.owner.wait_ended() == 0


async def killed_when_all_is_sent(there: Ground) -> None:
    """The owner's client has nothing that is lost with the owner."""
    await there.say(WORDS[BEFORE:], pause_s=0)
    await there.local.until(b"word 8")
    there.owner.kill()
    assert (await told(there.remote)).frames == len(WORDS)


async def race(there: Ground) -> None:
    """Ask both nodes for the same at once, again and again: each time one calls upstream, and both have its answer."""
    for number in range(_RACES):
        if number:
            there.turn.end(*WORDS[BEFORE:], FINISH, DONE)
            assert await told(there.local) == await told(there.remote)
        assert len(there.stage.turns) == number, "both nodes called upstream"
        await _race(there, f"key-{number}")


async def _race(there: Ground, key: str) -> None:
    for node in (there.owner, there.other):
        node.network.delay_s = random.choice((0, 0.02))

    async def ask(node: Node) -> Client:
        await asyncio.sleep(random.choice((0, 0, 0.01, 0.02, 0.03, 0.05)))
        return await there.ask(node, key)

    clients = await asyncio.gather(ask(there.owner), ask(there.other))
    there.turn = await there.answered()
    answers = [await client.answer() for client in clients]
    for answer in answers:
        await answer.until(b"word 2")
    assert there.stage.idle, "both nodes called upstream"
    assert answers[0].stream_id == answers[1].stream_id
    is_attached = [answer.header("idempotency-replayed") == "true" for answer in answers]
    assert sorted(is_attached) == [False, True]
    there.local, there.remote = answers if is_attached[1] else answers[::-1]


async def ask_both(there: Ground) -> None:
    """Ask the owner, then the other node; the upstream does not answer."""
    there.clients = [await there.ask(there.owner)]
    await (await there.stage.next()).body()
    there.clients.append(await there.ask(there.other))


async def other_takes_over(there: Ground) -> None:
    """It calls upstream itself, once the owner's stream is sealed as lost."""
    there.owner.kill()
    assert await there.clients[0].wait_gone()
    there.turn = await there.answered()
    there.remote = await there.clients[1].answer()
    await there.finish()


async def both_are_owners(there: Ground) -> None:
    """Of one stream each: the first one is lost, and who comes later has the second, at either node."""
    there.owner.stop()
    await there.say(WORDS[BEFORE:4])
    await there.remote.read()
    client = await there.ask(there.other)
    second = await there.answered()
    retried = await client.answer()
    await retried.until(b"word 2")
    there.owner.go_on()
    await there.turn.wait_left()
    again = await (await there.ask(there.owner)).answer()
    second.end(*WORDS[BEFORE:], FINISH, DONE)
    for answer in (retried, again):
        assert (await told(answer)).ending == "complete"
    assert again.stream_id == retried.stream_id != there.ident
    assert len(there.stage.turns) == 2
