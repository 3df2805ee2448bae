"""HAM10000: both forms of its metadata, its gaps, and akiec resolved and never guessed."""

from pathlib import Path

import pandas as pd
import pytest

from sites.errors import SiteError
from sites.ham10000 import HAM10000Site
from sites.table import missing_images, validate

HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization"
ROWS = [
    "HAM_1,ISIC_1,nv,histo,40.0,male,back",
    "HAM_1,ISIC_2,nv,histo,40.0,male,back",
    "HAM_2,ISIC_3,akiec,histo,0.0,unknown,unknown",
    "HAM_3,ISIC_4,akiec,histo,,female,face",
]
TRUTH = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\nISIC_3,0,0,0,1,0,0,0,0,0\nISIC_4,0,0,0,0,0,0,0,1,0\n"


def ham(root: Path, name: str = "HAM10000_metadata", with_dataset: bool = True) -> Path:
    """Write a four-image HAM10000 below ``root``, images in Kaggle's two parts, and return the data root."""
    folder = root / "ham10000"
    for part in ("HAM10000_images_part_1", "HAM10000_images_part_2"):
        (folder / part).mkdir(parents=True)
    extra = [",dataset", ",vidir_modern", ",vidir_modern", ",rosendahl", ",rosendahl"]
    lines = [row + more * with_dataset for row, more in zip([HEADER, *ROWS], extra, strict=True)]
    (folder / name).write_text("\n".join(lines))
    for number in range(1, 5):
        (folder / f"HAM10000_images_part_{1 + number % 2}" / f"ISIC_{number}.jpg").touch()
    return root


def read(root: Path, **options: object) -> pd.DataFrame:
    site = HAM10000Site.model_validate({"name": "ham", "source": "ham10000", **options})
    return validate(site.read(root, root / "work", 0), "HAM10000_metadata")


def with_truth(root: Path) -> Path:
    (root / "isic2019").mkdir()
    (root / "isic2019" / "ISIC_2019_Training_GroundTruth.csv").write_text(TRUTH)
    return root


def test_akiec_is_resolved_through_isic_2019(tmp_path: Path) -> None:
    table = read(with_truth(ham(tmp_path)))
    assert table["diagnosis"].tolist() == ["nv", "nv", "ak", "scc"]
    assert not missing_images(table).any()
    assert table["acquisition"].tolist() == table["dataset"].tolist()


def test_age_zero_and_unknown_are_missing(tmp_path: Path) -> None:
    table = read(with_truth(ham(tmp_path)))
    assert table["age"].isna().tolist() == [False, False, True, True]
    assert table["sex"].isna().tolist() == [False, False, True, False]
    assert table["anatom_site"].isna().tolist() == [False, False, True, False]


def test_unresolved_akiec_is_refused_or_set_aside(tmp_path: Path) -> None:
    root = ham(tmp_path)
    with pytest.raises(SiteError, match=r"2 images labelled akiec .* set akiec: exclude"):
        read(root)
    table = read(root, akiec="exclude")
    assert table["set_aside"].notna().tolist() == [False, False, True, True]
    assert table["diagnosis"].isna().tolist() == [False, False, True, True]


def test_ground_truth_that_lists_only_some(tmp_path: Path) -> None:
    root = ham(tmp_path)
    (root / "truth.csv").write_text("\n".join(TRUTH.splitlines()[:2]))
    table = read(root, isic2019="truth.csv", akiec="exclude")
    assert table["diagnosis"].tolist()[2] == "ak"
    assert pd.isna(table["diagnosis"].tolist()[3])
    with pytest.raises(SiteError, match="1 images labelled akiec"):
        read(root, isic2019="truth.csv")


def test_kaggle_copy_reads_but_has_no_dataset_to_select(tmp_path: Path) -> None:
    root = with_truth(ham(tmp_path, "HAM10000_metadata.csv", with_dataset=False))
    assert read(root)["acquisition"].isna().all()
    with pytest.raises(
        SiteError, match=r"HAM10000_metadata\.csv: this copy has no column 'dataset'.*Dataverse"
    ):
        read(root, select={"dataset": "vidir_modern"})


def test_tab_separated_metadata(tmp_path: Path) -> None:
    root = with_truth(ham(tmp_path, "HAM10000_metadata.tab"))
    file = root / "ham10000" / "HAM10000_metadata.tab"
    file.write_text(file.read_text().replace(",", "\t"))
    assert len(read(root)) == 4


def test_missing_folder_column_and_data_root(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="ham10000 does not exist"):
        read(tmp_path)
    with pytest.raises(SiteError, match=r"data root .* is not a folder"):
        read(tmp_path / "nowhere")
    site = HAM10000Site(name="ham", source="ham10000")
    with pytest.raises(SiteError, match="no data root was given; pass --data-root"):
        site.read(None, tmp_path, 0)
    root = ham(tmp_path)
    file = root / "ham10000" / "HAM10000_metadata"
    file.write_text(file.read_text().replace("dx,", "dxx,"))
    with pytest.raises(SiteError, match="column 'dx' is missing; the nearest is 'dxx'"):
        read(root)


def test_the_real_files(shared_data: Path) -> None:
    """Counts from the files themselves; akiec 327 = 130 AK + 197 SCC."""
    table = read(shared_data)
    assert len(table) == 10_015
    assert table["lesion_id"].nunique() == 7_470
    assert table["acquisition"].value_counts().to_dict() == {
        "vidir_molemax": 3954,
        "vidir_modern": 3363,
        "rosendahl": 2259,
        "vienna_dias": 439,
    }
    counts = table["diagnosis"].value_counts()
    assert (counts["ak"], counts["scc"], counts["mel"]) == (130, 197, 1113)
    assert table.groupby("lesion_id")["acquisition"].nunique().value_counts()[2] == 9
    assert table["age"].min() == 5
    assert not missing_images(table).any()
