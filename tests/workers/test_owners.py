"""Which worker a stream, a name or a request belongs to: what one worker decides, and what it leaves to another."""

import pytest

from proxy.workers.ids import ending_of
from proxy.workers.membership import Membership
from proxy.workers.names import name_of, owner_of
from proxy.workers.owners import Owners

HERE, THERE, OLD = 3, 4, 1
CURRENT = (HERE, THERE)


def name_at(worker: int, kind: bytes = b"key") -> bytes:
    """Return a name that belongs to a worker."""
    names = (name_of(kind, b"%d" % number) for number in range(100))
    return next(name for name in names if owner_of(name, CURRENT) == worker)


def ident_at(worker: int) -> str:
    return "st_" + "q" * 24 + ending_of(worker)


KEY_HERE, KEY_THERE = name_at(HERE), name_at(THERE)
CALL_HERE, CALL_THERE = name_at(HERE, b"call"), name_at(THERE, b"call")


def owners(number: int = HERE, **older: int) -> Owners:
    """Return what a worker knows beside another one, and an old one that drains; `older` are names that this holds."""
    held = {{"key": KEY_HERE, "call": CALL_HERE}[which]: worker for which, worker in older.items()}
    return Owners(Membership(number, CURRENT, frozenset({OLD}), held))


def test_stream_is_where_its_id_says() -> None:
    """Nowhere, if that worker has ended, or the text is no id."""
    found = [owners().of_stream(ident) for ident in (ident_at(HERE), ident_at(OLD), ident_at(7), "st_x")]
    assert found == [HERE, OLD, None, None]


def test_key_of_another_worker_is_for_that_one_to_decide() -> None:
    """Whatever is here under it."""
    assert [owners().of_key(KEY_THERE, is_here=here) for here in (False, True)] == [(THERE, False)] * 2


def test_key_leads_to_its_newest_stream_wherever_that_is() -> None:
    """To another worker that has told of one, until one begins here; to an old worker only if nothing newer is here."""
    one = owners(key=OLD)
    assert one.of_key(KEY_HERE, is_here=True) == (HERE, False)
    assert one.of_key(KEY_HERE, is_here=False) == (OLD, True)
    one.note_newest(KEY_HERE, ident_at(THERE))
    assert one.of_key(KEY_HERE, is_here=True) == (THERE, True)
    assert one.having(KEY_HERE) == (THERE, HERE, OLD)
    one.note_begun_here(KEY_HERE)
    assert one.of_key(KEY_HERE, is_here=True) == (HERE, False)


def test_worker_that_has_ended_has_the_newest_stream_no_more() -> None:
    """A note of it leads nowhere, and one of a stream that is nowhere is not taken."""
    one = owners()
    one.note_newest(KEY_HERE, ident_at(OLD))
    one.membership = Membership(HERE, CURRENT)
    assert one.of_key(KEY_HERE, is_here=False) == (HERE, False)
    one.note_newest(KEY_HERE, ident_at(7))
    assert one.having(KEY_HERE)[0] == OLD


@pytest.mark.parametrize(
    ("key", "shared", "held", "expected"),
    [
        (None, None, False, (HERE, True)),
        (KEY_HERE, None, False, (HERE, True)),
        (KEY_THERE, None, False, (THERE, True)),
        (None, CALL_THERE, False, (THERE, False)),
        (None, CALL_HERE, False, (HERE, True)),
        (KEY_THERE, CALL_HERE, False, (THERE, True)),
        (KEY_THERE, CALL_HERE, True, (HERE, False)),
        (KEY_HERE, CALL_THERE, False, (THERE, False)),
    ],
)
def test_generation_belongs_to_its_key_and_is_found_by_what_is_shared(
    key: bytes | None, shared: bytes | None, held: bool, expected: tuple[int, bool]
) -> None:
    """A call that runs here is shared here; whose name belongs elsewhere is for that worker to decide."""
    assert owners().of_generation(key, shared, held=held) == expected


def test_later_request_with_the_shared_name_alone_follows_the_one_that_had_a_key() -> None:
    """It goes to the key's worker, as long as that is there."""
    one = owners()
    one.of_generation(KEY_THERE, CALL_HERE, held=False)
    assert one.of_generation(None, CALL_HERE, held=False) == (THERE, True)
    one.membership = Membership(HERE, (HERE, 5))
    assert one.of_generation(None, CALL_HERE, held=False) == (HERE, True)


def test_call_of_an_old_worker_is_shared_there() -> None:
    """Until it has ended."""
    one = owners(call=OLD)
    assert one.of_generation(KEY_THERE, CALL_HERE, held=False) == (OLD, True)
    one.membership = one.membership._replace(draining=frozenset())
    assert one.of_generation(None, CALL_HERE, held=False) == (HERE, True)


def test_worker_that_drains_begins_nothing() -> None:
    """What is new goes to the others, each in turn."""
    one = owners(OLD)
    assert {one.of_generation(None, None, held=False) for _ in range(4)} == {(HERE, True), (THERE, True)}


def test_notes_are_bounded() -> None:
    """The oldest is forgotten: who comes with that name is served where the name belongs."""
    one = owners()
    names = [name_of(b"key", b"%d" % number) for number in range(30_000)]
    mine = [name for name in names if owner_of(name, CURRENT) == HERE][:10_001]
    for name in mine:
        one.note_newest(name, ident_at(THERE))
    assert one.having(mine[0])[0] is None
    assert [one.having(name)[0] for name in (mine[1], mine[-1])] == [THERE, THERE]
