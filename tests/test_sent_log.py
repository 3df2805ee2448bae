"""The log of what leaves: whatever is done to it afterwards is found, and a full disk lets nothing out."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import fedderm
from hospitals import Hospital, asking, experiment

from fedderm import messages
from fedderm.hospital.log_totals import in_bytes, totals
from fedderm.hospital.sent_log import BEGINNING, LogBroken, SentLog, hash_of
from fedderm.refusal import Refused

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def log(tmp_path: Path) -> SentLog:
    """Return a log of six entries."""
    found = SentLog(tmp_path / "ward.record")
    for number in range(6):
        found.add({"what": "sent", "exchange": "train", "bytes": number, "note": "ä"})
    return found


def lines(log: SentLog) -> list[str]:
    return log.path.read_text().splitlines(keepends=True)


def rewritten(log: SentLog, change: Callable[[list[str]], list[str]]) -> None:
    log.path.write_text("".join(change(lines(log))))


def edited(line: str, **values: object) -> str:
    return json.dumps({**json.loads(line), **values}) + "\n"


def test_each_line_holds_the_hash_of_the_one_before(log: SentLog) -> None:
    entries = list(log.entries())
    assert [one["entry"] for one in entries] == [1, 2, 3, 4, 5, 6]
    assert [one["previous"] for one in entries] == [BEGINNING, *(one["hash"] for one in entries[:-1])]
    assert len({one["hash"] for one in entries}) == 6
    found = log.check()
    assert (found.entries, found.hash, found.interrupted) == (6, entries[-1]["hash"], False)


def test_a_hash_is_sha256_of_canonical_json() -> None:
    """Keys sorted, no blanks, and the hash itself left out."""
    told = subprocess.run(
        ["sha256sum"], input=b'{"a":1,"b":"\\u00e4"}', capture_output=True, check=True
    ).stdout.split()[0]
    assert hash_of({"b": "ä", "a": 1, "hash": "left out"}) == told.decode()


CHANGES: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "edited": (
        lambda found: [*found[:2], edited(found[2], bytes=0), *found[3:]],
        "line 3 is broken: it was changed",
    ),
    "edited, with a new hash": (
        lambda found: [
            *found[:2],
            edited(found[2], bytes=0, hash=hash_of({**json.loads(found[2]), "bytes": 0})),
            *found[3:],
        ],
        "line 4 is broken: it does not follow the line before",
    ),
    "deleted": (lambda found: [*found[:2], *found[3:]], "line 3 is broken: it is numbered 4"),
    "deleted, and numbered anew": (
        lambda found: [*found[:2], edited(found[3], entry=3), *found[4:]],
        "line 3 is broken: it does not follow",
    ),
    "moved": (
        lambda found: [found[0], found[2], found[1], *found[3:]],
        "line 2 is broken: it is numbered 3",
    ),
    "copied": (lambda found: [*found[:3], found[2], *found[3:]], "line 4 is broken: it is numbered 3"),
    "the first is gone": (lambda found: found[1:], "line 1 is broken: it is numbered 2"),
    "the last is gone": (lambda found: found[:-1], "ends with line 5, but 6 were written: 1 at the end are"),
    "all are gone": (lambda _: [], "ends with line 0, but 6 were written: 6 at the end are missing"),
    "half of the last is gone": (
        lambda found: [*found[:-1], found[-1][:40]],
        "ends with line 5, but 6 were written",
    ),
    "no JSON": (lambda found: [*found[:3], "rubbish\n", *found[4:]], "line 4 is broken: it is no JSON"),
    "no entry": (lambda found: [*found[:3], "[]\n", *found[4:]], "line 4 is broken: it is no entry"),
    "the last written anew": (
        lambda found: [
            *found[:-1],
            edited(found[-1], bytes=0, hash=hash_of({**json.loads(found[-1]), "bytes": 0})),
        ],
        "line 6 is broken: sent.head has another hash of it",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_done_to_it_is_found_and_the_first_broken_line_named(log: SentLog, what: str) -> None:
    change, expected = CHANGES[what]
    rewritten(log, change)
    with pytest.raises(LogBroken, match=expected):
        log.check()


def test_a_log_that_is_shorter_than_it_was_takes_no_more_lines(log: SentLog) -> None:
    rewritten(log, lambda found: found[:-1])
    with pytest.raises(LogBroken, match=r"is \d+ bytes long, but \d+ were written"):
        log.add({"what": "sent"})
    assert len(lines(log)) == 5


@pytest.mark.parametrize("what", CHANGES)
def test_a_log_that_was_touched_takes_no_more_lines(log: SentLog, what: str) -> None:
    """Also where its length is as before: the node finds it before its next answer."""
    change, _ = CHANGES[what]
    rewritten(log, change)
    left = log.path.read_bytes()
    with pytest.raises(LogBroken):
        log.add({"what": "sent"})
    assert log.path.read_bytes() == left


def test_a_log_that_was_copied_back_whole_goes_on(log: SentLog) -> None:
    rewritten(log, lambda found: found)
    assert log.add({"what": "sent"})["entry"] == 7
    assert log.check().entries == 7


def test_lines_that_the_head_does_not_know(log: SentLog) -> None:
    """The head is lost or old: more than one line beyond it is no interrupted write."""
    head = (log.folder / "sent.head").read_text()
    for _ in range(2):
        log.add({"what": "sent"})
    (log.folder / "sent.head").write_text(head)
    with pytest.raises(LogBroken, match=r"line 8 is broken: sent\.head knows 6 lines only"):
        log.check()
    with pytest.raises(LogBroken, match=r"sent\.head knows 6 lines only"):
        log.add({"what": "sent"})
    (log.folder / "sent.head").unlink()
    with pytest.raises(LogBroken, match=r"line 2 is broken: sent\.head knows 0 lines only"):
        log.check()
    with pytest.raises(LogBroken):
        log.add({"what": "sent"})
    assert len(lines(log)) == 8
    (log.folder / "sent.head").write_text("{}")
    with pytest.raises(LogBroken, match=r"sent\.head: is damaged"):
        log.check()


def test_who_writes_all_of_it_anew_is_found_by_a_hash_noted_elsewhere(log: SentLog) -> None:
    """The one thing that the files alone cannot tell."""
    noted = log.check().hash
    assert log.check(noted).entries == 6
    for file in (log.path, log.folder / "sent.head"):
        file.unlink()
    for number in range(6):
        log.add({"what": "sent", "exchange": "train", "bytes": 0, "note": number})
    assert log.check().entries == 6
    with pytest.raises(LogBroken, match=f"no line has the hash {noted}"):
        log.check(noted)


def test_a_machine_that_stops_in_the_middle_leaves_a_log_that_goes_on(log: SentLog) -> None:
    before = (log.folder / "sent.head").read_text()
    log.add({"what": "sent", "exchange": "evaluate"})
    (log.folder / "sent.head").write_text(before)  # stopped between the line and the head
    assert log.check().interrupted
    log.add({"what": "sent"})
    assert (log.check().entries, log.check().interrupted) == (8, False)
    with log.path.open("a") as file:  # stopped within a line
        file.write('{"entry": 9, "ti')
    assert log.check().entries == 8
    log.add({"what": "sent"})
    assert log.check().entries == 9


def test_several_processes_write_one_chain(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fedderm.hospital.sent_log import SentLog\n"
        "for n in range(15): SentLog(Path(sys.argv[1])).add({'what': 'sent', 'by': sys.argv[2], 'n': n})"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "r")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [subprocess.Popen([*command, name], env=environment) for name in "abc"]
    assert [one.wait(timeout=300) for one in started] == [0, 0, 0]
    log = SentLog(tmp_path / "r")
    assert log.check().entries == 45
    for name in "abc":
        assert [one["n"] for one in log.entries() if one["by"] == name] == list(range(15))


def test_only_its_owner_may_read_it(log: SentLog) -> None:
    assert log.folder.stat().st_mode & 0o777 == 0o700
    assert log.path.stat().st_mode & 0o777 == 0o600


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a disk of one megabyte; skip where this machine does not let us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(options, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk cannot be mounted here (it takes root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, leaving: int = 0) -> Path:
    """Write until the disk is full, but for some bytes; return the file to be removed."""
    path = disk / "filling"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leaving))
    return path


def test_a_full_disk_lets_nothing_out_and_loses_nothing(root: Path, small_disk: Path) -> None:
    west, run = Hospital(root, small_disk, "west"), experiment(root)
    west.asked(asking(run, messages.QUERY))
    filling = fill(small_disk)
    told = "site west: the hospital's log of what leaves cannot be written; nothing leaves until it is mended"
    for kind in (messages.QUERY, messages.EVALUATE, messages.TRAIN):
        with pytest.raises(Refused, match=f"^{told}$"):
            west.asked(asking(run, kind))
    assert [one["what"] for one in west.log()] == ["sent"]
    filling.unlink()
    west.asked(asking(run, messages.EVALUATE))
    assert [one["what"] for one in west.log()] == ["sent", "sent"]


def test_a_disk_that_fills_while_a_site_trains(root: Path, small_disk: Path) -> None:
    """There is room for what is remembered, but no more for the answer's own line: it does not leave."""
    west, run = Hospital(root, small_disk, "west"), experiment(root)
    west.asked(asking(run, messages.QUERY))
    ask = asking(run, messages.TRAIN)
    fill(small_disk, leaving=4096)  # a page, which the memory's new file needs; the line needs two
    with pytest.raises(Refused, match="log of what leaves cannot be written"):
        west.asked(ask)
    assert [(one["what"], one["exchange"]) for one in west.log()] == [("sent", "query")]
    assert west.record.memory.read().answers[-1].kind == "train", "it was admitted, and trained"


# For people


def entry(time: str, **values: object) -> dict[str, object]:
    about = {"exchange": "train", "run": "5", "request": "abc", "experiment": "tiny", "what": "sent"}
    return {**about, "time": time, **values}


def test_totals_by_day_and_by_run() -> None:
    found = totals(
        [
            entry("2026-11-01T23:59:00+00:00", bytes=1000),
            entry("2026-11-02T00:01:00+00:00", bytes=500),
            entry("2026-11-02T00:02:00+00:00", exchange="evaluate", bytes=1),
            entry("2026-11-02T00:03:00+00:00", run="6", what="refused", told="no"),
            entry("2026-11-02T00:04:00+00:00", run="6", what="refused", told="no"),
            entry("2026-11-02T00:05:00+00:00", what="failed", told="could not", detail="row 7", request=None),
            {"time": "2026-11-03T00:00:00+00:00", "what": "approved", "request": "abc", "by": "x"},
        ]
    )
    assert [(one.title, one.answers(), one.bytes, one.refused, one.failed) for one in found.days] == [
        ("2026-11-01", "train 1", 1000, 0, 0),
        ("2026-11-02", "train 1, evaluate 1", 501, 2, 1),
        ("2026-11-03", "-", 0, 0, 0),
    ]
    assert [(one.title, one.answers(), one.bytes, one.refused) for one in found.runs] == [
        ("tiny abc (Flower run 5)", "train 2, evaluate 1", 1501, 0),
        ("tiny abc (Flower run 6)", "-", 0, 2),
    ]
    assert found.told == ["2 x, last 2026-11-02 00:04: no", "1 x, last 2026-11-02 00:05: could not (row 7)"]


def test_bytes_in_words() -> None:
    found = [in_bytes(n) for n in (0, 999, 1000, 1_234_567, 5_600_000_000)]
    assert found == ["0 B", "999 B", "1.0 kB", "1.2 MB", "5.6 GB"]


def test_the_commands_of_a_hospital(root: Path, tmp_path: Path) -> None:
    west, run = Hospital(root, tmp_path, "west", {"approve_runs": True}), experiment(root)
    assert "The log is empty" in fedderm("site", "log", west.file).out
    assert fedderm("site", "pending", west.file).out == "No run waits for your yes.\n"
    with pytest.raises(Refused):
        west.asked(asking(run, messages.QUERY, run_id=3))
    shown = fedderm("site", "pending", west.file).out
    digest = shown.split()[0]
    assert "tiny: 2 rounds of fedavg" in shown
    assert f"fedderm site approve {west.file} {digest}" in shown
    assert f"tiny {digest} may begin" in fedderm("site", "approve", west.file, digest[:4]).out
    assert fedderm("site", "pending", west.file).out == "No run waits for your yes.\n"
    west.asked(asking(run, messages.QUERY, run_id=3))

    told = fedderm("site", "log", west.file)
    assert told.code == 0, told.err
    assert "The log is whole: 3 lines" in told.out
    assert f"tiny {digest} (Flower run 3)" in told.out
    assert "query 1" in told.out
    assert "is waiting for approval at the hospital" in told.out
    noted = west.record.log.check().hash
    whole = fedderm("site", "log", west.file, "--verify", "--noted", noted)
    assert (whole.code, "query 1" in whole.out) == (0, False)
    assert "no line has the hash 00" in fedderm("site", "log", west.file, "--noted", "00").sentence()

    assert f"the requests are: {digest}" in fedderm("site", "approve", west.file, "zz").sentence()
    assert "is answered no more" in fedderm("site", "withdraw", west.file, digest).out
    rewritten(west.record.log, lambda found: [edited(found[0], told="nothing"), *found[1:]])
    assert (
        "sent.jsonl: line 1 is broken: it was changed"
        in fedderm("site", "log", west.file, "--verify").sentence()
    )


def test_the_policy_in_words(root: Path, tmp_path: Path) -> None:
    policy = {"answers": ["recalibrate"], "evaluations_per_day": 3, "approve_runs": True}
    away = Hospital(root, tmp_path, "away", policy, min_cell=10)
    assert fedderm("site", "policy", away.file).out.splitlines() == [
        "away is held out: it never trains.",
        "It answers recalibrate.",
        "Counts from 1 to 9 do not leave.",
        "No limit on rounds of training.",
        "At most 3 evaluations in 24 hours.",
        "What is learned here may leave without differential privacy.",
        "A person approves each run first (fedderm site pending, fedderm site approve).",
    ]
    for command in (("policy",), ("log",), ("pending",)):
        assert "cannot be read" in fedderm("site", *command, tmp_path / "absent.yaml").sentence()
