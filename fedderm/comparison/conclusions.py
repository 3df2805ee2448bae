"""What can and what cannot be concluded from a comparison, in plain sentences.

A claim (better, worse) needs CLAIM_SEEDS seeds and Holm's p below 0.05. That a difference is *excluded* at
all of several sites needs no correction: the truth passes the largest of their limits only where it passes
the limit of the site where it is largest (an intersection-union test; Berger, Technometrics 24 (1982)).
"""

from collections.abc import Sequence
from typing import Final

from fedderm.comparison.results import REFERENCE_ONCE_MORE, Results, Statistics
from fedderm.evaluation.arms import MEAN, WORST, ArmDifference
from fedderm.evaluation.comparison import FEWEST
from fedderm.report.formats import NBSP, decimal, listing, plural

CLAIM_SEEDS: Final = 5
"""Seeds from which a claim is made (the field's custom: Bouthillier et al., MLSys 2021)."""

LEVEL: Final = 0.05
MOST_NAMED: Final = 4


def conclusions_of(results: Results) -> list[str]:
    """Return the sentences, one an item: what was compared, what is claimed, what is not, what is missing."""
    told = [_what(results), *_missing(results), *_seeds(results)]
    told += _of_differences(results.models, results)
    told += _of_worst(results)
    told += _of_ranks(results)
    told += _of_differences(results.personal, results, " (personal)")
    return told + _few_lesions(results) + results.untold


def is_claimed(one: ArmDifference) -> bool:
    """Return whether a difference is claimed: after Holm, and with CLAIM_SEEDS seeds."""
    return one.p_holm is not None and one.p_holm < LEVEL and one.seeds >= CLAIM_SEEDS


def _what(results: Results) -> str:
    comparison = results.comparison
    roles = list(comparison.roles.values())
    arms = [*comparison.arms, *comparison.local_arms]
    others = len(arms) - (comparison.reference in arms)
    held_out, train = roles.count("held-out"), roles.count("train")
    sites = f"{plural(held_out, 'held-out site')} and {plural(train, 'training site')}"
    if comparison.left_out_in_turn:
        sites = f"{plural(len(roles), 'site')}, each held out in its turn"
    seeds = plural(len(comparison.seeds), "seed")
    if others == 0:
        return f"{listing(arms)} alone was run, with {seeds} of training, at {sites}: nothing is compared."
    are = "is" if others == 1 else "are"
    return (
        f"{plural(others, 'arm')} {are} compared with {comparison.reference}, with {seeds} of training, at "
        f"{sites}. Differences are of AUC by lesion, with 95{NBSP}% intervals."
    )


def _missing(results: Results) -> list[str]:
    cells = results.comparison.cells
    counted = {status: sum(cell.status == status for cell in cells) for status in ("failed", "waiting")}
    if not any(counted.values()):
        return []
    words = {"failed": ("has failed", "have failed"), "waiting": ("is not finished", "are not finished")}
    told = listing([f"{n} {words[status][n > 1]}" for status, n in counted.items() if n])
    done = {cell.arm for cell in results.comparison.done}
    lacking = list(dict.fromkeys(cell.arm for cell in cells if cell.status != "done"))
    empty, fewer = [arm for arm in lacking if arm not in done], [arm for arm in lacking if arm in done]
    parts = [f"{_named(empty)} {'has' if len(empty) == 1 else 'have'} no finished cell"] if empty else []
    if fewer:
        have = "has" if len(fewer) == 1 else "have"
        parts.append(
            f"{_named(fewer)} {have} fewer seeds for it, and differences pair the seeds that both have"
        )
    return [f"Of {plural(len(cells), 'cell')} {told}; {'; '.join(parts)}."]


def _seeds(results: Results) -> list[str]:
    seeds = len(results.comparison.seeds)
    if seeds >= CLAIM_SEEDS:
        return []
    if seeds == 1:
        return [
            "With one seed the intervals carry the lesions alone, and no p value is given: what another seed "
            f"would change is not covered. At least {CLAIM_SEEDS} seeds are needed for a claim."
        ]
    return [
        f"With {seeds} seeds no claim is made that one arm is better than another: at least {CLAIM_SEEDS} "
        "are needed. Intervals and p values are given all the same."
    ]


def _of_differences(statistics: Statistics, results: Results, kind: str = "") -> list[str]:
    """Return what is said of each arm's AUC; ``kind`` stands behind the arms' labels."""
    by_arm: dict[str, list[ArmDifference]] = {}
    for one in statistics.differences:
        if one.metric == "auc" and one.estimate.value is not None and _enough_lesions(one):
            by_arm.setdefault(f"{one.arm}{kind}", []).append(one)
    if not by_arm or len(results.comparison.seeds) < CLAIM_SEEDS:
        return []
    claims: list[str] = []
    same, short, alike = [], [], []
    for arm, found in by_arm.items():
        if any(is_claimed(one) for one in found):
            claims += _claims(arm, found)
        elif all(one.estimate.value == 0 and one.estimate.lower is None for one in found):
            same.append(f"{arm} ranks lesions exactly as {_reference(found)} does, with every seed.")
        elif min(one.seeds for one in found) < CLAIM_SEEDS:
            short.append(arm)
        else:
            alike.append(arm)
    apart = [_not_apart(alike, [one for arm in alike for one in by_arm[arm]])] if alike else []
    return [*claims, *apart, *same, *([_too_few_seeds(short, by_arm[short[0]])] if short else [])]


def _too_few_seeds(arms: list[str], found: Sequence[ArmDifference]) -> str:
    return (
        f"No claim is made about {_named(arms)}: fewer than {CLAIM_SEEDS} seeds in common with "
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
        who = f"None of {_named(arms)} can be told apart from {_reference(found)}"
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
        if len(ranked) < 3 or first.estimate.upper is None or first.seeds < CLAIM_SEEDS:
            continue
        near = [
            one.arm
            for one in rest
            if one.estimate.lower is None or one.estimate.lower <= (first.estimate.upper or 0)
        ]
        overlap = "no other arm's interval reaches its own"
        if near:
            everyone = "those of all others" if len(near) == len(rest) else f"that of {_named(near)}"
            overlap = f"its interval overlaps {everyone}"
        sites = plural(first.sites, f"{_role(role)} site")
        told.append(
            f"By average rank over {sites} {first.arm} comes first ({first.estimate.value:.1f} of "
            f"{first.arms}); {overlap}."
        )
    return told


def _few_lesions(results: Results) -> list[str]:
    few = [p for p in results.models.places if len(p.draws) == 1 and p.draws[0].fewest < FEWEST]
    if not few:
        return []
    told = listing([f"{p.name} ({min(p.malignant, p.lesions - p.malignant)})" for p in few])
    return [
        f"Nothing is concluded where fewer than {FEWEST} lesions are malignant or benign: {told}. Such sites "
        "count in no mean, no worst site and no rank."
    ]


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


def _named(arms: list[str]) -> str:
    if len(arms) <= MOST_NAMED:
        return listing(arms)
    return f"{', '.join(arms[:MOST_NAMED])} and {len(arms) - MOST_NAMED} more"
