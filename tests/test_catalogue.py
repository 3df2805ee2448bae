"""From a site's settings to its table: narrowing, what is set aside, notes, and one union of all sources."""

from pathlib import Path

import pandas as pd
import pytest
from pydantic import TypeAdapter, ValidationError
from test_isic2019 import isic

from sites.catalogue import Site, SiteData, load_site, site_summary
from sites.errors import SiteError

ADAPTER: TypeAdapter[Site] = TypeAdapter(Site)


def clinic(root: Path, missing: int = 0) -> Path:
    """Write 60 nevi, 20 melanomas, 10 AK and one lymphoma, two images a lesion, at devices a and b."""
    folder = root / "clinic"
    folder.mkdir()
    kinds = ["nv"] * 60 + ["mel"] * 20 + ["ak"] * 10 + ["other_malignant"]
    rows = ["image_id,lesion_id,diagnosis,device"]
    for number, kind in enumerate(kinds):
        for view in range(2):
            rows.append(f"i{number}-{view},L{number},{kind},{'ab'[number % 2]}")
            if number >= missing:
                (folder / f"i{number}-{view}.jpg").touch()
    (folder / "t.csv").write_text("\n".join(rows))
    return root


def load(root: Path, **options: object) -> SiteData:
    settings = {"name": "here", "source": "folder", "path": "clinic", **options}
    return load_site(ADAPTER.validate_python(settings), root, root / "work", 7)


def test_a_loaded_site(tmp_path: Path) -> None:
    data = load(clinic(tmp_path))
    table = data.table
    assert table["split"].isin(["train", "calibration", "test"]).all()
    assert table.groupby("lesion_id")["split"].nunique().max() == 1
    assert table["class_index"].tolist() == [0] * 120 + [1] * 40
    assert table["class_index"].dtype == int
    assert table.index.tolist() == list(range(160))
    assert "set_aside" not in table
    assert data.notes == [
        "20 images of actinic keratosis are excluded (ak_policy: exclude)",
        "2 images of other malignant lesion are excluded (it is neither MEL, SCC nor BCC)",
    ]
    assert all(Path(path).is_absolute() for path in table["path"])


def test_summary_counts_lesions_and_images(tmp_path: Path) -> None:
    """Of 80 lesions 0.65/0.10/0.25 are 52/8/20; of 20 melanomas 13/2/5; every lesion has two images."""
    summary = site_summary(load(clinic(tmp_path)))
    assert {name: tuple(s.values()) for name, s in summary["splits"].items()} == {
        "train": (104, 52, 26, 13),
        "calibration": (16, 8, 4, 2),
        "test": (40, 20, 10, 5),
    }
    assert summary["diagnoses"] == {"mel": 40, "nv": 120}
    assert list(summary["splits"]["train"]) == ["images", "lesions", "positive_images", "positive_lesions"]


@pytest.mark.parametrize(("policy", "index", "count"), [("benign", 0, 140), ("malignant", 2, 20)])
def test_ak_policy(tmp_path: Path, policy: str, index: int, count: int) -> None:
    table = load(clinic(tmp_path), ak_policy=policy).table
    assert (table["class_index"] == index).sum() == count
    assert set(table.loc[table["diagnosis"] == "ak", "class_index"]) == {index}


def test_select_by_a_carried_column(tmp_path: Path) -> None:
    root = clinic(tmp_path)
    assert set(load(root, select={"device": "a"}).table["device"]) == {"a"}
    assert len(load(root, select={"device": ["a", "b"]}).table) == 160
    with pytest.raises(
        SiteError, match="site 'here': select: there is no column 'devic'; the nearest is 'device'"
    ):
        load(root, select={"devic": "a"})
    with pytest.raises(SiteError, match="no image has device 'c'; there are 'a', 'b'"):
        load(root, select={"device": "c"})
    with pytest.raises(
        SiteError, match="select lesion_id together with the other selections leaves no image"
    ):
        load(root, select={"device": "a", "lesion_id": "L1"})


def test_missing_images_are_listed_up_to_a_limit(tmp_path: Path) -> None:
    """Four of 182 images are missing (2.2 %)."""
    root = clinic(tmp_path, missing=2)
    data = load(root)
    assert data.set_aside["image_id"].tolist() == ["i0-0", "i0-1", "i1-0", "i1-1"]
    assert set(data.set_aside["reason"]) == {"the image file is missing"}
    assert "4 of 182 images are missing" in data.notes
    with pytest.raises(
        SiteError, match=r"4 of 182 images are missing \(2\.2%, max_unreadable allows 2\.0%\)"
    ):
        load(root, max_unreadable=0.02)


def test_a_partial_copy_says_so(tmp_path: Path) -> None:
    root = clinic(tmp_path, missing=40)
    with pytest.raises(SiteError, match="only_present: true"):
        load(root)
    data = load(root, only_present=True)
    assert "80 of 182 images are not at hand (only_present)" in data.notes
    assert data.set_aside.empty
    assert len(data.table) == 80


def test_no_image_at_hand(tmp_path: Path) -> None:
    root = clinic(tmp_path, missing=1000)
    with pytest.raises(SiteError, match=r"none of its 182 images is at hand.*i0-0"):
        load(root, only_present=True)


def test_only_selected_images_can_be_missing(tmp_path: Path) -> None:
    """ISIC_5 is not there, but only its clinic BCN lacks it: MSK4 alone loses nothing."""
    root = isic(tmp_path)
    site = ADAPTER.validate_python({"name": "msk", "source": "isic2019", "select": {"acquisition": "MSK4"}})
    with pytest.raises(SiteError, match="it has 1 separate lesions"):
        load_site(site, root, root / "work", 0)


def test_slices_share_no_lesion_even_where_they_select_differently(tmp_path: Path) -> None:
    root = clinic(tmp_path)
    one = load(root, slice={"index": 0, "of": 2}, select={"device": "a"}).table
    two = load(root, slice={"index": 1, "of": 2}).table
    assert not set(one["lesion_id"]) & set(two["lesion_id"])


def test_case_mix_thins_a_real_site(tmp_path: Path) -> None:
    """A prevalence of 0.1 with all 60 nevi leaves round(60 / 9) melanomas."""
    table = load(clinic(tmp_path), case_mix={"prevalence": 0.1}).table
    lesions = table.drop_duplicates("lesion_id")
    assert (lesions["class_index"] > 0).mean() == pytest.approx(0.1, abs=0.02)


def test_the_result_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    root = clinic(tmp_path)
    first = load(root).table.set_index("image_id")["split"]
    file = root / "clinic" / "t.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], *reversed(lines[1:])]))
    second = load(root).table.set_index("image_id")["split"]
    pd.testing.assert_series_equal(first.sort_index(), second.sort_index())


def test_one_class_cannot_train(tmp_path: Path) -> None:
    root = clinic(tmp_path)
    with pytest.raises(SiteError, match=r"site 'here': .*train split are benign.*held-out"):
        load(root, select={"diagnosis": "nv"})
    assert len(load(root, select={"diagnosis": "nv"}, role="held-out").notes) == 2
    with pytest.raises(SiteError, match="ak_policy: exclude leaves no image"):
        load(root, select={"diagnosis": "ak"})


def test_a_simulated_site_is_one_of_the_union(tmp_path: Path) -> None:
    site = ADAPTER.validate_python(
        {
            "name": "sim",
            "source": "simulated",
            "lesions": 24,
            "render_size": 32,
            "case_mix": {"prevalence": 0.5},
        }
    )
    data = load_site(site, None, tmp_path, 1)
    assert set(data.table["split"]) == {"train", "calibration", "test"}
    assert data.set_aside.empty


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": "hamm"}, "hamm"),
        ({"source": "isic2019", "selct": {}}, "selct"),
        (
            {"source": "isic2019", "splits": {"train": 0, "calibration": 0.5, "test": 0.5}},
            "needs a train split",
        ),
        ({"source": "isic2019", "name": "../up"}, "name"),
    ],
)
def test_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ADAPTER.validate_python({"name": "x", **settings})


def test_real_sites(shared_data: Path, tmp_path: Path) -> None:
    """The four sources of HAM10000, MSK's 708 images and UDA-1's 453, as the experiment on real images uses
    them."""
    ham = {
        name: {"source": "ham10000", "select": {"dataset": name}} for name in ("vidir_modern", "vienna_dias")
    }
    msk = {"source": "isic2019", "select": {"acquisition": "MSK4"}, "only_present": True}
    uda = {"source": "folder", "path": "uda1", "columns": {"image_id": "image"}, "role": "held-out"}
    sizes = {}
    for name, settings in {**ham, "msk": msk, "uda": uda}.items():
        data = load_site(ADAPTER.validate_python({"name": name, **settings}), shared_data, tmp_path, 0)
        sizes[name] = len(data.table)
        assert data.table.groupby("lesion_id")["split"].nunique().max() == 1
        if name == "msk":
            assert "111 of 819 images are not at hand (only_present)" in data.notes
    excluded = {"vidir_modern": 3_363, "vienna_dias": 439}
    assert sizes["msk"] == 708
    assert sizes["uda"] == 453
    assert all(0 <= excluded[name] - sizes[name] < 130 for name in ham)


def test_the_real_published_split(shared_data: Path, tmp_path: Path) -> None:
    """Centre 4 has 708 of its 819 images at hand; its test stays FLamby's and no lesion spans train and
    calibration."""
    settings = {
        "name": "msk",
        "source": "fed_isic2019",
        "centre": 4,
        "split": "published",
        "only_present": True,
    }
    data = load_site(ADAPTER.validate_python(settings), shared_data, tmp_path, 0)
    assert any("5 of 164 test images (3%)" in note for note in data.notes)
    inside = data.table[data.table["split"] != "test"]
    assert inside.groupby("lesion_id")["split"].nunique().max() == 1
    assert data.table.attrs["published_leak"]["leaked"] == 5


def test_a_site_elsewhere_is_listed_but_never_loaded(tmp_path: Path) -> None:
    site = ADAPTER.validate_python({"name": "north", "source": "elsewhere", "role": "held-out"})
    assert (site.name, site.role) == ("north", "held-out")
    with pytest.raises(SiteError, match=r"site 'north': source: elsewhere stands for .*fedderm deploy run"):
        load_site(site, None, tmp_path, seed=1)
