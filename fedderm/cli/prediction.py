"""What ``fedderm predict`` does: images in, a table or JSON lines out."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from fedderm.cli.errors import tell
from fedderm.cli.images import image_files, shown
from fedderm.cli.terminal import output, plain_table
from fedderm.metadata import Patient
from fedderm.predictor import Prediction, Predictor
from sites.errors import ImageUnreadable


def predict_images(
    model: Path, images: list[Path], site: str | None, as_json: bool, agreement: float, patient: Patient
) -> bool:
    """Print a prediction for each image; return whether all could be read.

    An unreadable image is named on standard error and does not stop the others. Raises ValueError where the
    model cannot be used, a folder holds no image, ``agreement`` is no share, or the model does not take what
    is known of the ``patient``.
    """
    if not 0 <= agreement <= 1:
        raise ValueError(f"--agreement {agreement:g}: expected a share of views between 0 and 1")
    paths = [file for path in images for file in image_files(path)]
    predictor = Predictor.open(model, site)
    patient.told(predictor.settings.metadata)
    found, unreadable = [], 0
    for path in shown(paths, "predict", not (as_json and sys.stdout.isatty())):
        try:
            prediction = predictor.predict(path, agreement, patient)
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


def _print(predictions: list[Prediction], predictor: Predictor) -> None:
    table: Table = plain_table(
        "image", "P(malignant)", "views", "decision", "differential", "abstains", folding="image"
    )
    if predictions[0].patterns is not None:
        for heading in ("P(BCC)", "patterns", "rule"):
            table.add_column(heading, overflow="fold")
    if predictions[0].diagnoses is not None:
        table.add_column("diagnoses", overflow="fold")
    for one in predictions:
        differential = ", ".join(f"{name} {share:.0%}" for name, share in one.differential.items())
        because = " and ".join(one.abstains_because)
        row = [str(one.image), f"{one.probability:.3f}", _views(one), one.decision]
        row += [differential or "-", because or "-"]
        if one.patterns is not None:
            shown = [name.replace("_", " ") for name, share in one.patterns.items() if share >= 0.5]
            rule = {True: "suggests BCC", False: "does not", None: "-"}[one.rule_suggests_bcc]
            row += [f"{one.bcc:.3f}", ", ".join(shown) or "-", rule]
        if one.diagnoses is not None:
            likeliest = list(one.diagnoses.items())[:3]
            row.append(", ".join(f"{name} {share:.0%}" for name, share in likeliest) or "-")
        table.add_row(*row)
    console = output()
    console.print(table)
    console.print(f"threshold {predictor.point.threshold_probability:.3f}: {predictor.point.origin}")
    console.print("A guarantee speaks of a lesion's mean over its images, not of one image.")
    console.print(_about_caution(predictor))
    if predictions[0].metadata is not None:
        console.print(_about_metadata(predictions[0].metadata))
    if predictions[0].patterns is not None:
        console.print(
            "P(BCC) and patterns (those at 0.5 or above) are not calibrated. Rule: network excludes BCC."
        )
    if predictions[0].diagnoses is not None:
        console.print("Diagnoses (the likeliest three) are not calibrated.")
    if told := predictor.untaught.sentence():
        console.print(told)
    console.print("Research use only; not a medical device.")


def _views(one: Prediction) -> str:
    """Return the spread of the probability over the views, and how many of them decide alike."""
    return "-" if one.spread is None or one.agreement is None else f"±{one.spread:.3f}, {one.agreement:.0%}"


def _about_metadata(told: Mapping[str, Any]) -> str:
    """Return what the model was told beside the pixels, of the patient of all images."""
    known = [f"{name.replace('_', ' ')} {value}" for name, value in told.items() if value is not None]
    unknown = [name.replace("_", " ") for name, value in told.items() if value is None]
    found = f"Of the patient: {', '.join(known)}." if known else "Of the patient: nothing."
    if not unknown:
        return found
    return (
        f"{found} Not told, and counted as missing: {', '.join(unknown)}. The threshold was set where the "
        "sites' tables told them; without, its promise does not hold."
    )


def _about_caution(predictor: Predictor) -> str:
    """Return what the columns views and abstains mean of this model."""
    views = (
        f"Views: standard deviation of P over {predictor.views} mirrored views; the share that decides alike."
        if predictor.views > 1
        else "This model looks at one view, so that nothing is said of disagreement."
    )
    if predictor.familiar is None:
        return f"{views} Foreign images are not told: that takes 100 calibration images at training sites."
    images = predictor.familiar.images
    return f"{views} Unlike: further off than 99 % of {images} calibration images of the training sites."
