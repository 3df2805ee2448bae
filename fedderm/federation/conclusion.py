"""The end of a run: the federation's operating point, the sites' recalibration, the model and its papers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, Message

from fedderm import __version__, messages
from fedderm.evaluation.counts import UNITS, Counts
from fedderm.evaluation.diagnosis import pool_diagnoses
from fedderm.evaluation.disclosure import FLOOR
from fedderm.evaluation.distance import BINS, from_arrays, to_arrays
from fedderm.evaluation.documents import SiteEvaluation, Unit
from fedderm.evaluation.head_documents import DiagnosisEvaluation
from fedderm.evaluation.long_format import CALIBRATION, POOLS, long_rows_of_federation, long_rows_of_site
from fedderm.evaluation.recalibration import evaluate_federation
from fedderm.evaluation.replicates import COARSE_BINS, sum_replicates
from fedderm.evaluation.scores import Ints
from fedderm.federation.roll_call import SiteCard, untaught
from fedderm.federation.session import Session
from fedderm.federation.standards import Standards, ask_standards
from fedderm.federation.training import read_counts
from fedderm.recipe import recipe_of
from fedderm.weights import Arrays
from sites.diagnoses import CLASSES
from sites.diagnosis_schemes import NAMES
from strategies.arrays import to_record
from strategies.catalogue import site_side

Replicates = dict[Unit, npt.NDArray[Any]]


@dataclass(frozen=True)
class _Conclusion:
    """What one site says of the final model."""

    evaluation: SiteEvaluation
    counts: Mapping[str, Counts]
    """By pool that the site is part of."""
    replicates: Mapping[str, Replicates]
    distances: Ints
    """``(512,)`` how far its calibration images lie from the reference; zeros where it does not say."""

    def by_split(self) -> dict[str, Counts]:
        """Return the counts of the test split, and those of the calibration split that certify."""
        calibration = self.counts.get(CALIBRATION + FLOOR, self.counts[CALIBRATION])
        return {"test": self.counts[self.evaluation.role], CALIBRATION: calibration}


def conclude(session: Session, cards: Sequence[SiteCard], arrays: ArrayRecord) -> None:
    """Evaluate and recalibrate the final model at all sites, and write model and evaluation.

    Raises QuorumLost, to be resumed, where fewer sites than the strategy's quorum can answer.
    """
    standards = ask_standards(session, cards, arrays)
    point, certificate = standards.point, standards.certificate
    found = _recalibrate(session, cards, arrays, standards)
    members = {pool: [one for one in found.values() if pool in one.counts] for pool in POOLS}
    federation = evaluate_federation(
        {
            pool: sum((one.counts[pool] for one in ones), Counts.zero())
            for pool, ones in members.items()
            if ones
        },
        {pool: _summed([one.replicates[pool] for one in ones]) for pool, ones in members.items() if ones},
        point,
        certificate,
        session.experiment.model.scheme,
    )
    evaluations = {name: one.evaluation for name, one in found.items()}
    federation = federation.model_copy(
        update={"diagnosis_head": _diagnoses(session, list(evaluations.values()))}
    )
    number = session.experiment.rounds
    rows = [row for one in evaluations.values() for row in long_rows_of_site(one, number)]
    rows += long_rows_of_federation(federation, number)
    counts = {
        f"{name}/{split}": one for name, told in found.items() for split, one in told.by_split().items()
    }
    session.folder.write_evaluation(evaluations, federation, rows, counts)
    session.folder.write_model(
        _whole(session, messages.from_record(arrays)),
        {**_description(session, standards, evaluations), "untaught": untaught(session, cards).as_dict()},
        {**standards.arrays(), **_usual(found.values())},
    )


def _diagnoses(session: Session, sites: Sequence[SiteEvaluation]) -> DiagnosisEvaluation | None:
    experiment = session.experiment
    names = NAMES.get(experiment.model.diagnoses, ())
    return pool_diagnoses(
        sites, names, experiment.evaluation.bootstrap, np.random.SeedSequence(experiment.seed)
    )


def _usual(found: Iterable[_Conclusion]) -> Arrays:
    """Return how far the training sites' own images lie from the reference, all together."""
    return to_arrays(sum((one.distances for one in found), np.zeros(BINS, np.int64)))


def _whole(session: Session, arrays: Arrays) -> Arrays:
    """Return the whole model, of which ``arrays`` are what was trained."""
    training = session.experiment.training
    trunk = {} if session.trunk is None else session.trunk.arrays
    if training.trunk != "lora":
        return {**trunk, **arrays}
    from fedderm.model.lora import merged  # with torch, which the trunk has brought along

    return merged(trunk, arrays, training)


def _recalibrate(
    session: Session, cards: Sequence[SiteCard], arrays: ArrayRecord, standards: Standards
) -> dict[str, _Conclusion]:
    # Held-out sites compare themselves with it; training sites say how far their own images lie from it.
    reference = to_record(standards.arrays())
    states = session.site_states()
    answers = session.gather(
        "recalibrate",
        messages.RECALIBRATE,
        [card.member for card in cards],
        arrays,
        _read,
        {card.member.name: reference for card in cards},
        {
            card.member.name: {
                "evidence": standards.evidence_for(card).model_dump_json(),
                **states.get(card.member.name, {}),
            }
            for card in cards
        },
        operating_point=standards.point.model_dump_json(),
        views=session.experiment.evaluation.views,
    )
    for card in cards:
        name = card.member.name
        names = NAMES.get(session.experiment.model.diagnoses)
        if name in answers.found and (why := _mismatch(answers.found[name], card, names)):
            del answers.found[name]
            answers.missing[name] = f"site {name}: its answer to recalibrate cannot be used ({why})"
    for sentence in answers.missing.values():
        session.observer.warn(sentence)
    answers.require(session.experiment.strategy.quorum, "recalibrate")
    session.note(not_concluded=answers.missing)
    session.note_traffic()
    return answers.found


def _mismatch(found: _Conclusion, card: SiteCard, names: Sequence[str] | None) -> str:
    """Return how an answer speaks of another site, role, pool or diagnoses than its sender's, or nothing."""
    told = found.evaluation
    if told.site != card.member.name:
        return "it speaks of another site"
    if told.role != card.role:
        return f"its role is {card.role} and it speaks as another"
    if told.diagnosis_head is not None and told.diagnosis_head.names != list(names or ()):
        return "its diagnoses are not those of the model"
    strange = [pool for pool in POOLS if pool in found.counts and POOLS[pool][0] != card.role]
    lacking = {card.role, CALIBRATION} - set(found.counts)
    return "its counts are not those of its role" if strange or lacking else ""


def _read(message: Message) -> _Conclusion:
    document, drawn = messages.read_evaluation(message)
    for name, values in drawn.items():
        if values.ndim != 3 or values.shape[1:] != (2, COARSE_BINS):
            raise ValueError(
                f"its replicates {name} have the shape {values.shape}, not (B, 2, {COARSE_BINS})"
            )
    return _Conclusion(
        SiteEvaluation.model_validate_json(document),
        read_counts(message),
        {
            pool: {unit: drawn[f"{pool}.{unit}"] for unit in UNITS if f"{pool}.{unit}" in drawn}
            for pool in POOLS
        },
        from_arrays(messages.read_distances(message)),
    )


def _summed(parts: Sequence[Replicates]) -> Replicates:
    return {
        unit: sum_replicates([part[unit] for part in parts])
        for unit in UNITS
        if all(unit in p for p in parts)
    }


def _description(
    session: Session, standards: Standards, evaluations: Mapping[str, SiteEvaluation]
) -> dict[str, Any]:
    """Return what is needed to use and to judge the weights: recipe, classes, operating points."""
    experiment = session.experiment
    return {
        "fedderm": __version__,
        "run": session.folder.path.name,
        "experiment": experiment.name,
        "model": experiment.model.model_dump(mode="json"),
        "views": experiment.evaluation.views,
        "classes": list(CLASSES),
        "training_sites": experiment.trained_at(),
        "adapted_sites": _adapted(session, evaluations),
        "recipe": recipe_of(experiment).model_dump(mode="json"),
        "federation_certificate": standards.certificate.model_dump(mode="json"),
        "federation_point": standards.point.model_dump(mode="json"),
        "evidence": standards.evidence().model_dump(mode="json"),
        "site_points": {name: one.site_point.model_dump(mode="json") for name, one in evaluations.items()},
        "certificates": {name: one.certificate.model_dump(mode="json") for name, one in evaluations.items()},
    }


def _adapted(session: Session, evaluations: Mapping[str, SiteEvaluation]) -> list[str]:
    """Return the held-out sites that normalise with their own images: these weights are not theirs."""
    strategy = session.experiment.strategy
    if not site_side(strategy.name).reestimates(strategy.parameters):
        return []
    return [name for name, one in evaluations.items() if one.role == "held-out"]
