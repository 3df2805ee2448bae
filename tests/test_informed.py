"""The federation-informed threshold: its closed forms, its limits, and the sites it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm, t

from fedderm.evaluation.counts import Counts, counts_of, snap_down
from fedderm.evaluation.disclosure import suppress
from fedderm.evaluation.informed import (
    FALLBACK,
    FederationEvidence,
    evidence_of,
    federation_evidence,
    federation_levels,
    informed_threshold,
    quantile_rank,
)
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.thresholds import certified_threshold


def site_counts(logits: np.ndarray) -> Counts:
    n = len(logits)
    ones = np.ones(n, int)
    return counts_of(Scores(logits, ones, ones, np.arange(n).astype(str)))


def evidence(centre: float = 0.0, spread: float = 0.5, sites: int = 8) -> FederationEvidence:
    """Return evidence with exactly this centre and spread."""
    values = np.linspace(-1, 1, sites)
    return evidence_of(centre + spread * values / values.std(ddof=1), 0.9, 0.95)


def test_without_own_lesions_it_is_the_prediction_bound() -> None:
    quantiles = [-0.5, 0.1, 0.4, 0.2]
    bound = np.mean(quantiles) - t.ppf(0.95, 3) * np.std(quantiles, ddof=1) * (1 + 1 / 4) ** 0.5
    assert informed_threshold([], evidence_of(quantiles, 0.9, 0.95)).threshold == snap_down(float(bound))


@pytest.mark.parametrize("n", [1, 5, 12, 28, 60, 400])
def test_the_combined_test_has_exactly_its_level(n: int) -> None:
    """At the true quantile the federation's p-value is uniform and K is binomial, independent of it.

    The combined test rejects where the p-value is below level(K): with probability sum_k P(K = k) level(k).
    """
    levels = federation_levels(n, 0.9, 0.95)
    assert binom.pmf(np.arange(n + 1), n, 0.1) @ levels == pytest.approx(0.05, abs=1e-9)
    assert np.all(np.diff(levels) <= 0)


@given(
    st.lists(st.floats(-3, 3), min_size=0, max_size=40),
    st.floats(-1, 1),
    st.integers(3, 20),
)
def test_the_threshold_is_the_highest_at_which_the_test_rejects(
    logits: list[float], centre: float, sites: int
) -> None:
    known = evidence(centre, 0.7, sites)
    found = informed_threshold(logits, known)
    if found.threshold is None:
        assert "contradict" not in found.sentence
        assert found.sentence.startswith("Refused")
        return
    levels, scale = federation_levels(len(logits), 0.9, 0.95), 0.7 * (1 + 1 / sites) ** 0.5

    def rejects(at: float) -> bool:
        below = int(np.count_nonzero(np.asarray(logits) < at))
        return bool(t.cdf((at - centre) / scale, sites - 1) <= levels[below] * (1 + 1e-9))

    assert rejects(found.threshold)
    alone, _ = certified_threshold(logits, 0.9, FALLBACK)
    if alone is None or found.threshold < snap_down(alone):
        assert not rejects(found.threshold + 1 / 16 + 1e-6)


def test_with_many_lesions_the_site_decides() -> None:
    lesions = np.random.default_rng(0).normal(1.5, 1, 5000)
    own, _ = certified_threshold(lesions, 0.9, 0.95)
    assert own is not None
    for centre in (0.0, 0.5):
        found = informed_threshold(lesions, evidence(centre, 0.5)).threshold
        assert found == pytest.approx(own, abs=0.06)


def test_agreeing_lesions_raise_the_threshold_and_a_low_one_does_not() -> None:
    known, n = evidence(), 12
    none = informed_threshold([], known).threshold
    agreeing = informed_threshold(norm.ppf((np.arange(n) + 0.5) / n) + 1.28, known).threshold
    assert none is not None
    assert agreeing is not None
    assert agreeing > none + 0.1
    low = np.append(np.full(n - 3, 2.0), [none - 0.5] * 3)
    doubtful = informed_threshold(low, known).threshold
    assert doubtful is not None
    assert doubtful < none


def test_the_sites_own_lesions_alone_give_the_fallback() -> None:
    """The federation expects far higher scores, its spread too wide to contradict."""
    lesions = np.arange(40.0) / 10
    found = informed_threshold(lesions, evidence(1.5, 0.5))
    own, _ = certified_threshold(lesions, 0.9, FALLBACK)
    assert own is not None
    assert found.threshold == snap_down(own)
    assert "is left at 75 %" in found.sentence
    assert "is lost" in informed_threshold(lesions[20:30], evidence(1.5, 0.5)).sentence


def test_contradicting_sites_are_refused_and_told_so() -> None:
    lesions = np.random.default_rng(1).normal(1.5, 1, 40)
    assert informed_threshold(lesions, evidence()).threshold is not None
    for shift, side in ((-5.0, "lower"), (5.0, "higher")):
        refused = informed_threshold(lesions + shift, evidence())
        assert refused.threshold is None
        assert f"score {side}" in refused.sentence
        assert "29 malignant lesions of its own" in refused.sentence


def test_too_few_training_sites_say_how_many_more() -> None:
    lesions = np.random.default_rng(2).normal(1, 1, 60)
    counts = {"a": site_counts(lesions), "b": site_counts(lesions[:20]), "c": site_counts(lesions[:8])}
    found = informed_threshold(lesions, federation_evidence(counts, 0.9, 0.95))
    assert found.threshold is None
    assert found.sentence == (
        "Cannot be certified: 2 training sites with at least 9 malignant calibration lesions now; 1 more "
        "show too few malignant lesions, 3 needed, 1 more."
    )


def test_evidence_from_counts_is_that_of_the_scores() -> None:
    rng = np.random.default_rng(3)
    scores = {f"site{j}": rng.normal(1, 1, n) for j, n in enumerate((9, 40, 100, 333))}
    found = federation_evidence({name: site_counts(s) for name, s in scores.items()}, 0.9, 0.95)
    quantiles = [snap_down(float(np.sort(s)[quantile_rank(len(s), 0.9) - 1])) for s in scores.values()]
    assert found == evidence_of(quantiles, 0.9, 0.95, lesions=482)
    assert FederationEvidence.model_validate_json(found.model_dump_json()) == found


def test_a_training_site_is_not_told_its_own_lesions() -> None:
    rng = np.random.default_rng(4)
    counts = {f"site{j}": site_counts(rng.normal(j, 1, 50)) for j in range(5)}
    others = {name: c for name, c in counts.items() if name != "site2"}
    assert federation_evidence(counts, 0.9, 0.95, without="site2") == federation_evidence(others, 0.9, 0.95)


def test_counts_merged_for_a_minimum_cell_size_lower_the_quantiles() -> None:
    rng = np.random.default_rng(5)
    counts = {f"site{j}": site_counts(rng.normal(1, 1, 80)) for j in range(5)}
    exact = federation_evidence(counts, 0.9, 0.95)
    merged = federation_evidence({name: suppress(c, 10) for name, c in counts.items()}, 0.9, 0.95)
    assert exact.centre is not None
    assert merged.centre is not None
    assert merged.centre < exact.centre
    hidden = federation_evidence({name: suppress(c, 100) for name, c in counts.items()}, 0.9, 0.95)
    assert (hidden.sites, hidden.left_out, hidden.centre) == (0, 5, None)


def test_sites_that_agree_to_the_bin_do_not_agree_exactly() -> None:
    found = evidence_of([1.0, 1.0, 1.0], 0.9, 0.95)
    assert found.spread == 1 / 256
    threshold = informed_threshold([], found).threshold
    assert threshold is not None
    assert threshold < 1.0


@pytest.mark.parametrize(("target", "fewest"), [(0.9, 9), (0.95, 19), (0.8, 4)])
def test_small_sites_err_towards_low_quantiles(target: float, fewest: int) -> None:
    assert quantile_rank(fewest - 1, target) == 0
    for n in range(fewest, 200):
        assert 1 <= quantile_rank(n, target) <= (n + 1) * (1 - target) + 1e-9


def test_infinite_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        informed_threshold([np.nan], evidence())
    with pytest.raises(ValueError, match="must be finite"):
        evidence_of([0.0, np.inf, 1.0], 0.9, 0.95)
    with pytest.raises(ValueError, match="between 0 and 1"):
        evidence_of([0.0, 1.0, 2.0], 1.5, 0.95)
