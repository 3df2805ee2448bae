"""Overlap between sites that may not show their ids: salted hashes, compared at the server.

Hospitals' ids are easily enumerated, so a hash keeps them from being read only from those who do not hold
the salt: give every federation a fresh one, and to its members only. Copies that were re-encoded cannot be
recognised this way; ids and identical pixels can.
"""

from collections.abc import Mapping
from hashlib import blake2b
from itertools import combinations
from typing import Final

import pandas as pd
from pydantic import BaseModel, ConfigDict

from sites.conflicts import plain_id
from sites.errors import SiteError

_COLUMNS: Final = {"image": "image_id", "lesion": "lesion_id", "patient": "patient_id"}
_SHORTEST_SALT: Final = 16  # characters


class Overlap(BaseModel):
    """How many values of one kind two sites share."""

    model_config = ConfigDict(frozen=True)

    kind: str
    """``image``, ``lesion``, ``patient`` or ``content`` (identical pixels)."""
    first: str
    second: str
    count: int

    def __str__(self) -> str:
        what = {"content": "identical images"}.get(self.kind, f"{self.kind} ids")
        return f"{self.first} and {self.second} share {self.count} {what}"


def salted_fingerprints(table: pd.DataFrame, fingerprints: pd.DataFrame, salt: str) -> dict[str, list[str]]:
    """Return ``image``, ``lesion``, ``patient`` and ``content`` with the sorted hashes of a site's values.

    A hash is 32 hex digits of blake2b over salt, kind and value (ids as ``audit`` compares them). Sorting
    hides the order of the table; images without a split (given up) are left out. Raises SiteError for a salt
    shorter than 16 characters.
    """
    if len(salt) < _SHORTEST_SALT:
        raise SiteError(
            f"the audit's salt has {len(salt)} characters; use {_SHORTEST_SALT} or more, drawn at random"
        )
    used = table[table["split"].notna()]
    values = {kind: used[column].dropna().astype("str").map(plain_id) for kind, column in _COLUMNS.items()}
    values["content"] = fingerprints.loc[fingerprints["image_id"].isin(used["image_id"]), "content"]
    return {kind: sorted({salted(kind, str(v), salt) for v in own}) for kind, own in values.items()}


def overlaps(cards: Mapping[str, Mapping[str, list[str]]]) -> list[Overlap]:
    """Return what pairs of sites share, in the order of cards; a card is a site's salted fingerprints."""
    found = []
    for (first, own), (second, other) in combinations(cards.items(), 2):
        for kind, hashes in own.items():
            if count := len(set(hashes) & set(other.get(kind, ()))):
                found.append(Overlap(kind=kind, first=first, second=second, count=count))
    return found


def salted(kind: str, value: str, salt: str) -> str:
    """Return the 32 hex digits that stand for one id."""
    return blake2b(f"{salt}\0{kind}\0{value}".encode(), digest_size=16).hexdigest()
