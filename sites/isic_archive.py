"""Exports of the ISIC archive, as isic-cli writes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import pandas as pd

from sites.files import first_file, images_by_stem, need_columns, paths_of, read_table, source_folder
from sites.site import SiteSettings

LEVELS: Final = tuple(f"diagnosis_{level}" for level in range(1, 6))

# The archive's terms (github.com/ImageMarkup/isic-metadata, diagnosis_hierarchical.py) begin with these; the
# finest level that matches decides. Grouping follows MILK10k's and, for haemorrhage, HAM10000's own classes.
_BEGINNINGS: Final[dict[str, str]] = {
    "melanoma": "mel",
    "malignant melanocytic proliferations": "mel",
    "basal cell carcinoma": "bcc",
    "squamous cell carcinoma": "scc",
    "keratoacanthoma": "scc",
    "bowenoid papulosis": "scc",
    "verrucous carcinoma": "scc",
    "malignant epidermal proliferations": "scc",
    "solar or actinic": "ak",
    "actinic keratosis": "ak",
    "nevus, ": "nv",
    "blue nevus": "nv",
    "seborrheic keratosis": "bkl",
    "lichen planus like keratosis": "bkl",
    "lichen planus-like keratosis": "bkl",
    "solar lentigo": "bkl",
    "ink-spot lentigo": "bkl",
    "pigmented benign keratosis": "bkl",
    "clear cell acanthoma": "bkl",
    "large cell acanthoma": "bkl",
    "melanoacanthoma": "bkl",
    "dermatofibroma": "df",
    "benign soft tissue proliferations - vascular": "vasc",
    "hemangioma": "vasc",
    "angiokeratoma": "vasc",
    "pyogenic granuloma": "vasc",
    "hemorrhag": "vasc",
}
# Terms that begin like one of the above and mean something else.
_EXCEPT: Final = ("dermatofibrosarcoma", "collision")
_SIDES: Final = {"benign": "other_benign", "malignant": "other_malignant"}
_SIDE_OF: Final[dict[str, str]] = {
    **dict.fromkeys(("mel", "bcc", "scc", "other_malignant"), "malignant"),
    **dict.fromkeys(("nv", "bkl", "df", "vasc", "other_benign"), "benign"),
}


def diagnosis_of(terms: Sequence[str]) -> str | None:
    """Return the canonical diagnosis of archive terms, coarsest first (diagnosis_1 to diagnosis_5).

    A benign or malignant lesion of another kind is other_benign or other_malignant. None where nothing
    follows: blank, indeterminate other than actinic keratosis, or a term on the other side than its
    diagnosis_1.
    """
    words = [" ".join(term.casefold().split()) for term in terms]
    side = next((word for word in words if word in ("benign", "malignant", "indeterminate")), None)
    for word in reversed(words):
        found = _of_term(word)
        if found is None:
            continue
        expected = _SIDE_OF.get(found)
        return found if side is None or expected in (None, side) else None
    return _SIDES.get(side or "")


def _of_term(word: str) -> str | None:
    if word == "nevus":
        return "nv"
    if word.startswith(_EXCEPT):
        return None
    return next((name for start, name in _BEGINNINGS.items() if word.startswith(start)), None)


class IsicArchiveSite(SiteSettings):
    """Images exported from the ISIC archive.

    Holds: whatever was exported: ``metadata.csv`` and images named ``<isic_id>.jpg`` in one folder. Diagnoses
    come from ``diagnosis_1`` to ``diagnosis_5``, never from the legacy ``benign_malignant``, which is blank
    for some malignant images. Lesions are IL_ ids, patients IP_ ids, skin types Fitzpatrick; ``acquisition``
    is the attribution.

    Get it: ``pip install isic-cli``, then ``isic image download --collections NUMBER FOLDER`` (or
    ``--search``).

    Quirks: HAM10000's images have IL_ ids here and HAM_ ids in its own files: sources are compared by image
    id and by pixels. The archive holds close-up photographs beside dermoscopy: rows whose ``image_type`` is
    not dermoscopic are set aside, and so are blank and indeterminate diagnoses (actinic keratosis stays, for
    ``ak_policy`` to decide).

    Licence: by image, in ``copyright_license`` (CC-0, CC-BY or CC-BY-NC). Cite: the attribution of each
    image; https://www.isic-archive.com.
    """

    source: Literal["isic_archive"]

    def read(self, data_root: Path | None, work_dir: Path, seed: int) -> pd.DataFrame:  # noqa: ARG002
        """Return the raw lesion table; raises SiteError for a missing file or column."""
        folder = source_folder(self.path, "isic_archive", data_root)
        file = first_file(folder, ["metadata.csv"], "isic-cli's metadata")
        rows = read_table(file)
        need_columns(rows, ("isic_id", "diagnosis_1"), file, "export again with a current isic-cli")
        raw = rows.drop(columns=[c for c in ("age", "split", "set_aside") if c in rows])
        raw = raw.rename(
            columns={
                "isic_id": "image_id",
                "age_approx": "age",
                "anatom_site_general": "anatom_site",
                "fitzpatrick_skin_type": "skin_type",
                "attribution": "acquisition",
            }
        )
        if "anatom_site" not in raw and "anatom_site_1" in raw:
            raw["anatom_site"] = raw["anatom_site_1"]
        raw["path"] = paths_of(raw["image_id"], images_by_stem([folder, folder / "images"]), folder)
        levels = [column for column in LEVELS if column in rows]
        raw["diagnosis"] = [
            diagnosis_of([term for term in terms if isinstance(term, str)])
            for terms in rows[levels].itertuples(index=False, name=None)
        ]
        raw["set_aside"] = _reasons(rows, raw["diagnosis"])
        raw["diagnosis"] = raw["diagnosis"].mask(raw["set_aside"].notna())
        raw.attrs["file"] = str(file)
        return raw


def _reasons(rows: pd.DataFrame, diagnosis: "pd.Series[str]") -> "pd.Series[str]":
    """Return why each row cannot be used, NA where it can."""
    reason = pd.Series(None, index=rows.index, dtype="str")
    unresolved = diagnosis.isna()
    reason[unresolved] = "diagnosis_1 to diagnosis_5 are contradictory"
    reason[unresolved & (rows["diagnosis_1"].str.casefold() == "indeterminate")] = "indeterminate diagnosis"
    reason[unresolved & rows["diagnosis_1"].isna()] = "no diagnosis"
    if "image_type" in rows:
        kind = rows["image_type"]
        other = kind.notna() & (kind.str.casefold() != "dermoscopic")
        reason[other] = "image_type " + kind[other] + " is not dermoscopic"
    return reason
