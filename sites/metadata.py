"""Age, sex and anatomical site as numbers beside an image, each of which may be missing.

Clinics name places differently and some only coarsely ("trunk"), so that anatomical sites are told apart no
further than all sources can: six regions, those of ISIC 2019 but for its three sides of the torso. Where
HAM10000 and ISIC 2019 name the same image, the regions agree (hands and feet are extremities, ``acral`` is
palms and soles).
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Field = Literal["age", "sex", "anatom_site"]
FIELDS: Final[tuple[Field, ...]] = ("age", "sex", "anatom_site")
"""Columns of the lesion table that a model may be shown."""

Floats = NDArray[np.float32]

MIDDLE_AGE: Final = 50.0
"""Years; about the mean of the public sources."""
AGE_UNIT: Final = 20.0
"""Years; about their standard deviation."""

SEXES: Final = ("female", "male")
REGIONS: Final[dict[str, tuple[str, ...]]] = {
    "head/neck": ("head", "neck", "head and neck", "head neck face", "face", "scalp", "ear"),
    "torso": (
        "trunk",
        "anterior torso",
        "posterior torso",
        "lateral torso",
        "back",
        "chest",
        "abdomen",
    ),
    "upper extremity": ("arm", "upper arm", "forearm", "elbow", "wrist", "hand", "finger", "arms", "hands"),
    "lower extremity": ("leg", "thigh", "knee", "calf", "shin", "ankle", "foot", "toe", "legs", "feet"),
    "palms/soles": ("acral", "palm", "sole"),
    "oral/genital": ("genital", "oral"),
}
"""Regions, and what else clinics call them or parts of them."""

_REGION_OF: Final = {word: region for region, words in REGIONS.items() for word in (region, *words)}
_LEVELS: Final[dict[Field, tuple[str, ...]]] = {"sex": SEXES, "anatom_site": tuple(REGIONS)}


def columns(fields: Sequence[Field]) -> tuple[str, ...]:
    """Return the names of the numbers that ``encoded`` gives, in their order; each field's last says that it
    is missing."""
    found: list[str] = []
    for field in fields:
        found += ["age"] if field == "age" else [f"{field}: {level}" for level in _LEVELS[field]]
        found.append(f"{field}: missing")
    return tuple(found)


def encoded(table: pd.DataFrame, fields: Sequence[Field]) -> Floats:
    """Return a row of numbers for each of the table's, (n, M) of ``columns``.

    Age is (years - 50) / 20; sex and region are one-hot. What is missing, or no word of ours, is zero but for
    the last number of its field, which is one.
    """
    parts = [_age(table["age"]) if field == "age" else _one_hot(table[field], field) for field in fields]
    return np.concatenate([np.empty((len(table), 0), np.float32), *parts], axis=1)


def missing(fields: Sequence[Field]) -> Floats:
    """Return the row (M,) of somebody of whom nothing is known."""
    return np.array([name.endswith(": missing") for name in columns(fields)], np.float32)


def unknown(table: pd.DataFrame, fields: Sequence[Field]) -> list[Field]:
    """Return the fields that the table tells of none of its images, in words that ``encoded`` knows."""
    return [field for field in fields if bool(encoded(table, [field])[:, -1].all())]


def unknown_sentence(site: str, fields: Sequence[str]) -> str:
    """Return what it means that a site knows ``fields`` of no patient."""
    named = " and ".join(field.replace("_", " ") for field in fields)
    keys = ", ".join(f"columns.{field}" for field in fields)
    return (
        f"site {site}: the model takes {named}, which no image here has in words that it knows: it is "
        "counted as missing everywhere, and thresholds set elsewhere promise less; if the table has it, say "
        f"where ({keys})"
    )


def owners(fields: Sequence[Field]) -> NDArray[np.int64]:
    """Return the place in ``fields`` of the field that each of the M numbers belongs to."""
    return np.array([place for place, one in enumerate(fields) for _ in columns([one])], np.int64)


def region(word: str) -> str | None:
    """Return the region that a clinic's word means; None for one that is not known."""
    return _REGION_OF.get(" ".join(word.casefold().replace("_", " ").split()))


def description(fields: Sequence[Field]) -> dict[str, Any]:
    """Return what somebody without this module needs to make such rows, as plain values."""
    rules: dict[Field, Any] = {
        "age": f"(years - {MIDDLE_AGE:g}) / {AGE_UNIT:g}",
        "sex": list(SEXES),
        "anatom_site": {name: list(words) for name, words in REGIONS.items()},
    }
    return {
        "columns": list(columns(fields)),
        "fields": {field: rules[field] for field in fields},
        "missing": missing(fields).tolist(),
    }


def _age(years: "pd.Series[float]") -> Floats:
    found = years.to_numpy(dtype=np.float64, na_value=np.nan)
    unknown = np.isnan(found)
    scaled = np.where(unknown, 0.0, (found - MIDDLE_AGE) / AGE_UNIT)
    return np.stack([scaled, unknown], axis=1).astype(np.float32)


def _one_hot(words: "pd.Series[str]", field: Field) -> Floats:
    levels = _LEVELS[field]
    named = words.astype("string").fillna("")
    known = named.map(lambda one: region(one) or "") if field == "anatom_site" else named
    hot = known.to_numpy(dtype=str)[:, None] == np.array(levels)[None, :]
    return np.concatenate([hot, ~hot.any(axis=1, keepdims=True)], axis=1).astype(np.float32)
