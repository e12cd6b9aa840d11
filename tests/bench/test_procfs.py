"""CPU time and memory as read from /proc: from files made by hand, and of a process that is known to work."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench import procfs

STAT = "{pid} (a) b (c) S {parent} 1 1 0 -1 4194560 100 0 0 0 {user} {system} 900 900 20 0 1 0 100 1000 50"


def put(proc: Path, pid: int, parent: int, user: int, system: int, ran_ns: tuple[int, ...], rss_kb: int) -> None:
    """Write what /proc has of a process, with one thread for each run time."""
    home = proc / str(pid)
    for number, ran in enumerate(ran_ns):
        task = home / "task" / str(pid + number)
        task.mkdir(parents=True)
        (task / "schedstat").write_text(f"{ran} 5 7\n")
    (home / "stat").write_text(STAT.format(pid=pid, parent=parent, user=user, system=system))
    (home / "status").write_text(f"Name:\ta\nVmHWM:\t 9999 kB\nVmRSS:\t {rss_kb} kB\n")


def test_name_with_brackets_and_spaces_leaves_the_fields_in_place() -> None:
    """The fields are counted from the last bracket, as a process may call itself anything."""
    assert procfs.stat_fields(STAT.format(pid=1, parent=7, user=3, system=4))[:2] == ["S", "7"]


def test_ticks_are_user_and_system_time_without_that_of_ended_children() -> None:
    """utime and stime count, cutime and cstime don't."""
    line = STAT.format(pid=1, parent=7, user=30, system=12)
    assert procfs.cpu_ticks_s(line) == pytest.approx(42 * procfs.TICK_S)


def test_tree_counts_descendants_and_no_others(tmp_path: Path) -> None:
    """CPU time and memory are those of the process, its children and theirs."""
    put(tmp_path, 10, 1, 0, 0, (1_000_000_000,), 100)
    put(tmp_path, 20, 10, 0, 0, (2_000_000_000,), 20)
    put(tmp_path, 30, 20, 0, 0, (4_000_000_000,), 3)
    put(tmp_path, 40, 1, 0, 0, (8_000_000_000,), 1000)
    assert sorted(procfs.tree(10, tmp_path)) == [10, 20, 30]
    assert procfs.cpu_s(10, tmp_path) == pytest.approx(7.0)
    assert procfs.rss_kb(10, tmp_path) == 123


def test_ended_threads_are_counted_by_ticks_live_ones_exactly(tmp_path: Path) -> None:
    """Of a process's two accounts the greater is taken: neither can tell too much."""
    put(tmp_path, 10, 1, 50, 50, (123_456_789, 1_000), 1)
    assert procfs.cpu_s(10, tmp_path) == pytest.approx(100 * procfs.TICK_S)
    put(tmp_path, 11, 1, 0, 1, (123_456_789, 1_000), 1)
    assert procfs.cpu_s(11, tmp_path) == pytest.approx(0.123457789)


def test_process_that_is_gone_costs_nothing(tmp_path: Path) -> None:
    """Processes end at any time, also between two reads."""
    assert procfs.cpu_s(4711, tmp_path) == 0.0
    assert procfs.rss_kb(4711, tmp_path) == 0


def test_stolen_seconds_are_the_eighth_figure_of_all_cores(tmp_path: Path) -> None:
    """The first line of /proc/stat is the sum over the cores (proc_stat(5))."""
    (tmp_path / "stat").write_text("cpu  1 2 3 4 5 6 7 300 9 0\ncpu0 1 2 3 4 5 6 7 150 9 0\n")
    assert procfs.stolen_s(tmp_path) == pytest.approx(300 * procfs.TICK_S)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_busy_process_is_seen_to_work() -> None:
    """What a process says it spent is what is read of it."""
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint(time.process_time(), flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = float(process.stdout.readline())
        began = time.monotonic()
        seen = procfs.cpu_s(process.pid)
        assert time.monotonic() - began < 5
        process.kill()
    assert said <= seen < said + 0.1


def test_commit_is_marked_if_anything_but_measurements_differs_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first benchmark of several writes its table before the second one asks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert procfs.machine()["commit"] == "unknown"
    (tmp_path / "docs").mkdir()
    table, module = tmp_path / "docs" / "performance.md", tmp_path / "module.py"
    for path in (table, module):
        path.write_text("before")
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    table.write_text("measured")
    commit = procfs.machine()["commit"]
    assert "-" not in commit
    module.write_text("after")
    assert procfs.machine()["commit"] == f"{commit}-dirty"
