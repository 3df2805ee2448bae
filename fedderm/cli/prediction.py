"""What ``fedderm predict`` does: images in, a table or JSON lines out."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from fedderm.cli.errors import tell
from fedderm.cli.terminal import output, plain_table
from fedderm.predictor import Prediction, Predictor
from sites.errors import ImageUnreadable
from sites.files import IMAGE_SUFFIXES, is_image_file


def predict_images(model: Path, images: list[Path], site: str | None, as_json: bool) -> bool:
    """Print a prediction for each image; return whether all could be read.

    An unreadable image is named on standard error and does not stop the others. Raises ValueError where the
    model cannot be used, or a folder holds no image.
    """
    paths = [file for path in images for file in _files(path)]
    predictor = Predictor.open(model, site)
    found, unreadable = [], 0
    for path in _shown(paths, as_json):
        try:
            prediction = predictor.predict(path)
        except ImageUnreadable as error:
            tell(str(error))
            unreadable += 1
            continue
        if as_json:
            print(json.dumps(prediction.as_dict()), flush=True)
        else:
            found.append(prediction)
    if found:
        _print(found, predictor)
    if unreadable > 1:
        tell(f"{unreadable} of {len(paths)} images could not be read")
    return not unreadable


def _files(path: Path) -> Iterator[Path]:
    """Yield an image, or the images in a folder and below it, but no hidden ones."""
    if not path.is_dir():
        yield path
        return
    files = [
        file
        for file in sorted(path.rglob("*"))
        if not file.name.startswith(".") and file.is_file() and is_image_file(str(file))
    ]
    if not files:
        raise ValueError(f"{path}: holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    yield from files


def _shown(paths: list[Path], as_json: bool) -> Iterator[Path]:
    """Yield the paths with a bar on standard error, where someone watches one."""
    bar = Console(stderr=True)
    watched = bar.is_terminal and len(paths) > 1 and not (as_json and sys.stdout.isatty())
    yield from track(paths, "predict", console=bar, transient=True, disable=not watched)


def _print(predictions: list[Prediction], predictor: Predictor) -> None:
    table: Table = plain_table("image", "P(malignant)", "decision", "differential", folding="image")
    if predictions[0].patterns is not None:
        for heading in ("P(BCC)", "patterns", "rule"):
            table.add_column(heading, overflow="fold")
    for one in predictions:
        differential = ", ".join(f"{name} {share:.0%}" for name, share in one.differential.items())
        row = [str(one.image), f"{one.probability:.3f}", one.decision, differential or "-"]
        if one.patterns is not None:
            shown = [name.replace("_", " ") for name, share in one.patterns.items() if share >= 0.5]
            rule = "suggests BCC" if one.rule_suggests_bcc else "does not"
            row += [f"{one.bcc:.3f}", ", ".join(shown) or "-", rule]
        table.add_row(*row)
    console = output()
    console.print(table)
    console.print(f"threshold {predictor.point.threshold_probability:.3f}: {predictor.point.origin}")
    console.print("A guarantee speaks of a lesion's mean over its images, not of one image.")
    if predictions[0].patterns is not None:
        console.print(
            "P(BCC) and patterns (those at 0.5 or above) are not calibrated. Rule: network excludes BCC."
        )
    console.print("Research use only; not a medical device.")
