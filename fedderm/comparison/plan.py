"""From the section ``compare`` to cells: each arm x seed x fold is a whole experiment, checked beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedderm.combinations import check_choices
from fedderm.compare_settings import CompareSettings, slug
from fedderm.comparison.folds import Raw, folds_of, parsed, raw_of, section_of
from fedderm.comparison.variants import merged, refuse_common, variants
from fedderm.config_sentences import nearest
from fedderm.settings import Experiment


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    arm: str
    """The arm's label, with the grid's values."""
    seed: int
    experiment: Experiment
    held_out: str = ""
    """The site of the fold in leave-one-site-out; fold1, fold2, ... of lesions."""
    trained: str = ""
    """The site that trains alone, of a local arm."""

    @property
    def id(self) -> str:
        """Return ``arm/seed``, then the site held out and the one that trains alone, where there is one."""
        return "/".join(one for one in (slug(self.arm), str(self.seed), self.held_out, self.trained) if one)


def cells_of(experiment: Experiment) -> list[Cell]:
    """Return all cells, by seed, then fold, then arm: after the first seed each arm has been seen once.

    Each is a validated experiment whose strategy, parameters and backbone exist. Raises ValueError naming the
    arm where one is not, where two arms would share a folder, and where the reference is no arm.
    """
    settings = section_of(experiment)
    for label, changes in settings.arms.items():
        refuse_common(changes, f"compare.arms.{label}")
    arms = [(one.label, one.changes) for one in variants(settings)]
    _refuse_shared_folders([label for label, _ in arms])
    folds = folds_of(experiment)
    first = next(iter(folds.values()))
    for label, changes in settings.arms.items():
        _cells(label, f"compare.arms.{label}", changes, settings.seeds[0], "", first, settings)
    cells = [
        cell
        for seed in settings.seeds
        for held_out, federation in folds.items()
        for label, changes in arms
        for cell in _cells(label, _where(label, settings), changes, seed, held_out, federation, settings)
    ]
    _check_diagnoses(cells)
    _check_reference(settings, cells)
    _check_pairs(settings, cells)
    _check_choices(cells, settings)
    return cells


def _cells(
    label: str,
    where: str,
    changes: Raw,
    seed: int,
    held_out: str,
    federation: Experiment,
    settings: CompareSettings,
) -> list[Cell]:
    """Return an arm's cells of one seed and fold: one; of a local arm without a site, one a training site."""
    raw = merged(raw_of(federation), changes)
    given = {"training": {"seed": seed}, "evaluation": {"bootstrap": settings.cell_bootstrap}}
    if all(isinstance(raw[section], dict) for section in given):
        raw = merged(raw, given)
    alone: list[str | None] = [raw.get("baseline_site")]
    if raw.get("baseline") == "local" and alone == [None]:
        alone = [site.name for site in federation.sites if site.role == "train"]
    found = []
    for site in alone:
        experiment = parsed({**raw, "baseline_site": site}, where)
        found.append(Cell(label, seed, experiment, held_out, experiment.baseline_site or ""))
    return found


def _refuse_shared_folders(labels: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for label in labels:
        if slug(label) in seen:
            raise ValueError(
                f"compare.arms: {seen[slug(label)]} and {label} would share the folder {slug(label)}; give "
                "one another label"
            )
        seen[slug(label)] = label


def _check_diagnoses(cells: Sequence[Cell]) -> None:
    schemes = {cell.experiment.model.diagnoses for cell in cells} - {"none"}
    if len(schemes) > 1:
        raise ValueError(
            "compare: model.diagnoses is seven in some arms and eleven in others, whose F1 cannot be "
            "compared; choose one"
        )


def _check_reference(settings: CompareSettings, cells: Sequence[Cell]) -> None:
    reference = settings.reference
    labels = list(dict.fromkeys(cell.arm for cell in cells))
    if reference in labels:
        if len({cell.trained for cell in cells if cell.arm == reference}) > 1:
            raise ValueError(
                f"compare.reference: {reference} is a model for each training site, not one; choose another "
                "arm"
            )
        return
    if reference in settings.arms:
        raise ValueError(
            f"compare.reference: compare.grid makes several arms of {reference}; name one, such as "
            f"'{next(label for label in labels if label.startswith(reference))}'"
        )
    raise ValueError(
        f"compare.reference: there is no arm {reference}{nearest(reference, labels)}; there are "
        f"{'; '.join(labels)}"
    )


def _check_pairs(settings: CompareSettings, cells: Sequence[Cell]) -> None:
    """Raise ValueError for a pair of other arms than those with one model a seed, or of one arm twice."""
    models: dict[str, set[str]] = {}
    for cell in cells:
        models.setdefault(cell.arm, set()).add(cell.trained)
    labels = [arm for arm, trained in models.items() if len(trained) == 1]
    for pair in settings.pairs:
        for label in pair:
            if label not in labels:
                raise ValueError(
                    f"compare.pairs: there is no arm {label} with one model for all sites"
                    f"{nearest(label, labels)}; there are {'; '.join(labels)}"
                )
        if pair[0] == pair[1]:
            raise ValueError(f"compare.pairs: {pair[0]} is paired with itself; name two arms")


def _check_choices(cells: Sequence[Cell], settings: CompareSettings) -> None:
    for arm in dict.fromkeys(cell.arm for cell in cells):
        experiment = next(cell.experiment for cell in cells if cell.arm == arm)
        try:
            check_choices(experiment)
        except ValueError as error:
            raise ValueError(f"{_where(arm, settings)}: {error}") from error


def _where(label: str, settings: CompareSettings) -> str:
    return f"compare.arms.{label}" if label in settings.arms else f"compare.grid, arm '{label}'"
