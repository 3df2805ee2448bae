"""What the report calls things: metrics, calibration maps, ways to set a threshold, zones and verdicts."""

from typing import Final

from fedderm.evaluation.documents import SiteEvaluation

METRIC_NAMES: Final = {
    "auc": "AUC",
    "average_precision": "Average precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "ppv": "PPV (precision)",
    "f1": "F1 of malignant",
    "macro_f1": "Macro-F1",
    "ece": "ECE",
    "ece_mass": "ECE, equal mass",
    "brier": "Brier",
    "calibration_slope": "Slope",
    "calibration_intercept": "Intercept",
    "referrals_per_1000": "Referrals per 1000",
}

CALIBRATION_METRICS: Final = ("ece", "ece_mass", "calibration_slope", "calibration_intercept", "brier")

CALIBRATION_NAMES: Final = {
    "identity": "logits as they are",
    "temperature": "temperature scaling",
    "platt": "Platt scaling",
    "beta": "beta calibration",
    "isotonic": "isotonic regression",
}

METHOD_NAMES: Final = {
    "federation": "Federation’s",
    "site": "From the site’s lesions",
    "informed": "From the site’s and the federation’s",
    "npv": "For its negative predictive value",
    "referral": "For a highest referral rate",
}

ZONE_NAMES: Final = {"low": "low: reassure", "middle": "middle: see again", "high": "high: refer"}

VERDICT_NAMES: Final = {
    "neither": "nothing found",
    "prevalence": "prevalence",
    "acquisition": "acquisition",
    "both": "prevalence and acquisition",
    "unknown": "cannot be told",
}


def recorded_metrics(sites: list[SiteEvaluation]) -> dict[str, str]:
    """Return the names of the metrics that any site's document holds, in the report's order."""
    held = {
        name
        for site in sites
        for by_unit in (site.before, site.after)
        for performance in by_unit.values()
        for name in performance.metrics
    }
    return {name: label for name, label in METRIC_NAMES.items() if name in held}
