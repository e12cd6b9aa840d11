"""File descriptors: who may take one when they run short, and the limit of the process."""

import os
import random
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.downstream.descriptors import ADMIN, Descriptors, enlarge_table, raise_limit

LIMIT = 1000
FOR_UPSTREAM_END = LIMIT - ADMIN
FOR_CLIENTS_END = FOR_UPSTREAM_END - LIMIT // 4


@pytest.mark.parametrize(
    ("in_use", "left", "are_short", "are_out"),
    [
        (0, FOR_CLIENTS_END, False, False),
        (FOR_CLIENTS_END, 0, False, False),
        (FOR_CLIENTS_END + 1, -1, True, False),
        (FOR_UPSTREAM_END - 1, FOR_CLIENTS_END - FOR_UPSTREAM_END + 1, True, False),
        (FOR_UPSTREAM_END, FOR_CLIENTS_END - FOR_UPSTREAM_END, True, True),
    ],
)
def test_last_ones_are_kept_for_upstreams_and_the_very_last_for_the_admin_port(
    in_use: int, left: int, are_short: bool, are_out: bool
) -> None:
    """A client is refused before a call of those who are there fails, and a scrape is answered after that."""
    one = Descriptors(LIMIT, 10)
    one.counted.append(lambda: in_use - 30)
    one.counted.append(lambda: 20)
    assert (one.in_use, one.left_for_clients, one.are_short, one.are_out) == (in_use, left, are_short, are_out)


def test_reserve_for_upstreams_has_a_limit() -> None:
    """A quarter of a million would be more than their pools ever take."""
    assert Descriptors(1_000_000).left_for_clients == 1_000_000 - ADMIN - 1024


@pytest.mark.parametrize("seed", range(20))
def test_shortage_is_known_at_once_although_not_each_connection_is_counted(seed: int) -> None:
    """Whoever comes and goes; clients ask when they have come, upstreams before they are connected to."""
    chance, in_use, asked, counts = random.Random(seed), 0, 0, 0

    def count() -> int:
        nonlocal counts
        counts += 1
        return in_use

    one = Descriptors(120)
    one.counted.append(count)
    clients_end, upstream_end = 120 - ADMIN - 30, 120 - ADMIN
    for _ in range(2000):
        what = chance.choice(("client", "upstream", "gone" if seed % 2 and in_use else "client"))
        if what == "gone" or in_use == 120:
            in_use -= 1
            continue
        asked += 1
        if what == "client":
            in_use += 1
            assert one.are_short == (in_use > clients_end)
        elif (is_out := one.are_out) or in_use >= upstream_end:
            assert is_out == (in_use >= upstream_end)
        else:
            in_use += 1


def test_few_connections_are_counted_while_there_are_plenty() -> None:
    """Each one is a call of all who have some."""
    counts, in_use = 0, 0

    def count() -> int:
        nonlocal counts
        counts += 1
        return in_use

    one = Descriptors(100_000)
    one.counted.append(count)
    for in_use in range(1, 10_001):
        assert (one.are_short, one.are_out) == (False, False)
        assert not in_use % 2 or counts == 1


def test_recount_finds_what_nobody_else_counts() -> None:
    """Files that are open, beside the connections that are counted by those who have them."""
    one = Descriptors(LIMIT)
    one.counted.append(lambda: 3)
    one.recount()
    before = one.in_use
    descriptors = os.pipe()
    one.recount()
    assert one.in_use == before + 2
    for descriptor in descriptors:
        os.close(descriptor)
    one.recount()
    assert one.in_use == before


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """The limits of this process, which are set back after the test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_limit_is_raised_as_far_as_any_process_may(limits: tuple[int, int]) -> None:
    """It tells the one before and the one after; again, nothing is left to raise."""
    soft, hard = limits[1] - 1, limits[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert Descriptors.of_process().limit == soft
    assert raise_limit() == (soft, hard)
    assert raise_limit() == (hard, hard)
    assert Descriptors.of_process().limit == hard


def test_limit_that_can_not_be_raised_stays(limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that allow less than they say."""
    soft, hard = limits[1] - 1, limits[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def refuse(kind: int, wanted: tuple[int, int]) -> None:
        raise ValueError

    with monkeypatch.context() as patch:
        patch.setattr(resource, "setrlimit", refuse)
        assert raise_limit() == (soft, soft)


def test_process_without_a_limit_is_never_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinity is a negative number there."""
    infinite = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: infinite)
    assert Descriptors.of_process().left_for_clients > 1_000_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="the size of the table is read from /proc")
def test_table_of_descriptors_is_large_before_they_are_needed() -> None:
    """So that the process is never stopped while the kernel makes a larger one; and no descriptor stays open."""
    before = os.listdir("/dev/fd")
    enlarge_table()
    (size,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("FDSize:"))
    assert int(size.split()[1]) >= min(65_536, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    assert os.listdir("/dev/fd") == before
