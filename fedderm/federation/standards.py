"""What the training sites' calibration splits say for all others: threshold, evidence, and what is usual."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from flwr.app import ArrayRecord, Message

from fedderm import messages
from fedderm.evaluation.counts import Counts
from fedderm.evaluation.disclosure import FLOOR
from fedderm.evaluation.documents import Certificate, OperatingPoint
from fedderm.evaluation.informed import FederationEvidence, federation_evidence
from fedderm.evaluation.recalibration import federation_point
from fedderm.evaluation.shift_reference import ShiftReference, Summary, reference_of
from fedderm.federation.roll_call import SiteCard, teaching
from fedderm.federation.session import Session
from fedderm.federation.training import calibration_counts, read_counts
from fedderm.settings import EvaluationSettings
from fedderm.weights import Arrays

_SPLIT = "calibration"


@dataclass(frozen=True)
class Standards:
    """The federation's operating point, and what its training sites tell beside it."""

    point: OperatingPoint
    certificate: Certificate
    floors: Mapping[str, Counts]
    """Training site to the counts of its calibration split, as a floor where it merges small cells."""
    reference: ShiftReference | None
    """What the training sites look like; None where none sent features."""
    settings: EvaluationSettings

    @classmethod
    def of(
        cls,
        told: Mapping[str, Mapping[str, Counts]],
        features: Mapping[str, Summary],
        settings: EvaluationSettings,
        seed: int,
    ) -> Self:
        """Return what sites' counts (``disclosure.understood``) and sums of features say, by site's name."""
        counts = {name: calibration_counts({name: one}) for name, one in told.items()}
        floors = {name: calibration_counts({name: one}, FLOOR) for name, one in told.items()}
        point, certificate = federation_point(
            sum(counts.values(), Counts.zero()),
            settings.target_sensitivity,
            settings.confidence,
            seed,
            floor=sum(floors.values(), Counts.zero()),
        )
        return cls(point, certificate, floors, reference_of(counts, features) if features else None, settings)

    def evidence(self, without: str | None = None) -> FederationEvidence:
        """Return what the training sites' malignant lesions say about thresholds elsewhere."""
        return federation_evidence(
            self.floors, self.settings.target_sensitivity, self.settings.confidence, without=without
        )

    def evidence_for(self, card: SiteCard) -> FederationEvidence:
        """Return the evidence for one site: a training site's own lesions do not speak twice."""
        return self.evidence(without=card.member.name if card.role == "train" else None)

    def arrays(self) -> Arrays:
        """Return the reference as named arrays; none where there is no reference."""
        return {} if self.reference is None else dict(self.reference.to_arrays())


def ask_standards(session: Session, cards: Sequence[SiteCard], arrays: ArrayRecord) -> Standards:
    """Return the standards of the training sites; raises QuorumLost where too few of them answer."""
    settings = session.experiment.evaluation
    title = "federation's threshold"
    answers = session.gather(
        title,
        messages.EVALUATE,
        [card.member for card in teaching(session, cards)],
        arrays,
        _read,
        private=session.site_states(),
        splits=_SPLIT,
        features_of=_SPLIT,
        views=settings.views,
    )
    for sentence in answers.missing.values():
        session.observer.warn(sentence)
    answers.require(session.experiment.strategy.quorum, title)
    return Standards.of(
        {name: one[0] for name, one in answers.found.items()},
        {name: one[1] for name, one in answers.found.items() if one[1]},
        settings,
        session.experiment.seed,
    )


def _read(message: Message) -> tuple[dict[str, Counts], Arrays]:
    return read_counts(message), messages.read_features(message)
