"""A diagnosis of shift in words: what was found, and what to do next."""

import math
from collections.abc import Mapping
from typing import Final, Literal

from fedderm.evaluation.departure import Departure
from fedderm.evaluation.unlabelled_prevalence import UnlabelledPrevalence

Verdict = Literal["neither", "prevalence", "acquisition", "both", "unknown"]

FAR: Final = 9.0
"""Squared distance over expected above which no threshold should be used unseen: three times as far as
training sites are from one another (a choice)."""


def sentence_of(
    verdict: Verdict,
    reference: float,
    prevalence: UnlabelledPrevalence,
    found: Mapping[str, Departure],
    p_acquisition: float,
) -> str:
    """Return the verdict and its evidence; ``reference`` is the training sites' prevalence."""
    what, departed = min(found.items(), key=lambda item: item[1].p_value)
    if verdict in ("acquisition", "both"):
        images = (
            "The images differ from the training sites' more than those do among themselves "
            f"({what}: {departed.ratio:.1f} times the expected squared distance, p = {p_acquisition:.2g})"
        )
    else:
        images = (
            "The images differ no more than those of the training sites do among themselves "
            f"(p = {p_acquisition:.2g})"
        )
    shares = (
        f"{_percent(prevalence.value)} malignant [{_percent(prevalence.lower)}, {_percent(prevalence.upper)}]"
        f" by the scores, {_percent(reference)} at the training sites"
    )
    told = {
        "prevalence": "the prevalence is another",
        "both": "the prevalence is another, too",
        "neither": "the prevalence may be theirs",
        "acquisition": "whether the prevalence changed as well cannot be told",
        "unknown": "too few lesions, or too unlike training sites, to tell the prevalence",
    }[verdict]
    return f"{images}; {told}: {shares}."


def action_of(verdict: Verdict, reference: float, ratio: float, positives_needed: int) -> str:
    """Return what to do next; ``ratio`` is the larger departure.

    Labels are planned with the ``reference`` prevalence: where they are asked for, the estimated one is not
    to be relied on.
    """
    labels = math.ceil(positives_needed / max(reference, 0.01))
    label = (
        f"label about {labels} lesions, for {positives_needed} malignant ones at the training sites' share"
    )
    if verdict == "neither":
        return "Keep the federation's threshold and calibration; confirm them with the site's own labels."
    if verdict == "prevalence":
        return (
            "Correct the prior: calibrated probabilities move by the log odds ratio of the two prevalences. "
            "The threshold's sensitivity does not depend on the prevalence."
        )
    if verdict == "unknown":
        return f"Collect labels: {label}."
    if ratio > FAR:
        return f"Do not deploy yet: {label}, and certify the threshold here first."
    return f"Recalibrate: {label}; until then the federation's threshold promises nothing here."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
