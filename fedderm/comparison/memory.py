"""How much memory a process takes and the machine still has, from Linux's own files."""

from pathlib import Path

_CGROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
"""Versions 2 and 1: limit, use, and where use says how much of it are files that can be dropped."""
_RESERVE = 1 << 29
"""Half a GiB is left to the rest of the machine."""


def peak_of_this_process() -> int:
    """Return the most bytes that this process has held resident; 0 where the system does not say."""
    return _number_after(Path("/proc/self/status"), "VmHWM:") * 1024


def resident(pid: int) -> int:
    """Return the bytes that a process holds resident; 0 where it is gone or the system does not say."""
    return _number_after(Path(f"/proc/{pid}/status"), "VmRSS:") * 1024


def available() -> int | None:
    """Return the bytes that new work can take, within the limit of this process's container; None where the
    system does not say."""
    found = [_number_after(Path("/proc/meminfo"), "MemAvailable:") * 1024 or None, _left_in_container()]
    known = [one for one in found if one is not None]
    return min(known) if known else None


def _left_in_container() -> int | None:
    """Return what the container's limit leaves; None without a limit."""
    root = Path("/sys/fs/cgroup")
    for limit_file, used_file, stat_file, files in _CGROUPS:
        limit, used = _number(root / limit_file), _number(root / used_file)
        if limit is not None and used is not None:
            return limit - used + _number_after(root / stat_file, files)
    return None


def room_for_another(peak: int, running: list[int]) -> bool:
    """Return whether another process that grows to ``peak`` bytes fits beside those with these ``running``
    ids, which may still grow to it, too."""
    free = available()
    if free is None:
        return True
    promised = sum(max(0, peak - resident(pid)) for pid in running)
    return free - promised - _RESERVE >= peak


def _number_after(path: Path, word: str) -> int:
    """Return the number that follows ``word`` at a line's begin; 0 where there is none."""
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.split()[:1] == [word]:
                return int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
