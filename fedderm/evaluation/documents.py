"""The documents an evaluation leaves: what a site sends back and what the report reads."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

Unit = Literal["image", "lesion"]

WITH_PRIOR: Final = "train-with-prior"
"""The pool of the training sites in which each adds its own log odds of malignancy to its scores."""


class Document(BaseModel):
    """A frozen document that round-trips through JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OperatingPoint(Document):
    """A calibration map ``p = sigmoid(slope * logit + intercept)`` and a threshold on the raw logit."""

    calibration: Literal["identity", "temperature", "platt"]
    slope: float
    intercept: float
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


class Estimate(Document):
    """A value with its interval; None where undefined (a class is absent) or no interval was asked for."""

    value: float | None
    lower: float | None = None
    upper: float | None = None


class Performance(Document):
    """One split of one site (or the pool) at one operating point.

    Where a site's minimum cell size hides the split: n and positives 0, metrics without values, confusion
    empty.
    """

    unit: Unit
    n: int
    positives: int
    metrics: dict[str, Estimate]
    """auc, sensitivity, specificity, balanced_accuracy, macro_f1, ece, brier, referrals_per_1000."""
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


class SiteEvaluation(Document):
    """Everything a site says about the final model: before and after its own recalibration."""

    site: str
    role: str
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


class FederationEvaluation(Document):
    """The federation's operating point and what it gives on pooled test splits, from summed counts."""

    operating_point: OperatingPoint
    certificate: Certificate
    pooled: dict[str, dict[Unit, Performance]]
    """Keys "train" and "held-out": the pool of the test splits of the sites of that role; WITH_PRIOR, AUC
    only."""
    roc: dict[str, Roc]
