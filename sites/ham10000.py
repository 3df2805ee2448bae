"""HAM10000: dermoscopic images from one clinic in Vienna and one practice in Queensland."""

from pathlib import Path
from typing import Final, Literal

import pandas as pd

from sites.errors import SiteError
from sites.files import (
    first_file,
    images_by_stem,
    need_columns,
    paths_of,
    read_table,
    resolve,
    source_folder,
)
from sites.site import SiteSettings

METADATA: Final = ("HAM10000_metadata", "HAM10000_metadata.csv", "HAM10000_metadata.tab")
GROUND_TRUTH: Final = "ISIC_2019_Training_GroundTruth.csv"
_FOLDERS: Final = ("HAM10000_images", "HAM10000_images_part_1", "HAM10000_images_part_2", "images", ".")
_AKIEC: Final = (
    "akiec covers actinic keratosis and squamous cell carcinoma, and ISIC 2019 does not resolve it here"
)


class HAM10000Site(SiteSettings):
    """All of HAM10000, or one of its four acquisition sources.

    Holds: 10,015 images of 7,470 lesions (1,956 with several images, at most 6); seven diagnoses; age, sex,
    localization; ``dataset`` names the acquisition source (vidir_molemax 3,954, vidir_modern 3,363, rosendahl
    2,259, vienna_dias 439), and is the table's ``acquisition`` too.

    Get it: Harvard Dataverse doi:10.7910/DVN/DBW86T (HAM10000_metadata, HAM10000_images_part_1/_2), or Kaggle
    "skin-cancer-mnist-ham10000", whose metadata lacks ``dataset``. Either unpacks into one folder.

    Quirks: age 0.0 and blank, sex and localization "unknown" all mean not known. ``akiec`` (327 images) is
    actinic keratosis or squamous cell carcinoma in situ: it is resolved image by image through ISIC 2019's
    ground truth (130 AK, 197 SCC), which holds the same images under the same ids, and never guessed; ``dx``
    keeps the label as it was. Nine
    lesions have images from two acquisition sources; the audit names them.

    Licence: CC BY-NC 4.0, ViDIR Group, Medical University of Vienna. Cite: Tschandl, Rosendahl, Kittler, "The
    HAM10000 dataset", Scientific Data 5:180161, 2018.
    """

    source: Literal["ham10000"]
    isic2019: Path | None = None
    """ISIC 2019's ground truth. None: isic2019/ISIC_2019_Training_GroundTruth.csv below the data root, if
    there."""
    akiec: Literal["refuse", "exclude"] = "refuse"
    """What to do with akiec images that ISIC 2019 does not resolve."""

    def read(self, data_root: Path | None, work_dir: Path, seed: int) -> pd.DataFrame:  # noqa: ARG002
        """Return the raw lesion table; raises SiteError for a missing file or column and for unresolved
        akiec."""
        folder = source_folder(self.path, "ham10000", data_root)
        file = first_file(folder, METADATA, "HAM10000's metadata")
        rows = read_table(file)
        need_columns(
            rows,
            ("lesion_id", "image_id", "dx", "age", "sex", "localization"),
            file,
            "download HAM10000_metadata again",
        )
        if "dataset" not in rows and "dataset" in self.select:
            raise SiteError(
                f"{file}: this copy has no column 'dataset' (Kaggle's copy lacks it), so acquisition "
                "sources cannot be selected; use HAM10000_metadata from Harvard Dataverse, "
                "doi:10.7910/DVN/DBW86T"
            )
        folders = [folder / name for name in _FOLDERS]
        raw = rows.rename(columns={"localization": "anatom_site"})
        raw["dx"] = rows["dx"].str.lower()
        raw["path"] = paths_of(rows["image_id"], images_by_stem(folders), folder / _FOLDERS[0])
        raw["age"] = rows["age"].mask(pd.to_numeric(rows["age"], errors="coerce") == 0)
        raw["diagnosis"] = raw["dx"]
        if "dataset" in rows:
            raw["acquisition"] = rows["dataset"]
        self._resolve_akiec(raw, file, data_root)
        raw.attrs["file"] = str(file)
        return raw

    def _resolve_akiec(self, raw: pd.DataFrame, file: Path, data_root: Path | None) -> None:
        akiec = raw["diagnosis"] == "akiec"
        known = self._known_by_isic2019(data_root) if akiec.any() else {}
        raw.loc[akiec, "diagnosis"] = raw.loc[akiec, "image_id"].map(known).astype("str")
        open_rows = akiec & raw["diagnosis"].isna()
        count = int(open_rows.sum())
        if count and self.akiec == "refuse":
            raise SiteError(
                f"{file}: {count} images labelled akiec can be actinic keratosis or squamous cell "
                f"carcinoma, and {GROUND_TRUTH}, which tells them apart, is not at hand or does not list "
                "them; put it in isic2019/ below the data root, set the site's isic2019 to it, or set "
                "akiec: exclude"
            )
        raw["set_aside"] = pd.Series(_AKIEC, index=raw.index).where(open_rows)

    def _known_by_isic2019(self, data_root: Path | None) -> dict[str, str]:
        """Return ak or scc by image id; empty where the ground truth is not at hand."""
        if self.isic2019 is not None:
            file = resolve(self.isic2019, data_root)
            file = file / GROUND_TRUTH if file.is_dir() else file
        elif data_root is None or not (file := data_root / "isic2019" / GROUND_TRUTH).is_file():
            return {}
        truth = read_table(file)
        need_columns(truth, ("image", "AK", "SCC"), file, f"expected ISIC 2019's {GROUND_TRUTH}")
        one_hot = truth.set_index("image")[["AK", "SCC"]].astype(float)
        return {
            str(image): name.lower() for name in ("AK", "SCC") for image in one_hot.index[one_hot[name] == 1]
        }
