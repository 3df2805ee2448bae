"""Macro-F1 of several models on the same lesions, pools of sites, and the gap between home and away."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from fedderm.comparison.diagnosis_scores import FILE, read_diagnoses, write_diagnoses
from fedderm.evaluation.diagnosis import LesionShares, Named
from fedderm.evaluation.diagnosis_draws import (
    Confusions,
    draw_confusions,
    gap,
    less,
    mean_measured,
    measures,
    over_seeds,
)

NAMES = ("MEL", "NV", "BCC", "VASC")
SEED = np.random.SeedSequence(5)


def named(seed: int, right: float = 0.6, lesions: int = 300, classes: int = 4) -> Named:
    """Lesions of a site, always the same truths, and what a model of this seed makes of them."""
    truth = np.arange(lesions) % classes
    rng = np.random.default_rng(seed)
    told = np.where(rng.random(lesions) < right, truth, rng.integers(0, 4, lesions))
    return Named(truth, told, np.array([f"l{n:04}" for n in range(lesions)]))


def test_values_are_scikit_learns_and_draws_lie_around_them() -> None:
    models = {"a": named(1), "b": named(2, 0.9)}
    drawn = draw_confusions(models, 4, 1000, SEED)
    for name, one in models.items():
        found = measures(drawn[name], NAMES)
        assert found["macro_f1"][0] == pytest.approx(f1_score(one.truth, one.told, average="macro"))
        assert found["accuracy"][0] == pytest.approx((one.truth == one.told).mean())
        assert found["f1 BCC"][0] == pytest.approx(f1_score(one.truth, one.told, average=None)[2])
        assert found["macro_f1"][1].mean() == pytest.approx(found["macro_f1"][0], abs=0.01)
        # The standard error of an accuracy over 300 lesions, drawn within their four diagnoses of 75.
        shares = [(one.told[one.truth == c] == c).mean() for c in range(4)]
        expected = np.sqrt(sum(p * (1 - p) / 74 for p in shares)) / 4
        assert found["accuracy"][1].std() == pytest.approx(expected, rel=0.1)


def test_draws_are_shared_so_that_equal_models_do_not_differ_at_all() -> None:
    drawn = draw_confusions({"a": named(1), "b": named(1)}, 4, 200, SEED)
    np.testing.assert_array_equal(drawn["a"].drawn, drawn["b"].drawn)
    with pytest.raises(ValueError, match="judged other lesions"):
        draw_confusions({"a": named(1), "b": named(1, lesions=299)}, 4, 200, SEED)


def test_a_pool_is_its_sites_lesions_together() -> None:
    sites = [draw_confusions({"a": named(seed)}, 4, 100, SEED)["a"] for seed in (1, 2)]
    both = [np.concatenate([getattr(named(seed), part) for seed in (1, 2)]) for part in ("truth", "told")]
    found = measures(sites[0] + sites[1], NAMES)["macro_f1"]
    assert found[0] == pytest.approx(f1_score(*both, average="macro"))
    assert found[1].shape == (100,)


def test_the_gap_is_over_the_diagnoses_that_both_sources_have() -> None:
    home = draw_confusions({"a": named(1, 0.9)}, 4, 500, SEED)["a"]
    one, three = named(2, 0.5), named(2, 0.5, classes=3)
    away = draw_confusions({"a": three}, 4, 500, SEED)["a"]  # no VASC
    found = gap(home, away)
    kept = named(1, 0.9).truth < 3
    truth, told = named(1, 0.9).truth[kept], named(1, 0.9).told[kept]
    assert found["home"][0] == pytest.approx(f1_score(truth, told, labels=[0, 1, 2], average="macro"))
    assert found["away"][0] == pytest.approx(
        f1_score(three.truth, three.told, labels=[0, 1, 2], average="macro")
    )
    assert found["gap"][0] == pytest.approx(found["home"][0] - found["away"][0])
    assert len(one.truth) == len(three.truth)
    estimate = over_seeds([found["gap"]], 600, -1.0)
    assert 0.1 < estimate.lower < estimate.value < estimate.upper < 0.7
    nothing = Confusions(np.diag([0.0, 0, 0, 5]), np.tile(np.diag([0.0, 0, 0, 5]), (500, 1, 1)))
    assert over_seeds([gap(away, nothing)["gap"]], 600, -1.0).value is None


def test_means_and_differences_are_taken_draw_by_draw() -> None:
    one, other = (0.5, np.array([0.4, 0.6])), (0.3, np.array([0.2, 0.5]))
    value, drawn = less(one, other)
    assert value == pytest.approx(0.2)
    np.testing.assert_allclose(drawn, [0.2, 0.1])
    value, drawn = mean_measured([one, other])
    assert value == pytest.approx(0.4)
    np.testing.assert_allclose(drawn, [0.3, 0.55])


def test_intervals_of_differences_hold_zero_where_models_are_alike() -> None:
    """40 comparisons of models that are equally good, three seeds each: 95 % hold 0."""
    held = 0
    for trial in range(40):
        models = {(arm, seed): named(1000 * trial + 10 * seed + arm) for arm in (0, 1) for seed in range(3)}
        drawn = {
            key: measures(one, NAMES)["macro_f1"]
            for key, one in draw_confusions(models, 4, 200, SEED).items()
        }
        apart = over_seeds([less(drawn[0, seed], drawn[1, seed]) for seed in range(3)], 300, -1.0)
        held += apart.lower <= 0 <= apart.upper
    assert held >= 34  # fewer has a chance of 0.3 %


def test_what_a_cell_writes_is_read_again_and_damage_is_told(tmp_path) -> None:
    shares = LesionShares(np.array(["a", "b"]), np.array([1, 0]), np.array([[0.2, 0.8], [0.6, 0.4]]))
    write_diagnoses(tmp_path, {"west": shares})
    found = read_diagnoses(tmp_path)["west"]
    assert found.named().told.tolist() == [1, 0]
    assert found.lesion.tolist() == ["a", "b"]
    (tmp_path / FILE).write_bytes(b"PK broken")
    with pytest.raises(ValueError, match=FILE):
        read_diagnoses(tmp_path)
    (tmp_path / FILE).unlink()
    write_diagnoses(tmp_path, {})
    assert read_diagnoses(tmp_path) == {}
