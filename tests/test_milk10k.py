"""MILK10k: official files, labels by lesion, two images each, AKIEC resolved by the supplement."""

from pathlib import Path

import pandas as pd
import pytest

from sites.catalogue import load_site
from sites.diagnoses import DIAGNOSES
from sites.errors import SiteError
from sites.milk10k import CLASSES, Milk10kSite
from sites.table import missing_images, validate

REAL = Path(__file__).parents[2] / "shared" / "data"

# lesion: class, what the supplement says, skin tone
LESIONS = {
    "IL_1": ("BCC", "Basal cell carcinoma", "3"),
    "IL_2": ("AKIEC", "Solar or actinic keratosis", "5"),
    "IL_3": ("AKIEC", "Squamous cell carcinoma in situ, Bowens disease", "0"),
    "IL_4": ("INF", "Porokeratosis", "2"),
    "IL_5": ("MAL_OTH", "Collision - At least one malignant proliferation", "4"),
    "IL_6": ("SCCKA", "Keratoacanthoma", ""),
}
METADATA = (
    "lesion_id,image_type,isic_id,attribution,copyright_license,image_manipulation,age_approx,sex,"
    "skin_tone_class,site,MONET_hair"
)


def milk(root: Path, *, supplement: bool = True, nested: bool = True) -> Path:
    """Write six lesions of MILK10k below ``root`` in its official form. Return the data root."""
    folder = root / "milk10k"
    truth, metadata = [",".join(("lesion_id", *CLASSES))], [METADATA]
    extra = ["isic_id,diagnosis_full,diagnosis_confirm_type,invasion_thickness_interval"]
    for number, (lesion, (name, full, tone)) in enumerate(LESIONS.items()):
        truth.append(",".join([lesion, *("1.0" if one == name else "0.0" for one in CLASSES)]))
        images = folder / "MILK10k_Training_Input" / (lesion if nested else "")
        images.mkdir(parents=True, exist_ok=True)
        for kind, image in (
            ("clinical: close-up", f"ISIC_1{number}"),
            ("dermoscopic", f"ISIC_2{number}"),
        ):
            metadata.append(
                f"{lesion},{kind},{image},MILK study team,CC-BY-NC,instrument only,70,male,{tone},trunk,0.1"
            )
            extra.append(f'{image},"{full}",histopathology,')
            (images / f"{image}.jpg").touch()
    (folder / "MILK10k_Training_GroundTruth.csv").write_text("\n".join(truth))
    (folder / "MILK10k_Training_Metadata.csv").write_text("\n".join(metadata))
    if supplement:
        (folder / "MILK10k_Training_Supplement.csv").write_text("\n".join(extra))
    return root


def site(**options: object) -> Milk10kSite:
    return Milk10kSite.model_validate({"name": "milk", "source": "milk10k", **options})


def read(root: Path, **options: object) -> pd.DataFrame:
    return validate(site(**options).read(root, root / "work", 0), "MILK10k_Training_Metadata.csv")


@pytest.mark.parametrize("nested", [True, False])
def test_labels_of_lesions_reach_their_dermoscopic_images(tmp_path: Path, nested: bool) -> None:
    table = read(milk(tmp_path, nested=nested))
    assert table["image_id"].tolist() == [f"ISIC_2{number}" for number in range(6)]
    assert table["diagnosis"].tolist() == ["bcc", "ak", "scc", "other_benign", "other_malignant", "scc"]
    assert table["milk10k"].tolist()[1] == "AKIEC"
    assert not missing_images(table).any()


def test_both_images_of_a_lesion_are_one_lesion(tmp_path: Path) -> None:
    table = read(milk(tmp_path), images="both")
    assert len(table) == 12
    assert table["lesion_id"].nunique() == 6


def test_its_skin_tone_runs_the_other_way(tmp_path: Path) -> None:
    types = read(milk(tmp_path))["skin_type"]
    assert types.tolist()[:5] == ["III", "I", "VI", "IV", "II"]
    assert pd.isna(types.iloc[5])


def test_without_the_supplement_akiec_is_set_aside_and_not_guessed(tmp_path: Path) -> None:
    aside = read(milk(tmp_path, supplement=False))["set_aside"]
    assert aside.notna().tolist() == [False, True, True, False, False, False]
    assert "AKIEC covers" in aside.tolist()[1]


def test_a_lesion_without_a_label_is_named(tmp_path: Path) -> None:
    root = milk(tmp_path)
    file = root / "milk10k" / "MILK10k_Training_GroundTruth.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    with pytest.raises(SiteError, match=r"row 13 is of lesion 'IL_6', which .*GroundTruth\.csv lacks"):
        read(root)


def test_a_lesion_with_two_labels_is_named(tmp_path: Path) -> None:
    root = milk(tmp_path)
    file = root / "milk10k" / "MILK10k_Training_GroundTruth.csv"
    file.write_text(file.read_text().replace("IL_1,0.0,1.0", "IL_1,1.0,1.0"))
    with pytest.raises(SiteError, match=r"row 2 \('IL_1'\) does not have exactly one 1"):
        read(root)


@pytest.mark.skipif(not (REAL / "milk10k").is_dir(), reason="MILK10k's tables are not at hand")
def test_its_real_tables(tmp_path: Path) -> None:
    table = validate(site(images="both").read(REAL, tmp_path, 0), "MILK10k_Training_Metadata.csv")
    lesions = table.drop_duplicates("lesion_id")
    assert (len(table), len(lesions)) == (10_480, 5_240)
    assert lesions["diagnosis"].isin(DIAGNOSES).all()
    assert lesions["diagnosis"].value_counts().to_dict() == {
        "bcc": 2522, "nv": 746, "scc": 653, "bkl": 544, "mel": 450, "ak": 123, "other_benign": 94, "df": 52,
        "vasc": 47, "other_malignant": 9,
    }  # fmt: skip
    with pytest.raises(SiteError, match="site 'milk': none of its 5240 images is at hand"):
        load_site(site(role="held-out"), REAL, tmp_path, 2026)
