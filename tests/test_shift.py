"""What changed at a site: additive summaries, tests at their level, verdicts where the truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from fedderm.evaluation.counts import counts_of
from fedderm.evaluation.departure import departure
from fedderm.evaluation.documents import ShiftDiagnosis
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.shift import diagnose
from fedderm.evaluation.shift_reference import (
    Block,
    ShiftReference,
    block_of,
    coarse_histograms,
    feature_summary,
    reference_of,
)
from fedderm.evaluation.unlabelled_prevalence import mixture_weight, unlabelled_prevalence

WIDTH = 30
WORLD = np.random.default_rng(11)
CLASS_MEANS = WORLD.normal(0, 0.6, (4, WIDTH))
SITE_AXES = np.linalg.qr(WORLD.normal(size=(WIDTH, 4)))[0].T
SHIFT_AXIS = np.linalg.qr(WORLD.normal(size=(WIDTH, 1)))[0][:, 0]


def site(
    rng: np.random.Generator, lesions: int, prevalence: float, moved: float = 0.0, name: str = "here"
) -> tuple[Scores, np.ndarray]:
    """A site with an effect of its own on features and logits; ``moved`` shifts the features off."""
    truth = (rng.random(lesions) < prevalence) * rng.integers(1, 4, lesions)
    effect = rng.normal(0, 0.25, 4) @ SITE_AXES + moved * SHIFT_AXIS
    features = rng.normal(size=(lesions, WIDTH)) + CLASS_MEANS[truth] + effect
    logits = rng.normal(3.0 * (truth > 0) - 2, 1.0) + rng.normal(0, 0.15)
    ids = np.array([f"{name}{i}" for i in range(lesions)])
    return Scores(logits, np.ones(lesions, np.int64), truth, ids), features


def federation(rng: np.random.Generator, sites: int = 8, lesions: int = 120) -> ShiftReference:
    prevalences = np.resize([0.3, 0.2, 0.4, 0.35], sites)
    made = {f"t{k}": site(rng, lesions, p, name=f"t{k}-") for k, p in enumerate(prevalences)}
    return reference_of(
        {name: counts_of(scores) for name, (scores, _) in made.items()},
        {name: feature_summary(f, scores.truth, scores.lesion) for name, (scores, f) in made.items()},
    )


def verdict(reference: ShiftReference, made: tuple[Scores, np.ndarray], seed: int = 1) -> ShiftDiagnosis:
    scores, features = made
    return diagnose(reference, scores.triage, features, scores.lesion, seed=seed)


def test_a_summary_is_of_lesion_means_and_adds_up() -> None:
    features = np.array([[1.0, 2.0], [3.0, 6.0], [5.0, 5.0], [7.0, 1.0], [1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    truth, lesion = np.array([0, 0, 0, 0, 0, 0, 2]), np.array(["a", "a", "b", "c", "e", "f", "d"])
    found = feature_summary(features, truth, lesion)
    # Lesions a (2, 4), b, c, e and f; d is alone in its class and would be seen itself.
    assert found["number"].tolist() == [5, 0, 0, 0]
    assert found["sum"][0].tolist() == [17.0, 11.0]
    assert found["squares"][0].tolist() == [83.0, 43.0]
    assert not found["sum"][1:].any()
    other = feature_summary(features + 1, truth, np.char.add("x", lesion))
    joined = feature_summary(
        np.concatenate([features, features + 1]),
        np.concatenate([truth, truth]),
        np.concatenate([lesion, np.char.add("x", lesion)]),
    )
    for name in joined:
        np.testing.assert_allclose(found[name] + other[name], joined[name])
    assert not feature_summary(features[:5], truth[:5], lesion[:5])["number"].any(), (
        "four lesions tell too much"
    )


def test_a_class_below_the_minimum_cell_stays_at_home() -> None:
    truth = np.array([0] * 12 + [1] * 9 + [3] * 10)
    found = feature_summary(np.ones((31, 2)), truth, np.arange(31).astype(str), min_cell=10)
    assert found["number"].tolist() == [12, 0, 0, 10]
    assert found["sum"][1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("features", "truth", "lesion", "sentence"),
    [
        (np.ones((3, 2)), [0, 0], ["a", "b", "c"], "truths for"),
        (np.ones((3, 2)), [0, 0, 1], ["a", "b", "b"], "'b' carries images of different classes"),
        (np.full((2, 2), np.nan), [0, 0], ["a", "b"], "NaN or infinite"),
        (np.ones(3), [0, 0, 0], ["a", "b", "c"], r"expected \(N, D\)"),
    ],
)
def test_bad_features_are_refused(
    features: np.ndarray, truth: list[int], lesion: list[str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        feature_summary(features, truth, lesion)


def test_histograms_lose_no_lesion() -> None:
    scores, _ = site(np.random.default_rng(3), 200, 0.4)
    counts = counts_of(scores)
    np.testing.assert_array_equal(coarse_histograms(counts).sum(axis=1), counts.classes("lesion"))


def test_a_reference_travels_as_named_arrays_without_names_of_sites() -> None:
    rng = np.random.default_rng(5)
    reference, here = federation(rng), site(rng, 150, 0.3)
    arrays = reference.to_arrays()
    again = ShiftReference.from_arrays(arrays)
    assert again.prevalence == reference.prevalence
    first, second = verdict(reference, here), verdict(again, here)
    assert first.verdict == second.verdict
    assert first.evidence["features-ratio"] == pytest.approx(second.evidence["features-ratio"], rel=1e-4)
    assert "t0" not in repr(arrays)
    with pytest.raises(ValueError, match="shift-scale missing"):
        ShiftReference.from_arrays({name: a for name, a in arrays.items() if name != "shift-scale"})
    with pytest.raises(ValueError, match="shift-departures must have shape"):
        ShiftReference.from_arrays({**arrays, "shift-departures": arrays["shift-departures"][:, :-1]})
    with pytest.raises(ValueError, match="scales and numbers of lesions must be positive"):
        ShiftReference.from_arrays({**arrays, "shift-scale": 0 * arrays["shift-scale"]})


def test_departures_are_what_case_mix_leaves() -> None:
    number = np.array([[10, 0, 0, 10], [10, 0, 0, 20]])
    means = np.array([[[0.0], [0], [0], [6]], [[2.0], [0], [0], [6]]])
    total = number[:, :, None] * means
    squares = number[:, :, None] * (means**2 + 1)
    block = block_of(number, total, squares)
    # Benign mean 1, malignant 6; the sites' means 3 and 14/3 against 3.5 and 13/3; variance 50 / 46.
    assert block.means[[0, 3], 0].tolist() == [1.0, 6.0]
    scale = np.sqrt(50 / 46)
    np.testing.assert_allclose(block.scale, [scale])
    np.testing.assert_allclose(block.departures[:, 0], np.array([-0.5, 1 / 3]) / scale)


def test_a_departure_does_not_see_case_mix() -> None:
    rng = np.random.default_rng(8)
    block = federation(rng).features
    rows = rng.normal(size=(80, WIDTH)) + 0.3
    towards_melanoma = block.means[1] - block.means[0]
    plain, moved = departure(block, rows), departure(block, rows + 0.7 * towards_melanoma)
    assert moved.ratio == pytest.approx(plain.ratio, rel=1e-8)
    assert departure(block, rows + 2 * SHIFT_AXIS).ratio > 1.3 * plain.ratio


def test_a_departure_keeps_its_level_and_finds_what_lies_further() -> None:
    rng, alarms, found, draws = np.random.default_rng(21), 0, 0, 600
    for _ in range(draws):
        effects = rng.normal(0, 0.25, (9, 4)) @ SITE_AXES
        sizes = rng.integers(60, 200, 8)
        departures = effects[:8] + rng.normal(size=(8, WIDTH)) / np.sqrt(sizes)[:, None]
        block = Block(
            np.zeros((4, WIDTH)),
            np.array([1, 0, 0, 0]),
            np.ones(WIDTH),
            departures - departures.mean(axis=0),
            sizes,
        )
        rows = rng.normal(size=(100, WIDTH)) + effects[8] - departures.mean(axis=0)
        alarms += departure(block, rows).p_value < 0.05
        found += departure(block, rows + 1.5 * SHIFT_AXIS).p_value < 0.05
    # Exchangeable sites: at most 5 % alarms, but for chance; 1.5 is three times a site's usual distance.
    assert alarms <= binom.ppf(0.999, draws, 0.05)
    assert found >= 0.9 * draws


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=5, max_size=5).filter(lambda one: sum(one) > 0))
def test_the_mixture_weight_is_a_fixed_point_of_em(histogram: list[int]) -> None:
    benign = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    malignant = np.array([0.05, 0.1, 0.2, 0.3, 0.35])
    counts = np.array(histogram, float)
    weight = float(mixture_weight(counts[None], benign, malignant)[0])
    share = weight * malignant / (weight * malignant + (1 - weight) * benign)
    assert float(counts @ share / counts.sum()) == pytest.approx(weight, abs=1e-9)

    # 0 and 1 are fixed points of EM, too: no other weight may be likelier.
    def likelihood(w: float) -> float:
        return float(counts @ np.log(w * malignant + (1 - w) * benign))

    assert likelihood(weight) >= max(likelihood(w) for w in np.linspace(0, 1, 101)) - 1e-9


def test_with_two_bins_the_mixture_weight_has_a_closed_form() -> None:
    # 0.9 - 0.7 w of the mass is in the lower bin: 62 of 100 gives w = 0.4.
    found = mixture_weight(np.array([[62.0, 38.0]]), np.array([0.9, 0.1]), np.array([0.2, 0.8]))
    assert found[0] == pytest.approx(0.4, abs=1e-9)


def _histograms(rng: np.random.Generator, lesions: int, prevalence: float) -> np.ndarray:
    truth, effect = rng.random(lesions) < prevalence, rng.normal(0, 0.2)
    bins = np.clip((rng.normal(2.0 * truth, 1.0) + effect + 3) * 1.5, 0, 9).astype(int)
    return np.stack([np.bincount(bins[truth == side], minlength=10) for side in (False, True)])


def test_the_interval_of_the_prevalence_holds_although_sites_differ() -> None:
    rng, draws, covered, told = np.random.default_rng(4), 60, 0, 0
    for _ in range(draws):
        by_site = np.stack([_histograms(rng, 150, p) for p in (0.3, 0.2, 0.4, 0.35, 0.25, 0.3)])
        own = _histograms(rng, 400, 0.12)
        truth = own[1].sum() / own.sum()
        found = unlabelled_prevalence(own.sum(axis=0), by_site, 0.3, 1.0, rng)
        covered += found.lower <= truth <= found.upper
        told += found.p_value < 0.05
        assert 0 <= found.lower <= found.value <= found.upper <= 1
    assert covered >= binom.ppf(0.001, draws, 0.95)
    # 12 % against 30 % is found in about half of such sites: their differences hide the rest.
    assert told >= draws / 3


def test_verdicts_where_the_truth_is_known() -> None:
    rng, wrong = np.random.default_rng(17), {"neither": 0, "prevalence": 0, "acquisition": 0}
    for seed in range(8):
        reference = federation(rng)
        share = reference.prevalence
        made = {
            "neither": site(rng, 400, share),
            "prevalence": site(rng, 400, 0.8),
            "acquisition": site(rng, 400, share, moved=2.0),
        }
        for truth, one in made.items():
            wrong[truth] += verdict(reference, one, seed).verdict != truth
    # Two alarms at 5 %: one or two of eight go wrong by chance, four do not.
    assert max(wrong.values()) <= 3, wrong


def test_both_at_once_are_told_where_the_prevalence_is_far_off() -> None:
    rng = np.random.default_rng(2)
    reference = federation(rng)
    found = verdict(reference, site(rng, 600, 0.97, moved=1.5))
    assert found.verdict == "both"
    assert found.prior_shift == 0.0
    assert "another, too" in found.sentence


def test_only_a_prevalence_shift_corrects_the_prior_by_its_log_odds() -> None:
    rng = np.random.default_rng(6)
    reference = federation(rng)
    found = verdict(reference, site(rng, 600, 0.85))
    assert found.verdict == "prevalence"
    assert found.prevalence.value is not None
    odds = [p / (1 - p) for p in (found.prevalence.value, reference.prevalence)]
    assert found.prior_shift == pytest.approx(np.log(odds[0] / odds[1]))
    assert found.action.startswith("Correct the prior")
    assert ShiftDiagnosis.model_validate_json(found.model_dump_json()) == found


def test_far_away_images_are_not_to_be_deployed_on() -> None:
    rng = np.random.default_rng(9)
    found = verdict(federation(rng), site(rng, 300, 0.3, moved=8.0))
    assert found.evidence["features-ratio"] > 9
    assert found.action.startswith("Do not deploy yet: label about")


@pytest.mark.parametrize(
    ("sites", "lesions", "reason"),
    [(8, 39, "39 lesions here, at least 40"), (2, 100, "2 training sites to compare with, at least 3")],
)
def test_too_little_to_go_by_is_unknown(sites: int, lesions: int, reason: str) -> None:
    rng = np.random.default_rng(1)
    found = verdict(federation(rng, sites), site(rng, lesions, 0.3))
    assert (found.verdict, found.prevalence.value, found.prior_shift) == ("unknown", None, 0.0)
    assert reason in found.sentence


def test_a_federation_without_malignant_lesions_is_no_reference() -> None:
    rng = np.random.default_rng(1)
    made = [site(rng, 50, 0.0, name=str(k)) for k in range(4)]
    reference = reference_of(
        {str(k): counts_of(scores) for k, (scores, _) in enumerate(made)},
        {str(k): feature_summary(f, scores.truth, scores.lesion) for k, (scores, f) in enumerate(made)},
    )
    assert "0 malignant and 200 benign" in verdict(reference, site(rng, 60, 0.3)).sentence


def test_images_of_a_lesion_count_once() -> None:
    rng = np.random.default_rng(12)
    reference, (scores, features) = federation(rng), site(rng, 90, 0.3)
    once = diagnose(reference, scores.triage, features, scores.lesion, seed=3)
    thrice = diagnose(
        reference, *(np.concatenate([a] * 3) for a in (scores.triage, features, scores.lesion)), seed=3
    )
    assert thrice.verdict == once.verdict
    assert thrice.evidence == pytest.approx(once.evidence)


def test_features_of_another_network_are_refused() -> None:
    rng = np.random.default_rng(1)
    scores, features = site(rng, 60, 0.3)
    with pytest.raises(ValueError, match="the reference has 30 features, the site 29"):
        diagnose(federation(rng), scores.triage, features[:, 1:], scores.lesion, seed=0)
