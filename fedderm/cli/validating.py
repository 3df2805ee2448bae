"""What ``fedderm evaluate MODEL --site SITE.yaml`` does: a model judged at a hospital, offline."""

from pathlib import Path

from fedderm.cli.console import Console
from fedderm.validation import validate


def evaluate_at(model: Path, site_file: Path, out: Path | None) -> None:
    """Print what ``model`` is worth at this hospital, and where report and predictions lie."""
    with Console() as console:
        folder = validate(model, site_file, out, console)
    console.site_table(folder)
    console.show("")
    console.show(f"report: {folder / 'report.html'}")
    console.show(f"predictions of single images, for your eyes only: {folder / 'predictions.csv'}")
