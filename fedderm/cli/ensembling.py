"""What ``fedderm ensemble`` does: members in, a model's folder out, and what it is worth as a table."""

from pathlib import Path

from fedderm.cli.console import Console
from fedderm.cli.terminal import output, plain_table
from fedderm.ensemble_point import Fitted, fit, open_sites
from fedderm.ensembles import (
    described,
    parts_of,
    require_empty,
    write_description,
    write_fitted,
    write_members,
)
from fedderm.evaluation.documents import Estimate
from fedderm.model.ensemble import Combine
from fedderm.networks import network_of
from fedderm.worker_models import on_device


def make_ensemble(out: Path, runs: list[Path], combine: Combine, data_root: Path | None) -> None:
    """Write the ensemble's folder; with ``data_root`` fit and judge it at its members' sites."""
    require_empty(out)  # before minutes of loading sites
    parts = parts_of(runs)
    if data_root is None:
        description = described(parts, write_members(out, parts), combine)
        write_description(out, description)
        output().print(f"{len(parts)} members: {out}")
        output().print(f"No threshold: {description['unfitted']}.")
        return
    with Console() as console:
        experiment, sites = open_sites(runs, data_root, console)
        description = described(parts, write_members(out, parts), combine)
        fitted = fit(on_device(network_of(out, description), 0), experiment, sites, console)
    write_fitted(out, description, fitted)
    _print(fitted)
    output().print(f"{len(parts)} members: {out}")


def _print(fitted: Fitted) -> None:
    table = plain_table("site", "role", "lesions", "AUC", "sensitivity", "specificity", folding="site")
    for name, one in fitted.evaluations.items():
        found = one.before["lesion"]
        cells = [_cell(found.metrics.get(key)) for key in ("auc", "sensitivity", "specificity")]
        table.add_row(name, one.role, f"{found.n:,} ({found.positives:,})", *cells)
    output().print(table)
    output().print(f"threshold {fitted.point.threshold_probability:.3f}: {fitted.point.origin}")


def _cell(found: Estimate | None) -> str:
    if found is None or found.value is None:
        return "-"
    if found.lower is None or found.upper is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} [{found.lower:.3f}, {found.upper:.3f}]"
