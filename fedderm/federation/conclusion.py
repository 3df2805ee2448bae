"""The end of a run: the federation's operating point, every site's recalibration, the model and its
papers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
from flwr.app import ArrayRecord

from fedderm import __version__, messages
from fedderm.evaluation.counts import UNITS, Counts
from fedderm.evaluation.documents import Certificate, OperatingPoint, SiteEvaluation, Unit
from fedderm.evaluation.long_format import long_rows_of_federation, long_rows_of_site
from fedderm.evaluation.recalibration import evaluate_federation, federation_point
from fedderm.evaluation.replicates import sum_replicates
from fedderm.federation.roll_call import SiteCard
from fedderm.federation.session import Session
from fedderm.federation.training import calibration_counts, evaluate_counts
from sites.diagnoses import CLASSES

Replicates = dict[Unit, npt.NDArray[Any]]


def conclude(session: Session, cards: Sequence[SiteCard], arrays: ArrayRecord) -> None:
    """Evaluate and recalibrate the final model at all sites, and write model and evaluation."""
    point, certificate = _federation_point(session, cards, arrays)
    evaluations, counts, replicates = _recalibrate(session, cards, arrays, point)
    roles = {card.member.name: card.role for card in cards}
    federation = evaluate_federation(
        {
            role: sum((counts[name] for name in names), Counts.zero())
            for role, names in _by_role(counts, roles)
        },
        {role: _summed([replicates[name] for name in names]) for role, names in _by_role(counts, roles)},
        point,
        certificate,
        session.experiment.model.scheme,
    )
    number = session.experiment.rounds
    rows = [row for one in evaluations.values() for row in long_rows_of_site(one, number)]
    rows += long_rows_of_federation(federation, number)
    session.folder.write_evaluation(evaluations, federation, rows)
    session.folder.write_model(messages.from_record(arrays), _description(session, point, evaluations))


def _federation_point(
    session: Session, cards: Sequence[SiteCard], arrays: ArrayRecord
) -> tuple[OperatingPoint, Certificate]:
    settings = session.experiment.evaluation
    training = [card for card in cards if card.role == "train"]
    found = evaluate_counts(
        session, training, arrays, "calibration", settings.views, "federation's threshold"
    )
    roles = {card.member.name: card.role for card in training}
    return federation_point(
        calibration_counts(found, roles),
        settings.target_sensitivity,
        settings.confidence,
        session.experiment.seed,
    )


def _recalibrate(
    session: Session, cards: Sequence[SiteCard], arrays: ArrayRecord, point: OperatingPoint
) -> tuple[dict[str, SiteEvaluation], dict[str, Counts], dict[str, Replicates]]:
    evaluations: dict[str, SiteEvaluation] = {}
    counts: dict[str, Counts] = {}
    replicates: dict[str, Replicates] = {}
    for reply in session.ask(
        "recalibrate",
        messages.RECALIBRATE,
        [card.member for card in cards],
        arrays,
        operating_point=point.model_dump_json(),
        views=session.experiment.evaluation.views,
    ):
        if reply.message is None:
            session.observer.warn(str(reply.reason))
            continue
        name = reply.member.name
        document, drawn = messages.read_evaluation(reply.message)
        evaluations[name] = SiteEvaluation.model_validate_json(document)
        counts[name] = Counts.from_array(messages.read_counts(reply.message)["test"])
        replicates[name] = {unit: drawn[unit] for unit in UNITS if unit in drawn}
    if not evaluations:
        raise ValueError("no site could recalibrate the model; see the warnings above, then resume the run")
    return evaluations, counts, replicates


def _by_role(counts: Mapping[str, Counts], roles: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    return [
        (role, names)
        for role in ("train", "held-out")
        if (names := [name for name in counts if roles[name] == role])
    ]


def _summed(parts: Sequence[Replicates]) -> Replicates:
    return {
        unit: sum_replicates([part[unit] for part in parts])
        for unit in UNITS
        if all(unit in p for p in parts)
    }


def _description(
    session: Session, point: OperatingPoint, evaluations: Mapping[str, SiteEvaluation]
) -> dict[str, Any]:
    """Return what is needed to use the weights: architecture, preprocessing, classes, operating points."""
    experiment = session.experiment
    return {
        "fedderm": __version__,
        "run": session.folder.path.name,
        "experiment": experiment.name,
        "model": experiment.model.model_dump(mode="json"),
        "views": experiment.evaluation.views,
        "classes": list(CLASSES),
        "training_sites": [site.name for site in experiment.sites if site.role == "train"],
        "federation_point": point.model_dump(mode="json"),
        "site_points": {name: one.site_point.model_dump(mode="json") for name, one in evaluations.items()},
        "certificates": {name: one.certificate.model_dump(mode="json") for name, one in evaluations.items()},
    }
