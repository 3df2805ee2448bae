"""Fed-ISIC2019: six centres, and a published split whose leak is counted."""

from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError
from test_isic2019 import isic

from sites.errors import SiteError
from sites.fed_isic2019 import CENTRES, FedIsic2019Site, published_leak
from sites.table import validate


def fed(root: Path) -> Path:
    isic(root)
    (root / "fed_isic2019").mkdir()
    rows = [
        "image,center,fold",
        "ISIC_1,0,train",
        "ISIC_5,0,test",
        "ISIC_2,3,train",
        "ISIC_3_downsampled,4,test",
    ]
    (root / "fed_isic2019" / "train_test_split").write_text("\n".join(rows))
    return root


def read(root: Path, **options: object) -> pd.DataFrame:
    site = FedIsic2019Site.model_validate({"name": "fed", "source": "fed_isic2019", **options})
    raw = site.read(root, root / "work", 0)
    return validate(raw, "train_test_split")


def test_a_centre_holds_its_own_images_and_no_split_by_default(tmp_path: Path) -> None:
    table = read(fed(tmp_path), centre=0)
    assert table["image_id"].tolist() == ["ISIC_1", "ISIC_5"]
    assert table["acquisition"].tolist() == ["BCN", "BCN"]
    assert table["split"].isna().all()


def test_published_split_is_kept(tmp_path: Path) -> None:
    table = read(fed(tmp_path), centre=0, split="published")
    assert table["split"].tolist() == ["train", "test"]
    assert table.attrs["published_leak"] == {"test_images": 1, "leaked": 0, "fraction": 0.0}


def test_leak_counts_test_images_not_lesions() -> None:
    """Test images of L1 (twice) share it with training; L2 does not: 2 of 3."""
    lesions = pd.Series(["L1", "L1", "L1", "L2", "L3"])
    split = pd.Series(["train", "test", "test", "test", "train"])
    assert published_leak(lesions, split).tolist() == [False, True, True, False, False]


def test_a_lesion_seen_at_another_centre_leaks_too(tmp_path: Path) -> None:
    root = fed(tmp_path)
    file = root / "isic2019" / "ISIC_2019_Training_Metadata.csv"
    file.write_text(file.read_text().replace("MSK4_0000001", "HAM_0000001"))
    leak = read(root, centre=4, split="published").attrs["published_leak"]
    assert leak == {"test_images": 1, "leaked": 1, "fraction": 1.0}


def test_settings_and_files_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="less than 6"):
        FedIsic2019Site(name="f", source="fed_isic2019", centre=6)
    with pytest.raises(ValidationError, match="use split: lesion"):
        FedIsic2019Site(name="f", source="fed_isic2019", centre=0, split="published", role="held-out")
    root = fed(tmp_path)
    with pytest.raises(SiteError, match="lists no image of centre 5"):
        read(root, centre=5)
    file = root / "fed_isic2019" / "train_test_split"
    file.write_text(file.read_text() + "\nISIC_99,5,test")
    with pytest.raises(SiteError, match="image 'ISIC_99' is not in ISIC 2019's ground truth"):
        read(root, centre=5)


def test_the_real_centres_and_their_leak(shared_data: Path) -> None:
    """3,066 of 4,650 test images (66 %) over all centres, 93 % at BCN, 38 % over HAM10000's four."""
    tables = [read(shared_data, centre=c, split="published") for c in range(len(CENTRES))]
    assert [len(table) for table in tables] == [12_413, 3_954, 3_363, 2_259, 819, 439]
    leaks = [table.attrs["published_leak"] for table in tables]
    assert sum(leak["test_images"] for leak in leaks) == 4_650
    assert sum(leak["leaked"] for leak in leaks) == 3_066
    assert leaks[0]["fraction"] == pytest.approx(0.93, abs=0.005)
    ham = [leaks[c] for c in (1, 2, 3, 5)]
    fraction = sum(x["leaked"] for x in ham) / sum(x["test_images"] for x in ham)
    assert fraction == pytest.approx(0.38, abs=0.005)
