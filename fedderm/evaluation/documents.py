"""The documents an evaluation leaves: what a site sends back and what the report reads."""

from typing import Final, Literal

from pydantic import Field

from fedderm.evaluation.document import Document as Document
from fedderm.evaluation.document import Estimate as Estimate
from fedderm.evaluation.document import Unit as Unit
from fedderm.evaluation.head_documents import DiagnosisEvaluation, PatternEvaluation

WITH_PRIOR: Final = "train-with-prior"
"""The pool of the training sites in which each adds its own log odds of malignancy to its scores."""


CalibrationKind = Literal["identity", "temperature", "platt", "beta", "isotonic"]


class OperatingPoint(Document):
    """A calibration map from raw logits to probabilities, and a threshold on the raw logit.

    identity, temperature, platt: ``logit p = slope * logit + intercept``. The others say at their field.
    """

    calibration: CalibrationKind
    slope: float
    intercept: float
    beta: tuple[float, float, float] | None = None
    """beta: ``logit p = a ln s - b ln(1 - s) + c`` with ``s = sigmoid(logit)`` and these (a, b, c)."""
    knots: list[tuple[float, float]] = Field(default_factory=list)
    """isotonic: ascending (raw logit, probability); straight between two, constant outside."""
    prior_shift: float = 0.0
    """Added to ``logit p`` of any map: the log odds ratio of a prevalence estimated without labels."""
    prevalence: float | None = None
    """Malignant fraction of the lesions that the map was fitted on; None: not recorded."""
    threshold: float
    """On the raw triage logit: a score at or above it is called malignant."""
    threshold_probability: float
    """The same threshold as a calibrated probability."""
    origin: str
    """One sentence for the reader: where threshold and calibration come from."""


class Certificate(Document):
    """Whether a threshold's sensitivity is guaranteed, and what is missing if it is not."""

    target_sensitivity: float
    confidence: float
    positives: int
    """Confirmed malignant lesions in the calibration split."""
    needed: int
    """The fewest malignant lesions with which any threshold can be certified."""
    certified: bool
    sentence: str


class Performance(Document):
    """One split of one site (or the pool) at one operating point.

    Where a site's minimum cell size hides the split: n and positives 0, metrics without values, confusion
    empty.
    """

    unit: Unit
    n: int
    positives: int
    metrics: dict[str, Estimate]
    """By the names of ``fedderm.evaluation.metrics.METRICS``."""
    confusion: list[list[int]]
    """Rows are true classes, columns decisions; 2 or 4 classes. Empty where a small cell hides it."""
    absent_classes: list[str]


class Roc(Document):
    """Empirical ROC curve; empty where a class is absent."""

    false_positive_rate: list[float]
    true_positive_rate: list[float]


class ReliabilityBin(Document):
    """One bin of a reliability diagram."""

    predicted: float
    observed: float
    lower: float
    upper: float
    n: int


class SplitSize(Document):
    """What a split of a site holds."""

    images: int
    lesions: int
    positive_images: int
    positive_lesions: int


class ThresholdOffer(Document):
    """One way to set a site's threshold, what it promises and what it costs on the test split's lesions."""

    method: Literal["federation", "site", "informed", "npv", "referral"]
    threshold: float | None
    """On the raw triage logit, on a bin edge; None where the method has none to offer."""
    certified: bool
    promise: str
    """One sentence: what is guaranteed at which confidence, or what is missing."""
    assumption: str
    """One sentence: under which circumstances the promise holds, and what breaks it."""
    sensitivity: Estimate
    specificity: Estimate
    npv: Estimate
    referrals_per_1000: Estimate
    """Of all of the site's test lesions: at the site's own prevalence."""


class Zone(Document):
    """One of three ways a lesion is sent: reassure, see again, refer."""

    name: Literal["low", "middle", "high"]
    lower: float | None
    """The zone's lower bound, raw logit; None: no bound."""
    upper: float | None
    basis: str
    """Where the bounds come from: what is certified of them, or which probability stands in."""
    lesions: int
    malignant: int
    share: Estimate
    """Of the test lesions."""
    malignancy: Estimate
    """Fraction of malignant lesions in the zone."""


class PairedDecisions(Document):
    """Decisions at two thresholds on the same lesions (McNemar)."""

    only_before: int
    """Lesions right at the first threshold only."""
    only_after: int
    p_value: float | None
    """Exact McNemar; None where no decision differs."""


class ShiftDiagnosis(Document):
    """What changed at a site against the training sites, told from unlabelled images."""

    verdict: Literal["neither", "prevalence", "acquisition", "both", "unknown"]
    prevalence: Estimate
    """Estimated without labels, of lesions, with its interval."""
    reference_prevalence: float
    """That of the training sites' calibration lesions, which the calibration map stands for."""
    prior_shift: float
    """Log odds ratio of the two; 0 unless the verdict is prevalence."""
    evidence: dict[str, float]
    """Test statistics and p values by name."""
    sentence: str
    """The verdict and its evidence in words."""
    action: str
    """What to do next: prior correction, recalibration, collect n labels, or do not deploy."""


class Subgroup(Document):
    """One level of an attribute among the test lesions, at the site's own operating point."""

    attribute: str
    level: str
    n: int
    positives: int
    auc: Estimate
    sensitivity: Estimate
    specificity: Estimate


class SubgroupGap(Document):
    """The largest difference of a metric between two levels of an attribute."""

    attribute: str
    metric: Literal["auc", "sensitivity", "specificity"]
    highest: str
    lowest: str
    difference: Estimate


class PersonalEvaluation(Document):
    """What a training site's personal model is worth at that site: never part of a pool."""

    operating_point: OperatingPoint
    """Of the personal model, from the site's own calibration split."""
    certificate: Certificate
    performance: dict[Unit, Performance]
    """On the test split, at that operating point."""


class SiteEvaluation(Document):
    """Everything a site says about the final model: before and after its own recalibration."""

    site: str
    role: str
    min_cell: int = 0
    """Counts below it stay at the site; in a deployment the config does not know it."""
    splits: dict[str, SplitSize]
    diagnoses: dict[str, int]
    """Images by canonical diagnosis, all splits together."""
    federation_point: OperatingPoint
    site_point: OperatingPoint
    certificate: Certificate
    before: dict[Unit, Performance]
    """On the test split at the federation's operating point."""
    after: dict[Unit, Performance]
    """On the same test split at the site's own operating point."""
    whole_site: dict[Unit, Performance]
    """A held-out site's calibration and test splits, at the federation's point; empty for training sites."""
    roc: dict[Unit, Roc]
    reliability_before: list[ReliabilityBin]
    reliability_after: list[ReliabilityBin]
    thresholds: list[ThresholdOffer] = Field(default_factory=list)
    zones: list[Zone] = Field(default_factory=list)
    decisions: PairedDecisions | None = None
    """Before and after, on the test lesions."""
    shift: ShiftDiagnosis | None = None
    subgroups: list[Subgroup] = Field(default_factory=list)
    subgroup_gaps: list[SubgroupGap] = Field(default_factory=list)
    patterns: PatternEvaluation | None = None
    """Of a model with pattern heads."""
    diagnosis_head: DiagnosisEvaluation | None = None
    """Of a model with a head of diagnoses: calibration and test split."""
    personal: PersonalEvaluation | None = None
    """Of the site's personal model, where the strategy gives it one; all else here is of the global model."""


class FederationEvaluation(Document):
    """The federation's operating point and what it gives on pooled test splits, from summed counts."""

    operating_point: OperatingPoint
    certificate: Certificate
    pooled: dict[str, dict[Unit, Performance]]
    """Keys "train" and "held-out": the pool of the test splits of the sites of that role; WITH_PRIOR, AUC
    only."""
    roc: dict[str, Roc]
    diagnosis_head: DiagnosisEvaluation | None = None
    """Of a model with a head of diagnoses, by role: the sites' confusion matrices added up."""
