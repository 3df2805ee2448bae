"""``fedderm sites list | audit | doctor``: what they print is what is there."""

import csv
import re
from pathlib import Path

import pytest
from commands import Result, clinic, fedderm, write_config

from fedderm.evaluation.thresholds import positives_needed


def counts(result: Result) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Return (site, split) to images, lesions and malignant lesions, as printed."""
    assert result.code == 0, result.err
    rows = re.findall(
        r"^(\S+) +(?:train|held-out) +\S+ +(\w+) +([\d,]+) +(\d+) +(\d+)", result.out, re.MULTILINE
    )
    return {(site, split): (int(a), int(b), int(c)) for site, split, a, b, c in rows}


def test_the_sources_are_listed_with_what_they_hold() -> None:
    told = fedderm("sites", "list")
    assert told.code == 0
    for source in ("ham10000", "isic2019", "isic_archive", "fed_isic2019", "folder", "simulated"):
        assert re.search(rf"^{source} +[A-Z].+", told.out, re.MULTILINE)
    assert "docs/sites.md" in told.out


def test_list_counts_a_folder_as_its_table_does(tmp_path: Path) -> None:
    folder = clinic(tmp_path, rows=20, malignant=8)
    found = counts(fedderm("sites", "list", write_config(tmp_path)))
    assert {split for _, split in found} == {"train", "calibration", "test"}
    with (folder / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images, lesions, malignant = (sum(one) for one in zip(*found.values(), strict=True))
    assert images == len(rows)
    assert lesions == len({row["lesion_id"] for row in rows})
    assert malignant == sum(row["diagnosis"] == "mel" for row in rows)
    assert found["clinic", "train"][1] == pytest.approx(0.65 * 20, abs=1)


def test_list_prints_notes_and_what_a_missing_lesion_column_means(tmp_path: Path) -> None:
    folder = clinic(tmp_path)
    table = (folder / "table.csv").read_text().replace("lesion_id", "visit")
    (folder / "table.csv").write_text(table)
    told = fedderm("sites", "list", write_config(tmp_path))
    assert "clinic: 12 of 12 images have no lesion id and count as lesions of their own" in told.out
    doctor = fedderm("sites", "doctor", write_config(tmp_path))
    assert doctor.code == 0
    assert "look  no lesion ids: where a lesion was photographed twice" in doctor.out


@pytest.mark.slow
def test_the_demo_config_lists_audits_and_is_healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller centres than the demo's: what is tested are its six sites and their roles, not rendering."""
    monkeypatch.chdir(tmp_path)
    demo = (Path(__file__).resolve().parents[1] / "configs" / "demo.yaml").read_text()
    small = tmp_path / "demo.yaml"
    small.write_text(
        re.sub(r"lesions: \d+", "lesions: 30, render_size: 64", demo).replace(
            "    lesions: 30, render_size: 64\n", "    lesions: 30\n    render_size: 64\n"
        )
    )
    listed = fedderm("sites", "list", small)
    found = counts(listed)
    assert "city_hospital: render lesions (30)" in listed.out, "rendering is shown"
    assert {site for site, split in found if split == "train"} == {
        "city_hospital",
        "skin_clinic",
        "follow_up",
        "surgery",
    }
    assert {site for site, split in found if split != "train"} >= {"coast", "screening_bus"}
    assert sum(lesions for _, lesions, _ in found.values()) == 6 * 30
    audited = fedderm("sites", "audit", small)
    assert audited.code == 0, audited.err
    images = sum(images for images, _, _ in found.values())
    assert f"audit: {images} images of 180 lesions at 6 sites; no lesion" in audited.out
    doctor = fedderm("sites", "doctor", small, "--site", "coast")
    assert doctor.code == 0, doctor.out
    malignant = found["coast", "calibration"][2]
    needed = positives_needed(0.90, 0.95)
    assert f"calibration holds {malignant} malignant lesions; {needed} are needed" in doctor.out
    assert f"{needed - malignant} more" in doctor.out
    assert "skin_clinic" not in doctor.out


def test_doctor_points_at_black_and_doubled_images_and_an_unknown_site(tmp_path: Path) -> None:
    from PIL import Image

    folder = clinic(tmp_path)
    Image.new("RGB", (50, 40)).save(folder / "i1.png")
    (folder / "i2.png").write_bytes((folder / "i3.png").read_bytes())
    told = fedderm("sites", "doctor", write_config(tmp_path))
    assert told.code == 0, told.err
    assert "1 of 12 sampled images are nearly black" in told.out
    assert "2 images have the pixels of another one: i2, i3" in told.out
    path = write_config(tmp_path)
    assert (
        "--site clinc: this experiment has the sites clinic"
        in fedderm("sites", "doctor", path, "--site", "clinc").sentence()
    )


def test_doctor_works_where_the_cache_folder_does_not_exist_yet(tmp_path: Path) -> None:
    clinic(tmp_path)
    path = write_config(tmp_path, {"path": "absent"}, work_dir=str(tmp_path / "a" / "b" / "c"))
    told = fedderm("sites", "doctor", path)
    assert told.code == 2
    assert "stops site 'clinic': the folder" in told.out
    assert "GiB free for caches" in told.out
