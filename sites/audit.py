"""The audit: no lesion, patient or photograph in two splits of a site, nor at two sites.

A *place* is one split of one site. What is held at two places is a conflict; a site that lists another in
``gives_way_to`` gives up its share of it, and any conflict that is left refuses the experiment. Hospitals
that may not show their ids compare salted hashes of them. docs/audit.md has what was measured.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from sites.catalogue import SiteData
from sites.conflicts import Audited, AuditResult, Conflict, Holding, Kind, plain_id
from sites.duplicates import near_pairs
from sites.errors import SiteError
from sites.giving_way import AuditRefused, given_up, resolve
from sites.images import FINGERPRINT_SIZE
from sites.salted import Overlap, overlaps, salted_fingerprints

__all__ = [
    "AuditRefused",
    "AuditResult",
    "Conflict",
    "Holding",
    "Overlap",
    "audit",
    "given_up",
    "overlaps",
    "resolve",
    "salted_fingerprints",
]

_COLUMNS: Final[dict[Kind, str]] = {
    "image": "image",
    "lesion": "lesion",
    "patient": "patient_id",
    "identical pixels": "content",
}


def audit(sites: Sequence[SiteData], fingerprints: Mapping[str, pd.DataFrame]) -> AuditResult:
    """Return every conflict between the places of these sites, in the order of sites and rows.

    ``fingerprints`` has ``PixelCache.fingerprints`` by site name; an image without one is compared by its ids
    only, and one without a split (given up) not at all. Ids are compared without a ``_downsampled`` suffix
    and file extension. A near-identical pair of one lesion is reported as that lesion only. Raises SiteError
    for two sites of one name.
    """
    names = [data.site.name for data in sites]
    if len(set(names)) < len(names):
        raise SiteError(f"two sites are named '{Counter(names).most_common(1)[0][0]}'; names must differ")
    rows = _rows(sites, fingerprints)
    conflicts = [*_shared_values(rows), *_near(rows)]
    audited = {
        name: Audited(images=len(own), lesions=own["lesion"].nunique(), pixels=own["content"].notna().sum())
        for name, own in ((name, rows[rows["site"] == name]) for name in names)
    }
    return AuditResult(sites=audited, conflicts=tuple(conflicts))


def _rows(sites: Sequence[SiteData], fingerprints: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the images of all sites in one frame, ``place`` numbering the splits of sites."""
    frames = [_with_fingerprints(data, fingerprints.get(data.site.name)) for data in sites]
    rows = pd.concat(frames, ignore_index=True)
    rows["image"] = rows["image_id"].astype("str").map(plain_id)
    rows["lesion"] = rows["lesion_id"].astype("str").map(plain_id)
    rows["place"] = rows.groupby(["site", "split"], sort=False).ngroup()
    return rows


def _with_fingerprints(data: SiteData, fingerprints: pd.DataFrame | None) -> pd.DataFrame:
    used = data.table[data.table["split"].notna()]
    own = used[["image_id", "lesion_id", "patient_id", "split"]].assign(site=data.site.name)
    if fingerprints is None:
        return own.assign(content=None, perceptual=None)
    return own.merge(fingerprints, on="image_id", how="left", validate="one_to_one")


def _shared_values(rows: pd.DataFrame) -> Iterator[Conflict]:
    """Yield a conflict for each id or hash and each pair of places that hold it."""
    for kind, column in _COLUMNS.items():
        known = rows[rows[column].notna()]
        places = known.drop_duplicates([column, "place"])[column]
        shared = known[known[column].isin(places[places.duplicated()])]
        # Plain dictionaries: a DataFrame for each of 17,000 shared values takes a minute, these a second.
        held: dict[str, dict[int, list[_Row]]] = {}
        for value, place, row in zip(shared[column], shared["place"], _plain_rows(shared), strict=True):
            held.setdefault(str(value), {}).setdefault(int(place), []).append(row)
        for value, at in held.items():
            for first, second in combinations(sorted(at), 2):
                yield _conflict(kind, value, at[first], at[second])


def _near(rows: pd.DataFrame) -> Iterator[Conflict]:
    """Yield the near-identical pairs that no shared lesion and no identical pixels explain."""
    seen = rows[rows["perceptual"].notna()]
    if seen.empty:
        return
    grey = np.frombuffer(b"".join(seen["perceptual"]), dtype=np.uint8)
    lesion, content = (pd.factorize(seen[column])[0].astype(np.int64) for column in ("lesion", "content"))
    apart = [seen["place"].to_numpy(dtype=np.int64), lesion, content]
    pairs, scores = near_pairs(grey.reshape(-1, FINGERPRINT_SIZE, FINGERPRINT_SIZE), apart)
    plain = _plain_rows(seen)
    for (first, second), score in zip(pairs, scores, strict=True):
        yield _conflict("near-identical pixels", f"{score:.3f}", [plain[first]], [plain[second]])


def _plain_rows(rows: pd.DataFrame) -> list["_Row"]:
    columns = (rows[name].astype("str") for name in ("site", "split", "image_id", "lesion_id"))
    return [_Row(*values) for values in zip(*columns, strict=True)]


class _Row(NamedTuple):
    site: str
    split: str
    image: str
    lesion: str


def _conflict(kind: Kind, value: str, first: Sequence[_Row], second: Sequence[_Row]) -> Conflict:
    return Conflict(kind=kind, value=value, first=_holding(first), second=_holding(second))


def _holding(rows: Sequence[_Row]) -> Holding:
    lesions = tuple(dict.fromkeys(row.lesion for row in rows))
    return Holding(
        site=rows[0].site, split=rows[0].split, images=tuple(r.image for r in rows), lesions=lesions
    )
