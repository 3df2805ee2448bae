"""The command line: quick help, plain lines in a log, bars and a readable table on a terminal, exit codes."""

import errno
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Result, fedderm, process
from rich.console import Console as RichConsole

from fedderm.cli.console import Console
from fedderm.cli.errors import exit_code_of
from fedderm.cli.run_table import WIDE, run_table
from fedderm.report import SiteRow
from strategies.errors import Interrupted
from strategies.exchange import Event, Member

HEAVY = (
    "torch",
    "flwr",
    "ray",
    "pandas",
    "numpy",
    "timm",
    "sklearn",
    "scipy",
    "matplotlib",
    "PIL",
    "pydantic",
)

TINY = """\
name: tiny
rounds: 2
model: {backbone: test_resnet, pretrained: none, image_size: 32}
training: {batch_size: 16}
evaluation: {bootstrap: 20, views: 1}
resources: {workers: 1}
sites:
  - {name: north, source: simulated, lesions: 24, images_per_lesion: 1, render_size: 64}
  - {name: south, source: simulated, lesions: 20, images_per_lesion: 1, render_size: 64, role: held-out}
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["compare", "--help"],
        ["predict", "--help"],
        ["sites", "--help"],
        ["sites", "doctor", "--help"],
    ],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    after = f"import atexit, sys; atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules]))"
    found = process(*arguments, cwd=tmp_path, before=after)
    assert found.code == 0, found.err
    assert "Usage: " in found.out
    assert found.out.strip().splitlines()[-1] == "[]"


def test_help_names_every_command_and_option() -> None:
    told = fedderm("--help").out
    for command in ("run", "compare", "report", "predict", "sites"):
        assert re.search(rf"^ +{command} ", told, re.MULTILINE)
    for option in ("--data-root", "--set", "--resume"):
        assert option in fedderm("run", "--help").out
    assert "[required]" in fedderm("predict", "--help").out
    assert "\\" not in fedderm("predict", "--help").out + fedderm("report", "--help").out
    for command in ("list", "audit", "doctor"):
        assert re.search(rf"^ +{command} ", fedderm("sites", "--help").out, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments", [["rnu"], ["run", "--sett", "a=b"], ["predict"], ["sites", "lst"]], ids=" ".join
)
def test_a_misspelt_command_is_a_usage_error(arguments: list[str]) -> None:
    found = fedderm(*arguments)
    assert found.code == 2
    assert "Usage: " in found.err
    assert "Traceback" not in found.err


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ValueError("two\n  lines"), 2, "fedderm: two lines\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            2,
            "fedderm: the disk is full (/x/y); free some",
        ),
        (OSError(errno.EFBIG, "File too large"), 2, "fedderm: the disk is full; free some space"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            2,
            "fedderm: /x: permission denied; change its",
        ),
        (OSError("no number"), 2, "fedderm: no number\n"),
        (Interrupted("go on with: x"), 130, "fedderm: go on with: x\n"),
        (KeyboardInterrupt(), 130, "fedderm: interrupted\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(
    error: BaseException,
    code: int,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FEDDERM_DEBUG", raising=False)
    assert exit_code_of(error) == code
    printed = capsys.readouterr().err
    assert printed.startswith(told)
    assert printed.count("\n") == 1


def test_a_fault_of_ours_shows_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(KeyError("x")) == 1
    assert capsys.readouterr().err.startswith(
        "KeyError: 'x'\nfedderm: this is a fault of fedderm's, not yours"
    )


ROWS = [
    SiteRow(
        "vienna_dias", "held-out", "3,330 (459)", "0.784 [0.72–0.85]", "100 → 100", "100 → 100", "certified"
    ),
    SiteRow("screening_bus", "held-out", "80 (12)", "0.837 [0.74–0.93]", "– → –", "55 → 55", "15 of 29"),
    SiteRow("a_rather_long_name_of_a_clinic", "train", "90 (0)", "–", "67 → 67", "29 → 29", "under 29"),
]


def drawn(width: int) -> list[str]:
    out = io.StringIO()
    RichConsole(file=out, width=width, highlight=False).print(run_table(ROWS, width))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, WIDE - 1, WIDE, 120, 10_000])
def test_the_table_keeps_every_number_whole_and_within_the_width(width: int) -> None:
    lines = drawn(width)
    assert max(map(len, lines)) <= width
    for row in ROWS[:2]:
        line = next(one for one in lines if one.startswith(row.site))
        for cell in (row.lesions, row.auc, row.sensitivity, row.specificity, row.certificate):
            assert cell in line
    told = " ".join(lines)
    assert told.count("held-out") == (2 if width >= WIDE else 1)
    for heading in ("lesions", "(malignant)", "found, %", "spared, %", "guarantee"):
        assert heading in told
    start = next(i for i, line in enumerate(lines) if line.startswith("a_rather"))
    assert "".join(line.split()[0] for line in lines[start:] if line.strip()) == ROWS[2].site, (
        "folded, not cut"
    )


def arrived(name: str) -> Event:
    return Event("arrived", Member(1, name, 10), 0.1)


def test_progress_in_a_log_is_one_line_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        for done in range(1, 101):
            console.progress("north: decode images", done, 100)
        for number in (1, 2):
            console.stage(f"round {number}/2: train", ["north", "south"])
            console.site(arrived("south"))
            console.site(arrived("north"))
            console.round_done(number, 2, [])
        console.warn("site south: [red] its reply was refused")
    printed = capsys.readouterr().out
    assert printed.splitlines() == [
        "north: decode images (100)",
        "round 1/2: train at north, south",
        "round 1/2 done",
        "round 2/2: train at north, south",
        "round 2/2 done",
        "warning: site south: [red] its reply was refused",
    ]
    assert "\x1b" not in printed


SHOW = """
import time
from fedderm.cli.console import Console
from strategies.exchange import Event, Member
with Console() as console:
    console.stage("round 1/2: train", ["north", "south", "east", "west", "far", "away"])
    time.sleep(0.3)
    for name in ("south", "north", "east", "west"):
        console.site(Event("arrived", Member(1, name, 10), 0.1))
    time.sleep(0.3)
    console.say("round 1/2 done")
    console.show("/" + "x" * 150)
"""


def on_a_terminal(code: str, width: int, cwd: Path) -> str:
    """Return what a terminal of ``width`` columns was sent."""
    inner = f"stty cols {width} rows 24; {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    root = str(Path(__file__).resolve().parents[1])
    command = ["script", "-qec", inner, "/dev/null"]
    environment = {"PATH": "/usr/bin:/bin", "TERM": "xterm-256color", "PYTHONPATH": root, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout


def test_progress_on_a_terminal_shows_a_bar_and_who_is_waited_for(tmp_path: Path) -> None:
    if not Path("/usr/bin/script").exists():
        pytest.skip("needs script, which gives a command a terminal")
    sent = on_a_terminal(SHOW, 80, tmp_path)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent)
    frames = [line for line in re.split(r"[\r\n]+", plain) if "round 1/2: train" in line]
    assert any("0/6" in line and "waiting for north, south" in line for line in frames)
    assert any("4/6" in line and "waiting for far, away" in line for line in frames)
    assert max(map(len, frames)) <= 80
    assert "\x1b[?25h" in sent, "the cursor is back"
    assert "/" + "x" * 150 in plain.replace("\r\n", ""), "a path is never broken by spaces"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Run a whole experiment from the command line; return its folder and what was printed."""
    root = tmp_path_factory.mktemp("cli")
    (root / "tiny.yaml").write_text(TINY)
    done = process("run", "tiny.yaml", "--set", "training.learning_rate=0.001", cwd=root)
    assert done.code == 0, done.err + done.out
    return next((root / "runs" / "tiny").iterdir()), done


@pytest.mark.slow
def test_a_run_prints_its_stages_a_table_and_where_the_report_lies(finished: tuple[Path, Result]) -> None:
    run, done = finished
    lines = done.out.splitlines()
    assert lines[0] == f"run folder: {run}"
    assert lines[-1] == f"report: {run / 'report.html'}"
    for stage in ("north: render lesions (24)", "south: decode images (20)", "round 2/2: train at north"):
        assert lines.count(stage) == 1
    assert not [line for line in lines if "train at" in line and "south" in line], "held out"
    assert sum(line.startswith("round ") and " done" in line for line in lines) == 2
    assert [line.split()[:2] for line in lines if re.match(r"(north|south) +(train|held-out) ", line)] == [
        ["south", "held-out"],
        ["north", "train"],
    ]
    assert "\x1b" not in done.out
    assert done.err == ""


@pytest.mark.slow
def test_a_run_leaves_what_the_documentation_says(finished: tuple[Path, Result]) -> None:
    run, _ = finished
    documented = (Path(__file__).resolve().parents[1] / "docs" / "running.md").read_text(encoding="utf-8")
    for path in (one.relative_to(run) for one in run.rglob("*") if one.is_file()):
        named = re.sub(r"\d{4}\.safetensors", "0002.safetensors", path.name)
        named = re.sub(r"\.\d{6}\.fedderm", ".000002.fedderm", named)
        named = "<site>.jpg" if path.parent.name == "gallery" else named
        assert named in documented, path
    assert json.loads((run / "rounds" / "state.json").read_text())["finished"] is True
    assert "learning_rate: 0.001" in (run / "config.yaml").read_text()


@pytest.mark.slow
def test_a_finished_run_can_be_drawn_resumed_and_used(finished: tuple[Path, Result]) -> None:
    run, done = finished
    (run / "report.html").unlink()
    drawn_again = fedderm("report", run)
    assert (drawn_again.code, drawn_again.out.strip()) == (0, str(run / "report.html"))
    resumed = fedderm("run", "--resume", run)
    assert resumed.code == 0, resumed.err
    assert "this run is finished; its report is drawn again" in resumed.out
    table = done.out[done.out.index("\nsite ") :]
    assert resumed.out.endswith(table), "the same table and summary"
    image = next(run.parents[2].rglob("simulated/*/images/*.jpg"))
    used = fedderm("predict", run, image, "--site", "south", "--json")
    assert used.code == 0, used.err
    assert 0 <= json.loads(used.out)["probability"] <= 1
