"""A model's folder: where it is, what its files are called, and what its ``model.json`` says."""

import json
from pathlib import Path
from typing import Any, Final

from fedderm.evaluation.distance import Familiar
from fedderm.evaluation.shift_reference import ShiftReference
from fedderm.weights import read_arrays

DESCRIPTION: Final = "model.json"
WEIGHTS: Final = "model.safetensors"
REFERENCE: Final = "reference.safetensors"
"""What training sites look like, in sums; a run of sites that sent none has none."""


class UnknownSite(ValueError):  # noqa: N818 - says what it is
    """A site that the model has no operating point for."""


def model_folder(path: Path) -> Path:
    """Return the folder of the model that ``path`` names: a run's folder, a model's, or its file of weights.

    Raises ValueError where there is none.
    """
    for folder in (path / "model", path, path.parent):
        if (folder / DESCRIPTION).is_file() and (folder != path.parent or path.name == WEIGHTS):
            return folder
    runs = sorted(path.glob(f"*/model/{DESCRIPTION}"))
    which = (
        f"one of the runs in it, such as {runs[-1].parents[1]}" if runs else "the folder of a finished run"
    )
    raise ValueError(f"{path}: holds no model (model/model.json is missing); give {which}")


def read_familiar(folder: Path) -> Familiar | None:
    """Return what training sites' images look like, None where a model's folder does not say.

    Folders of earlier versions do not. Raises ValueError where the file is damaged.
    """
    path = folder / REFERENCE
    if not path.is_file():
        return None
    arrays = read_arrays(path)
    try:
        return Familiar.from_arrays(ShiftReference.from_arrays(arrays).features, arrays)
    except ValueError as error:
        raise ValueError(f"{path}: is damaged ({error}); copy it again") from error


def read_description(folder: Path) -> dict[str, Any]:
    """Return ``model.json``; raises ValueError where it is damaged."""
    try:
        found = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(folder, error) from error
    if not isinstance(found, dict):
        raise damaged(folder, TypeError("it is no object"))
    return found


def damaged(folder: Path, error: Exception) -> ValueError:
    """Return the sentence for a ``model.json`` that lacks something."""
    reason = " ".join(str(error).split())
    return ValueError(f"{folder / DESCRIPTION}: is damaged ({reason}); copy it again")


def point_of(description: dict[str, Any], site: str | None) -> Any:
    """Return the operating point of ``site``, or the federation's; raises UnknownSite, or KeyError."""
    if site is None:
        if (why := description.get("unfitted")) is not None:
            raise UnknownSite(why)
        return description["federation_point"]
    points = description["site_points"]
    if site not in points:
        raise UnknownSite(f"--site {site}: this model knows the sites {', '.join(points)}")
    if site in description.get("adapted_sites", ()):
        raise UnknownSite(
            f"--site {site}: was judged with BatchNorm statistics of its own images, which this folder does "
            "not hold, so that its threshold is not this model's; leave --site out, or run with "
            "strategy.parameters held_out: mean"
        )
    return points[site]
