"""ISIC 2019: official files, clinics derived from lesion ids, broken labels refused."""

from pathlib import Path

import pandas as pd
import pytest

from sites.errors import SiteError
from sites.isic2019 import Isic2019Site
from sites.table import missing_images, validate

LABELS = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
IMAGES = {
    "ISIC_1": ("MEL", "BCN_0000001"),
    "ISIC_2": ("NV", "HAM_0000001"),
    "ISIC_3_downsampled": ("BKL", "MSK4_0000001"),
    "ISIC_4_downsampled": ("NV", ""),
    "ISIC_5": ("UNK", "BCN_0000002"),
}


def isic(root: Path, sex: str = "sex") -> Path:
    """Write a five-image ISIC 2019 below ``root``; its last image file is absent. Return the data root."""
    folder = root / "isic2019"
    (folder / "ISIC_2019_Training_Input").mkdir(parents=True)
    truth = [",".join(("image", *LABELS))]
    metadata = [f"image,age_approx,anatom_site_general,lesion_id,{sex}"]
    for image, (label, lesion) in IMAGES.items():
        truth.append(",".join([image, *("1.0" if name == label else "0.0" for name in LABELS)]))
        metadata.append(f"{image},55,head/neck,{lesion},female")
        if image != "ISIC_5":
            (folder / "ISIC_2019_Training_Input" / f"{image}.jpg").touch()
    (folder / "ISIC_2019_Training_GroundTruth.csv").write_text("\n".join(truth))
    (folder / "ISIC_2019_Training_Metadata.csv").write_text("\n".join(metadata))
    return root


def read(root: Path, **options: object) -> pd.DataFrame:
    site = Isic2019Site.model_validate({"name": "isic", "source": "isic2019", **options})
    return validate(site.read(root, root / "work", 0), "ISIC_2019_Training_GroundTruth.csv")


@pytest.mark.parametrize("sex", ["sex", "gender"])
def test_reads_both_forms_of_the_metadata(tmp_path: Path, sex: str) -> None:
    table = read(isic(tmp_path, sex))
    assert table["sex"].tolist() == ["female"] * 5
    assert table["diagnosis"].tolist()[:4] == ["mel", "nv", "bkl", "nv"]
    assert table["set_aside"].tolist()[4] == "diagnosis UNK"
    assert missing_images(table).tolist() == [False] * 4 + [True]


def test_clinic_comes_from_the_lesion_id_and_not_from_the_file_name(tmp_path: Path) -> None:
    clinics = read(isic(tmp_path))["acquisition"]
    assert clinics.tolist()[:3] == ["BCN", "HAM10000", "MSK4"]
    assert pd.isna(clinics[3])


def test_ham_sources_come_from_ham10000s_own_metadata(tmp_path: Path) -> None:
    root = isic(tmp_path)
    (root / "ham10000").mkdir()
    (root / "ham10000" / "HAM10000_metadata").write_text("image_id,dataset\nISIC_2,rosendahl\n")
    assert read(root)["acquisition"].tolist()[:3] == ["BCN", "rosendahl", "MSK4"]
    assert read(root, ham10000="ham10000/HAM10000_metadata")["acquisition"].tolist()[1] == "rosendahl"
    (root / "kaggle.csv").write_text("image_id,dx\nISIC_2,nv\n")
    with pytest.raises(SiteError, match="column 'dataset' is missing"):
        read(root, ham10000="kaggle.csv")


def test_a_row_without_exactly_one_label_is_refused(tmp_path: Path) -> None:
    root = isic(tmp_path)
    file = root / "isic2019" / "ISIC_2019_Training_GroundTruth.csv"
    file.write_text(file.read_text().replace("ISIC_2,0.0,1.0", "ISIC_2,1.0,1.0"))
    with pytest.raises(SiteError, match=r"row 3 \('ISIC_2'\) does not have exactly one 1"):
        read(root)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    root = isic(tmp_path)
    (root / "isic2019" / "ISIC_2019_Training_Metadata.csv").unlink()
    with pytest.raises(SiteError, match=r"expected one of 'ISIC_2019_Training_Metadata\.csv', found"):
        read(root)


def test_the_real_files(shared_data: Path) -> None:
    table = read(shared_data)
    assert len(table) == 25_331
    assert table.attrs["lesions_known"] is False
    clinics = table["acquisition"].value_counts()
    assert (clinics["BCN"], clinics["vidir_molemax"], clinics["MSK4"]) == (12_413, 3_954, 819)
    assert table["acquisition"].isna().sum() == 2_084
    here = table[~missing_images(table)]
    assert len(here) == 708
    assert here["acquisition"].unique().tolist() == ["MSK4"]
    assert here["diagnosis"].value_counts().to_dict() == {"nv": 396, "mel": 203, "bkl": 109}
