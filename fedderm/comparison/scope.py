"""What was compared, and what is missing: sentences about a comparison itself, not about its arms' AUC."""

from typing import Final

from fedderm.comparison.outcomes import Comparison
from fedderm.comparison.results import Results
from fedderm.comparison.scores import PERSONAL
from fedderm.evaluation.comparison import FEWEST
from fedderm.report.formats import NBSP, listing, plural

CLAIM_SEEDS: Final = 5
"""Seeds from which a claim is made (the field's custom: Bouthillier et al., MLSys 2021)."""

MOST_NAMED: Final = 4


def has_reference(results: Results) -> bool:
    """Return whether a cell of the reference is finished: without one nothing is compared."""
    return any(results.comparison.cells_of(results.comparison.reference))


def what_was_compared(results: Results) -> list[str]:
    """Return the first sentences: arms, seeds and sites, and which arms stand in tables of their own."""
    comparison = results.comparison
    if not has_reference(results):
        return [f"No cell of {comparison.reference}, the reference, is finished: nothing is compared."]
    others = sum(arm != comparison.reference for arm in comparison.arms)
    scope = f"with {_seeds_of(comparison)} of training, at {_sites_of(comparison)}"
    if others:
        are = "is" if others == 1 else "are"
        told = (
            f"{plural(others, 'arm')} {are} compared with {comparison.reference}, {scope}. Differences are "
            f"of AUC by lesion, with 95{NBSP}% intervals."
        )
    elif comparison.local_arms:
        told = f"{comparison.reference} is the only arm with one model for all sites, {scope}."
    else:
        told = f"{comparison.reference} alone was run, {scope}: nothing is compared."
    return [told, *_local_arms(comparison)]


def what_is_missing(results: Results) -> list[str]:
    """Return how many cells are not finished, and of which arms; nothing where all are."""
    cells = results.comparison.cells
    counted = {status: sum(cell.status == status for cell in cells) for status in ("failed", "waiting")}
    if not any(counted.values()):
        return []
    words = {"failed": ("has failed", "have failed"), "waiting": ("is not finished", "are not finished")}
    told = listing([f"{n} {words[status][n > 1]}" for status, n in counted.items() if n])
    done = {cell.arm for cell in results.comparison.done}
    lacking = list(dict.fromkeys(cell.arm for cell in cells if cell.status != "done"))
    empty, fewer = [arm for arm in lacking if arm not in done], [arm for arm in lacking if arm in done]
    parts = [f"{named(empty)} {'has' if len(empty) == 1 else 'have'} no finished cell"] if empty else []
    if fewer:
        have = "has" if len(fewer) == 1 else "have"
        paired = ", and differences pair the seeds that both arms have" if has_reference(results) else ""
        parts.append(f"{named(fewer)} {have} fewer finished cells than planned{paired}")
    return [f"Of {plural(len(cells), 'cell')} {told}; {'; '.join(parts)}."]


def what_few_seeds_mean(results: Results) -> list[str]:
    """Return what fewer seeds than CLAIM_SEEDS leave open."""
    seeds = len(results.comparison.finished_seeds)
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


def what_is_not_told(results: Results) -> list[str]:
    """Return which sites and models no table tells of, and why."""
    return [
        *_few_lesions(results),
        *_sites_in_no_table(results.comparison),
        *_personal_in_folds(results.comparison),
        *results.untold,
    ]


def _few_lesions(results: Results) -> list[str]:
    few = [p for p in results.models.places if len(p.draws) == 1 and p.draws[0].fewest < FEWEST]
    if not few:
        return []
    counts = [min((p.malignant, "malignant"), (p.lesions - p.malignant, "benign")) for p in few]
    told = listing([f"{p.name} ({n} {word})" for p, (n, word) in zip(few, counts, strict=True)])
    return [
        f"Nothing is concluded where fewer than {FEWEST} lesions are malignant or benign: {told}. Such sites "
        "count in no mean, no worst site and no rank."
    ]


def _sites_in_no_table(comparison: Comparison) -> list[str]:
    """Sites outside the rotation, where sites are held out in turn."""
    left = {site: role for site, role in comparison.sites.items() if site not in comparison.roles}
    told = []
    for role, words in (("train", "in every fold"), ("held-out", "throughout")):
        sites = [site for site, one in left.items() if one == role]
        verb = {"train": ("trains", "train"), "held-out": ("is held out", "are held out")}[role]
        if sites:
            one = len(sites) == 1
            told.append(
                f"{listing(sites)} {verb[not one]} {words} and {'is' if one else 'are'} in no table: only "
                "sites that are held out in turn are told."
            )
    return told


def _personal_in_folds(comparison: Comparison) -> list[str]:
    if not comparison.left_out_in_turn:
        return []
    arms = [
        arm
        for arm in comparison.arms
        if any(model == PERSONAL for cell in comparison.cells_of(arm) for _, model in cell.scores)
    ]
    if not arms:
        return []
    return [
        f"{named(arms)} {'keeps' if len(arms) == 1 else 'keep'} a personal model at each training site. "
        "Personal models are not judged here: a site that is held out has none."
    ]


def _seeds_of(comparison: Comparison) -> str:
    planned, finished = len(comparison.seeds), len(comparison.finished_seeds)
    return (
        plural(planned, "seed") if finished == planned else f"{finished} of {plural(planned, 'planned seed')}"
    )


def _sites_of(comparison: Comparison) -> str:
    roles = list(comparison.roles.values())
    if comparison.left_out_in_turn:
        return (
            f"{plural(len(roles), 'site')}, {'held out' if len(roles) == 1 else 'each held out in its turn'}"
        )
    held_out, train = roles.count("held-out"), roles.count("train")
    if comparison.folds:
        return f"{plural(train, 'training site')}, each lesion tested in one of {comparison.folds} folds"
    return f"{plural(held_out, 'held-out site')} and {plural(train, 'training site')}"


def _local_arms(comparison: Comparison) -> list[str]:
    arms = list(comparison.local_arms)
    if not arms:
        return []
    where = "Sites alone" if comparison.left_out_in_turn else "Personal models and Sites alone"
    return [
        f"{named(arms)} {'trains' if len(arms) == 1 else 'train'} a model for each site, told under {where}."
    ]


def named(arms: list[str]) -> str:
    """Return arms as a list in a sentence, no more than MOST_NAMED of them by name."""
    if len(arms) <= MOST_NAMED:
        return listing(arms)
    return f"{', '.join(arms[:MOST_NAMED])} and {len(arms) - MOST_NAMED} more"
