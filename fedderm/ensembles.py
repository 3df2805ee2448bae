"""``fedderm ensemble``: finished models as one model's folder, with a threshold where it can be fitted."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Final

from fedderm import __version__
from fedderm.ensemble_point import Fitted
from fedderm.evaluation.documents import Certificate, OperatingPoint
from fedderm.evaluation.informed import evidence_of
from fedderm.evaluation.thresholds import positives_needed
from fedderm.evaluation_files import json_of
from fedderm.model.ensemble import Combine
from fedderm.model_folder import DESCRIPTION, REFERENCE, WEIGHTS, damaged, model_folder, read_description
from fedderm.recipe import Recipe
from fedderm.settings import ModelSettings
from fedderm.untaught import Untaught
from fedderm.weights import save_arrays
from fedderm.whole_file import write_whole
from sites.diagnoses import CLASSES
from strategies.catalogue import site_side

UNFITTED: Final = (
    "this ensemble has no operating point, and its members' are not its own; make it again with --data-root "
    "where all of the members' sites lie, or let `fedderm evaluate --site` set one at a hospital"
)


@dataclass(frozen=True)
class Part:
    """A member as it was found: its folder and what it says of itself."""

    folder: Path
    description: Mapping[str, Any]
    settings: ModelSettings
    recipe: Recipe

    @classmethod
    def open(cls, path: Path) -> "Part":
        """Return the model of a run's or model's folder; raises ValueError for one that can be no member."""
        folder = model_folder(path)
        description = read_description(folder)
        if "ensemble" in description:
            raise ValueError(f"{path}: is itself an ensemble; name its members")
        if "recipe" not in description:
            raise ValueError(f"{path}: is of an earlier version of fedderm; finish its run with this one")
        try:
            settings = ModelSettings.model_validate(description["model"])
            recipe = Recipe.model_validate(description["recipe"])
            OperatingPoint.model_validate(description["federation_point"])
            Untaught.of(description)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(folder, error) from error
        if site_side(recipe.strategy.name).keeps is not None:
            raise ValueError(
                f"{path}: was trained with {recipe.strategy.name}, under which sites keep part of the model, "
                "so that its threshold is not that of the weights in its folder; choose another run"
            )
        return cls(folder, description, settings, recipe)


def parts_of(paths: Sequence[Path]) -> list[Part]:
    """Return the members of an ensemble; raises ValueError where they are fewer than two or do not fit."""
    if len(paths) < 2:
        raise ValueError(f"fedderm ensemble: expected two or more models, found {len(paths)}")
    parts = [Part.open(path) for path in paths]
    if twice := [path for path, n in Counter(part.folder.resolve() for part in parts).items() if n > 1]:
        raise ValueError(f"{twice[0]}: is named twice; an ensemble is made of different models")
    for path, part in zip(paths[1:], parts[1:], strict=True):
        for what, first, other in _compared(parts[0], part):
            if first != other:
                raise ValueError(
                    f"{path}: {what} is {other!r}, and of {paths[0]} it is {first!r}; members must see the "
                    "same pixels and name the same classes"
                )
    return parts


def _compared(one: Part, other: Part) -> Iterator[tuple[str, Any, Any]]:
    """Yield what members must share: its name, and what either has."""
    for key in ("image_size", "crop", "hair", "colour", "diagnoses", "metadata"):
        yield f"model.{key}", getattr(one.settings, key), getattr(other.settings, key)
    yield "evaluation.views", one.description["views"], other.description["views"]
    kinds = ["binary" if part.settings.scheme == "binary" else "of four classes" for part in (one, other)]
    yield "its scheme", kinds[0], kinds[1]


def require_empty(out: Path) -> None:
    """Raise ValueError where ``out`` holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: holds something already; name a folder that is empty or new")


def write_members(out: Path, parts: Sequence[Part]) -> list[str]:
    """Copy the members below ``out``, a new or empty folder, and return their places there."""
    places = [f"members/{number}" for number in range(1, len(parts) + 1)]
    for place, part in zip(places, parts, strict=True):
        (out / place).mkdir(parents=True)
        for name in (DESCRIPTION, WEIGHTS, REFERENCE):
            if (part.folder / name).is_file():
                shutil.copyfile(part.folder / name, out / place / name)
    return places


def described(parts: Sequence[Part], places: Sequence[str], combine: Combine) -> dict[str, Any]:
    """Return ``model.json`` of an ensemble whose operating point is not fitted.

    To be judged at a hospital it needs a point to begin with: one half of what the members say, which
    promises nothing and says so. ``predict`` and ``export`` refuse it.
    """
    first, settings = parts[0], parts[0].settings.model_copy(update={"patterns": False})
    name, evaluation = f"ensemble of {len(parts)}", parts[0].recipe.evaluation
    target, confidence = evaluation.target_sensitivity, evaluation.confidence
    point = OperatingPoint(
        calibration="identity",
        slope=1.0,
        intercept=0.0,
        threshold=0.0,
        threshold_probability=0.5,
        origin="Not fitted: one half of what the members say. It promises nothing; use the site's own.",
    )
    needed = positives_needed(target, confidence)
    certificate = Certificate(
        target_sensitivity=target,
        confidence=confidence,
        positives=0,
        needed=needed,
        certified=False,
        sentence=f"The ensemble was fitted on no lesion; {needed} malignant ones are needed.",
    )
    recipe = first.recipe.model_copy(update={"name": f"ensemble_of_{len(parts)}", "model": settings})
    return {
        "fedderm": __version__,
        "experiment": name,
        "model": settings.model_dump(mode="json"),
        "ensemble": {"combine": combine, "members": list(places)},
        "views": first.description["views"],
        "classes": list(CLASSES),
        "training_sites": sorted(
            {str(site) for part in parts for site in part.description["training_sites"]}
        ),
        "adapted_sites": [],
        "untaught": reduce(or_, (Untaught.of(part.description) for part in parts)).as_dict(),
        "recipe": recipe.model_dump(mode="json"),
        "federation_certificate": certificate.model_dump(mode="json"),
        "federation_point": point.model_dump(mode="json"),
        "evidence": evidence_of([], target, confidence).model_dump(mode="json"),
        "site_points": {},
        "certificates": {},
        "unfitted": UNFITTED,
    }


def write_description(out: Path, description: Mapping[str, Any]) -> None:
    """Write ``model.json``, the last file: a folder without it is no model."""
    write_whole(out / DESCRIPTION, json_of(dict(description)))


def write_fitted(out: Path, description: Mapping[str, Any], fitted: Fitted) -> None:
    """Write what was fitted: points, certificates, evidence, reference, and the sites' evaluations."""
    documents = {name: one.model_dump(mode="json") for name, one in fitted.evaluations.items()}
    save_arrays(out / REFERENCE, fitted.reference)
    (out / "evaluation").mkdir()
    write_whole(out / "evaluation" / "sites.json", json_of(documents))
    found = {
        "federation_certificate": fitted.certificate.model_dump(mode="json"),
        "federation_point": fitted.point.model_dump(mode="json"),
        "evidence": fitted.evidence.model_dump(mode="json"),
        "site_points": {name: one["site_point"] for name, one in documents.items()},
        "certificates": {name: one["certificate"] for name, one in documents.items()},
    }
    write_description(out, {key: one for key, one in {**description, **found}.items() if key != "unfitted"})
