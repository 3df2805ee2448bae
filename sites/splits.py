"""Train, calibration and test by lesion, and by patient where patients are known."""

import hashlib
from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sites.errors import OneClassOnly, SiteError
from sites.site import Slice, SplitFractions

# One lesion in each, if there are no more: to train at all, to be tested at all, then to calibrate.
_FIRST: Final = ("train", "test", "calibration")


def assign(table: pd.DataFrame, fractions: SplitFractions, seed: int) -> pd.DataFrame:
    """Return the table with ``split``: train, calibration or test, for ``fractions`` of its lesions.

    Lesions of one patient, and images of one lesion, stay together. Split sizes and every diagnosis's share
    deviate from the fractions by about one lesion (one patient, where patients are known), and each split
    with a fraction above 0 gets a malignant and a benign lesion while there are any. Which lesion goes where
    follows from a hash of seed and lesion id: it depends on neither the order of rows nor on other sites.

    ``table`` has lesion_id, patient_id, diagnosis and class_index. ``attrs["notes"]`` names splits with one
    class only. Raises SiteError for fewer lesions than splits, and for a train split with one class.
    """
    targets = {str(name): share for name, share in fractions.items() if share > 0}
    return _with_split(table, _allocate(table, targets, seed))


def assign_fold(table: pd.DataFrame, fractions: SplitFractions, fold: Slice, seed: int) -> pd.DataFrame:
    """Return the table with ``split``, of one of ``fold.of`` folds: a lesion is in one fold's test split.

    Folds are dealt as splits are, by lesion and patient and diagnosis by diagnosis, and follow from the seed;
    the other folds' lesions become train and calibration in proportion to ``fractions``. Raises SiteError as
    ``assign`` does.
    """
    names = [str(index) for index in range(fold.of)]
    dealt = _allocate(table, dict.fromkeys(names, 1 / fold.of), seed)
    split = pd.Series("test", index=table.index, dtype="str")
    rest = dealt != names[fold.index]
    whole = fractions.train + fractions.calibration
    shares = {"train": fractions.train / whole, "calibration": fractions.calibration / whole}
    split[rest] = _allocate(table[rest], {name: share for name, share in shares.items() if share > 0}, seed)
    return _with_split(table, split)


def keep_published(table: pd.DataFrame, fractions: SplitFractions, seed: int) -> pd.DataFrame:
    """Return the table with its own train and test, and calibration carved out of train by lesion.

    The calibration's share of the published train is ``calibration / (train + calibration)``. Raises
    SiteError for other words than train and test, and as ``assign`` does.
    """
    unknown = sorted(set(table["split"].dropna()) - {"train", "test"})
    if unknown or table["split"].isna().any():
        raise SiteError(
            f"the published split says {unknown or ['nothing for some images']}; expected train or test"
        )
    split = table["split"].copy()
    if fractions.calibration > 0:
        share = fractions.calibration / (fractions.train + fractions.calibration)
        targets = {name: part for name, part in (("train", 1 - share), ("calibration", share)) if part > 0}
        train = split == "train"
        split[train] = _allocate(table[train], targets, seed)
    return _with_split(table, split)


def part(table: pd.DataFrame, wanted: Slice) -> pd.DataFrame:
    """Return the rows of one of ``wanted.of`` disjoint parts that together are the table.

    A lesion's part follows from a hash of its id alone, not from the seed; a patient's lesions stay together.
    """
    groups = groups_of(table)
    keep = {g for g in groups.unique() if _hash("slice", g) % wanted.of == wanted.index}
    return table[groups.isin(keep)]


def groups_of(table: pd.DataFrame) -> "pd.Series[str]":
    """Return each row's group: the connected component of lesions and patients, named by its first lesion
    id."""
    lesion, lesions = pd.factorize(table["lesion_id"], sort=True)
    if table["patient_id"].isna().all():
        return table["lesion_id"]
    patient, patients = pd.factorize(table["patient_id"], sort=True)
    known = patient >= 0
    size = len(lesions) + len(patients)
    links = (np.ones(int(known.sum())), (lesion[known], len(lesions) + patient[known]))
    _, component = connected_components(coo_array(links, shape=(size, size)), directed=False)
    # Lesions are sorted, so that a component's first lesion is its smallest id, whatever the order of rows.
    _, first = np.unique(component[: len(lesions)], return_index=True)
    names = np.asarray(lesions, dtype=object)[first]
    return pd.Series(names[component[lesion]], index=table.index, dtype="str")


def _hash(*words: object) -> int:
    text = "\x1f".join(str(word) for word in words)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _allocate(table: pd.DataFrame, targets: Mapping[str, float], seed: int) -> "pd.Series[str]":
    """Return each row's split, for the target fractions of lesions."""
    groups = groups_of(table)
    if groups.nunique() < len(targets):
        raise SiteError(
            f"it has {groups.nunique()} separate lesions or patients, fewer than its splits "
            f"({', '.join(targets)}); a site needs one for each, set its splits or leave it out"
        )
    ranked = _ranked(table, groups, seed)
    of_group: dict[str, str] = {}
    for _, same_side in ranked.groupby("malignant", sort=True):
        of_group |= _deal(same_side["weight"], targets)
    return groups.map(of_group)


def _ranked(table: pd.DataFrame, groups: "pd.Series[str]", seed: int) -> pd.DataFrame:
    """Return groups with ``weight`` (lesions) and ``malignant``, diagnosis by diagnosis, hashed within each.

    A group of several diagnoses (a patient) counts as its rarest malignant one, or its rarest.
    """
    lesions = table.assign(group=groups).drop_duplicates("lesion_id")
    count = lesions["diagnosis"].value_counts()
    lesions = lesions.assign(malignant=lesions["class_index"] > 0, count=lesions["diagnosis"].map(count))
    lesions = lesions.sort_values(["malignant", "count", "diagnosis"], ascending=[False, True, True])
    ranked = lesions.groupby("group", sort=True)[["malignant", "count", "diagnosis"]].first()
    ranked["weight"] = lesions.groupby("group").size()
    ranked["hash"] = [_hash("split", seed, group) for group in ranked.index]
    # The commonest diagnosis first: the lesions that open each split are taken from it.
    return ranked.sort_values(
        ["malignant", "count", "diagnosis", "hash"], ascending=[True, False, True, True]
    )


def _deal(weights: "pd.Series[int]", targets: Mapping[str, float]) -> dict[str, str]:
    """Return the split of each group, dealt in order to the split that is furthest behind its target.

    Since groups come sorted by diagnosis, each diagnosis is dealt in proportion; what one leaves uneven the
    next makes good.
    """
    waiting = [name for name in _FIRST if name in targets] or list(targets)
    dealt = dict.fromkeys(waiting, 0)
    total = 0
    split: dict[str, str] = {}
    for group, weight in weights.items():
        total += int(weight)
        name = next((n for n in waiting if dealt[n] == 0), None) or max(
            waiting, key=lambda n: targets[n] * total - dealt[n]
        )
        dealt[name] += int(weight)
        split[str(group)] = name
    return split


def _with_split(table: pd.DataFrame, split: "pd.Series[str]") -> pd.DataFrame:
    result = table.copy()
    result["split"] = split
    notes: list[str] = []
    malignant = table["class_index"] > 0
    for name in ("train", "calibration", "test"):
        here = malignant[split == name]
        if here.empty or here.nunique() == 2:
            continue
        kind = "malignant" if here.iloc[0] else "benign"
        if name == "train":
            raise OneClassOnly(
                f"all {len(here)} images of the train split are {kind}, and a model cannot be trained on "
                "one class; make the site held-out, select more of it or change ak_policy"
            )
        notes.append(
            f"all {len(here)} images of the {name} split are {kind}: metrics that need both are undefined"
        )
    result.attrs = {**table.attrs, "notes": [*table.attrs.get("notes", []), *notes]}
    return result
