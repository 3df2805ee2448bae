"""Two models on the same lesions: what the comparison says, and when it refuses to say anything."""

import json
from pathlib import Path

import pytest
from federations import AppGrid, Notes, new_run, run_command, run_in_memory

from fedderm.paired_models import SiteComparison, compare_models
from fedderm.runs import RunFolder

Finished = tuple[RunFolder, AppGrid]


def compared(first: RunFolder, second: RunFolder) -> dict[str, SiteComparison]:
    return {one.site: one for one in compare_models(first.path, second.path, None, Notes())}


def lesion_auc(run: RunFolder, site: str) -> float | None:
    """Return the AUC that the run reports: of all lesions of a held-out site, else of its test split."""
    document = json.loads((run.path / "evaluation" / "sites.json").read_text())[site]
    performance = document["whole_site"] or document["before"]
    value = performance["lesion"]["metrics"]["auc"]["value"]
    return None if value is None else float(value)


def test_a_model_does_not_differ_from_itself(finished: Finished) -> None:
    found = compared(finished[0], finished[0])
    assert list(found) == ["away", "west", "east"]
    for name, one in found.items():
        assert one.auc[0] == one.auc[1] == pytest.approx(lesion_auc(finished[0], name), abs=1e-9)
        assert {estimate.value for estimate in one.differences.values()} == {0}
        assert (one.auc_p, one.auc_p_holm, one.decisions_p) == (None, None, None)


def test_two_models_differ_as_their_own_reports_do(finished: Finished, root: Path) -> None:
    other = new_run(root, rounds=1)
    run_in_memory(other)
    found = compared(other, finished[0])
    for name, one in found.items():
        before, after = lesion_auc(other, name), lesion_auc(finished[0], name)
        assert before is not None
        assert after is not None
        assert one.auc == pytest.approx((before, after), abs=1e-9)
        assert one.differences["auc"].value == pytest.approx(after - before, abs=1e-9)
        if one.auc_p is not None:
            assert one.auc_p_holm is not None
            assert one.auc_p <= one.auc_p_holm <= 1
    assert any(one.auc[0] != one.auc[1] for one in found.values())


def test_runs_of_another_seed_are_refused(finished: Finished, root: Path) -> None:
    """The second model may have trained on what the first is tested on."""
    other = new_run(root, seed=99)
    code, text = run_command("evaluate", finished[0].path, "--against", other.path, cwd=root)
    assert code == 2
    assert "seeds 99 and" in text
    assert "compare runs of one seed and one list of sites" in text
    assert "Traceback" not in text
