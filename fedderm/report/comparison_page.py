"""``compare.html``: one self-contained page from a comparison's folder, in the report's look."""

from pathlib import Path
from typing import Any

from fedderm.comparison.conclusions import conclusions_of
from fedderm.comparison.results import Results
from fedderm.comparison.scope import CLAIM_SEEDS
from fedderm.evaluation.comparison import FEWEST
from fedderm.evaluation.lesion_draws import COMPARED
from fedderm.report.comparison_figures import convergence_figures, rank_figure
from fedderm.report.comparison_rows import (
    difference_blocks,
    label_of,
    matrix_blocks,
    scale_of,
    value_blocks,
)
from fedderm.report.diagnosis_rows import diagnosis_blocks, gap_block
from fedderm.report.formats import plural
from fedderm.report.labels import METRIC_NAMES
from fedderm.report.parts import STYLE, page_environment, part
from fedderm.report.sweep_rows import pair_blocks, sweep_blocks
from fedderm.whole_file import write_whole

TEMPLATE = "comparison.html.md"
COMPARISON_STYLE = "comparison.css.md"


def write_page(results: Results) -> Path:
    """Return the path of ``compare.html``, written whole or not at all; raises OSError on a full disk."""
    target = results.comparison.path / "compare.html"
    write_whole(target, render(results))
    return target


def render(results: Results) -> str:
    """Return the page: HTML with style and figures inside; it asks the network for nothing."""
    environment = page_environment()
    environment.globals.update(plural=plural)
    content = _content(results)
    return environment.get_template(TEMPLATE).render(**content, contents=_contents(content))


def _content(results: Results) -> dict[str, Any]:
    comparison = results.comparison
    blocks = {name: value_blocks(results.models, results, name) for name in COMPARED}
    return {
        "style": part(STYLE) + part(COMPARISON_STYLE),
        "comparison": comparison,
        "conclusions": conclusions_of(results),
        "facts": _facts(results),
        "auc": blocks.pop("auc"),
        "others": {METRIC_NAMES[name]: found for name, found in blocks.items()},
        "choices": results.choices,
        "differences": difference_blocks(results.models),
        "scale": scale_of(results.models),
        "sweep": sweep_blocks(results),
        "pairs": pair_blocks(results),
        "diagnoses": diagnosis_blocks(results),
        "gaps": gap_block(results),
        "personal": value_blocks(results.personal, results, "auc"),
        "personal_differences": difference_blocks(results.personal),
        "personal_scale": scale_of(results.personal),
        "ranks": _rank_figures(results),
        "left_out_of_ranks": _left_out_of_ranks(results),
        "costs": results.costs,
        "one_seed": len(comparison.finished_seeds) == 1,
        "ranked_seeds": min((one.seeds for one in results.ranks), default=0),
        "convergence": convergence_figures(results.curves, comparison.reference),
        "matrices": matrix_blocks(results),
        "unfinished": [cell for cell in comparison.cells if cell.status != "done"],
        "label_of": label_of,
        "claim_seeds": CLAIM_SEEDS,
        "fewest": FEWEST,
    }


def _contents(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (id, label) of the page's sections, without those that this comparison has nothing for."""
    listed = [
        ("arms", "Arms by site", True),
        ("choice", "Values of the grid", bool(content["choices"])),
        ("differences", "Differences", bool(content["differences"])),
        ("pairs", "Pairs of arms", bool(content["pairs"])),
        ("sweep", "Triage threshold", bool(content["sweep"])),
        ("diagnoses", "Diagnoses", bool(content["diagnoses"])),
        ("personal", "Personal models", bool(content["personal"])),
        ("ranks", "Ranks", bool(content["ranks"])),
        ("cost", "Cost", True),
        ("convergence", "Convergence", bool(content["convergence"])),
        ("local", "Sites alone", bool(content["matrices"])),
        ("unfinished", "Unfinished cells", bool(content["unfinished"])),
        ("reading", "How to read this page", True),
    ]
    return [(target, label) for target, label, shown in listed if shown]


def _facts(results: Results) -> list[tuple[str, str]]:
    comparison = results.comparison
    roles = list(comparison.roles.values())
    sites = [("Held-out sites", str(roles.count("held-out"))), ("Training sites", str(roles.count("train")))]
    if comparison.left_out_in_turn:
        sites = [("Sites, held out in turn", str(len(roles)))]
    return [
        ("Reference", comparison.reference),
        ("Arms", str(len(comparison.arms) + len(comparison.local_arms))),
        ("Seeds", _of(len(comparison.finished_seeds), len(comparison.seeds))),
        *sites,
        ("Finished cells", f"{len(comparison.done)} of {len(comparison.cells)}"),
        ("Draws of lesions", f"{comparison.resamples:,}"),
    ]


def _of(finished: int, planned: int) -> str:
    return str(planned) if finished == planned else f"{finished} of {planned}"


def _rank_figures(results: Results) -> list[tuple[str, Any]]:
    found = []
    for role, words in (("held-out", "held-out"), ("train", "training")):
        ranked = [one for one in results.ranks if one.role == role]
        if ranked and ranked[0].sites > 1:  # at one site they only repeat its table
            over = f"{plural(ranked[0].sites, f'{words} site')} and {plural(ranked[0].seeds, 'seed')}"
            figure = rank_figure(ranked, role, results.comparison.reference)
            found.append((f"Average rank by AUC over {over}", figure))
    return found


def _left_out_of_ranks(results: Results) -> int:
    """Return how many planned seeds the ranks lack because an arm does."""
    kept = min((one.seeds for one in results.ranks), default=0)
    return len(results.comparison.seeds) - kept
