"""Macro-F1 by triage threshold, and pairs of arms, as rows and cells of the comparison's page."""

from fedderm.comparison.conclusions import is_claimed
from fedderm.comparison.results import Results
from fedderm.evaluation.arms import MEAN, ArmDifference, Place
from fedderm.evaluation.comparison import FEWEST
from fedderm.evaluation.documents import Estimate
from fedderm.evaluation.triage_sweep import OWN, step_metric
from fedderm.report.comparison_rows import LOWER_IS_BETTER, Block, Row, Told, difference_bar
from fedderm.report.formats import MISSING, NBSP, decimal, plural, span
from fedderm.report.labels import METRIC_NAMES

PAIRED = ("auc", OWN, "ece")
"""Metrics of pairs that the page shows; ``pairs.csv`` has all."""


def sweep_blocks(results: Results) -> list[Block]:
    """Return a table of macro-F1, arms by thresholds, for the mean of each role's sites and each held-out
    site; for the single site where a role has no mean."""
    sweep = results.sweep
    if not sweep.means:
        return []
    shown = [place for place in sweep.places if _is_shown(place, sweep.places)]
    names = {OWN: ("its own", ["federation threshold"])}
    names |= {step_metric(step): (f"{step:g}", ["P(malignant)"]) for step in sweep.steps}
    arms = list(dict.fromkeys(one.arm for one in sweep.means))
    by_key = {(one.arm, one.place.role, one.place.name, one.metric): one.estimate for one in sweep.means}
    return [
        Block(
            _title(place),
            place.role,
            list(names.values()),
            [
                Row(arm, arm == results.comparison.reference, [_told(by_key[arm, *at, one]) for one in names])
                for arm in arms
            ],
        )
        for place in shown
        for at in [(place.role, place.name)]
    ]


def pair_blocks(results: Results) -> list[Block]:
    """Return a table of differences for each metric of PAIRED: pairs by places, with p after Holm."""
    found = []
    for metric in PAIRED:
        listed = [one for one in results.sweep.pairs if one.metric == metric]
        places = list({(one.place.role, one.place.name): one.place for one in listed}.values())
        by_key = {(one.arm, one.reference, one.place.role, one.place.name): one for one in listed}
        ends = [abs(end) for one in listed for end in (one.estimate.lower, one.estimate.upper) if end]
        scale = max([0.02, *ends])
        rows = [
            Row(
                f"{arm} less {first}",
                False,
                [_difference(by_key.get((arm, first, one.role, one.name)), scale) for one in places],
            )
            for arm, first in dict.fromkeys((one.arm, one.reference) for one in listed)
        ]
        if rows:
            heads = [(_title(one), [f"{one.lesions:,} lesions"]) for one in places]
            found.append(Block(METRIC_NAMES[metric], "", heads, rows))
    return found


def _is_shown(place: Place, places: list[Place]) -> bool:
    if len(place.draws) > 1:
        return place.name == MEAN
    alone = not any(one.role == place.role and one.name == MEAN for one in places)
    return min(place.draws[0].fewest, FEWEST) == FEWEST and (alone or place.role == "held-out")


def _title(place: Place) -> str:
    words = "held-out" if place.role == "held-out" else "training"
    if len(place.draws) == 1:
        return place.name
    sites = plural(len(place.draws), f"{words} site")
    return f"Mean of {sites}" if place.name == MEAN else f"Worst of {sites}"


def _told(estimate: Estimate) -> Told:
    return Told(decimal(estimate.value), span(estimate))


def _difference(one: ArmDifference | None, scale: float) -> Told:
    if one is None or one.estimate.value is None:
        return Told(MISSING)
    value, estimate = one.estimate.value, one.estimate
    mark = ""
    if is_claimed(one) and value:
        mark = "better" if (value > 0) != (one.metric in LOWER_IS_BETTER) else "worse"
    limits = ""
    if estimate.lower is not None and estimate.upper is not None:
        limits = f"{decimal(estimate.lower)} to {decimal(estimate.upper)}"
    p = "" if one.p_holm is None else f"p{NBSP}{'< 0.001' if one.p_holm < 0.001 else f'{one.p_holm:.3f}'}"
    return Told(
        f"{'+' if value > 0 else ''}{decimal(value)}", limits, mark, p, difference_bar(estimate, scale, mark)
    )
