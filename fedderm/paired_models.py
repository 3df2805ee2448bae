"""Two trained models on the same lesions: differences with intervals and tests, site by site."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedderm.evaluation.comparison import FEWEST, delong_test, holm, mcnemar_p, paired_differences
from fedderm.evaluation.documents import Estimate
from fedderm.evaluation.recalibration import site_seed
from fedderm.evaluation.scores import Scores
from fedderm.local_site import LocalSite
from fedderm.node import open_site
from fedderm.predictor import Predictor
from fedderm.preparation import PreparationObserver, audit_prepared, load_sites, open_caches
from fedderm.runs import RunFolder

SHOWN = ("auc", "sensitivity", "specificity")


@dataclass(frozen=True)
class SiteComparison:
    """The second model against the first at one site, each at its own federation's threshold."""

    site: str
    role: str
    lesions: int
    malignant: int
    auc: tuple[float | None, float | None]
    """By lesion; None where a class is absent."""
    differences: Mapping[str, Estimate]
    """SHOWN metrics by lesion, second less first, with the interval of a paired bootstrap of lesions."""
    auc_p: float | None
    """DeLong's test; None with fewer than FEWEST lesions of a class."""
    auc_p_holm: float | None
    """Adjusted for the number of sites."""
    decisions_p: float | None
    """McNemar's exact test of the decisions."""


def compare_models(
    first: Path, second: Path, data_root: Path | None, observer: PreparationObserver
) -> list[SiteComparison]:
    """Return the comparison at every site of two finished runs, held-out sites first.

    Held-out sites are told by all their lesions, training sites by their test split. Raises ValueError where
    the runs do not share sites and seed: the second model could have trained on the first one's test lesions.
    """
    runs = [RunFolder.open(path, data_root) for path in (first, second)]
    require_same_sites(runs[0], runs[1])
    scores = [_scores(run, observer) for run in runs]
    points = tuple(Predictor.open(path).point for path in (first, second))
    experiment = runs[0].experiment
    found = []
    for site in sorted(experiment.sites, key=lambda one: one.role != "held-out"):
        one, two = (by_site[site.name] for by_site in scores)
        differences = paired_differences(
            one,
            two,
            (points[0], points[1]),
            experiment.model.scheme,
            resamples=experiment.evaluation.bootstrap,
            seed=site_seed(experiment.seed, site.name, "paired"),
        )["lesion"]
        found.append((site, one.per_lesion(), two.per_lesion(), differences))
    tests = {site.name: _delong(one, two) for site, one, two, _ in found}
    adjusted = holm({name: test[2] for name, test in tests.items()})
    return [
        SiteComparison(
            site=site.name,
            role=site.role,
            lesions=len(one),
            malignant=int(one.positive.sum()),
            auc=tests[site.name][:2],
            differences={name: differences[name] for name in SHOWN},
            auc_p=tests[site.name][2],
            auc_p_holm=adjusted[site.name],
            decisions_p=_mcnemar(one, two, points[0].threshold, points[1].threshold),
        )
        for site, one, two, differences in found
    ]


def require_same_sites(first: RunFolder, second: RunFolder) -> None:
    """Return if two runs split the same sites alike; otherwise raise ValueError."""
    one, two = first.experiment, second.experiment
    if one.seed != two.seed or one.sites != two.sites:
        what = f"seeds {one.seed} and {two.seed}" if one.seed != two.seed else "different sites"
        raise ValueError(
            f"{first.path} and {second.path} have {what}: their test lesions differ, and one model may have "
            "trained on the other's; compare runs of one seed and one list of sites"
        )


def _scores(run: RunFolder, observer: PreparationObserver) -> dict[str, Scores]:
    experiment = run.experiment
    predictor = Predictor.open(run.path)
    loaded = load_sites(experiment, observer)
    prepared = audit_prepared(loaded, open_caches(experiment, loaded, observer))
    salt = "compare"
    given_up = prepared.given_up(salt)
    found = {}
    for number, site in enumerate(experiment.sites, start=1):
        local = open_site(experiment, site, salt, frozenset(given_up.get(site.name, ())))
        found[site.name] = Scores.join(*_parts(local, predictor, experiment.training.precision))
        observer.progress(f"score with {run.path.name}", number, len(experiment.sites))
    return found


def _parts(local: LocalSite, predictor: Predictor, precision: str) -> Iterator[Scores]:
    splits: Sequence[str] = ("calibration", "test") if local.settings.role == "held-out" else ("test",)
    for split in splits:
        yield local.score(predictor.model, split, predictor.views, precision).scores


def _delong(one: Scores, two: Scores) -> tuple[float | None, float | None, float | None]:
    malignant = int(one.positive.sum())
    fewest = min(malignant, len(one) - malignant)
    if fewest < 2:
        return None, None, None
    test = delong_test(one, two)
    return test.first, test.second, test.p_value if fewest >= FEWEST else None


def _mcnemar(one: Scores, two: Scores, first: float, second: float) -> float | None:
    right = [
        (scores.triage >= threshold) == scores.positive for scores, threshold in ((one, first), (two, second))
    ]
    return mcnemar_p(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))
