"""The network of a model's folder: one model, or an ensemble of those in the folders below it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedderm.evaluation.documents import OperatingPoint
from fedderm.model.cascade import Cascade
from fedderm.model.ensemble import Ensemble, Member
from fedderm.model.state import load_arrays
from fedderm.model_folder import WEIGHTS, damaged, read_description
from fedderm.settings import ModelSettings
from fedderm.weights import read_arrays


def network_of(folder: Path, description: Mapping[str, Any]) -> Cascade | Ensemble:
    """Return the network of the model in ``folder``, of which ``model.json`` holds ``description``.

    Raises ValueError where a file is missing or damaged, KeyError or TypeError where the description is.
    """
    settings = ModelSettings.model_validate(description["model"])
    if "ensemble" in description:
        told = description["ensemble"]
        return Ensemble([_member(folder / name) for name in told["members"]], settings, told["combine"])
    model = Cascade(settings, pretrained=False)
    load_arrays(model, read_arrays(folder / WEIGHTS))
    return model


def _member(folder: Path) -> Member:
    description = read_description(folder)
    try:
        point = OperatingPoint.model_validate(description["federation_point"])
        model = network_of(folder, description)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder, error) from error
    if isinstance(model, Ensemble):
        raise damaged(folder, TypeError("a member is itself an ensemble"))
    return Member(model, point)
