"""A process's own log: all that it and its children print, in files that do not grow without end."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PRINTS = """
import subprocess, sys
from pathlib import Path
from fedderm.deploy.log_file import kept_in
print("before")
with kept_in(Path(sys.argv[1]), most_bytes=2_000):
    print("\\x1b[92min the process\\x1b[0m")
    print("told of an error", file=sys.stderr)
    subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
    for number in range(int(sys.argv[2])):
        print(f"line {number:04d} of many")
print("after")
"""


def printed(path: Path, lines: int) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PRINTS, str(path), str(lines)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )


def test_all_that_is_printed_goes_on_and_is_kept_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "log" / "node.log"
    told = printed(path, 0)
    assert told.stdout.splitlines() == ["before", "\x1b[92min the process\x1b[0m", "by a child", "after"]
    assert told.stderr == "told of an error\n"
    lines = path.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line) for line in lines)
    assert {line[21:] for line in lines} == {"in the process", "told of an error", "by a child"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_old_lines_give_way(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    told = printed(path, 2_000)
    assert told.stdout.count(" of many\n") == 2_000
    files = sorted(path.parent.glob("node.log*"))
    assert [one.name for one in files] == ["node.log", *(f"node.log.{number}" for number in range(1, 5))]
    assert all(one.stat().st_size <= 2_000 for one in files)
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o600 for one in files)
    assert "line 1999 of many" in path.read_text()


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    path.symlink_to("/dev/full")
    assert printed(path, 10).stdout.endswith("line 0009 of many\nafter\n")
