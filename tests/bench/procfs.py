"""What Linux tells of processes and of the machine: CPU time, memory, stolen time. Reads, measures nothing itself."""

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

PROC = Path("/proc")
_UNKNOWN = "unknown"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def stat_fields(line: str) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, the state first. A name may hold spaces and brackets."""
    return line.rpartition(")")[2].split()


def cpu_ticks_s(line: str) -> float:
    """Return the user and system seconds that a line of /proc/PID/stat tells, in whole ticks (proc_pid_stat(5))."""
    fields = stat_fields(line)
    return (int(fields[11]) + int(fields[12])) * TICK_S


def tree(pid: int, proc: Path = PROC) -> list[int]:
    """Return a process and its descendants."""
    parent: dict[int, int] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            line = _text(entry / "stat")
            if line:
                parent[int(entry.name)] = int(stat_fields(line)[1])
    found = [pid]
    for one in found:
        found += [child for child, above in parent.items() if above == one]
    return found


def cpu_s(pid: int, proc: Path = PROC) -> float:
    """Return the CPU seconds of a process and its descendants.

    stat counts whole ticks of 10 ms, but of threads that ended too; schedstat nanoseconds, but of live threads only.
    Neither can tell too much, so the greater is the better one.
    """
    total = 0.0
    for one in tree(pid, proc):
        line = _text(proc / str(one) / "stat")
        if line:
            ran = [_text(task / "schedstat") for task in (proc / str(one) / "task").glob("*")]
            exact = sum(int(text.split()[0]) for text in ran if text) / 1e9
            total += max(exact, cpu_ticks_s(line))
    return total


def rss_kb(pid: int, proc: Path = PROC) -> int:
    """Return the resident KiB of a process and its descendants."""
    total = 0
    for one in tree(pid, proc):
        for line in _text(proc / str(one) / "status").splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total


def stolen_s(proc: Path = PROC) -> float:
    """Return the seconds that the hypervisor has taken from all cores since the machine started."""
    fields = _text(proc / "stat").split("\n", 1)[0].split()
    return int(fields[8]) * TICK_S if len(fields) > 8 else 0.0


def machine() -> dict[str, str]:
    """Return what a table of measurements has to say of its machine and day."""
    models = [line.partition(":")[2].strip() for line in _text(PROC / "cpuinfo").splitlines() if "model name" in line]
    virtual = " (virtual machine)" if " hypervisor" in _text(PROC / "cpuinfo") else ""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _commit(),
        "cores": f"{os.cpu_count()} x {models[0] if models else platform.machine()}{virtual}",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "aiohttp": version("aiohttp"),
        "uvloop": version("uvloop"),
    }


def _commit() -> str:
    """Return the commit, with "-dirty" if files differ from it, other than those that measurements are written to."""
    commit = _said("git", "describe", "--always")
    measured = ":(top,exclude)docs/performance.*"
    changed = _said("git", "status", "--porcelain", "--untracked-files=no", "--", ":/", measured)
    return f"{commit}-dirty" if changed and commit != _UNKNOWN else commit


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout.strip() if done.returncode == 0 else _UNKNOWN


def _text(path: Path) -> str:
    """Return a file's text, or nothing: processes end at any time."""
    try:
        return path.read_text()
    except OSError:
        return ""
