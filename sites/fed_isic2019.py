"""Fed-ISIC2019: the six centres that FLamby made of ISIC 2019, and their published split."""

from pathlib import Path
from typing import Annotated, Final, Literal, Self

import pandas as pd
from pydantic import Field, model_validator

from sites.errors import SiteError
from sites.files import first_file, need_columns, read_table, resolve, source_folder
from sites.isic2019 import read_official
from sites.site import SiteSettings

CENTRES: Final = ("BCN", "vidir_molemax", "vidir_modern", "rosendahl", "MSK4", "vienna_dias")
"""Name of each centre, by its published number."""
SPLIT_FILES: Final = ("train_test_split", "train_test_split.csv")


class FedIsic2019Site(SiteSettings):
    """One of the six centres of Fed-ISIC2019.

    Holds: 23,247 images of ISIC 2019, those with a lesion id (train/test as published): 0 BCN 9930/2483,
    1 vidir_molemax 3163/791, 2 vidir_modern 2691/672, 3 rosendahl 1807/452, 4 MSK 655/164, 5 vienna_dias
    351/88. ``acquisition`` names the centre.

    Get it: ``train_test_split`` from github.com/owkin/FLamby
    (flamby/datasets/fed_isic2019/dataset_creation_scripts), into fed_isic2019/; images, ground truth and
    metadata from ISIC 2019, into isic2019/ (see ``Isic2019Site``).

    Quirks: **the published split leaks**: 3,066 of its 4,650 test images (66 %; BCN 93 %) show a lesion of
    which a training image exists, because it was drawn by image. Here lesions are kept together (``split:
    lesion``); ``split: published`` keeps FLamby's train and test for comparison with published figures, takes
    calibration from the published train by lesion, and reports its leak in ``attrs["published_leak"]`` and in
    the site's notes.

    Licence: CC BY-NC 4.0, as ISIC 2019. Cite: Ogier du Terrail et al., "FLamby", NeurIPS Datasets and
    Benchmarks, 2022.
    """

    source: Literal["fed_isic2019"]
    centre: Annotated[int, Field(ge=0, lt=len(CENTRES))]
    """0 BCN, 1 vidir_molemax, 2 vidir_modern, 3 rosendahl, 4 MSK4, 5 vienna_dias."""
    split: Literal["lesion", "published"] = "lesion"
    isic2019: Path = Path("isic2019")
    """Folder of ISIC 2019's ground truth, metadata and images."""

    @model_validator(mode="after")
    def _published_trains(self) -> Self:
        if self.split == "published" and self.role == "held-out":
            raise ValueError(
                "the published split has a train part and a held-out site has none; use split: lesion"
            )
        return self

    def read(self, data_root: Path | None, work_dir: Path, seed: int) -> pd.DataFrame:  # noqa: ARG002
        """Return the raw lesion table of the centre, with ``split`` where the published one is asked for."""
        file = self._split_file(data_root)
        rows = read_table(file)
        need_columns(rows, ("image", "center", "fold"), file, "download train_test_split from FLamby again")
        official = read_official(source_folder(self.isic2019, "isic2019", data_root))
        absent = ~rows["image"].isin(official["image_id"])
        if absent.any():
            row = absent.index[absent][0]
            raise SiteError(
                f"{file}: row {row}, image '{rows.loc[row, 'image']}' is not in ISIC 2019's ground truth; "
                "the two files do not belong together"
            )
        listed = rows.set_index("image")
        everyone = official[official["image_id"].isin(listed.index)]
        centres = everyone["image_id"].map(pd.to_numeric(listed["center"], errors="coerce"))
        raw = everyone[centres == self.centre].copy()
        if raw.empty:
            raise SiteError(f"{file} lists no image of centre {self.centre}; download it again")
        raw["acquisition"] = CENTRES[self.centre]
        if self.split == "published":
            folds = everyone["image_id"].map(listed["fold"])
            raw["split"] = folds[raw.index]
            _report_leak(raw, published_leak(everyone["lesion_id"], folds)[raw.index])
        return raw

    def _split_file(self, data_root: Path | None) -> Path:
        if self.path is not None and (file := resolve(self.path, data_root)).is_file():
            return file
        folder = source_folder(self.path, "fed_isic2019", data_root)
        return first_file(folder, SPLIT_FILES, "Fed-ISIC2019's published split")


def published_leak(lesions: "pd.Series[str]", split: "pd.Series[str]") -> "pd.Series[bool]":
    """Return, per image, whether it is a test image of a lesion that has a training image, at any centre."""
    return (split == "test") & lesions.isin(set(lesions[split == "train"].dropna()))


def _report_leak(raw: pd.DataFrame, leaks: "pd.Series[bool]") -> None:
    leaked, tested = int(leaks.sum()), int((raw["split"] == "test").sum())
    fraction = leaked / tested if tested else 0.0
    raw.attrs["published_leak"] = {"test_images": tested, "leaked": leaked, "fraction": fraction}
    raw.attrs["notes"] = [
        f"the published split leaks: {leaked} of {tested} test images ({fraction:.0%}) show a lesion "
        "of which a training image exists, so test results are too good; split: lesion does not leak",
    ]
