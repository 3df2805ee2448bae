"""The case mix of a clinic: how many lesions are malignant, of which diagnoses, in which patients."""

import math
from typing import Annotated, Final, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sites.diagnoses import DIAGNOSES, class_index
from sites.errors import SiteError

SKIN_TYPES: Final = ("I", "II", "III", "IV", "V", "VI")
"""Fitzpatrick's skin types, palest first."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class CaseMix(BaseModel):
    """Who comes to a clinic, and with what.

    For a simulated centre it drives generation. From a real table, ``apply_case_mix`` keeps a part of the
    lesions, so only ``prevalence`` and ``diagnoses`` can be asked of one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prevalence: Fraction | None = None
    """Malignant fraction of lesions. Indeterminate ones (AK) count on neither side."""
    diagnoses: dict[str, Weight] | None = None
    """Relative weights of diagnoses; one that is not named does not occur. With ``prevalence``, the weights
    only say the proportions within the malignant and within the benign."""
    age_mean: Annotated[float, Field(ge=0, le=120)] | None = None
    """Years; simulated centres only."""
    age_sd: Annotated[float, Field(ge=0, le=60)] | None = None
    """Years; simulated centres only."""
    male: Fraction | None = None
    """Fraction of patients who are men; simulated centres only."""
    skin_types: dict[str, Weight] | None = None
    """Relative weights of Fitzpatrick types I to VI; simulated centres only."""

    @field_validator("diagnoses")
    @classmethod
    def _canonical(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        return _checked(weights, tuple(DIAGNOSES), "diagnosis")

    @field_validator("skin_types")
    @classmethod
    def _fitzpatrick(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        return _checked(weights, SKIN_TYPES, "skin type")

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.prevalence is None or self.diagnoses is None:
            return self
        for malignant, share in ((True, self.prevalence), (False, 1 - self.prevalence)):
            if share > 0 and not any(
                w > 0 and is_malignant(d) is malignant for d, w in self.diagnoses.items()
            ):
                kind = "malignant" if malignant else "benign"
                raise ValueError(
                    f"a prevalence of {self.prevalence:g} needs a {kind} diagnosis with a weight above 0"
                )
        return self


def is_malignant(diagnosis: str) -> bool | None:
    """Return whether ``diagnosis`` is malignant; None for actinic keratosis, which is indeterminate."""
    if diagnosis == "other_malignant":
        return True
    index = class_index(diagnosis)
    return None if index is None else index > 0


def diagnosis_fractions(weights: dict[str, float], prevalence: float | None) -> dict[str, float]:
    """Return the fraction of lesions of each diagnosis, summing to 1, for relative ``weights``.

    With a prevalence, the malignant weights are scaled against the benign ones so that it holds;
    indeterminate diagnoses keep their share of the whole. Raises ValueError where no weights can give the
    prevalence.
    """
    total = sum(weights.values())
    fractions = {d: w / total for d, w in weights.items() if w > 0}
    if prevalence is None:
        return fractions
    masses = {side: sum(f for d, f in fractions.items() if is_malignant(d) is side) for side in (True, False)}
    decided = masses[True] + masses[False]
    for side, share in ((True, prevalence), (False, 1 - prevalence)):
        if share > 0 and masses[side] == 0:
            raise ValueError(
                f"a prevalence of {prevalence:g} needs {'malignant' if side else 'benign'} lesions"
            )
        for d in fractions:
            if is_malignant(d) is side:
                fractions[d] *= share * decided / masses[side]
    return {d: f for d, f in fractions.items() if f > 0}


def apportion(fractions: dict[str, float], total: int) -> dict[str, int]:
    """Return whole numbers that sum to ``total`` in the proportions of ``fractions`` (largest remainder)."""
    exact = {d: f * total for d, f in fractions.items()}
    counts = {d: math.floor(x + 1e-9) for d, x in exact.items()}
    by_remainder = sorted(exact, key=lambda d: (counts[d] - exact[d], d))
    for d in by_remainder[: total - sum(counts.values())]:
        counts[d] += 1
    return counts


def apply_case_mix(table: pd.DataFrame, case_mix: CaseMix, seed: int) -> pd.DataFrame:
    """Return the rows of ``table`` whose lesions are kept so that ``case_mix`` holds, in the table's order.

    The largest sub-sample in these proportions is kept; no lesion is ever repeated. The choice depends on
    the seed and the lesion ids, not on the rows' order. Without prevalence and diagnoses the table comes
    back unchanged. Raises SiteError where the table has no lesion of a kind that is asked for, or where
    patients' attributes are asked of real lesions.
    """
    _refuse_demographics(case_mix)
    if case_mix.prevalence is None and case_mix.diagnoses is None:
        return table
    lesions = table.groupby("lesion_id", sort=True)["diagnosis"].first()
    available = {str(d): int(n) for d, n in lesions.value_counts().items()}
    wanted = _quotas(available, case_mix)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xCA5E]))
    kept: set[str] = set()
    for diagnosis in sorted(available):
        ids = lesions.index[lesions == diagnosis].to_numpy()
        # Drawn for every diagnosis, also those kept whole or dropped, so that one quota does not reshuffle
        # another.
        kept.update(rng.permutation(ids)[: wanted.get(diagnosis, 0)])
    return table[table["lesion_id"].isin(kept)]


def _quotas(available: dict[str, int], case_mix: CaseMix) -> dict[str, int]:
    """Return how many lesions of each diagnosis to keep."""
    weights = case_mix.diagnoses or {d: float(n) for d, n in available.items()}
    missing = sorted(d for d, w in weights.items() if w > 0 and d not in available)
    if missing:
        raise SiteError(
            f"case_mix asks for {', '.join(missing)} but the site's table has only "
            f"{', '.join(sorted(available)) or 'no lesions'}; drop those weights or choose another source"
        )
    try:
        fractions = diagnosis_fractions(weights, case_mix.prevalence)
    except ValueError as error:
        raise SiteError(
            f"case_mix: {error}, and the site's table has none; change case_mix.prevalence"
        ) from error
    total = math.floor(min(available[d] / f for d, f in fractions.items()) + 1e-9)
    quotas = {d: min(n, available[d]) for d, n in apportion(fractions, total).items()}
    empty = sorted(d for d, n in quotas.items() if n == 0)
    if case_mix.diagnoses is not None and empty:
        raise SiteError(
            f"case_mix leaves no lesion of {', '.join(empty)}: the rarest diagnosis allows {total} in all; "
            f"give {', '.join(empty)} a larger weight or drop it"
        )
    _refuse_one_sided(quotas, case_mix.prevalence, available)
    return quotas


def _refuse_one_sided(quotas: dict[str, int], prevalence: float | None, available: dict[str, int]) -> None:
    if prevalence is None:
        return
    for side, share in ((True, prevalence), (False, 1 - prevalence)):
        if share > 0 and not any(n for d, n in quotas.items() if is_malignant(d) is side):
            raise SiteError(
                f"case_mix.prevalence {prevalence:g} cannot be reached with {sum(available.values())} "
                f"lesions: it would leave no {'malignant' if side else 'benign'} lesion; "
                "move it towards the table's own prevalence"
            )


def _refuse_demographics(case_mix: CaseMix) -> None:
    names = ("age_mean", "age_sd", "male", "skin_types")
    given = [f"case_mix.{name}" for name in names if getattr(case_mix, name) is not None]
    if given:
        raise SiteError(
            f"{', '.join(given)} can only be chosen for a simulated site; this one's patients are given, so "
            "leave it out (prevalence and diagnoses can be chosen)"
        )


def _checked(weights: dict[str, float] | None, known: tuple[str, ...], kind: str) -> dict[str, float] | None:
    if weights is None:
        return None
    unknown = sorted(set(weights) - set(known))
    if unknown:
        raise ValueError(f"unknown {kind} {', '.join(unknown)}; known are {', '.join(known)}")
    if not any(w > 0 and math.isfinite(w) for w in weights.values()) or not all(
        map(math.isfinite, weights.values())
    ):
        raise ValueError(f"give at least one {kind} a weight above 0, and only finite ones")
    return weights
