"""F1 by diagnosis, its intervals, pools of sites, and what a small cell hides."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from fedderm.evaluation.diagnosis import (
    Named,
    confusion_of,
    draw_rows,
    evaluate_diagnoses,
    lesion_shares,
    merged,
    pool_performance,
)
from fedderm.evaluation.head_documents import DiagnosisEvaluation

NAMES = ("MEL", "NV", "BCC", "DF")
SEED = np.random.SeedSequence(3)


def split(seed: int = 0, lesions: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (N, 4), labels and lesion ids of lesions with one to three images; nobody has DF, some none."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(lesions), rng.integers(1, 4, lesions))
    truth = rng.choice([-1, 0, 1, 2], lesions, p=[0.1, 0.2, 0.5, 0.2])
    logits = rng.normal(size=(len(of), 4)) + 1.5 * np.eye(5)[truth[of]][:, :4]
    return logits, truth[of], np.char.add(f"s{seed}_", of.astype(str))


def evaluated(seed: int = 0, min_cell: int = 0, resamples: int = 300) -> DiagnosisEvaluation:
    return evaluate_diagnoses({"test": split(seed)}, NAMES, resamples, SEED.spawn(1)[0], min_cell)


def test_numbers_are_scikit_learns_on_the_same_lesions() -> None:
    logits, labels, lesions = split()
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = [one for one in np.unique(lesions) if labels[lesions == one][0] >= 0]
    truth = [labels[lesions == one][0] for one in ids]
    told = [shares[lesions == one].mean(axis=0).argmax() for one in ids]
    found = evaluated().splits["test"]["lesion"]
    np.testing.assert_array_equal(found.confusion, confusion_matrix(truth, told, labels=range(4)))
    by_class = f1_score(truth, told, labels=[0, 1, 2], average=None)
    assert [found.f1[name].value for name in NAMES[:3]] == pytest.approx(by_class)
    assert found.f1["DF"].value is None
    # Of the classes that are there: DF, which some lesions are taken for, is none.
    assert found.macro_f1.value == pytest.approx(by_class.mean())
    assert found.accuracy.value == pytest.approx(accuracy_score(truth, told))
    image = evaluated().splits["test"]["image"]
    known = labels >= 0
    expected = accuracy_score(labels[known], logits[known].argmax(axis=1))
    assert (image.n, image.accuracy.value) == (known.sum(), pytest.approx(expected))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # The same model on 60 draws of sites; the truth is what it does on many lesions.
    truth = evaluate_diagnoses({"test": split(999, 30000)}, NAMES, 0, SEED).splits["test"]["lesion"]
    hits = []
    for seed in range(60):
        one = evaluated(seed).splits["test"]["lesion"].macro_f1
        hits.append(one.lower <= truth.macro_f1.value <= one.upper)
    assert sum(hits) >= 50  # of 60 at 95 %, fewer than 50 has a chance of 0.1 %


def test_sites_add_up_and_the_pools_interval_is_that_of_its_lesions() -> None:
    parts = [evaluated(seed).splits["test"]["lesion"] for seed in (1, 2)]
    pooled = pool_performance(parts, NAMES, 4000, SEED)
    both = [np.concatenate(one) for one in zip(split(1), split(2), strict=True)]
    joined = evaluate_diagnoses({"test": tuple(both)}, NAMES, 4000, SEED).splits["test"]["lesion"]
    assert pooled.confusion == joined.confusion
    assert pooled.macro_f1.value == joined.macro_f1.value
    assert pooled.macro_f1.lower == pytest.approx(joined.macro_f1.lower, abs=0.006)
    assert pooled.macro_f1.upper == pytest.approx(joined.macro_f1.upper, abs=0.006)


def test_drawn_rows_keep_each_diagnosis_total_and_its_mean() -> None:
    matrix = np.array([[8, 2], [0, 0]])
    drawn = draw_rows(matrix, 4000, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn.sum(axis=2), np.tile([10.0, 0.0], (4000, 1)))
    assert drawn[:, 0, 1].mean() == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("min_cell", [2, 5, 10, 20])
def test_no_small_cell_leaves_and_what_is_hidden_counts_against_the_model(min_cell: int) -> None:
    for seed in range(20):
        plain, hidden = evaluated(seed, 0, 0), evaluated(seed, min_cell, 0)
        for unit in ("image", "lesion"):
            before = np.array(plain.splits["test"][unit].confusion)
            after = np.array(hidden.splits["test"][unit].confusion)
            assert not ((after > 0) & (after < min_cell)).any()
            kept = after.sum(axis=1) > 0
            np.testing.assert_array_equal(after.sum(axis=1)[kept], before.sum(axis=1)[kept])
            assert (np.diag(after) <= np.diag(before)).all()
            assert hidden.splits["test"][unit].n == after.sum()


def test_cells_are_merged_as_written() -> None:
    truth = np.repeat([0, 1, 2], [16, 12, 13])
    told = np.repeat([0, 1, 2, 1, 0, 2, 0], [10, 4, 2, 12, 0, 4, 9])
    named = Named(truth, told, np.arange(41).astype(str))
    found = confusion_of(merged(named, 3, 5), 3)
    # 4 and 2 wrong together are 6; all right stay; 4 right of the third are too few to be told.
    np.testing.assert_array_equal(found, [[10, 6, 0], [0, 12, 0], [13, 0, 0]])
    few = Named(np.zeros(12, int), np.repeat([0, 1], [11, 1]), np.arange(12).astype(str))
    np.testing.assert_array_equal(confusion_of(merged(few, 2, 5), 2), [[7, 5], [0, 0]])


def test_a_lesion_is_the_mean_of_its_images_probabilities_not_of_their_logits() -> None:
    logits = np.array([[10.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 1.0, 0, 0]])
    found = lesion_shares(logits, np.array([1, 1, 1]), np.array(["a", "a", "a"])).named()
    # P(0): 0.9999, 0.175, 0.175 make 0.45; P(1): 0, 0.475, 0.475 make 0.32.
    assert found.told.tolist() == [0]
    assert found.truth.tolist() == [1]


def test_an_empty_split_and_one_without_labels_say_nothing() -> None:
    logits, labels, lesions = split()
    given = {"test": (logits, np.full_like(labels, -1), lesions)}
    found = evaluate_diagnoses(given, NAMES, 100, SEED).splits["test"]["lesion"]
    assert found.n == 0
    assert found.macro_f1.value is None


def test_a_matrix_of_another_shape_is_no_document() -> None:
    document = evaluated().model_dump()
    document["names"] = ["MEL"]
    with pytest.raises(ValueError, match="another shape"):
        DiagnosisEvaluation.model_validate(document)
