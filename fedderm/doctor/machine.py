"""The machine that a site works on: disk, memory, GPU, clock."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from fedderm.doctor.findings import Examination, Finding
from fedderm.runtime import gpus

LOW_DISK = 2 * 2**30
LOW_MEMORY = 2 * 2**30
"""Bytes. A worker with PyTorch and a small network takes about 1.5 GiB."""


def examine_machine(examination: Examination) -> Iterator[Finding]:
    """Yield what there is to say of this machine."""
    yield _disk(examination.work_dir.absolute())
    yield _memory()
    yield _graphics(examination)
    yield _clock()


def _disk(work_dir: Path) -> Finding:
    place = next(one for one in (work_dir, *work_dir.parents) if one.exists())
    free = shutil.disk_usage(place).free
    if not (place.is_dir() and os.access(place, os.W_OK)):
        return Finding(
            "stops",
            "machine",
            f"disk: caches go to {work_dir}, where this user may not write; change its permissions",
        )
    advice = "" if free > LOW_DISK else "; free some space"
    return Finding(
        "look" if advice else "fine", "machine", f"disk: {free / 2**30:.1f} GiB free for caches{advice}"
    )


def _memory() -> Finding:
    free = available_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if free is None:
        return Finding("fine", "machine", f"memory: not known here; {cores} cores")
    advice = "" if free > LOW_MEMORY else "; training needs about 2 GiB: close other programs"
    return Finding(
        "look" if advice else "fine",
        "machine",
        f"memory: {free / 2**30:.1f} GiB free{advice}; {cores} cores",
    )


def available_memory() -> int | None:
    """Return the bytes that a new process may take, also within a container's limit.

    None where the system does not say (Linux does).
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))


def _graphics(examination: Examination) -> Finding:
    wanted, found = examination.resources.gpus_per_site, gpus()
    if wanted != "auto" and wanted > 0 and examination.resources.address is None and found < wanted:
        return Finding(
            "stops",
            "machine",
            f"resources.gpus_per_site is {wanted:g} but there are {found} GPUs here; set it to 0",
        )
    if not found:
        return Finding("fine", "machine", "GPU: none; training runs on the CPU")
    return Finding("fine", "machine", f"GPU: {'; '.join(_gpu_names()) or found}")


def _gpu_names() -> list[str]:
    """Return name, memory and driver of each GPU, by the program whose count was already asked."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return told.stdout.strip().splitlines() if told.returncode == 0 else []


def _clock() -> Finding:
    now = f"clock: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    synchronised = _synchronised()
    if synchronised is False:
        return Finding(
            "look",
            "clock",
            f"{now}, kept by this machine alone; have it synchronised (NTP), for certificates are judged by "
            "it",
        )
    return Finding("fine", "clock", f"{now}{', synchronised' if synchronised else ''}")


def _synchronised() -> bool | None:
    """Return whether systemd says that the clock follows a time server; None where it cannot be asked."""
    program = shutil.which("timedatectl")
    if program is None:
        return None
    command = [program, "show", "--property=NTPSynchronized", "--value"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except subprocess.TimeoutExpired:
        return None
    return {"yes": True, "no": False}.get(told.stdout.strip()) if told.returncode == 0 else None
