"""``diagnoses.npz`` of a cell: what its head of diagnoses says of each lesion."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedderm.comparison.reading import unreadable
from fedderm.evaluation.diagnosis import LesionShares

FILE = "diagnoses.npz"


def write_diagnoses(folder: Path, found: Mapping[str, LesionShares]) -> None:
    """Write the lesions' mean probabilities by site in one step; no file where no site has any.

    Keys are ``site/array``; lesion (L,) text, truth (L,) 0..K-1, probability (L, K) float64.
    """
    if not found:
        return
    arrays: dict[str, Any] = {
        f"{site}/{name}": array for site, one in found.items() for name, array in one._asdict().items()
    }
    partial = folder / ".diagnoses.partial.npz"
    np.savez_compressed(partial, **arrays)
    partial.replace(folder / FILE)


def read_diagnoses(folder: Path) -> dict[str, LesionShares]:
    """Return what ``write_diagnoses`` wrote by site, nothing where there is no file; raises ValueError where
    it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as held:
            sites = dict.fromkeys(key.rpartition("/")[0] for key in held.files)
            return {
                site: LesionShares(*(held[f"{site}/{name}"] for name in LesionShares._fields))
                for site in sites
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise unreadable(path, error) from error
