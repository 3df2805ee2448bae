"""``fedderm compare``: failed cells, baselines, leave-one-site-out, and comparisons that were killed."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import Result, fedderm
from federations import SITES, command, same, simulated, weights, write_config

from fedderm.comparison.folder import ComparisonFolder
from fedderm.comparison.kept_settings import refuse_other_settings
from fedderm.comparison.plan import cells_of
from fedderm.comparison.scores import FILE, read_scores

ARMS: dict[str, Any] = {
    "a fedavg": {},
    "b prox": {"strategy": {"name": "fedprox", "proximal_mu": 0.1}},
    "c local": {"baseline": "local"},
}
DIVERGES = {"training": {"optimizer": "sgd", "learning_rate": 1.0e30, "clip_norm": 1.0e30}}
COMMON: dict[str, Any] = {"rounds": 3, "resources": {"workers": 2}}


def section(arms: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"reference": next(iter(arms)), "seeds": [1, 2], "arms": arms, **more}


def folder_of(root: Path) -> Path:
    """Return the folder of the one comparison below ``root``; a path that does not exist without one."""
    found = list((root / "runs" / "tiny").glob("*"))
    return found[0] if len(found) == 1 else root / "none"


def cells(folder: Path) -> pd.DataFrame:
    path = folder / "cells.csv"
    return pd.read_csv(path, keep_default_na=False) if path.is_file() else pd.DataFrame({"status": []})


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, caches: Path) -> tuple[Path, Result]:
    """Three arms that work and one that diverges, two seeds, without a break."""
    root = tmp_path_factory.mktemp("unbroken")
    arms = {**ARMS, "d diverges": DIVERGES}
    config = write_config(root, work_dir=str(caches), compare=section(arms), **COMMON)
    return root, fedderm("compare", config)


@pytest.mark.slow
def test_a_cell_that_fails_is_told_and_does_not_lose_the_others(compared: tuple[Path, Result]) -> None:
    root, result = compared
    told = result.sentence()
    assert told.startswith("2 of 10 cells failed, the first of them d-diverges/1: round 1: 0 of 2 sites gave")
    assert f"try them again with: fedderm compare --resume {folder_of(root)}" in told
    table = cells(folder_of(root))
    assert list(table["cell"]) == [
        f"{name}/{seed}{site}"
        for seed in (1, 2)
        for name, site in (
            ("a-fedavg", ""), ("b-prox", ""), ("c-local", "/west"), ("c-local", "/east"), ("d-diverges", "")
        )
    ]  # fmt: skip
    failed = table["arm"] == "d diverges"
    assert set(table.loc[failed, "status"]) == {"failed"}
    assert set(table.loc[~failed, "status"]) == {"done"}
    assert table.loc[failed, "error"].str.contains("the loss is not finite").all()
    assert set(table["trained"]) == {"", "west", "east"}


@pytest.mark.slow
def test_cells_cost_what_they_say_and_baselines_have_the_federations_image_updates(
    compared: tuple[Path, Result],
) -> None:
    table = cells(folder_of(compared[0]))
    done = table[table["status"] == "done"]
    assert len(set(done["images"])) == 1, "same budget for all arms"
    assert (done["seconds"] > 0).all()
    exchanges = done["arm"] != "c local"
    assert (done.loc[exchanges, ["bytes_down", "bytes_up"]] > 0).all().all()
    assert (done.loc[~exchanges, ["bytes_down", "bytes_up"]] == 0).all().all(), "a baseline exchanges nothing"


@pytest.mark.slow
def test_each_finished_cell_has_a_line_with_its_auc(compared: tuple[Path, Result]) -> None:
    root, result = compared
    folder = ComparisonFolder.open(folder_of(root))
    done = [cell for cell in cells_of(folder.experiment) if folder.is_done(cell)]
    assert len(done) == 8
    for cell in done:
        (line,) = (one for one in result.out.splitlines() if f"] {cell.id} done in " in one)
        aucs = folder.aucs(cell)
        assert line.endswith(f": held-out AUC {aucs['held-out']:.3f}, training AUC {aucs['train']:.3f}")


@pytest.mark.slow
def test_the_page_is_written_although_cells_failed_and_report_draws_it_again(
    compared: tuple[Path, Result],
) -> None:
    root, result = compared
    page = folder_of(root) / "compare.html"
    assert f"page: {page}" in result.out
    assert "a fedavg (reference)" in result.out
    before = page.read_text()
    assert "d-diverges/1" in before
    page.unlink()
    drawn = fedderm("report", folder_of(root))
    assert (drawn.code, drawn.out.strip()) == (0, str(page))
    assert page.read_text() == before


@pytest.mark.slow
def test_one_audit_serves_all_cells_and_no_cell_draws_a_report(compared: tuple[Path, Result]) -> None:
    folder = folder_of(compared[0])
    audit = (folder / "audit.json").read_text()
    assert (folder / "cells" / "c-local" / "2" / "east" / "audit.json").read_text() == audit
    assert not list(folder.rglob("report.html"))
    drawn = fedderm("report", folder / "cells" / "c-local" / "1" / "east")
    assert drawn.code == 0, drawn.err
    page = (folder / "cells" / "c-local" / "1" / "east" / "report.html").read_text()
    assert "The local baseline: east alone trained a model in 3 rounds" in page


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that a test started; whatever is left of their groups is killed."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    try:
        return [
            int(one) for one in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ]
    except OSError:
        return []


def gone(pids: list[int]) -> bool:
    """Return whether the processes have ended, a zombie that nobody waits for included."""
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                return False
        except OSError:
            continue
    return True


def until(process: "subprocess.Popen[str]", happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not happened():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"it did not come so far: {process.communicate()[0]}")
        time.sleep(0.02)


def finished(folder: Path) -> int:
    return int((cells(folder)["status"] == "done").sum())


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def working(folder: Path, since: float) -> bool:
    """Return whether a worker is in the middle of a cell: it has finished a round since, not the cell."""
    states = [one for one in (folder / "cells").glob("**/rounds/state.json") if one.stat().st_mtime > since]
    return any('"finished": false' in _text(one) for one in states)


@pytest.mark.slow
def test_a_comparison_that_was_stopped_and_killed_equals_one_that_was_not(
    tmp_path: Path,
    caches: Path,
    compared: tuple[Path, Result],
    started: list[subprocess.Popen[str]],
) -> None:
    """Ctrl-C; SIGKILL of the parent; SIGKILL of all workers at work; each time in the middle of cells."""
    config = write_config(tmp_path, work_dir=str(caches), compare=section(ARMS), **COMMON)

    def begin(*arguments: str | Path) -> "subprocess.Popen[str]":
        process = command("compare", *arguments, cwd=tmp_path)
        started.append(process)
        return process

    process = begin(config)
    until(process, lambda: finished(folder_of(tmp_path)) >= 1)
    workers = workers_of(process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    folder = folder_of(tmp_path)
    assert process.returncode == 130, output
    assert "finished cells are kept" in output
    assert f"go on with: fedderm compare --resume {folder}" in output
    assert "Traceback" not in output
    assert gone(workers)

    kept = finished(folder)
    process = begin("--resume", folder)
    until(process, lambda: finished(folder) > kept)
    workers = workers_of(process)
    assert workers
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while not gone(workers):
        assert time.monotonic() < end, "workers notice that their parent is gone"
        time.sleep(0.05)

    kept = finished(folder)
    assert kept < 8
    since = time.time()
    process = begin("--resume", folder)
    until(process, lambda: working(folder, since))
    for worker in workers_of(process):
        os.kill(worker, signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output
    table = cells(folder)
    failed = table[table["status"] == "failed"]
    assert 1 <= len(failed) <= 2
    assert failed["error"].str.contains("its worker process was ended by SIGKILL").all()
    assert finished(folder) == 8 - len(failed), "the others went on with other workers"

    done = fedderm("compare", "--resume", folder)
    assert done.code == 0, done.err
    assert f"8 cells; {8 - len(failed)} are finished and kept" in done.out
    assert set(cells(folder)["status"]) == {"done"}
    unbroken = folder_of(compared[0])
    for cell in cells(folder)["cell"]:
        one, other = folder / "cells" / cell, unbroken / "cells" / cell
        assert same(weights(one), weights(other)), cell
        assert (one / "evaluation" / "metrics.csv").read_bytes() == (
            other / "evaluation" / "metrics.csv"
        ).read_bytes()
        first, second = read_scores(one / FILE), read_scores(other / FILE)
        assert all(np.array_equal(first[key].triage, second[key].triage) for key in second)


@pytest.mark.slow
def test_leave_one_site_out_trains_without_each_site_and_tests_it_on_all_its_lesions(
    tmp_path: Path, caches: Path
) -> None:
    arms = {"fedavg": {}, "pooled": {"baseline": "pooled"}}
    config = write_config(
        tmp_path,
        work_dir=str(caches),
        compare=section(arms, protocol="leave_one_site_out", seeds=[1]),
        rounds=1,
    )
    result = fedderm("compare", config)
    assert result.code == 0, result.err
    folder = ComparisonFolder.open(folder_of(tmp_path))
    assert set(folder.run.read_json("audit.json")["folds"]) == {"west", "east", "away"}
    for cell in cells_of(folder.experiment):
        state = folder.run.read_json(f"cells/{cell.id}/rounds/state.json")
        trained = set(state["history"][0]["sites"])
        assert trained == (
            {"(pooled)"} if cell.arm == "pooled" else {"west", "east", "away"} - {cell.held_out}
        )
        scores = read_scores(folder.cell_path(cell) / FILE)
        audited = folder.run.read_json(f"cells/{cell.id}/audit.json")["sites"]
        lesions = {name: len(scores[name, "global"]) for name in audited}
        assert lesions[cell.held_out] == audited[cell.held_out]["lesions"], "all lesions of the held-out site"
        assert all(
            lesions[name] == audited[name]["splits"]["test"]["lesions"]
            for name in audited
            if name != cell.held_out
        )
    assert list(cells(folder.path)["held_out"]) == ["west", "west", "east", "east", "away", "away"]


def test_a_site_that_cannot_train_is_refused_with_what_to_do_before_a_cell_is_run(
    tmp_path: Path, caches: Path
) -> None:
    benign = simulated("benign", role="held-out", case_mix={"prevalence": 0.0})
    loso = section({"fedavg": {}}, protocol="leave_one_site_out", seeds=[1])
    config = write_config(tmp_path, [*SITES, benign], work_dir=str(caches), compare=loso)
    told = fedderm("compare", config).sentence()
    assert "leave_one_site_out trains each site while others are held out, but site 'benign': all" in told
    assert "give it role: held-out and name the other sites in compare.leave_out" in told
    assert not folder_of(tmp_path).exists(), "there is nothing to go on with"


def test_what_cannot_be_resumed_is_said(tmp_path: Path) -> None:
    told = fedderm("compare", "--resume", tmp_path).sentence()
    assert f"{tmp_path}: is no comparison's folder (it has no cells.csv); give the folder that" in told
    missing = fedderm("compare", "--resume", tmp_path / "nothere").sentence()
    assert f"{tmp_path / 'nothere'}: does not exist" in missing
    for name in ("20261125-232707", "20261126-010203"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cells.csv").touch()
    told = fedderm("compare", "--resume", tmp_path).sentence()
    assert f"the newest one in it is {tmp_path / '20261126-010203'}" in told
    (tmp_path / "rounds").mkdir()
    assert (
        f"it is a run's: fedderm run --resume {tmp_path}"
        in fedderm("compare", "--resume", tmp_path).sentence()
    )
    assert "leave out the config and --set" in fedderm("compare", "c.yaml", "--resume", tmp_path).sentence()
    assert "give a config with a section compare" in fedderm("compare").sentence()


def test_a_cell_of_other_settings_is_refused_and_where_things_lie_may_change(tmp_path: Path) -> None:
    from fedderm import config

    arms = {"a": {}, "b": {"strategy": {"name": "fedprox", "proximal_mu": 0.1}}}
    folder = ComparisonFolder.create(config.load(write_config(tmp_path, compare=section(arms), rounds=2)))
    for cell in cells_of(folder.experiment):
        folder.prepare_cell(cell, {})
        refuse_other_settings(folder.cell_path(cell), cell.id, cell.experiment)
    moved = folder.experiment.model_copy(update={"work_dir": tmp_path / "elsewhere"})
    for cell in cells_of(moved):
        refuse_other_settings(folder.cell_path(cell), cell.id, cell.experiment)
    text = (folder.path / "config.yaml").read_text()
    (folder.path / "config.yaml").write_text(text.replace("rounds: 2", "rounds: 9"))
    told = fedderm("compare", "--resume", folder.path).sentence()
    assert "cells/a/1 was run with other settings (rounds: 2, now 9); remove it, or restore" in told


def test_an_override_is_named_where_it_is_at_fault(tmp_path: Path) -> None:
    path = write_config(tmp_path, compare=section({"a": {}}))
    result = fedderm("compare", path, "--set", "compare.reference=x")
    assert f"{path} --set compare.reference=x: compare.reference: there is no arm x" in result.sentence()
    assert "checking 1 arm with 2 seeds" in result.out + result.err


def test_two_processes_cannot_go_on_with_one_comparison(tmp_path: Path) -> None:
    from fedderm import config

    path = write_config(tmp_path, compare=section({"fedavg": {}}))
    folder = ComparisonFolder.create(config.load(path))
    with folder.alone():
        told = fedderm("compare", "--resume", folder.path).sentence()
    assert "another fedderm is at work on this comparison" in told
