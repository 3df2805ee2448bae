"""An ensemble's own operating point, fitted where all of its members' sites lie on this machine.

As at the end of a run (fedderm.federation): the training sites' calibration splits, which no member trained
on, set calibration and threshold; then every site is judged. It takes no messages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedderm.evaluation.counts import Counts, counts_of
from fedderm.evaluation.disclosure import folded, told, understood
from fedderm.evaluation.distance import BINS, to_arrays
from fedderm.evaluation.documents import Certificate, OperatingPoint, SiteEvaluation
from fedderm.evaluation.informed import FederationEvidence
from fedderm.evaluation.shift_reference import Summary, feature_summary
from fedderm.federation.standards import Standards
from fedderm.judging import Frame, judge
from fedderm.local_site import LocalSite
from fedderm.model.heads import Heads
from fedderm.node import open_site
from fedderm.paired_models import require_same_sites
from fedderm.preparation import PreparationObserver, audit_prepared, load_sites, open_caches
from fedderm.runs import RunFolder
from fedderm.settings import Experiment
from fedderm.weights import Arrays

_SALT = "ensemble"


@dataclass(frozen=True)
class Fitted:
    """What the members' sites say of the ensemble."""

    point: OperatingPoint
    certificate: Certificate
    evidence: FederationEvidence
    reference: Arrays
    evaluations: Mapping[str, SiteEvaluation]


def open_sites(
    paths: Sequence[Path], data_root: Path, observer: PreparationObserver, trunk: str = ""
) -> tuple[Experiment, list[LocalSite]]:
    """Return the first run's experiment, and the sites, which all runs share.

    With the digest of a frozen ``trunk`` heads are shown its features.

    Raises ValueError where a path is no run's folder, or the runs do not share seed and sites: lesions that
    calibrate one member could be what another one trained on.
    """
    runs = [RunFolder.open(path, data_root) for path in paths]
    for other in runs[1:]:
        require_same_sites(runs[0], other)
    experiment = runs[0].experiment
    loaded = load_sites(experiment, observer)
    given_up = audit_prepared(loaded, open_caches(experiment, loaded, observer)).given_up(_SALT)
    return experiment, [
        open_site(experiment, site, _SALT, frozenset(given_up.get(site.name, ())), trunk)
        for site in experiment.sites
    ]


def fit(
    model: Heads, experiment: Experiment, sites: Sequence[LocalSite], observer: PreparationObserver
) -> Fitted:
    """Return the operating point of ``model``, an ensemble of runs of ``experiment``, and its worth."""
    settings, told_by = experiment.evaluation, dict[str, Mapping[str, Counts]]()
    summaries: dict[str, Summary] = {}
    training = [site for site in sites if site.settings.role == "train"]
    for site in training:
        told_by[site.settings.name], summaries[site.settings.name] = _told(site, model, settings.views)
        observer.progress("fit the ensemble's threshold", len(told_by), len(training))
    standards = Standards.of(told_by, summaries, settings, experiment.seed)
    evaluations, away = dict[str, SiteEvaluation](), np.zeros(BINS, np.int64)
    for site in sites:
        name = site.settings.name
        evidence = standards.evidence(without=name if site in training else None)
        frame = Frame(standards.point, evidence, standards.reference)
        judged = judge(site, model, experiment, frame, settings.views)
        evaluations[name] = judged.evaluation
        away += judged.distances
        observer.progress("judge the ensemble", len(evaluations), len(sites))
    return Fitted(
        point=standards.point,
        certificate=standards.certificate,
        evidence=standards.evidence(),
        reference={**standards.arrays(), **to_arrays(away)},
        evaluations=evaluations,
    )


def _told(site: LocalSite, model: Heads, views: int) -> tuple[dict[str, Counts], Summary]:
    """Return what a training site would send of its calibration split."""
    seen, min_cell = site.score(model, "calibration", views, "auto"), site.settings.min_cell
    shown = folded(seen.scores, min_cell)
    summary = feature_summary(seen.features, shown.truth, shown.lesion, min_cell)
    return understood(told("calibration", counts_of(shown), min_cell)), summary
