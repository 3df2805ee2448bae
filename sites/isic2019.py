"""ISIC 2019: the training part of the 2019 challenge, from Barcelona, Vienna/Queensland and New York."""

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
    resolve,
    source_folder,
)
from sites.ham10000 import METADATA as HAM_METADATA
from sites.site import SiteSettings

TRUTH: Final = "ISIC_2019_Training_GroundTruth.csv"
METADATA: Final = "ISIC_2019_Training_Metadata.csv"
IMAGES: Final = "ISIC_2019_Training_Input"
DIAGNOSES: Final = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
_REMEDY: Final = "download the 2019 challenge's training files again"


class Isic2019Site(SiteSettings):
    """The 25,331 training images of the ISIC 2019 challenge, or one of the clinics in it.

    Holds: one-hot MEL NV BCC AK BKL DF VASC SCC UNK; approximate age, sex, general site. ``acquisition``
    names the clinic as Fed-ISIC2019 does, from the prefix of the lesion id: BCN (12,413), MSK4 (819), and
    HAM10000's four sources by name where HAM10000's metadata is at hand, else HAM10000 (10,015). The 2,084
    images without a lesion id have no acquisition: an id that ends in ``_downsampled`` does not tell (UDA-1
    has them too).

    Get it: https://challenge.isic-archive.com/data/#2019, three files into one folder:
    ISIC_2019_Training_GroundTruth.csv, ISIC_2019_Training_Metadata.csv, ISIC_2019_Training_Input/.

    Quirks: some copies call ``sex`` ``gender``. All of HAM10000 is in it, under the same image and lesion
    ids, and all of UDA-1 under the same or nearly the same ids: a site of those beside this one leaks unless
    one gives way (``gives_way_to``) or a clinic is selected. Images labelled UNK are set aside.

    Licence: CC BY-NC 4.0. Cite: Tschandl et al. 2018 (HAM10000); Codella et al. 2018 (arXiv:1710.05006);
    Hernández-Pérez et al. 2024 (BCN20000).
    """

    source: Literal["isic2019"]
    ham10000: Path | None = None
    """HAM10000's metadata or folder, for its four sources. None: ham10000/ below the data root, if there."""

    def read(self, data_root: Path | None, work_dir: Path, seed: int) -> pd.DataFrame:  # noqa: ARG002
        """Return the raw lesion table; raises SiteError for a missing file or column or a broken ground
        truth."""
        folder = source_folder(self.path, "isic2019", data_root)
        raw = read_official(folder)
        return with_acquisition(raw, _ham_sources(self.ham10000, data_root))


def read_official(folder: Path) -> pd.DataFrame:
    """Return the raw lesion table of the challenge's files in ``folder``, one row per image of the ground
    truth."""
    truth_file = first_file(folder, [TRUTH], "ISIC 2019's ground truth")
    metadata_file = first_file(folder, [METADATA], "ISIC 2019's metadata")
    truth = read_table(truth_file)
    need_columns(truth, ("image", *DIAGNOSES), truth_file, _REMEDY)
    metadata = read_table(metadata_file).rename(columns={"gender": "sex"})
    wanted = ("image", "age_approx", "anatom_site_general", "lesion_id", "sex")
    need_columns(metadata, wanted, metadata_file, _REMEDY)
    raw = _diagnoses(truth, truth_file)
    details = metadata[list(wanted)].drop_duplicates("image").set_index("image")
    for column, official in (
        ("lesion_id", "lesion_id"),
        ("age", "age_approx"),
        ("sex", "sex"),
        ("anatom_site", "anatom_site_general"),
    ):
        raw[column] = raw["image_id"].map(details[official])
    images = folder / IMAGES
    # The challenge's zip unpacks into a folder within a folder of the same name.
    raw["path"] = paths_of(raw["image_id"], images_by_stem([images, images / IMAGES]), images)
    return raw


def _diagnoses(truth: pd.DataFrame, file: Path) -> pd.DataFrame:
    labels = [name for name in (*DIAGNOSES, "UNK") if name in truth]
    one_hot = truth[labels].apply(pd.to_numeric, errors="coerce")
    bad = ~(one_hot.isin([0.0, 1.0]).all(axis=1) & (one_hot.sum(axis=1) == 1))
    if bad.any():
        row = bad.index[bad][0]
        raise SiteError(
            f"{file}: row {row} ('{truth.loc[row, 'image']}') does not have exactly one 1 among the columns "
            f"{quoted(labels)}; {_REMEDY}"
        )
    raw = pd.DataFrame({"image_id": truth["image"], "diagnosis": one_hot.idxmax(axis=1).str.lower()})
    unknown = raw["diagnosis"] == "unk"
    raw["set_aside"] = pd.Series("diagnosis UNK", index=raw.index).where(unknown)
    raw["diagnosis"] = raw["diagnosis"].mask(unknown)
    raw.attrs["file"] = str(file)
    return raw


def with_acquisition(raw: pd.DataFrame, ham_sources: "pd.Series[str] | None") -> pd.DataFrame:
    """Return ``raw`` with the clinic in ``acquisition``, derived from lesion ids as FLamby does; NA without
    one."""
    prefix = raw["lesion_id"].str.split("_", n=1).str[0]
    raw["acquisition"] = prefix.replace({"HAM": "HAM10000"})
    if ham_sources is not None:
        ham = prefix == "HAM"
        raw.loc[ham, "acquisition"] = raw.loc[ham, "image_id"].map(ham_sources).fillna("HAM10000")
    return raw


def _ham_sources(given: Path | None, data_root: Path | None) -> "pd.Series[str] | None":
    """Return HAM10000's acquisition source by image id, None where its metadata is not at hand."""
    if given is None and data_root is None:
        return None
    path = resolve(given or Path("ham10000"), data_root)
    if given is None and not any((path / name).is_file() for name in HAM_METADATA):
        return None
    file = first_file(path, HAM_METADATA, "HAM10000's metadata") if path.is_dir() else path
    rows = read_table(file)
    if given is None and "dataset" not in rows:
        return None
    need_columns(rows, ("image_id", "dataset"), file, "use HAM10000_metadata from Harvard Dataverse")
    return rows.drop_duplicates("image_id").set_index("image_id")["dataset"]
