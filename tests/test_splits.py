"""Splits: whole lesions and patients, fractions that hold, and one answer whatever the order."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sites.errors import SiteError
from sites.site import Slice, SplitFractions
from sites.splits import assign, groups_of, keep_published, part

FRACTIONS = SplitFractions(train=0.65, calibration=0.10, test=0.25)
CLASS = {"nv": 0, "bkl": 0, "df": 0, "mel": 1, "scc": 2, "bcc": 3}


def lesions(counts: dict[str, int], images: int = 2) -> pd.DataFrame:
    """Return a table with so many lesions of each diagnosis, each with ``images`` images, no patients."""
    rows = [
        {"image_id": f"{name}{n}-{k}", "lesion_id": f"{name}{n}", "patient_id": None, "diagnosis": name}
        for name, count in counts.items()
        for n in range(count)
        for k in range(images)
    ]
    table = pd.DataFrame(rows)
    return table.assign(class_index=table["diagnosis"].map(CLASS))


def lesion_counts(table: pd.DataFrame) -> dict[str, int]:
    return dict(table.groupby("split")["lesion_id"].nunique())


def test_fractions_hold_in_all_and_in_each_diagnosis() -> None:
    """Of 200 nevi and 100 melanomas, 0.65/0.10/0.25 are 130/20/50 and 65/10/25 lesions."""
    table = assign(lesions({"nv": 200, "mel": 100}), FRACTIONS, seed=3)
    for name, expected in (("nv", [130, 20, 50]), ("mel", [65, 10, 25])):
        found = lesion_counts(table[table["diagnosis"] == name])
        assert [found["train"], found["calibration"], found["test"]] == expected


def test_rare_diagnoses_together_get_their_share() -> None:
    """Ten malignant diagnoses' worth of rounding: 4 mel, 3 scc, 3 bcc are 10 malignant, so 6.5/1/2.5, each
    within one."""
    table = assign(lesions({"nv": 90, "mel": 4, "scc": 3, "bcc": 3}), FRACTIONS, seed=0)
    found = lesion_counts(table[table["class_index"] > 0])
    assert abs(found["train"] - 6.5) <= 1
    assert found["calibration"] == 1
    assert abs(found["test"] - 2.5) <= 1


@pytest.mark.parametrize(("positives", "with_one"), [(3, 3), (2, 2), (4, 3)])
def test_each_split_gets_a_positive_while_there_are_any(positives: int, with_one: int) -> None:
    table = assign(lesions({"nv": 30, "mel": positives}), FRACTIONS, seed=1)
    malignant = table[table["class_index"] > 0]
    assert malignant["split"].nunique() == with_one
    assert "train" in set(malignant["split"])


@settings(max_examples=40, deadline=None)
@given(
    patients=st.lists(st.sampled_from([None, "p", "q", "r", "s"]), min_size=12, max_size=12),
    seed=st.integers(0, 1000),
)
def test_no_lesion_or_patient_is_split_and_order_does_not_matter(
    patients: list[str | None], seed: int
) -> None:
    table = lesions({"nv": 30, "mel": 10}, images=1)
    table.loc[[*range(6), *range(30, 36)], "patient_id"] = patients
    table["lesion_id"] = [f"L{n // 2}" for n in range(len(table))]
    shuffled = table.sample(frac=1, random_state=seed)
    first, second = (assign(t, FRACTIONS, seed) for t in (table, shuffled))
    assert first.groupby("lesion_id")["split"].nunique().max() == 1
    known = first.dropna(subset="patient_id")
    assert known.groupby("patient_id")["split"].nunique().sum() == known["patient_id"].nunique()
    pd.testing.assert_series_equal(first["split"], second["split"].sort_index())


def test_groups_chain_through_lesions_and_patients() -> None:
    """L1-p-L2 and L2-q-L3 are one group; L4 has no patient; two blank patients are not one patient."""
    table = pd.DataFrame(
        {
            "lesion_id": ["L3", "L2", "L2", "L1", "L4", "L5"],
            "patient_id": ["q", "q", "p", "p", None, None],
        }
    )
    assert groups_of(table).tolist() == ["L1"] * 4 + ["L4", "L5"]


def test_the_seed_decides() -> None:
    table = lesions({"nv": 40, "mel": 20})
    one, again, other = (assign(table, FRACTIONS, seed)["split"] for seed in (1, 1, 2))
    assert one.equals(again)
    assert not one.equals(other)
    assert (one != other).mean() > 0.2


def test_membership_is_random_within_a_diagnosis() -> None:
    """Over 200 seeds each of 20 nevi is tested about 25 % of the time: SD sqrt(.25 * .75 / 200) = 0.031."""
    table = lesions({"nv": 20, "mel": 20}, images=1)
    tested = np.mean(
        [(assign(table, FRACTIONS, seed)["split"] == "test").to_numpy() for seed in range(200)], axis=0
    )
    assert np.abs(tested - 0.25).max() < 5 * 0.031


def test_held_out_sites_have_no_train() -> None:
    table = assign(lesions({"nv": 10, "mel": 4}), SplitFractions(train=0, calibration=0.5, test=0.5), seed=0)
    assert lesion_counts(table) == {"calibration": 7, "test": 7}


def test_fewer_lesions_than_splits() -> None:
    with pytest.raises(SiteError, match=r"2 separate lesions .* splits \(train, calibration, test\)"):
        assign(lesions({"nv": 1, "mel": 1}), FRACTIONS, seed=0)


@pytest.mark.parametrize(("diagnosis", "kind"), [("nv", "benign"), ("mel", "malignant")])
def test_one_class_cannot_train_but_can_be_held_out(diagnosis: str, kind: str) -> None:
    table = lesions({diagnosis: 20})
    with pytest.raises(SiteError, match=f"of the train split are {kind}"):
        assign(table, FRACTIONS, seed=0)
    held_out = assign(table, SplitFractions(train=0, calibration=0.5, test=0.5), seed=0)
    assert [kind in note for note in held_out.attrs["notes"]] == [True, True]


def test_published_split_keeps_its_test_and_carves_calibration_by_lesion() -> None:
    """0.65 train and 0.10 calibration leave calibration 2/15 of the published train's 75 lesions: 10."""
    table = lesions({"nv": 50, "mel": 50})
    number = table.groupby("diagnosis")["lesion_id"].transform(lambda ids: pd.factorize(ids)[0])
    table["split"] = np.where(number < 25, "test", "train")
    table.loc[table["lesion_id"].isin([f"nv{n}" for n in range(25)]), "split"] = "train"
    kept = keep_published(table, FRACTIONS, seed=0)
    assert (kept["split"] == "test").equals(table["split"] == "test")
    assert lesion_counts(kept) == {"calibration": 10, "test": 25, "train": 65}
    assert kept.groupby("lesion_id")["split"].nunique().max() == 1


def test_published_split_with_other_words_is_refused() -> None:
    with pytest.raises(SiteError, match="valid"):
        keep_published(lesions({"nv": 5, "mel": 5}).assign(split="valid"), FRACTIONS, seed=0)


def test_slices_are_disjoint_and_exhaustive() -> None:
    table = lesions({"nv": 300, "mel": 100})
    parts = [part(table, Slice(index=i, of=4)) for i in range(4)]
    counted = Counter(image for p in parts for image in p["image_id"])
    assert set(counted) == set(table["image_id"])
    assert set(counted.values()) == {1}
    assert not set.intersection(*({*p["lesion_id"]} for p in parts[:2]))
    # Binomial(400, 1/4): SD 8.7.
    assert all(abs(p["lesion_id"].nunique() - 100) < 5 * 8.7 for p in parts)


def test_a_slice_says_nothing_about_the_split() -> None:
    """Slicing and splitting hash differently: within one slice the fractions hold, and the other slices
    differ."""
    half = part(lesions({"nv": 200, "mel": 200}), Slice(index=0, of=2))
    share = (
        assign(half, FRACTIONS, seed=0).groupby("split")["lesion_id"].nunique() / half["lesion_id"].nunique()
    )
    assert share["train"] == pytest.approx(0.65, abs=0.01)
