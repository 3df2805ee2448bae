"""Which of a grid's values an arm would have been used with: chosen on calibration lesions, before any test.

The largest AUC on the page belongs to the values that the test lesions like best, and is too high for that.
So each arm's values are chosen by what its models say of the training sites' calibration splits: the mean of
the sites' AUC by lesion, then the mean over seeds. Those lesions trained no model. They set its threshold and
its calibration, which they do for the values chosen as for the others.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from fedderm.compare_settings import CompareSettings
from fedderm.comparison.outcomes import Cell, Comparison
from fedderm.comparison.variants import variants
from fedderm.counts_file import read_counts
from fedderm.evaluation.long_format import CALIBRATION
from fedderm.evaluation.ranking import weighted_ranking


@dataclass(frozen=True)
class Tried:
    """An arm with one combination of the grid's values, on the training sites' calibration lesions."""

    arm: str
    """Its label in the config, without the values."""
    label: str
    """With them, as in all other tables."""
    auc: float
    """Mean over seeds of the mean over sites; NaN where no site has both classes."""
    seeds: int
    """How many are in the mean."""
    lesions: int
    """Calibration lesions of the sites in the mean."""
    chosen: bool = False
    """Whether it is the highest of its arm's."""


def choices_of(comparison: Comparison) -> list[Tried]:
    """Return what was tried of each arm with one model, the chosen values marked; ties go to the first.

    Only values with as many finished seeds as any of the arm's can be chosen. Empty without a grid, and
    where sites or lesions change roles from fold to fold, so that no lesion is left out of all tests. Raises
    ValueError where a finished cell's counts are damaged.
    """
    section = comparison.config["compare"]
    if not section.get("grid") or section.get("protocol", "fixed") != "fixed":
        return []
    settings = CompareSettings.model_validate(section)
    tried: dict[str, list[Tried]] = {}
    for one in variants(settings):
        if one.label in comparison.arms and (cells := list(comparison.cells_of(one.label))):
            tried.setdefault(one.arm, []).append(_tried(one.arm, one.label, cells, comparison))
    return [told for ones in tried.values() for told in _marked(ones)]


def _marked(ones: list[Tried]) -> Iterator[Tried]:
    most = max(one.seeds for one in ones)
    complete = [one for one in ones if one.seeds == most and not math.isnan(one.auc)]
    best = max(complete, key=lambda one: one.auc, default=None)
    for one in ones:
        yield Tried(one.arm, one.label, one.auc, one.seeds, one.lesions, chosen=one is best)


def _tried(arm: str, label: str, cells: list[Cell], comparison: Comparison) -> Tried:
    sites = [site for site, role in comparison.sites.items() if role == "train"]
    found = [_of_cell(cell, sites) for cell in cells]
    values = [auc for auc, _ in found if not math.isnan(auc)]
    mean = sum(values) / len(values) if values else math.nan
    return Tried(arm, label, mean, len(values), max(lesions for _, lesions in found))


def _of_cell(cell: Cell, sites: list[str]) -> tuple[float, int]:
    """Return the mean of the sites' AUC on calibration lesions, and how many those are."""
    path = cell.path / "evaluation" / "counts.npz"
    counts = read_counts(path) if path.is_file() else {}  # a comparison older than the file has none
    values, lesions = [], 0
    for site in sites:
        here = counts.get(f"{site}/{CALIBRATION}")
        if here is None or not 0 < here.positives("lesion") < here.n("lesion"):
            continue
        values.append(weighted_ranking(*here.weighted("lesion"))["auc"])
        lesions += here.n("lesion")
    return (sum(values) / len(values) if values else math.nan), lesions
