"""Sub-sampling to a case mix: exact proportions, no duplicates, clear refusals."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from sites.case_mix import CaseMix, apply_case_mix, apportion, diagnosis_fractions
from sites.errors import SiteError


def table() -> pd.DataFrame:
    """Return 100 nevi, 40 keratoses, 30 melanomas and 10 BCC, every third lesion with two images."""
    diagnoses = ["nv"] * 100 + ["bkl"] * 40 + ["mel"] * 30 + ["bcc"] * 10
    rows = [(f"L{i:03d}", d) for i, d in enumerate(diagnoses) for _ in range(2 if i % 3 == 0 else 1)]
    return pd.DataFrame(rows, columns=["lesion_id", "diagnosis"])


def lesions(part: pd.DataFrame) -> pd.Series:
    return part.drop_duplicates("lesion_id")["diagnosis"].value_counts()


def test_prevalence_is_reached_with_as_many_lesions_as_possible() -> None:
    kept = lesions(apply_case_mix(table(), CaseMix(prevalence=0.10), 1))
    malignant = kept["mel"] + kept["bcc"]
    # All 140 benign stay; 140 / 0.9 = 155 lesions in all, 15 or 16 of them malignant, 3 melanomas to a BCC.
    assert kept["nv"] + kept["bkl"] == pytest.approx(140, abs=1)
    assert malignant / kept.sum() == pytest.approx(0.10, abs=1 / 155)
    assert kept["mel"] / malignant == pytest.approx(0.75, abs=1 / malignant)


def test_weights_drop_what_they_do_not_name() -> None:
    kept = lesions(apply_case_mix(table(), CaseMix(diagnoses={"nv": 2, "mel": 1}), 1))
    assert kept.to_dict() == {"nv": 60, "mel": 30}


def test_weights_within_a_prevalence() -> None:
    fractions = diagnosis_fractions({"nv": 3, "bkl": 1, "mel": 5, "bcc": 5}, 0.2)
    assert fractions == pytest.approx({"nv": 0.6, "bkl": 0.2, "mel": 0.1, "bcc": 0.1})


def test_indeterminate_lesions_count_on_neither_side() -> None:
    fractions = diagnosis_fractions({"nv": 1, "ak": 2, "mel": 1}, 0.25)
    assert fractions == pytest.approx({"nv": 0.375, "ak": 0.5, "mel": 0.125})


def test_lesions_stay_whole_and_are_never_repeated() -> None:
    whole = table()
    kept = apply_case_mix(whole, CaseMix(prevalence=0.3), 4)
    counts = whole["lesion_id"].value_counts()
    assert (
        kept["lesion_id"].value_counts()
        == counts[kept["lesion_id"].unique()].reindex(kept["lesion_id"].value_counts().index)
    ).all()
    assert kept.index.is_unique


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    mix, whole = CaseMix(prevalence=0.1), table()
    shuffled = whole.sample(frac=1, random_state=3)
    chosen = set(apply_case_mix(whole, mix, 7)["lesion_id"])
    assert set(apply_case_mix(shuffled, mix, 7)["lesion_id"]) == chosen
    assert set(apply_case_mix(whole, mix, 8)["lesion_id"]) != chosen


def test_an_empty_mix_changes_nothing() -> None:
    assert apply_case_mix(table(), CaseMix(), 1).equals(table())


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        (CaseMix(diagnoses={"scc": 1, "nv": 1}), "asks for scc"),
        (CaseMix(prevalence=0.001), "no malignant lesion"),
        (CaseMix(diagnoses={"bcc": 1000, "nv": 1}), "no lesion of nv"),
        (CaseMix(age_mean=50), "case_mix.age_mean"),
    ],
)
def test_what_cannot_be_had_is_refused(mix: CaseMix, words: str) -> None:
    with pytest.raises(SiteError, match=words):
        apply_case_mix(table(), mix, 1)


def test_a_prevalence_needs_both_sides_in_the_table() -> None:
    nevi = table().query("diagnosis == 'nv'")
    with pytest.raises(SiteError, match="needs malignant lesions"):
        apply_case_mix(nevi, CaseMix(prevalence=0.2), 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"diagnoses": {"melanoma": 1}},
        {"diagnoses": {"mel": 0}},
        {"skin_types": {"VII": 1}},
        {"prevalence": 1.5},
        {"prevalence": 0.5, "diagnoses": {"nv": 1}},
        {"prevalance": 0.5},
    ],
)
def test_impossible_mixes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CaseMix.model_validate(wrong)


def test_apportionment_sums_up_and_is_off_by_less_than_one() -> None:
    rng = np.random.default_rng(0)
    for total in (1, 7, 100, 333):
        shares = rng.dirichlet(np.ones(5))
        fractions = dict(zip("abcde", shares.tolist(), strict=True))
        counts = apportion(fractions, total)
        assert sum(counts.values()) == total
        assert all(abs(counts[k] - fractions[k] * total) < 1 for k in counts)
