"""Macro-F1 of diagnoses and the gap between home and away, as rows and cells of the comparison's page."""

from fedderm.comparison.diagnoses import POOLED, Gap
from fedderm.comparison.results import Results
from fedderm.evaluation.arms import MEAN
from fedderm.evaluation.documents import Estimate
from fedderm.report.comparison_rows import Block, Row, Told
from fedderm.report.formats import MISSING, decimal, span


def diagnosis_blocks(results: Results) -> list[Block]:
    """Return a table of macro-F1 a role: models by sites, and the pool of the role's lesions."""
    found = []
    for role, title in (("held-out", "Held-out sites"), ("train", "Training sites")):
        listed = [one for one in results.diagnoses.means if one.role == role and one.metric == "macro_f1"]
        sites = {one.site: one.lesions for one in listed}
        by_key = {(one.arm, one.trained, one.site): one.estimate for one in listed}
        rows = [
            Row(
                f"{arm}: {trained} alone" if trained else arm,
                arm == results.comparison.reference,
                [_told(by_key.get((arm, trained, site))) for site in sites],
            )
            for arm, trained in dict.fromkeys((one.arm, one.trained) for one in listed)
        ]
        if rows:
            heads = [
                ("All together" if site == POOLED else site, [f"{lesions:,} lesions"])
                for site, lesions in sites.items()
            ]
            found.append(Block(title, role, heads, rows))
    return found


def gap_block(results: Results) -> Block | None:
    """Return the table of home, away and gap: arms at each source; None where there is none."""
    rows = [_gap_row(one, results) for one in results.diagnoses.gaps]
    heads: list[tuple[str, list[str]]] = [
        ("Home", []),
        ("Away", []),
        ("Gap", ["home less away"]),
        ("Gap less that of the source alone", []),
    ]
    return Block("Home and away", "", heads, rows) if rows else None


def _gap_row(one: Gap, results: Results) -> Row:
    place = "mean of sources" if one.site == MEAN else one.site
    cells = [_told(part, signed=index > 1) for index, part in enumerate(_parts(one))]
    return Row(f"{one.arm}, {place}", one.arm == results.comparison.reference, cells)


def _parts(one: Gap) -> list[Estimate]:
    return [one.home, one.away, one.gap, one.less_alone]


def _told(estimate: Estimate | None, *, signed: bool = False) -> Told:
    if estimate is None or estimate.value is None:
        return Told(MISSING)
    if not signed or estimate.lower is None or estimate.upper is None:
        return Told(decimal(estimate.value), span(estimate))
    return Told(decimal(estimate.value), f"{decimal(estimate.lower)} to {decimal(estimate.upper)}")
