"""How many lesions of each class are in each split, and what so many allow."""

from collections.abc import Iterator

from fedderm.doctor.findings import Finding
from fedderm.evaluation.proportions import wilson
from fedderm.evaluation.thresholds import certifiable_sensitivity, positives_needed
from fedderm.settings import EvaluationSettings
from sites.catalogue import SiteData, site_summary
from sites.diagnoses import CLASSES
from sites.words import counted

_WIDE = 0.2
"""An interval of a sensitivity this wide tells little."""
_WITHOUT = {
    "train": "this site teaches the model nothing of it",
    "test": "how well it is told from others cannot be measured here",
}


def examine_counts(data: SiteData, settings: EvaluationSettings) -> Iterator[Finding]:
    """Yield the counts of each split, and what they allow."""
    by_class = _lesions_by_class(data)
    for split, size in site_summary(data)["splits"].items():
        named = ", ".join(f"{name} {by_class[split][name]}" for name in CLASSES[1:])
        yield Finding(
            "fine",
            "counts",
            f"{split}: {counted(size['images'], 'image')} of {counted(size['lesions'], 'lesion')}, "
            f"{size['positive_lesions']} of them malignant ({named})",
        )
        absent = [name for name in CLASSES[1:] if not by_class[split][name]]
        if absent and size["positive_lesions"] and split in _WITHOUT:
            named = " or ".join(absent)
            yield Finding("look", "counts", f"{split} has no {named} lesion: {_WITHOUT[split]}")
    malignant = {split: sum(n[name] for name in CLASSES[1:]) for split, n in by_class.items()}
    yield from _certifiable(malignant.get("calibration", 0), settings)
    yield from _measurable(malignant.get("test", 0), settings)


def _lesions_by_class(data: SiteData) -> dict[str, dict[str, int]]:
    lesions = data.table.drop_duplicates(["split", "lesion_id"])
    return {
        str(split): {name: int((part["class_index"] == index).sum()) for index, name in enumerate(CLASSES)}
        for split, part in lesions.groupby("split", observed=True)
    }


def _certifiable(found: int, settings: EvaluationSettings) -> Iterator[Finding]:
    needed = positives_needed(settings.target_sensitivity, settings.confidence)
    goal = f"a sensitivity of {settings.target_sensitivity:.0%} at {settings.confidence:.0%} confidence"
    holds = f"calibration holds {counted(found, 'malignant lesion')}"
    if found >= needed:
        yield Finding("fine", "counts", f"{holds}: enough to certify {goal} ({needed} needed)")
        return
    best = f"; {found} can certify {certifiable_sensitivity(found, settings.confidence):.0%}" if found else ""
    yield Finding(
        "look",
        "counts",
        f"{holds}; {needed} are needed to certify {goal}: {needed - found} more{best}",
    )


def _measurable(found: int, settings: EvaluationSettings) -> Iterator[Finding]:
    """Yield how exactly the target sensitivity could be seen to be met, with so many malignant lesions."""
    if not found:
        yield Finding("look", "counts", "test holds no malignant lesion: no sensitivity can be measured here")
        return
    lower, upper = wilson(settings.target_sensitivity * found, found)
    yield Finding(
        "look" if upper - lower > _WIDE else "fine",
        "counts",
        f"test holds {counted(found, 'malignant lesion')}: a sensitivity of "
        f"{settings.target_sensitivity:.0%} measured on them is known from {lower:.0%} to {upper:.0%} (95 % "
        "interval)",
    )
