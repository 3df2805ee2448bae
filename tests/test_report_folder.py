"""A run folder that lacks something: what cannot be reported is named, the rest is."""

import json
import re
import shutil
from pathlib import Path

import pytest
from html_tags import Tags
from report_runs import ROUNDS, write_run

from fedderm.report import build_report, summary_sentences


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run's folder; tests must not change it."""
    return write_run(tmp_path_factory.mktemp("finished") / "20261121-050854", told=True)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of a finished run's folder that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("report.html")))


def test_unfinished_run_has_no_report_and_says_how_to_resume(run: Path) -> None:
    state = json.loads((run / "rounds" / "state.json").read_text())
    state |= {"round": 3, "finished": False}
    (run / "rounds" / "state.json").write_text(json.dumps(state))
    with pytest.raises(
        ValueError, match=rf"3 of {ROUNDS} rounds have ended; go on with `fedderm run --resume "
    ):
        build_report(run)
    state |= {"round": ROUNDS}
    (run / "rounds" / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="the final evaluation has not ended"):
        summary_sentences(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    "part", ["rounds/metrics.csv", "evaluation/sites.json", "evaluation/federation.json"]
)
def test_missing_part_is_named_and_nothing_is_written(run: Path, part: str) -> None:
    (run / part).unlink()
    with pytest.raises(ValueError, match=f"is incomplete: .*{re.escape(part)} is missing"):
        build_report(run)
    assert not (run / "report.html").exists()


def test_run_without_a_round_is_unfinished(run: Path) -> None:
    (run / "rounds" / "state.json").unlink()
    with pytest.raises(ValueError, match=r"no round has ended .* go on with `fedderm run --resume "):
        build_report(run)
    assert not (run / "report.html").exists()


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a run's folder: it holds no config\.yaml"):
        build_report(tmp_path)


def test_damaged_document_is_named_with_its_field(run: Path) -> None:
    path = run / "evaluation" / "sites.json"
    documents = json.loads(path.read_text())
    documents["UDA1"]["certificate"]["needed"] = "many"
    path.write_text(json.dumps(documents))
    with pytest.raises(ValueError, match=r"sites\.json cannot be read \(UDA1\.certificate\.needed"):
        build_report(run)
    path.write_text('{"UDA1": ')
    with pytest.raises(ValueError, match="not JSON"):
        build_report(run)


def test_run_without_environment_audit_or_rounds_still_reports(run: Path) -> None:
    (run / "environment.json").unlink()
    (run / "audit.json").unlink()
    header = (run / "rounds" / "metrics.csv").read_text().splitlines()[0]
    (run / "rounds" / "metrics.csv").write_text(f"{header}\n")
    state = {"round": 6, "rounds": 6, "finished": True}
    (run / "rounds" / "state.json").write_text(json.dumps(state))
    text = Tags(build_report(run).read_text(encoding="utf-8")).text
    assert "No round recorded an AUC or a loss." in text
    assert "nothing shows that its splits and sites were disjoint" in text
