"""The whole table of claims, one benchmark after the other, each in a process of its own.

Sizes are chosen so that all of it takes less than a quarter of an hour on two idle cores; a benchmark called
by itself takes more repeats. A benchmark that fails is named, and the others go on.

    benchmarks/run [--json FILE] [NAME...]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from benchmarks.claims import Claim, load, save, table
from fedderm.environment import describe

BENCHMARKS: Final[dict[str, list[str]]] = {
    "rounds": ["--repeats", "1"],
    "startup": ["--repeats", "1", "--no-flwr"],
    "memory": ["--images", "4", "--no-evaluation"],
    "reply": ["--rounds", "3"],
    "sites": ["--rounds", "3"],
    "loader": ["--repeats", "2", "--images", "128"],
    "exchange": ["--backbones", "vit_b16"],
}
"""Name to the options that keep it short. What is not in this checkout is left out, and said."""


def run(name: str, options: list[str], folder: Path) -> list[Claim]:
    """Return the claims of one benchmark, whose own output is shown; none where it fails."""
    print(f"\n== {name} {' '.join(options)}".rstrip(), flush=True)
    found = folder / f"{name}.json"
    start = time.monotonic()
    command = [sys.executable, "-m", f"benchmarks.{name}", *options, "--json", str(found)]
    code = subprocess.run(command, check=False).returncode
    print(f"({time.monotonic() - start:.0f} s)", flush=True)
    if code or not found.is_file():
        print(f"{name} failed with exit code {code}: its claims are missing below", flush=True)
        return []
    return load(found)


def machine() -> dict[str, str | int | float]:
    """Return what the figures hold for: versions, machine, date, and how busy it was."""
    now = datetime.now(UTC)
    return {**describe(0, now), "load before": round(os.getloadavg()[0], 2)}


def main() -> int:
    """Print the table; return 1 where a benchmark failed."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("names", nargs="*", help=f"some of {', '.join(BENCHMARKS)} (default: all)")
    arguments.add_argument("--json", type=Path, metavar="FILE")
    arguments.add_argument("--quick", action="store_true", help="sizes that show only that it runs")
    asked = arguments.parse_args()
    unknown = sorted(set(asked.names) - set(BENCHMARKS))
    if unknown:
        arguments.error(f"there is no benchmark {unknown[0]}; choose from {', '.join(BENCHMARKS)}")
    about, start = machine(), time.monotonic()
    claims, failed = [], []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name in asked.names or BENCHMARKS:
            if find_spec(f"benchmarks.{name}") is None:
                print(f"\n== {name} is not in this checkout", flush=True)
                continue
            found = run(name, ["--quick"] if asked.quick else BENCHMARKS[name], Path(folder))
            claims += found
            if not found:
                failed.append(name)
    minutes = (time.monotonic() - start) / 60
    print(f"\n{table(claims)}\n\n" + "; ".join(f"{key} {value}" for key, value in about.items()))
    print(f"{minutes:.1f} minutes; {sum(one.met for one in claims)} of {len(claims)} claims met")
    if failed:
        print(f"failed: {', '.join(failed)}")
    if asked.json is not None:
        save(asked.json, claims, machine=about, minutes=round(minutes, 1), failed=failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
