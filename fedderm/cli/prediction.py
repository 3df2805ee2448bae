"""What ``fedderm predict`` does: images in, a table or JSON lines out."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedderm.predictor import Prediction, Predictor
from sites.files import IMAGE_SUFFIXES
from sites.images import ImageUnreadable


def predict_images(model: Path, images: list[Path], site: str | None, as_json: bool) -> bool:
    """Print a prediction for each image; return whether all could be read.

    An unreadable image is named on standard error and does not stop the others.
    """
    predictor = Predictor.open(model, site)
    found, complete = [], True
    for path in _files(images):
        try:
            prediction = predictor.predict(path)
        except ImageUnreadable as error:
            print(f"fedderm: {error}", file=sys.stderr)
            complete = False
            continue
        if as_json:
            print(json.dumps(prediction.as_dict()))
        else:
            found.append(prediction)
    if not as_json:
        _print(found, predictor)
    return complete


def _files(images: list[Path]) -> Iterator[Path]:
    for path in images:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        else:
            yield path


def _print(predictions: list[Prediction], predictor: Predictor) -> None:
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("image", "P(malignant)", "decision", "differential"):
        table.add_column(heading, overflow="fold")
    for one in predictions:
        differential = ", ".join(f"{name} {share:.0%}" for name, share in one.differential.items())
        table.add_row(str(one.image), f"{one.probability:.3f}", one.decision, differential or "-")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"threshold {predictor.point.threshold_probability:.3f}: {predictor.point.origin} Research use only; not a medical device.",
        markup=False,
    )
