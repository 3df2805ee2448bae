"""``scores.npz`` of a cell: what its model says of each lesion, the material of all paired statistics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fedderm.evaluation.ranking import weighted_ranking
from fedderm.evaluation.scores import Scores

FILE = "scores.npz"
GLOBAL, PERSONAL = "global", "personal"
_ARRAYS = ("lesion", "triage", "truth", "differential")


def write_scores(path: Path, scores: Mapping[tuple[str, str], Scores]) -> None:
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


def read_scores(path: Path) -> dict[tuple[str, str], Scores]:
    """Return what ``write_scores`` wrote; raises ValueError where the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as held:
            pairs = dict.fromkeys(tuple(key.split("/")[:2]) for key in held.files)
            return {
                (site, model): Scores(**{name: held[f"{site}/{model}/{name}"] for name in _ARRAYS})
                for site, model in pairs
            }
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read ({error}); remove it and resume the comparison") from error


def pooled_auc(scores: Mapping[tuple[str, str], Scores], sites: list[str]) -> float | None:
    """Return the global model's AUC over the lesions of ``sites`` together; None where a class is absent."""
    joined = Scores.join(*(scores[site, GLOBAL] for site in sites if (site, GLOBAL) in scores))
    if not 0 < int(joined.positive.sum()) < len(joined):
        return None
    return weighted_ranking(joined, np.ones(len(joined)))["auc"]
