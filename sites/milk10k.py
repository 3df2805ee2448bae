"""MILK10k: lesions with a close-up photograph and a dermoscopic image each, in eleven classes."""

from pathlib import Path
from typing import Final, Literal

import pandas as pd

from sites.errors import SiteError
from sites.files import (
    first_file,
    images_by_stem,
    need_columns,
    paths_of,
    quoted,
    read_table,
    source_folder,
)
from sites.site import SiteSettings

TRUTH: Final = "MILK10k_Training_GroundTruth.csv"
METADATA: Final = "MILK10k_Training_Metadata.csv"
SUPPLEMENT: Final = "MILK10k_Training_Supplement.csv"
IMAGES: Final = "MILK10k_Training_Input"

CLASSES: Final[dict[str, str | None]] = {
    "AKIEC": None,
    "BCC": "bcc",
    "BEN_OTH": "other_benign",
    "BKL": "bkl",
    "DF": "df",
    "INF": "other_benign",
    "MAL_OTH": "other_malignant",
    "MEL": "mel",
    "NV": "nv",
    "SCCKA": "scc",
    "VASC": "vasc",
}
"""Its eleven classes, and the canonical diagnosis of each; AKIEC is two of them."""

_AKIEC: Final = {"solar or actinic keratosis": "ak", "squamous cell carcinoma in situ": "scc"}
_UNRESOLVED: Final = (
    "AKIEC covers actinic keratosis and squamous cell carcinoma in situ, and the supplement does not say "
    "which it is"
)
_TYPES: Final = {"dermoscopic": "dermoscopic", "clinical": "clinical: close-up"}
_REMEDY: Final = "download MILK10k's training files again"


class Milk10kSite(SiteSettings):
    """The 5,240 training lesions of MILK10k, by their dermoscopic images unless ``images`` says otherwise.

    Holds: two images a lesion (a close-up photograph and a dermoscopic one), 10,480 in all; a lesion's class
    among AKIEC, BCC, BEN_OTH, BKL, DF, INF, MAL_OTH, MEL, NV, SCCKA, VASC, kept as ``milk10k`` to select by;
    approximate age, sex, site, skin tone; 96 % confirmed by histology. 69 % of lesions are MEL, BCC or SCC.
    ``acquisition`` is the attribution.

    Get it: https://challenge.isic-archive.com/data/#milk10k, four parts into one folder:
    MILK10k_Training_GroundTruth.csv, MILK10k_Training_Metadata.csv, MILK10k_Training_Supplement.csv,
    MILK10k_Training_Input/ (its images by lesion, or all in it).

    Quirks: labels are of lesions, the other tables of images. AKIEC is actinic keratosis (123 lesions) or
    Bowen's disease (180): the supplement tells them apart, and where it is not at hand they are set aside.
    Skin tone runs from 0, the darkest, to 5: it becomes the Fitzpatrick type of the same rank (5 is I), which
    nobody has examined. INF (inflammatory or infectious) counts as other benign; MAL_OTH has no place among
    MEL, SCC and BCC.

    Licence: CC BY-NC. Cite: MILK study team, "MILK10k", ISIC archive.
    """

    source: Literal["milk10k"]
    images: Literal["dermoscopic", "clinical", "both"] = "dermoscopic"
    """Which of a lesion's two images are taken."""

    def read(self, data_root: Path | None, work_dir: Path, seed: int) -> pd.DataFrame:  # noqa: ARG002
        """Return the raw lesion table; raises SiteError for a missing file or column, a broken ground truth
        and an image of a lesion that it lacks."""
        folder = source_folder(self.path, "milk10k", data_root)
        classes = _classes(folder)
        file = first_file(folder, [METADATA], "MILK10k's metadata")
        rows = read_table(file)
        wanted = ("lesion_id", "image_type", "isic_id", "age_approx", "sex", "skin_tone_class", "site")
        need_columns(rows, wanted, file, _REMEDY)
        rows = _of_type(rows, self.images, file)
        raw = pd.DataFrame(
            {
                "image_id": rows["isic_id"],
                "lesion_id": rows["lesion_id"],
                "age": rows["age_approx"],
                "sex": rows["sex"],
                "anatom_site": rows["site"],
                "image_type": rows["image_type"],
                "acquisition": rows.get("attribution"),
                "milk10k": rows["lesion_id"].map(classes),
            }
        )
        unlabelled = raw.index[raw["milk10k"].isna()]
        if len(unlabelled):
            row = unlabelled[0]
            raise SiteError(
                f"{file}: row {row} is of lesion '{raw.loc[row, 'lesion_id']}', which {TRUTH} lacks; "
                f"{_REMEDY}"
            )
        raw["skin_type"] = _skin_types(rows["skin_tone_class"], file)
        raw["diagnosis"] = raw["milk10k"].map(CLASSES)
        akiec = raw["milk10k"] == "AKIEC"
        raw.loc[akiec, "diagnosis"] = raw.loc[akiec, "image_id"].map(_resolved(folder)).astype("str")
        raw["set_aside"] = pd.Series(_UNRESOLVED, index=raw.index).where(akiec & raw["diagnosis"].isna())
        images = folder / IMAGES
        below = [one for one in images.iterdir() if one.is_dir()] if images.is_dir() else []
        raw["path"] = paths_of(raw["image_id"], images_by_stem([images, *below]), images)
        raw.attrs["file"] = str(file)
        return raw


def _classes(folder: Path) -> dict[str, str]:
    """Return each lesion's class; raises SiteError where a row does not say exactly one."""
    file = first_file(folder, [TRUTH], "MILK10k's ground truth")
    truth = read_table(file)
    need_columns(truth, ("lesion_id", *CLASSES), file, _REMEDY)
    one_hot = truth[list(CLASSES)].apply(pd.to_numeric, errors="coerce")
    bad = ~(one_hot.isin([0.0, 1.0]).all(axis=1) & (one_hot.sum(axis=1) == 1))
    if bad.any():
        row = bad.index[bad][0]
        raise SiteError(
            f"{file}: row {row} ('{truth.loc[row, 'lesion_id']}') does not have exactly one 1 among the "
            f"columns {quoted(CLASSES)}; {_REMEDY}"
        )
    return dict(zip(truth["lesion_id"], one_hot.idxmax(axis=1), strict=True))


def _of_type(rows: pd.DataFrame, images: str, file: Path) -> pd.DataFrame:
    unknown = ~rows["image_type"].isin(_TYPES.values())
    if unknown.any():
        row = rows.index[unknown][0]
        raise SiteError(
            f"{file}: row {row} has image_type '{rows.loc[row, 'image_type']}'; expected "
            f"{quoted(_TYPES.values())}; {_REMEDY}"
        )
    return rows if images == "both" else rows[rows["image_type"] == _TYPES[images]]


def _skin_types(tones: "pd.Series[str]", file: Path) -> "pd.Series[str]":
    """Return tones 0 (darkest) to 5 as Fitzpatrick's 6 to 1, NA where blank."""
    unknown = tones.notna() & ~tones.isin(list("012345"))
    if unknown.any():
        row = tones.index[unknown][0]
        raise SiteError(f"{file}: row {row} has skin_tone_class '{tones[row]}'; expected 0 to 5; {_REMEDY}")
    return tones.map({str(tone): str(6 - tone) for tone in range(6)})


def _resolved(folder: Path) -> dict[str, str]:
    """Return ak or scc by image id, of the images that the supplement resolves; empty without it."""
    file = folder / SUPPLEMENT
    if not file.is_file():
        return {}
    rows = read_table(file)
    need_columns(rows, ("isic_id", "diagnosis_full"), file, _REMEDY)
    found = {}
    for image, full in zip(rows["isic_id"], rows["diagnosis_full"].fillna(""), strict=True):
        name = next((name for start, name in _AKIEC.items() if full.casefold().startswith(start)), None)
        if name is not None:
            found[str(image)] = name
    return found
