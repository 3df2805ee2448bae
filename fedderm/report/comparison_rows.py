"""The comparison's page as rows and cells: what its template only has to write down."""

from dataclasses import dataclass

from markupsafe import Markup, escape

from fedderm.comparison.conclusions import is_claimed
from fedderm.comparison.results import REFERENCE_ONCE_MORE, Results, Statistics
from fedderm.evaluation.arms import MEAN, WORST, ArmDifference, Place
from fedderm.evaluation.comparison import FEWEST
from fedderm.evaluation.documents import Estimate
from fedderm.report.formats import MISSING, NBSP, decimal, plural, span

LOWER_IS_BETTER = ("ece",)
WIDTH, HALF = 132, 62
"""Pixels of a difference's bar, and from its zero to an end."""


@dataclass(frozen=True)
class Told:
    """One value of a table."""

    value: str
    span: str = ""
    mark: str = ""
    """better or worse, where a difference is claimed."""
    note: str = ""
    bar: Markup | str = ""


@dataclass(frozen=True)
class Row:
    """One arm of a table."""

    arm: str
    reference: bool
    cells: list[Told]


@dataclass(frozen=True)
class Block:
    """One table: arms by places of one role."""

    title: str
    role: str
    heads: list[tuple[str, list[str]]]
    """(name, lines under it) of each column."""
    rows: list[Row]


def value_blocks(statistics: Statistics, results: Results, metric: str) -> list[Block]:
    """Return a table of means a role; a claimed difference to the reference is marked."""
    return [
        Block(
            _title(role),
            role,
            [_head(place) for place in places],
            [
                Row(
                    label_of(arm),
                    arm == statistics.reference,
                    [_value(statistics, results, arm, place, metric) for place in places],
                )
                for arm in sorted(statistics.arms, key=lambda arm: arm != statistics.reference)
            ],
        )
        for role, places in _by_role(statistics)
    ]


def difference_blocks(statistics: Statistics, metric: str = "auc") -> list[Block]:
    """Return a table of differences a role, each with a bar; all bars have one scale."""
    scale = scale_of(statistics, metric)
    arms = list(dict.fromkeys(one.arm for one in statistics.differences))
    if not arms:
        return []
    return [
        Block(
            _title(role),
            role,
            [_head(place) for place in places],
            [
                Row(arm, False, [_difference(statistics, arm, place, metric, scale) for place in places])
                for arm in arms
            ],
        )
        for role, places in _by_role(statistics)
    ]


def scale_of(statistics: Statistics, metric: str = "auc") -> float:
    """Return where the bars of differences end: the largest limit among all, 0.02 at least."""
    ends = [
        abs(end)
        for one in statistics.differences
        if one.metric == metric
        for end in (one.estimate.value, one.estimate.lower, one.estimate.upper)
        if end is not None
    ]
    return max([0.02, *ends])


def matrix_blocks(results: Results) -> list[tuple[str, Block]]:
    """Return (local arm, table): AUC of each site's own model at every site, and the reference's below."""
    found = []
    for arm, entries in results.matrices.items():
        places = list({one.place.name: one.place for _, one in entries}.values())
        trained = list(dict.fromkeys(site for site, _ in entries))
        by_pair = {(site, one.place.name): one.estimate for site, one in entries}
        rows = [
            Row(site, False, [_plain(by_pair[site, place.name], site == place.name) for place in places])
            for site in trained
        ]
        reference = results.comparison.reference
        if reference in results.models.arms:
            listed = {(p.name, p.role): p for p in results.models.places}
            cells = [
                _plain(results.models.mean(reference, listed[place.name, place.role]).estimate, False)
                for place in places
            ]
            rows.append(Row(f"{reference} (all sites)", True, cells))
        found.append((arm, Block("Trained at", "", [_head(place) for place in places], rows)))
    return found


def label_of(arm: str) -> str:
    """Return an arm's name for the page."""
    if arm.startswith(REFERENCE_ONCE_MORE):
        return f"{arm.removeprefix(REFERENCE_ONCE_MORE)}, global model"
    return arm


def _by_role(statistics: Statistics) -> list[tuple[str, list[Place]]]:
    roles = dict.fromkeys(place.role for place in statistics.places)
    return [(role, [place for place in statistics.places if place.role == role]) for role in roles]


def _title(role: str) -> str:
    return "Held-out sites" if role == "held-out" else "Training sites"


def _head(place: Place) -> tuple[str, list[str]]:
    if place.name == MEAN:
        return "Mean", [f"of {plural(len(place.draws), 'site')}"]
    if place.name == WORST:
        return "Worst site", ["lowest mean"]
    return place.name, [f"{place.lesions:,} lesions", f"{place.malignant:,} malignant"]


def _value(statistics: Statistics, results: Results, arm: str, place: Place, metric: str) -> Told:
    found = statistics.mean(arm, place, metric)
    if found.estimate.value is None:
        return Told(MISSING, note="no finished cell" if found.seeds == 0 and _defined(place) else _why(place))
    note = ""
    if place.name == WORST and metric == "auc":
        shares = results.worst.get((place.role, arm)) if statistics is results.models else None
        if shares:
            site = max(shares, key=lambda name: shares[name])
            note = f"{site}, {100 * shares[site]:.0f}{NBSP}%"
    if found.seeds < len(results.comparison.seeds):
        note = f"{note}; {plural(found.seeds, 'seed')}".lstrip("; ")
    mark = _mark(statistics.difference(arm, place, metric))
    return Told(decimal(found.estimate.value), span(found.estimate) or _no_interval(place), mark, note)


def _defined(place: Place) -> bool:
    return all(one.fewest > 0 for one in place.draws)


def _why(place: Place) -> str:
    return "a class is absent" if not _defined(place) else "not defined"


def _no_interval(place: Place) -> str:
    few = any(one.fewest < FEWEST for one in place.draws)
    return "too few lesions" if few else "no variance"


def _plain(estimate: Estimate, strong: bool) -> Told:
    return Told(decimal(estimate.value), span(estimate), mark="own" if strong else "")


def _mark(one: ArmDifference | None) -> str:
    if one is None or not is_claimed(one) or not one.estimate.value:
        return ""
    return "better" if (one.estimate.value > 0) != (one.metric in LOWER_IS_BETTER) else "worse"


def _difference(statistics: Statistics, arm: str, place: Place, metric: str, scale: float) -> Told:
    one = statistics.difference(arm, place, metric)
    if one is None or one.estimate.value is None:
        return Told(MISSING, note="no seed in common")
    value = decimal(one.estimate.value)
    told = f"+{value}" if one.estimate.value > 0 else value
    p = "" if one.p_holm is None else f"p{NBSP}{_p(one.p_holm)}"
    mark = _mark(one)
    limits = _limits(one.estimate) or _no_interval(place)
    return Told(told, limits, mark, p, difference_bar(one.estimate, scale, mark))


def _limits(estimate: Estimate) -> str:
    if estimate.lower is None or estimate.upper is None:
        return ""
    return f"{decimal(estimate.lower)} to {decimal(estimate.upper)}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def difference_bar(estimate: Estimate, scale: float, mark: str) -> Markup:
    """Return a difference and its interval as a bar about zero, which ends at ``scale`` on either side."""

    def place(number: float) -> float:
        return WIDTH / 2 + HALF * min(max(number / scale, -1), 1)

    whisker = ""
    if estimate.lower is not None and estimate.upper is not None:
        ends = f'x1="{place(estimate.lower):.1f}" x2="{place(estimate.upper):.1f}"'
        whisker = f'<line class="whisker" {ends} y1="9" y2="9"/>'
    return Markup(
        f'<svg class="bar difference {escape(mark)}" viewBox="0 0 {WIDTH} 18" aria-hidden="true">'
        f'<line class="axis" x1="{WIDTH / 2 - HALF:.0f}" x2="{WIDTH / 2 + HALF:.0f}" y1="9" y2="9"/>'
        f'<line class="zero" x1="{WIDTH / 2:.0f}" x2="{WIDTH / 2:.0f}" y1="1" y2="17"/>{whisker}'
        f'<circle cx="{place(estimate.value or 0.0):.1f}" cy="9" r="4"/></svg>'
    )
