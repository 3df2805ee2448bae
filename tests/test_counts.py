"""Scores and their histograms: validation, additivity, bin edges, minimum cells."""

import numpy as np
import pytest

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.evaluation.counts import (
    BIN_CENTRES,
    BIN_EDGES,
    BINS,
    EVERYTHING,
    SHAPE,
    UNITS,
    Counts,
    bin_of,
    counts_of,
    lower_edge,
    snap_down,
)
from fedderm.evaluation.curves import auc_of_counts
from fedderm.evaluation.disclosure import (
    CEILING,
    FLOOR,
    folded,
    merge_map,
    suppress,
    suppress_rows,
    told,
    understood,
)
from fedderm.evaluation.documents import Unit
from fedderm.evaluation.recalibration import federation_point
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.thresholds import federation_threshold


def draw(lesions: int, images: int, seed: int, site: str = "a") -> Scores:
    """A site whose lesions differ in size and whose images of one lesion are alike."""
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(lesions) < 0.4, rng.integers(1, 4, lesions), 0)
    owner = np.concatenate([np.arange(lesions), rng.integers(0, lesions, images - lesions)])
    logits = (
        np.where(truth > 0, 1.0, -1.0)[owner] + rng.normal(0, 1, lesions)[owner] + rng.normal(0, 0.4, images)
    )
    ids = np.char.add(f"{site}-", owner.astype(str))
    return Scores(logits, rng.integers(1, 4, images), truth[owner], ids)


def test_nan_logits_are_refused_with_their_number() -> None:
    with pytest.raises(ValueError, match=r"2 of 3 triage logits are NaN or infinite"):
        Scores(np.array([0.0, np.nan, np.inf]), np.ones(3, int), np.zeros(3, int), np.array(["a", "b", "c"]))


@pytest.mark.parametrize(
    ("differential", "truth", "said"),
    [
        ([0], [1], "1 of 1 values of differential"),
        ([1], [4], "1 of 1 values of truth"),
        ([1], [0.5], "integers"),
    ],
)
def test_impossible_classes_are_refused(differential: list[int], truth: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Scores(np.zeros(1), np.array(differential), np.array(truth), np.array(["a"]))


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape"):
        Scores(np.zeros(2), np.ones(2, int), np.zeros(3, int), np.array(["a", "b"]))


def test_a_lesion_has_the_mean_logit_and_the_differential_of_its_most_suspicious_image() -> None:
    scores = Scores(
        np.array([1.0, 5.0, -2.0, 0.0]),
        np.array([1, 3, 2, 2]),
        np.array([1, 1, 0, 0]),
        np.array(["x", "x", "y", "w"]),
    )
    lesions = scores.per_lesion()
    assert lesions.lesion.tolist() == ["w", "x", "y"]
    assert lesions.triage.tolist() == [0.0, 3.0, -2.0]
    assert lesions.differential.tolist() == [2, 3, 2]
    assert lesions.truth.tolist() == [0, 1, 0]


def test_lesions_do_not_depend_on_the_order_of_images() -> None:
    scores = draw(60, 200, 1)
    shuffled = scores.take(np.random.default_rng(2).permutation(len(scores))).per_lesion()
    for name in ("triage", "differential", "truth", "lesion"):
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(scores.per_lesion(), name))


def test_a_lesion_of_two_classes_is_refused_by_name() -> None:
    scores = Scores(np.zeros(2), np.ones(2, int), np.array([0, 1]), np.array(["HAM_7", "HAM_7"]))
    with pytest.raises(ValueError, match="HAM_7"):
        scores.per_lesion()


def test_edges_ascend_and_are_exact_in_single_precision() -> None:
    assert np.all(np.diff(BIN_EDGES) > 0)
    assert np.array_equal(BIN_EDGES.astype(np.float32).astype(np.float64), BIN_EDGES)
    assert (BIN_EDGES[0], BIN_EDGES[-1], len(BIN_CENTRES)) == (-24.0, 24.0, BINS)
    assert np.array_equal(bin_of(BIN_CENTRES), np.arange(BINS))


def test_a_score_on_an_edge_belongs_to_the_bin_above_it() -> None:
    assert lower_edge(int(bin_of(0.5))) == 0.5
    assert lower_edge(int(bin_of(np.nextafter(0.5, 0)))) == 0.5 - 1 / 256


def test_snapping_never_raises_a_threshold() -> None:
    thresholds = np.random.default_rng(0).normal(0, 10, 500)
    snapped = np.array([snap_down(t) for t in thresholds])
    assert np.all(snapped <= thresholds)
    assert snap_down(-30.0) == EVERYTHING
    assert np.isfinite(EVERYTHING)
    assert [snap_down(s) for s in snapped] == snapped.tolist()


def test_counts_of_two_sites_add_up_to_the_counts_of_the_pool() -> None:
    one, two = draw(50, 90, 1, "a"), draw(30, 30, 2, "b")
    total = counts_of(one) + counts_of(two) + Counts.zero()
    np.testing.assert_array_equal(total.cells, counts_of(Scores.join(one, two)).cells)
    assert (total.n("image"), total.n("lesion")) == (120, 80)
    assert total.positives("lesion") == int(Scores.join(one, two).per_lesion().positive.sum())


def test_counts_survive_the_journey() -> None:
    counts = counts_of(draw(20, 40, 3))
    travelled = counts.to_array()
    assert travelled.dtype == np.int32
    np.testing.assert_array_equal(Counts.from_array(travelled).cells, counts.cells)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 4, 3, 5), int), "shape"),
        (np.zeros(SHAPE), "integers"),
        (np.full(SHAPE, -1), "negative"),
    ],
)
def test_foreign_arrays_are_refused(array: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Counts.from_array(array)


def test_no_scores_give_empty_counts() -> None:
    assert counts_of(Scores.empty()).cells.sum() == 0
    assert counts_of(Scores.empty()).auc_error_bound("image") is None


def test_the_bound_on_the_auc_is_half_the_tied_mass() -> None:
    # Logits 0.001 and 0.002 share a bin, 1.0 stands alone: one of the 1 x 2 pairs is undecided, 1/2 * 1/2.
    scores = Scores(
        np.array([0.001, 0.002, 1.0]), np.ones(3, int), np.array([0, 1, 1]), np.array(["a", "b", "c"])
    )
    assert counts_of(scores).auc_error_bound("image") == 0.25


@pytest.mark.parametrize("min_cell", [2, 5, 10, 25])
def test_nothing_below_the_minimum_cell_leaves(min_cell: int) -> None:
    for seed in range(4):
        cells = suppress(counts_of(draw(150, 260, seed)), min_cell).cells
        assert cells[cells > 0].min() >= min_cell


def test_suppression_keeps_the_totals_of_classes_it_shows() -> None:
    counts = counts_of(draw(300, 500, 5))
    hidden = suppress(counts, 10)
    for unit in UNITS:
        np.testing.assert_array_equal(hidden.classes(unit), counts.classes(unit))


def test_a_class_of_few_lesions_is_hidden_though_its_images_are_many() -> None:
    many = Scores(
        np.linspace(-1, 1, 40), np.ones(40, int), np.full(40, 2), np.repeat(["a", "b", "c", "d"], 10)
    )
    benign = draw(200, 200, 1)
    benign = benign.take(~benign.positive)
    shown = suppress(counts_of(Scores.join(many, benign)), 5)
    assert shown.classes("image")[2] == 0
    assert shown.classes("lesion")[0] == len(benign)


def test_merging_joins_the_rest_to_the_last_group() -> None:
    # Groups of at least 5: bins 1, 2 (3 + 2), then 4, 5 with the 1 left over at 7.
    row = np.array([0, 3, 2, 0, 4, 3, 0, 1])
    assert np.bincount(merge_map(row, 5, "lowest"), row, 8).tolist() == [0, 5, 0, 0, 8, 0, 0, 0]
    assert np.bincount(merge_map(row, 5, "highest"), row, 8).tolist() == [0, 0, 5, 0, 0, 0, 0, 8]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_hidden_counts_against_the_model_at_every_threshold(seed: int) -> None:
    counts = counts_of(draw(250, 400, seed))
    hidden = suppress(counts, 10)
    for unit in UNITS:
        for side, (shown, true) in enumerate(
            zip(hidden.histograms(unit), counts.histograms(unit), strict=True)
        ):
            below_told, below_true = np.cumsum(shown), np.cumsum(true)
            assert below_told[-1] == below_true[-1]
            # More malignant units below any edge: sensitivity reads low. Fewer benign: specificity reads low.
            assert np.all(below_told >= below_true if side else below_told <= below_true)
    assert federation_threshold(hidden, 0.9, 0.95)[0] <= federation_threshold(counts, 0.9, 0.95)[0]


@pytest.mark.parametrize("seed", range(6))
def test_a_ceiling_counts_for_the_model_and_no_cell_of_it_is_small(seed: int) -> None:
    counts = counts_of(draw(250, 400, seed))
    ceiling = suppress(counts, 10, "ceiling")
    assert ceiling.cells[ceiling.cells > 0].min() >= 10
    for unit in UNITS:
        for side, (shown, true) in enumerate(
            zip(ceiling.histograms(unit), counts.histograms(unit), strict=True)
        ):
            below_told, below_true = np.cumsum(shown), np.cumsum(true)
            assert np.all(below_told <= below_true if side else below_told >= below_true)


def test_what_is_measured_is_about_right_where_a_floor_would_be_worthless() -> None:
    """Two sites of 120 lesions, a fifth malignant, whose logits differ by 1.9 standard deviations."""
    errors, floors, slopes = [], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        sites = []
        for name in "ab":
            malignant = rng.random(120) < 0.2
            truth = np.where(malignant, rng.choice([1, 1, 1, 3], 120), 0)
            lesions = np.char.add(name, np.arange(120).astype(str))
            sites.append(
                folded(
                    Scores(rng.normal(-1 + 1.9 * malignant, 1), rng.integers(1, 4, 120), truth, lesions), 10
                )
            )
        exact = sum((counts_of(one) for one in sites), Counts.zero())
        sent = [understood(told("test", counts_of(one), 10)) for one in sites]
        measured = sum((one["test"] for one in sent), Counts.zero())
        floor = sum((one["test" + FLOOR] for one in sent), Counts.zero())
        assert measured.classes("lesion").tolist() == exact.classes("lesion").tolist()
        true, about, low = (auc_of_counts(one, "lesion") or 0 for one in (exact, measured, floor))
        errors.append(about - true)
        floors.append(low - true)
        point, _ = federation_point(measured, 0.9, 0.95, floor=floor)
        best, _ = federation_threshold(exact, 0.9, 0.95)
        assert point.threshold <= best, "certified on the floor, so never above what the scores would give"
        slopes.append(float(np.diff(CalibrationMap.of(point).logits(np.array([0.0, 1.0])))[0]))
    assert -0.08 < np.mean(errors) < 0, "units at a group's ends are few, so that an even spread reads low"
    assert np.min(errors) > -0.12
    assert np.mean(floors) < -0.35
    assert 0.9 < np.median(slopes) < 2.4


def test_a_floor_without_its_ceiling_or_with_another_sites_is_refused() -> None:
    one, other = (told("test", counts_of(draw(200, 300, seed)), 10) for seed in (1, 2))
    with pytest.raises(ValueError, match="have no ceiling"):
        understood({"test" + FLOOR: one["test" + FLOOR]})
    with pytest.raises(ValueError, match="not of the same groups"):
        understood({"test" + FLOOR: one["test" + FLOOR], "test" + CEILING: other["test" + CEILING]})


@pytest.mark.parametrize("unit", UNITS)
def test_suppressed_rows_are_the_rows_of_what_is_understood(unit: Unit) -> None:
    scores = draw(250, 400, 3)
    rows = counts_of(suppress_rows(scores, unit, 10)).of("image")
    np.testing.assert_array_equal(rows, understood(told("test", counts_of(scores), 10))["test"].of(unit))


def test_no_minimum_changes_nothing() -> None:
    counts = counts_of(draw(30, 30, 1))
    assert suppress(counts, 0) is counts


def test_a_small_malignant_class_counts_as_the_largest_one_and_stays_malignant() -> None:
    """60 MEL and 9 SCC under min_cell 10: 69 malignant, so a certificate speaks of all of them."""
    truth = np.repeat([0, 1, 2], [300, 60, 9])
    scores = Scores(np.linspace(-3, 3, 369), np.ones(369, np.int64), truth, np.arange(369).astype(str))
    shown = folded(scores, 10)
    np.testing.assert_array_equal(np.bincount(shown.truth, minlength=4), [300, 69, 0, 0])
    assert suppress(counts_of(shown), 10).positives("lesion") == 69
    assert folded(scores, 9) is scores
    few = Scores(
        np.zeros(12), np.ones(12, np.int64), np.repeat([0, 1, 2], [6, 4, 2]), np.arange(12).astype(str)
    )
    assert folded(few, 10) is few, "six malignant lesions in all cannot be shown at all"
