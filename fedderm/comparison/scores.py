"""``scores.npz`` of a cell: what its model says of each lesion, the material of all paired statistics."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from fedderm.comparison.reading import unreadable
from fedderm.evaluation.ranking import weighted_ranking
from fedderm.evaluation.scores import Scores

FILE = "scores.npz"
Model = Literal["global", "personal"]
GLOBAL: Final = "global"
PERSONAL: Final = "personal"
_ARRAYS = ("lesion", "triage", "truth", "differential")


def write_scores(path: Path, scores: Mapping[tuple[str, Model], Scores]) -> None:
    """Write scores by (site, model) in one step, one row a lesion, sorted by lesion id.

    Keys are ``site/model/array``; lesion (L,) text, triage (L,) float64 mean logit, truth (L,) 0..3,
    differential (L,) 1..3.
    """
    arrays: dict[str, Any] = {}
    for (site, model), found in scores.items():
        lesions = found.per_lesion()
        arrays |= {f"{site}/{model}/{name}": getattr(lesions, name) for name in _ARRAYS}
    partial = path.with_name(f".{path.stem}.partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(path)


def read_scores(path: Path) -> dict[tuple[str, Model], Scores]:
    """Return what ``write_scores`` wrote; raises ValueError where the file is missing or damaged."""
    found: dict[tuple[str, Model], Scores] = {}
    try:
        with np.load(path, allow_pickle=False) as held:
            for prefix in dict.fromkeys(key.rpartition("/")[0] for key in held.files):
                site, _, model = prefix.rpartition("/")
                if model not in get_args(Model):
                    raise ValueError(f"unknown key {prefix}")
                arrays = {name: held[f"{prefix}/{name}"] for name in _ARRAYS}
                found[site, PERSONAL if model == PERSONAL else GLOBAL] = Scores(**arrays).per_lesion()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise unreadable(path, error) from error
    return found


def pooled_auc(scores: Mapping[tuple[str, Model], Scores], sites: list[str]) -> float | None:
    """Return the global model's AUC over the lesions of ``sites`` together; None where a class is absent."""
    joined = Scores.join(*(scores[site, GLOBAL] for site in sites if (site, GLOBAL) in scores))
    if not 0 < int(joined.positive.sum()) < len(joined):
        return None
    return weighted_ranking(joined, np.ones(len(joined)))["auc"]
