"""``fedderm sites doctor``: what it finds is what is there; its exit code says whether to go on."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Result, clinic, fedderm, write_config
from dicom_files import SECRETS, new_dataset, save
from PIL import Image
from site_images import lesion_image

from fedderm.doctor import Finding, in_order_of_weight
from fedderm.doctor.machine import available_memory
from fedderm.evaluation.proportions import wilson

LEVELS = ["stops", "look", "fine"]


def site_file(root: Path, **changes: Any) -> Path:
    """Write a hospital's own file beside its folder ``clinic``, and return its path."""
    path = root / "site.yaml"
    described = {"name": "our_clinic", "source": "folder", "path": "clinic", "role": "held-out", **changes}
    path.write_text(yaml.safe_dump(described), encoding="utf-8")
    return path


def lines(told: Result) -> list[tuple[str, str]]:
    """Return (level, sentence) of each finding printed, in order."""
    rows = (line.strip().split(maxsplit=1) for line in told.out.splitlines() if line.startswith("  "))
    return [(level, sentence) for level, sentence in rows if level in LEVELS]


def test_a_site_file_alone_is_enough(tmp_path: Path) -> None:
    clinic(tmp_path, rows=40, malignant=16)
    told = fedderm("sites", "doctor", site_file(tmp_path))
    assert told.code == 0, told
    assert "our_clinic (held-out, folder)" in told.out
    assert "40 images decoded at 112 pixels" in told.out, "an experiment's default"
    assert (tmp_path / ".fedderm" / "pixels").is_dir(), "caches lie beside the file"
    assert told.out.splitlines()[-1].startswith("nothing must be mended; ")


def test_findings_come_by_weight_and_are_counted(tmp_path: Path) -> None:
    clinic(tmp_path, rows=40, malignant=16)
    (tmp_path / "clinic" / "i1.png").write_text("not an image")
    told = fedderm("sites", "doctor", site_file(tmp_path, max_unreadable=0.01))
    assert told.code == 2
    levels = [level for level, _ in lines(told)]
    assert levels == sorted(levels, key=LEVELS.index)
    stops, looks = levels.count("stops"), levels.count("look")
    assert stops == 1
    assert told.out.splitlines()[-1] == f"1 thing must be mended first; {looks} things to look at"


def test_weight_keeps_the_order_of_equals() -> None:
    given = [Finding("fine", "images", "a"), Finding("stops", "table", "b"), Finding("fine", "table", "c")]
    assert [finding.sentence for finding in in_order_of_weight(given)] == ["b", "a", "c"]


def test_a_site_that_is_refused_for_its_images_is_told_about_all_of_them(tmp_path: Path) -> None:
    """One missing and two damaged of 40, where one in twenty may be: the run's refusal, and each by name."""
    folder = clinic(tmp_path, rows=40, malignant=16)
    (folder / "i1.png").unlink()
    for name in ("i2.png", "i3.png"):
        (folder / name).write_bytes(b"")
    told = fedderm("sites", "doctor", site_file(tmp_path))
    assert told.code == 2
    found = lines(told)
    assert found[0][0] == "stops"
    assert "at least 3 of 40 images cannot be read (max_unreadable is 0.05)" in found[0][1]
    for name in ("i1", "i2", "i3"):
        assert any(level == "look" and f"image {name} is set aside" in sentence for level, sentence in found)
    assert "37 images decoded" in told.out
    assert "diagnoses (images): mel 13, nv 24" in told.out, "and the rest is told all the same"


def test_counts_say_what_they_allow(tmp_path: Path) -> None:
    """40 lesions, 16 melanomas, half calibration, half test: 8 and 8."""
    clinic(tmp_path, rows=40, malignant=16)
    told = fedderm("sites", "doctor", site_file(tmp_path)).out
    assert "calibration: 20 images of 20 lesions, 8 of them malignant (MEL 8, SCC 0, BCC 0)" in told
    assert "calibration holds 8 malignant lesions; 29 are needed" in told
    assert "21 more; 8 can certify 69%" in told, "0.05 ** (1 / 8) = 0.688"
    lower, upper = wilson(7.2, 8)
    assert f"a sensitivity of 90% measured on them is known from {lower:.0%} to {upper:.0%}" in told
    assert "test has no SCC or BCC lesion" in told


def test_identifiers_of_image_files_are_counted_by_kind(tmp_path: Path) -> None:
    from PIL import ExifTags

    folder = clinic(tmp_path, rows=12, malignant=5)
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = SECRETS[0]
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 12.0, 30.0)
    for name in ("i1.png", "i2.png"):
        Image.open(folder / name).save(folder / name, exif=exif)
    told = fedderm("sites", "doctor", site_file(tmp_path))
    assert told.code == 0
    assert "2 of 12 image files carry identifiers (" in told.out
    assert "names 2" in told.out
    assert "GPS positions 2" in told.out
    assert not any(secret in told.out + told.err for secret in SECRETS)


def dicom_clinic(root: Path) -> None:
    folder = root / "clinic"
    folder.mkdir()
    rows = []
    for row in range(12):
        name = "quixworth_left_arm" if row == 3 else f"IM{row:03d}"
        save(new_dataset(lesion_image(row, 50, 60)), folder / name)
        rows.append(f"{name},L{row},{'mel' if row < 5 else 'nv'}")
    (folder / "t.csv").write_text("\n".join(["image_id,lesion_id,diagnosis", *rows]) + "\n")


def test_a_dicom_folder_is_examined_without_a_value_of_its_headers(tmp_path: Path) -> None:
    dicom_clinic(tmp_path)
    path = site_file(tmp_path)
    for told in (fedderm("sites", "doctor", path), fedderm("sites", "doctor", path, "--json")):
        assert told.code == 0, told
        assert "12 of 12 image files carry identifiers (" in told.out
        assert "60 x 50 pixels in 12 of 12 images" in told.out
        assert "1 file name holds the patient's name or number" in told.out
        assert not any(secret in told.out + told.err for secret in SECRETS)
    for file in (tmp_path / ".fedderm").rglob("*"):
        if file.is_file():
            assert not any(secret.encode() in file.read_bytes() for secret in SECRETS), file


def test_columns_that_name_people_and_dates_to_come(tmp_path: Path) -> None:
    folder = clinic(tmp_path, rows=12, malignant=5)
    header, *rows = (folder / "table.csv").read_text().splitlines()
    dated = [f"{row},P{n},19{50 + n}-01-02,{2020 + n}-03-04" for n, row in enumerate(rows)]
    text = "\n".join([f"{header},patient_id,Geburtsdatum,seen", *dated])
    (folder / "table.csv").write_text(text.replace("2031-03-04", "2099-03-04"))
    found = lines(fedderm("sites", "doctor", site_file(tmp_path)))
    people = "the table's 'Geburtsdatum' may name people"
    assert any(level == "look" and people in told for level, told in found)
    future = "column 'seen' holds dates from 2020-03-04 to 2099-03-04, after today"
    assert any(level == "look" and future in told for level, told in found)
    recorded = "recorded for: patient_id 100%, age 0%, sex 0%, anatom_site 0%, skin_type 0% of images"
    assert ("fine", recorded) in found


def test_one_photograph_in_two_splits_stops_a_run_and_so_the_doctor(tmp_path: Path) -> None:
    """Six copies of one image under six lesion ids cannot all fall into one split."""
    folder = clinic(tmp_path, rows=24, malignant=8)
    for row in range(10, 16):
        (folder / f"i{row}.png").write_bytes((folder / "i9.png").read_bytes())
    told = fedderm("sites", "doctor", site_file(tmp_path))
    assert told.code == 2
    assert "stops the audit found" in told.out
    assert "write 'gives_way_to: [our_clinic]' in site our_clinic" in told.out
    mended = fedderm("sites", "doctor", site_file(tmp_path, gives_way_to=["our_clinic"]))
    assert mended.code == 0, mended.out
    assert "will be left out" in mended.out


def test_files_from_the_future_point_at_a_clock(tmp_path: Path) -> None:
    folder = clinic(tmp_path)
    ahead = time.time() + 30 * 86_400
    os.utime(folder / "i1.png", (ahead, ahead))
    told = fedderm("sites", "doctor", site_file(tmp_path)).out
    assert "1 of 12 image files bear a time in the future; check the clock" in told


def test_json_holds_the_same_findings_and_nothing_else(tmp_path: Path) -> None:
    clinic(tmp_path, rows=40, malignant=16)
    path = site_file(tmp_path)
    page, told = fedderm("sites", "doctor", path), fedderm("sites", "doctor", path, "--json")
    document = json.loads(told.out)
    assert document["could_start"] is True
    of_site = [(f["level"], f["sentence"]) for f in document["findings"] if f["site"] == "our_clinic"]
    assert of_site == [line for line in lines(page) if line in of_site]
    of_machine = {f["about"] for f in document["findings"] if f["site"] is None}
    assert of_machine == {"machine", "clock"}
    assert len(of_site) + 4 == len(lines(page)), "disk, memory, GPU and clock"


def test_json_of_a_site_that_cannot_start(tmp_path: Path) -> None:
    told = fedderm("sites", "doctor", site_file(tmp_path), "--json")
    assert told.code == 2
    document = json.loads(told.out)
    assert document["could_start"] is False
    assert "clinic does not exist" in document["findings"][0]["sentence"]


def test_several_sites_share_one_look_at_the_machine(tmp_path: Path) -> None:
    clinic(tmp_path)
    config = yaml.safe_load(write_config(tmp_path).read_text())
    small = {"source": "simulated", "lesions": 20, "render_size": 64, "case_mix": {"prevalence": 0.5}}
    config["sites"] = [{"name": name, **small} for name in ("west", "east")]
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(config))
    told = fedderm("sites", "doctor", path)
    assert told.code == 0, told
    assert told.out.count("GiB free for caches") == 1
    titles = [line for line in told.out.splitlines() if line in ("this machine", "west (train, simulated)")]
    assert titles == ["west (train, simulated)", "this machine"]


def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    clinic(tmp_path)
    blocked = tmp_path / ".fedderm"
    blocked.write_text("a file in the way")
    told = fedderm("sites", "doctor", site_file(tmp_path))
    assert told.code == 2, told
    assert any(level == "stops" for level, _ in lines(told))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("name: x\nsource: foldr\n", "foldr"),
        ("name: x\nsource: folder\npath: clinic\nroles: train\n", "roles"),
        ("source: [", "is not valid YAML"),
        ("just text", "expected keys such as name, rounds and sites"),
    ],
)
def test_a_wrong_site_file_is_one_sentence(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(content)
    told = fedderm("sites", "doctor", path).sentence()
    assert str(path) in told
    assert expected in told


def test_memory_that_is_free_is_some_of_what_there_is() -> None:
    found = available_memory()
    if found is None:
        pytest.skip("this system does not say")
    assert 0 < found <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_real_folder(shared_data: Path, tmp_path: Path) -> None:
    """UDA-1: 453 images of 224 x 224 pixels, 107 melanomas and 346 nevi, no lesion ids, no identifiers."""
    path = site_file(tmp_path, path=str(shared_data / "uda1"), columns={"image_id": "image"})
    told = fedderm("sites", "doctor", path)
    assert told.code == 0, told
    assert "224 x 224 pixels in 453 of 453 images" in told.out
    assert "diagnoses (images): mel 107, nv 346" in told.out
    assert "the image files carry no names, dates, places or serial numbers" in told.out
    assert "no lesion ids" in told.out
