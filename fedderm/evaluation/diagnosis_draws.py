"""Macro-F1 of many models on the same lesions: by site, over pooled sites, and the gap between home and away.

All models of a site see the same draws of its lesions. Confusion matrices add up over sites, draw by draw,
so that a pool's interval is that of its sites' lesions. The gap is Rashid et al.'s (2026): macro-F1 at one
source less that at the others, here over the diagnoses that both have: a source without VASC cannot fail at
it.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedderm.evaluation.diagnosis import Named, confusion_of, summary
from fedderm.evaluation.documents import Estimate
from fedderm.evaluation.intervals import lesion_weights
from fedderm.evaluation.metrics import macro_f1
from fedderm.evaluation.scores import Floats
from fedderm.evaluation.seed_variance import mean_over_seeds


@dataclass(frozen=True, eq=False)
class Confusions:
    """One model's confusion matrices: ``value`` (K, K), and ``drawn`` (B, K, K) under draws of lesions."""

    value: Floats
    drawn: Floats

    def __add__(self, other: "Confusions") -> "Confusions":
        """Return those of both sites' lesions together."""
        return Confusions(self.value + other.value, self.drawn + other.drawn)

    def of_truths(self, kept: NDArray[np.bool_]) -> "Confusions":
        """Return those of the lesions whose true diagnosis is ``kept`` (K,)."""
        return Confusions(self.value * kept[:, None], self.drawn * kept[:, None])

    @property
    def present(self) -> NDArray[np.bool_]:
        """``(K,)`` whether a lesion has the diagnosis."""
        return np.asarray(self.value.sum(axis=1) > 0)


Model = TypeVar("Model", bound=Hashable)

Measured = tuple[float, Floats]
"""A number of one model, and ``(B,)`` the same under draws of lesions."""


def draw_confusions(
    models: Mapping[Model, Named], number: int, resamples: int, seed: np.random.SeedSequence
) -> dict[Model, Confusions]:
    """Return the confusion matrices of ``models`` on one site's lesions, and under shared draws of them.

    Draws are within each diagnosis, by Rao and Wu's rescaled bootstrap. Raises ValueError where two models
    judge other lesions.
    """
    first = next(iter(models.values()))
    parts: dict[Model, list[Floats]] = {model: [] for model in models}
    cells = {}
    for model, one in models.items():
        if not (np.array_equal(one.lesion, first.lesion) and np.array_equal(one.truth, first.truth)):
            raise ValueError(f"{model} judged other lesions than the others; cells share sites and splits")
        cells[model] = np.eye(number**2)[one.truth * number + one.told]
    rng = np.random.default_rng(seed)
    for weights in lesion_weights(first.truth, resamples, rng, rescaled=True):
        for model, rows in cells.items():
            parts[model].append((weights @ rows).reshape(-1, number, number))
    return {
        model: Confusions(confusion_of(one, number).astype(float), np.concatenate(parts[model]))
        for model, one in models.items()
    }


def measures(confusions: Confusions, names: Sequence[str]) -> dict[str, Measured]:
    """Return macro_f1, accuracy and ``f1 NAME`` of each diagnosis that some lesion has."""
    value, drawn = summary(confusions.value), summary(confusions.drawn)
    found = {
        name: (float(value["overall"][place]), drawn["overall"][:, place])
        for place, name in enumerate(("macro_f1", "accuracy"))
    }
    for place in np.flatnonzero(confusions.present).tolist():
        found[f"f1 {names[place]}"] = (float(value["f1"][place]), drawn["f1"][:, place])
    return found


def gap(home: Confusions, away: Confusions) -> dict[str, Measured]:
    """Return macro-F1 ``home``, ``away`` and their difference ``gap``, over the diagnoses that both have.

    NaN where they have none in common.
    """
    both = home.present & away.present
    with np.errstate(invalid="ignore"):
        pairs = {
            name: (float(macro_f1(one.value)), macro_f1(one.drawn))
            for name, one in (("home", home.of_truths(both)), ("away", away.of_truths(both)))
        }
    pairs["gap"] = (pairs["home"][0] - pairs["away"][0], pairs["home"][1] - pairs["away"][1])
    return pairs


def mean_measured(several: Sequence[Measured]) -> Measured:
    """Return the mean of several numbers, draw by draw."""
    values, drawn = zip(*several, strict=True)
    return float(np.mean(values)), np.mean(drawn, axis=0)


def less(one: Measured, other: Measured) -> Measured:
    """Return ``one`` less ``other``, draw by draw."""
    return one[0] - other[0], one[1] - other[1]


def over_seeds(seeds: Sequence[Measured], lesions: int, lowest: float = 0.0) -> Estimate:
    """Return the mean over seeds with a 95 % interval over new seeds and ``lesions`` (seed_variance).

    A number between 0 and 1 takes the logit scale; ``lowest`` -1 one between -1 and 1.
    """
    values = np.array([value for value, _ in seeds])
    if not np.isfinite(values).all():
        return Estimate(value=None)
    found = mean_over_seeds(values, np.stack([drawn for _, drawn in seeds]), lesions)
    ends = found.interval() if lowest < 0 else found.logit_interval()
    if ends is None:
        return Estimate(value=found.value)
    return Estimate(value=found.value, lower=max(lowest, ends[0]), upper=min(1.0, ends[1]))
