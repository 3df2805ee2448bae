"""What a model's further heads are worth at a site: BCC and its patterns, and diagnoses."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from fedderm.evaluation.document import Document, Estimate, Unit


class PatternRates(Document):
    """A pattern head against the annotators' consensus, on the test lesions that have a label."""

    pattern: str
    n: int
    positives: int
    sensitivity: Estimate
    specificity: Estimate
    auc: Estimate


class PatternEvaluation(Document):
    """The heads of BCC and its dermoscopic patterns on the test lesions (fedderm.evaluation.bcc_rule)."""

    n: int
    positives: int
    """Lesions that are BCC."""
    accuracy: Estimate
    precision: Estimate
    recall: Estimate
    auc: Estimate
    rule_obeyed: Estimate
    """Lesions of which the BCC head says what the rule makes of the pattern heads."""
    rule_obeyed_bcc: Estimate
    """Of those that the BCC head calls BCC."""
    rule_obeyed_other: Estimate
    """Of the others."""
    relevant_found: Estimate
    """True BCC of which a positive pattern's head says yes."""
    exclusion_met: Estimate
    """Other lesions of which the pigment network's head says yes."""
    patterns: list[PatternRates]
    """Empty where no test image has a label."""


class DiagnosisPerformance(Document):
    """The head of diagnoses on the images or lesions of a split, or of a pool, that have a label.

    A site's minimum cell size is kept by moving what is small (fedderm.evaluation.diagnosis), and every
    number here follows from what is left.
    """

    n: int
    confusion: list[list[Annotated[int, Field(ge=0)]]]
    """``(K, K)`` rows are true diagnoses, columns the likeliest; matrices of several sites add up."""
    f1: dict[str, Estimate]
    """By diagnosis; without a value where no unit has it."""
    macro_f1: Estimate
    """Over the diagnoses that some unit has."""
    accuracy: Estimate


class DiagnosisEvaluation(Document):
    """What a model's head of diagnoses is worth."""

    names: list[str]
    """The K diagnoses, in the order of the confusion matrices."""
    splits: dict[str, dict[Unit, DiagnosisPerformance]]
    """By split (of a site), or by role (of the pool of test splits, lesions alone)."""

    @model_validator(mode="after")
    def _one_row_and_column_a_diagnosis(self) -> Self:
        for one in (found for units in self.splits.values() for found in units.values()):
            if [len(row) for row in one.confusion] != [len(self.names)] * len(self.names):
                raise ValueError(
                    f"a confusion matrix of {len(self.names)} diagnoses has another shape; update fedderm at "
                    "the site"
                )
        return self
