"""What a run ran on: versions, machine, commit. Part of every run folder."""

import os
import platform
import subprocess
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "fedderm",
    "flwr",
    "ray",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pandas",
    "scikit-learn",
    "pillow",
)


def describe(seed: int, started: datetime) -> dict[str, str | int | float]:
    """Return a flat description of software and machine; no host name, no user, no path.

    The commit is that of fedderm's own source, wherever the command is called.
    """
    found: dict[str, str | int | float] = {
        "started": started.isoformat(timespec="seconds"),
        "seed": seed,
        "git commit": _commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory (GiB)": _memory(),
    }
    return {**found, "gpu": _gpu()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Return the commit of a source checkout, with a mark where it was changed; "released package"
    elsewhere."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return "released package"
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _memory() -> float:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return 0.0


def _gpu() -> str:
    """Return the GPUs' names as the driver says them, without importing PyTorch."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
        return ", ".join(names.split("\n")).strip(", ") or "none"
    except (OSError, subprocess.SubprocessError):
        return "none"
