"""What can and what cannot be concluded from a comparison, in plain sentences.

A claim (better, worse) needs CLAIM_SEEDS seeds and Holm's p below 0.05. That a difference is *excluded* at
all of several sites needs no correction: the truth passes the largest of their limits only where it passes
the limit of the site where it is largest (an intersection-union test; Berger, Technometrics 24 (1982)).
"""

from collections.abc import Sequence
from typing import Final

from fedderm.comparison.results import REFERENCE_ONCE_MORE, Results, Statistics
from fedderm.comparison.scope import (
    CLAIM_SEEDS,
    has_reference,
    named,
    what_few_seeds_mean,
    what_is_missing,
    what_is_not_told,
    what_was_compared,
)
from fedderm.evaluation.arms import MEAN, WORST, ArmDifference
from fedderm.evaluation.comparison import FEWEST
from fedderm.report.formats import NBSP, decimal, listing, plural

LEVEL: Final = 0.05


def conclusions_of(results: Results) -> list[str]:
    """Return the sentences, one an item: what was compared, what is claimed, what is not, what is missing."""
    told = [*what_was_compared(results), *what_is_missing(results), *_chosen(results)]
    if not has_reference(results):
        return told
    told += what_few_seeds_mean(results)
    told += _of_differences(results.models, results)
    told += _of_worst(results)
    told += _of_ranks(results)
    told += _of_differences(results.personal, results, " (personal)")
    return told + what_is_not_told(results)


def is_claimed(one: ArmDifference) -> bool:
    """Return whether a difference is claimed: after Holm, and with CLAIM_SEEDS seeds."""
    return one.p_holm is not None and one.p_holm < LEVEL and one.seeds >= CLAIM_SEEDS


def _chosen(results: Results) -> list[str]:
    """Return which of a grid's values each arm would have been used with."""
    found = [one.label for one in results.choices if one.chosen]
    if not found:
        return []
    return [f"Of the grid, calibration lesions choose {listing(found)}, before any test lesion is looked at."]


def _of_differences(statistics: Statistics, results: Results, kind: str = "") -> list[str]:
    """Return what is said of each arm's AUC; ``kind`` stands behind the arms' labels."""
    by_arm: dict[str, list[ArmDifference]] = {}
    for one in statistics.differences:
        if one.metric == "auc" and one.estimate.value is not None and _enough_lesions(one):
            by_arm.setdefault(f"{one.arm}{kind}", []).append(one)
    if not by_arm or len(results.comparison.finished_seeds) < CLAIM_SEEDS:
        return []
    claims: list[str] = []
    fixed, apart, same, short, alike = [], [], [], [], []
    for arm, listed in by_arm.items():
        constant = [one for one in listed if _is_constant(one)]
        found = [one for one in listed if not _is_constant(one)]
        fixed += [_constant(arm, constant)] if constant else []
        if not _at_sites(found):
            continue
        if any(is_claimed(one) for one in found):
            claims += _claims(arm, found)
        elif all(one.estimate.value == 0 and one.estimate.lower is None for one in found):
            same.append(_same(arm, found, everywhere=not constant))
        elif min(one.seeds for one in found) < CLAIM_SEEDS:
            short.append(arm)
        elif constant:
            apart.append(_not_apart([arm], found))
        else:
            alike.append(arm)
    if alike:
        apart.insert(0, _not_apart(alike, [one for arm in alike for one in by_arm[arm]]))
    few = [_too_few_seeds(short, by_arm[short[0]])] if short else []
    return [*claims, *fixed, *apart, *same, *few]


def _is_constant(one: ArmDifference) -> bool:
    """Whether a difference is there and does not vary at all: it has no error, and so no test."""
    return bool(one.estimate.value) and one.estimate.lower is None


def _constant(arm: str, found: Sequence[ArmDifference]) -> str:
    sites = _at_sites(found) or list(found)
    told = listing([f"{_signed(one.estimate.value or 0)} {_place(one)}" for one in sites])
    return (
        f"{arm} differs from {_reference(found)} by AUC {told} in every seed and every draw of lesions; no "
        "test is possible there."
    )


def _same(arm: str, found: Sequence[ArmDifference], *, everywhere: bool) -> str:
    where = "" if everywhere else f" {listing([_place(one) for one in _at_sites(found)])}"
    return f"{arm} has the same AUC as {_reference(found)}{where} in every seed and every draw of lesions."


def _too_few_seeds(arms: list[str], found: Sequence[ArmDifference]) -> str:
    return (
        f"No claim is made about {named(arms)}: fewer than {CLAIM_SEEDS} seeds in common with "
        f"{_reference(found)}."
    )


def _claims(arm: str, found: Sequence[ArmDifference]) -> list[str]:
    told = []
    for better, word in ((True, "better"), (False, "worse")):
        where = [one for one in found if is_claimed(one) and ((one.estimate.value or 0) > 0) == better]
        if where:
            places = listing([f"{_place(one)} ({_amount(one)})" for one in where])
            told.append(f"{arm} is {word} than {_reference(found)} by AUC {places}.")
    rest = [one for one in _at_sites(found) if not is_claimed(one)]
    if rest:
        other = "site" if len(rest) == len(_at_sites(found)) else "other site"
        told.append(
            f"At {plural(len(rest), other)} {arm} and {_reference(found)} cannot be told apart; differences "
            f"beyond ±{_bound(rest):.3f} are excluded there, smaller ones are not."
        )
    return told


def _not_apart(arms: list[str], found: Sequence[ArmDifference]) -> str:
    sites = _at_sites(found)
    number, seeds = len({one.place.name for one in sites}), min(one.seeds for one in sites)
    who = f"{arms[0]} and {_reference(found)} cannot be told apart"
    if len(arms) > 1:
        who = f"None of {named(arms)} can be told apart from {_reference(found)}"
    where = f"at {'any of ' if number > 1 else ''}{plural(number, 'site')} with {plural(seeds, 'seed')}"
    means = [
        f"beyond ±{_bound(averages):.3f} on average over the {_role(role)} sites"
        for role in ("held-out", "train")
        if (averages := [one for one in found if one.place.name == MEAN and one.place.role == role])
    ]
    averaged = f", and {listing(means)}" if means else ""
    return (
        f"{who} {where}: differences of AUC beyond ±{_bound(sites):.3f} are excluded "
        f"{'at all of them' if number > 1 else 'there'}{averaged}; smaller ones are not."
    )


def _at_sites(found: Sequence[ArmDifference]) -> list[ArmDifference]:
    return [one for one in found if len(one.place.draws) == 1]


def _enough_lesions(one: ArmDifference) -> bool:
    return all(site.fewest >= FEWEST for site in one.place.draws)


def _of_worst(results: Results) -> list[str]:
    told = []
    reference = results.comparison.reference
    for place in results.models.places:
        shares = results.worst.get((place.role, reference))
        if place.name != WORST or not shares:
            continue
        worst = max(shares, key=lambda site: shares[site])
        value = results.models.mean(reference, place).estimate
        told.append(
            f"The worst {_role(place.role)} site of {reference} is {worst}, in "
            f"{100 * shares[worst]:.0f}{NBSP}% of draws of seeds and lesions (lowest mean AUC "
            f"{decimal(value.value)})."
        )
    return told


def _of_ranks(results: Results) -> list[str]:
    told = []
    for role in dict.fromkeys(one.role for one in results.ranks):
        ranked = [one for one in results.ranks if one.role == role]
        first, rest = ranked[0], ranked[1:]
        if len(ranked) < 3 or first.sites < 2 or first.estimate.upper is None or first.seeds < CLAIM_SEEDS:
            continue
        near = [
            one.arm
            for one in rest
            if one.estimate.lower is None or one.estimate.lower <= (first.estimate.upper or 0)
        ]
        overlap = "no other arm's interval reaches its own"
        if near:
            everyone = "those of all others" if len(near) == len(rest) else f"that of {named(near)}"
            overlap = f"its interval overlaps {everyone}"
        sites = plural(first.sites, f"{_role(role)} site")
        told.append(
            f"By average rank over {sites} {first.arm} comes first ({first.estimate.value:.1f} of "
            f"{first.arms}); {overlap}."
        )
    return told


def _bound(found: Sequence[ArmDifference]) -> float:
    """The largest limit; a difference that does not vary at all is its own."""
    return max(
        abs(end)
        for one in found
        for end in (one.estimate.value, one.estimate.lower, one.estimate.upper)
        if end is not None
    )


def _role(role: str) -> str:
    return "held-out" if role == "held-out" else "training"


def _place(one: ArmDifference) -> str:
    role = _role(one.place.role)
    if one.place.name == MEAN:
        return f"on average over {len(one.place.draws)} {role} sites"
    return f"at the worst {role} site" if one.place.name == WORST else f"at {one.place.name}"


def _amount(one: ArmDifference) -> str:
    lower, upper = decimal(one.estimate.lower), decimal(one.estimate.upper)
    return f"{_signed(one.estimate.value or 0)}; {lower} to {upper}"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{decimal(value)}"


def _reference(found: Sequence[ArmDifference]) -> str:
    reference = found[0].reference
    if reference.startswith(REFERENCE_ONCE_MORE):
        return f"the global model of {reference.removeprefix(REFERENCE_ONCE_MORE)}"
    return reference
