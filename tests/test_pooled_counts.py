"""What a finished federation says of its pools: scikit-learn's numbers on the same scores; full tables."""

import json

import numpy as np
import pandas as pd
import pytest
from federations import AppGrid, local, state, weights
from sklearn.metrics import confusion_matrix, roc_auc_score

from fedderm.evaluation.counts import Counts, counts_of
from fedderm.evaluation.documents import FederationEvaluation, OperatingPoint
from fedderm.evaluation.recalibration import federation_point
from fedderm.runs import RunFolder
from fedderm.worker_models import worker_model

WEST, EAST, AWAY = range(3)


def test_pooled_values_are_scikit_learns_on_the_concatenated_scores(
    finished: tuple[RunFolder, AppGrid],
) -> None:
    """The server never saw a score: it summed histograms. The test scores all images itself."""
    folder, _ = finished
    experiment = folder.experiment
    document = FederationEvaluation.model_validate_json(
        (folder.path / "evaluation" / "federation.json").read_text()
    )
    model = worker_model(experiment, weights(folder.path))
    for role, positions in (("train", (WEST, EAST)), ("held-out", (AWAY,))):
        scores = [local(folder, position).score(model, "test", 1, "auto").scores for position in positions]
        triage = np.concatenate([one.triage for one in scores])
        malignant = np.concatenate([one.truth for one in scores]) > 0
        bound = sum((counts_of(one) for one in scores), Counts.zero()).auc_error_bound("image")
        performance = document.pooled[role]["image"]
        assert performance.n == len(triage)
        assert performance.positives == malignant.sum()
        assert bound is not None
        assert performance.metrics["auc"].value == pytest.approx(
            roc_auc_score(malignant, triage), abs=bound + 1e-12
        )
        called = triage >= document.operating_point.threshold
        (tn, fp), (fn, tp) = confusion_matrix(malignant, called, labels=[False, True])
        assert performance.metrics["sensitivity"].value == pytest.approx(tp / (tp + fn), abs=1e-12)
        assert performance.metrics["specificity"].value == pytest.approx(tn / (tn + fp), abs=1e-12)


def test_the_federations_point_is_set_on_the_training_sites_calibration_splits_alone(
    finished: tuple[RunFolder, AppGrid],
) -> None:
    """Counts made here, from scores made here, give the point that the server found from the sites' sums."""
    folder, _ = finished
    settings = folder.experiment.evaluation
    model = worker_model(folder.experiment, weights(folder.path))

    def point(*positions: int) -> OperatingPoint:
        seen = [local(folder, one).score(model, "calibration", 1, "auto") for one in positions]
        parts = [counts_of(one.scores) for one in seen]
        total = sum(parts, Counts.zero())
        return federation_point(
            total, settings.target_sensitivity, settings.confidence, folder.experiment.seed
        )[0]

    found = json.loads((folder.path / "evaluation" / "federation.json").read_text())["operating_point"]
    assert found == point(WEST, EAST).model_dump(mode="json")
    assert found != point(WEST, EAST, AWAY).model_dump(mode="json"), "the held-out site would have moved it"


def test_long_tables_are_complete_and_each_round_stands_once(finished: tuple[RunFolder, AppGrid]) -> None:
    folder, _ = finished
    columns = "site,role,split,round,unit,metric,value,lower,upper,n,positives"
    final = pd.read_csv(folder.path / "evaluation" / "metrics.csv")
    rounds = pd.read_csv(folder.path / "rounds" / "metrics.csv")
    assert ",".join(final.columns) == ",".join(rounds.columns) == columns
    needed = {"auc", "sensitivity", "specificity", "balanced_accuracy", "macro_f1", "ece", "brier"}
    for table, numbers in ((rounds, {1, 2}), (final, {2})):
        assert set(table["round"]) == numbers
        key = ["site", "role", "split", "round", "unit", "metric"]
        tests = table[table["split"] == "test"]
        assert not tests.duplicated(key).any()
        for number in numbers:
            for site, role in (
                ("west", "train"),
                ("east", "train"),
                ("away", "held-out"),
                ("(pooled)", "train"),
            ):
                for unit in ("image", "lesion"):
                    rows = tests[
                        (tests["round"] == number)
                        & (tests["site"] == site)
                        & (tests["role"] == role)
                        & (tests["unit"] == unit)
                    ]
                    assert needed <= set(rows["metric"]), (site, unit, number)
                    assert rows["n"].gt(0).all()
    # The pool's come from coarse bins, and a net of two tiny rounds may have all its scores within one.
    auc = final[(final["metric"] == "auc") & (final["split"] == "test") & (final["site"] != "(pooled)")]
    assert auc["lower"].notna().all(), "intervals for the final model"


def test_all_messages_are_counted_not_only_those_that_train(finished: tuple[RunFolder, AppGrid]) -> None:
    """Each of two rounds sends the model to two sites to train and to three to evaluate."""
    said = state(finished[0])
    trained = sum(entry["bytes_down"] for entry in said["history"])
    assert said["traffic"]["down"] > 2 * trained
    assert said["traffic"]["up"] > sum(entry["bytes_up"] for entry in said["history"])
