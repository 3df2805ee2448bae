"""What ``fedderm evaluate`` does: two models on the same lesions, as a table."""

from pathlib import Path

from fedderm.cli.console import Console
from fedderm.cli.terminal import output, plain_table
from fedderm.evaluation.documents import Estimate
from fedderm.paired_models import SHOWN, SiteComparison, compare_models


def evaluate_against(run: Path, against: Path, data_root: Path | None) -> None:
    """Print how ``run``'s model differs from ``against``'s at each site."""
    with Console() as console:
        found = compare_models(against, run, data_root, console)
    heads = ("AUC", "p (DeLong)", "p (Holm)", *(f"{name} +/-" for name in SHOWN), "p (McNemar)")
    table = plain_table("site", "role", "lesions", *heads, folding="site")
    for one in found:
        table.add_row(*_cells(one))
    out = output()
    out.print(table)
    out.print(
        f"By lesion, {against} -> {run}. Differences with 95 % intervals of a paired bootstrap of lesions; "
        "decisions at each federation's own threshold. Holm: DeLong's p, adjusted for the number of sites; "
        "McNemar's is of one site by itself. No interval or p with fewer than 10 lesions of a class."
    )


def _cells(one: SiteComparison) -> tuple[str, ...]:
    before, after = one.auc
    auc = "-" if before is None or after is None else f"{before:.3f} -> {after:.3f}"
    return (
        one.site,
        one.role,
        f"{one.lesions:,} ({one.malignant:,})",
        auc,
        _p(one.auc_p),
        _p(one.auc_p_holm),
        *(_difference(one.differences[name]) for name in SHOWN),
        _p(one.decisions_p),
    )


def _difference(found: Estimate) -> str:
    if found.value is None:
        return "-"
    if found.lower is None or found.upper is None:
        return f"{found.value:+.3f}"
    return f"{found.value:+.3f} [{found.lower:+.3f}, {found.upper:+.3f}]"


def _p(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
