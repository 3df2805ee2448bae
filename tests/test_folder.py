"""A hospital's own folder: its columns, words, dialects and mistakes."""

import unicodedata
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
from pydantic import ValidationError

from sites.errors import SiteError
from sites.folder import FolderSite
from sites.table import missing_images, validate

CSV = (
    "Datei;Befund;Geschlecht;Alter\na.jpg;Melanom;weiblich;60\nb;  NÄVUS ;m;41\nsub/c.PNG;Naevus;;\nd;;m;3\n"
)
SETTINGS: dict[str, object] = {
    "columns": {"image_id": "Datei", "diagnosis": "Befund", "sex": "Geschlecht", "age": "Alter"},
    "diagnoses": {"melanom": "mel", "Nävus": "nv", "Naevus": "nv"},
    "sexes": {"weiblich": "female"},
}

Form = Literal["NFC", "NFD"]


def folder(root: Path, table: str = CSV, name: str = "befunde.csv", encoding: str = "utf-8") -> Path:
    (root / "clinic" / "sub").mkdir(parents=True)
    (root / "clinic" / name).write_text(table, encoding=encoding)
    for image in ("a.jpg", "b.tiff", "sub/c.PNG", "d.bmp"):
        (root / "clinic" / image).touch()
    return root


def read(root: Path, **options: object) -> pd.DataFrame:
    site = FolderSite.model_validate(
        {"name": "clinic", "source": "folder", "path": "clinic", **SETTINGS, **options}
    )
    raw = site.read(root, root / "work", 0)
    return validate(raw, raw.attrs["file"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_a_german_table(tmp_path: Path, encoding: str) -> None:
    table = read(folder(tmp_path, encoding=encoding))
    assert table["image_id"].tolist() == ["a", "b", "sub/c", "d"]
    assert table["diagnosis"].tolist()[:3] == ["mel", "nv", "nv"]
    assert table["set_aside"].tolist()[3] == "no diagnosis"
    assert table["sex"].tolist()[:2] == ["female", "male"]
    assert table["age"].tolist()[:2] == [60.0, 41.0]
    assert [Path(p).name for p in table["path"]] == ["a.jpg", "b.tiff", "c.PNG", "d.bmp"]
    assert not missing_images(table).any()


def test_excel_with_a_title_above_the_header(tmp_path: Path) -> None:
    root = folder(tmp_path, name="befunde.txt")
    cells = [["Dermatology, 2024", None], [None, None], ["file", "dx"], ["a", "MEL"], ["b", "nv"]]
    with pd.ExcelWriter(root / "clinic" / "t.xlsx") as writer:
        pd.DataFrame([["nothing"]]).to_excel(writer, sheet_name="Cover", index=False, header=False)
        pd.DataFrame(cells).to_excel(writer, sheet_name="Lesions", index=False, header=False)
    options: dict[str, object] = {
        "columns": {"image_id": "file", "diagnosis": "dx"},
        "header_row": 3,
        "sheet": "Lesions",
    }
    assert read(root, **options)["diagnosis"].tolist() == ["mel", "nv"]
    with pytest.raises(SiteError, match=r"t\.xlsx has no sheet 'Lesion'; there are 'Cover', 'Lesions'"):
        read(root, **{**options, "sheet": "Lesion"})
    with pytest.raises(SiteError, match=r"expected the column 'file' .*header_row, now 1"):
        read(root, **{**options, "header_row": 1})


def test_images_are_found_by_name_without_folder_or_suffix(tmp_path: Path) -> None:
    root = folder(tmp_path, "image_id,diagnosis\nc,nv\nA.JPG,mel\nsub\\c,nv\n".replace("A.JPG,mel\n", ""))
    table = read(root, columns={})
    assert [Path(p).relative_to(root).as_posix() for p in table["path"]] == ["clinic/sub/c.PNG"] * 2


def test_an_ambiguous_image_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, "image_id,diagnosis\na,nv\n")
    (root / "clinic" / "sub" / "a.jpg").touch()
    with pytest.raises(SiteError, match=r"row 2, image 'a' is ambiguous: 'a\.jpg', 'sub/a\.jpg'"):
        read(root, columns={})


def test_an_absent_image_is_listed_as_missing(tmp_path: Path) -> None:
    table = read(folder(tmp_path, "image_id,diagnosis\na,nv\nzz.jpg,nv\n"), columns={})
    assert missing_images(table).tolist() == [False, True]
    assert table["path"].tolist()[1].endswith("clinic/zz.jpg")


def test_letter_case_does_not_matter_where_the_file_is_no_other_rows(tmp_path: Path) -> None:
    """Windows and cameras write IMG_1.JPG; on this disk ``b.png`` and ``B.png`` are two photographs."""
    clinic = folder(tmp_path, "image_id,diagnosis\nimg_1.jpg,nv\nb.png,nv\nB.png,mel\nC.PNG,nv\n") / "clinic"
    for name in ("IMG_1.JPG", "b.png"):
        (clinic / name).touch()
    table = read(tmp_path, columns={})
    assert [Path(p).name for p in table["path"]] == ["IMG_1.JPG", "b.png", "B.png", "c.PNG"]
    assert missing_images(table).tolist() == [False, False, True, False], "b.png is the second row's"
    assert table["image_id"].tolist() == ["img_1", "b", "B", "C"]


def test_letter_case_that_leaves_two_files_is_ambiguous(tmp_path: Path) -> None:
    clinic = folder(tmp_path, "image_id,diagnosis\nIMG,nv\n") / "clinic"
    for name in ("img.jpg", "Img.png"):
        (clinic / name).touch()
    with pytest.raises(SiteError, match=r"image 'IMG' is ambiguous: 'Img\.png', 'img\.jpg'"):
        read(tmp_path, columns={})


@pytest.mark.parametrize(("in_table", "on_disk"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_may_be_composed_or_not(tmp_path: Path, in_table: Form, on_disk: Form) -> None:
    """macOS writes ü as u and a mark; the two look alike and are different bytes."""
    text = unicodedata.normalize(in_table, "Datei;Läsion;Befund\nRücken.jpg;Ä1;Nävus\n")
    clinic = folder(tmp_path, text) / "clinic"
    (clinic / unicodedata.normalize(on_disk, "Rücken.jpg")).touch()
    columns = {
        "image_id": "Datei",
        "lesion_id": unicodedata.normalize(on_disk, "Läsion"),
        "diagnosis": "Befund",
    }
    words = {unicodedata.normalize(on_disk, "nävus"): "nv"}
    table = read(tmp_path, columns=columns, diagnoses=words, sexes={})
    assert not missing_images(table).any()
    assert table["diagnosis"].tolist() == ["nv"]
    assert table["lesion_id"].tolist() == [unicodedata.normalize("NFC", "Ä1")]


def test_all_unknown_diagnoses_are_named_at_once_with_their_counts(tmp_path: Path) -> None:
    words = ["zyste", "nv", "warze", "zyste", "ekzem", "Narbe", "Warze"]
    rows = "".join(f"i{number},{word}\n" for number, word in enumerate(words))
    with pytest.raises(SiteError) as refusal:
        read(folder(tmp_path, f"image_id,diagnosis\n{rows}"), columns={}, diagnoses={})
    assert "row 2, column 'diagnosis': 'zyste' (2 rows) is not a known diagnosis; nor are 'warze', " in str(
        refusal.value
    )
    assert "'ekzem', 'Narbe', 'Warze'; known are mel, nv" in str(refusal.value)
    assert "add them to the site's diagnoses" in str(refusal.value)


def test_a_sex_can_be_mapped_to_unknown_and_a_refusal_says_where(tmp_path: Path) -> None:
    root = folder(tmp_path, CSV.replace(";weiblich;", ";Divers;"))
    with pytest.raises(
        SiteError, match=r"'Divers' is not understood; expected .* map it in the site's sexes"
    ):
        read(root)
    assert read(root, sexes={"divers": "unknown"})["sex"].isna().tolist() == [True, False, True, False]


def test_unknown_diagnosis_names_file_row_value_and_nearest(tmp_path: Path) -> None:
    root = folder(tmp_path, CSV.replace("a.jpg;Melanom", "a.jpg;Melanoma"))
    with pytest.raises(SiteError) as refusal:
        read(root)
    message = str(refusal.value)
    for word in (
        "befunde.csv: row 2",
        "column 'Befund'",
        "'Melanoma'",
        "nearest is 'melanom'",
        "other_benign",
    ):
        assert word in message
    assert "\n" not in message


def test_missing_column_names_expected_found_nearest_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(SiteError) as refusal:
        read(folder(tmp_path, CSV.replace("Befund", "Befunde")))
    for word in (
        "befunde.csv",
        "'Befund' for diagnosis",
        "nearest is 'Befunde'",
        "'Alter'",
        "columns.diagnosis",
    ):
        assert word in str(refusal.value)


def test_repeated_image_names_both_rows(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"befunde\.csv: the image id 'a' is in rows 2 and 4"):
        read(folder(tmp_path, CSV.replace("sub/c.PNG", "a")))


def test_values_are_refused_under_the_hospitals_own_column_name(tmp_path: Path) -> None:
    root = folder(tmp_path, CSV.replace(";41", ";410"))
    with pytest.raises(SiteError, match="column 'Alter', row 3: '410'"):
        read(root)


def test_an_excluded_word_is_set_aside(tmp_path: Path) -> None:
    table = read(folder(tmp_path), diagnoses={"Melanom": "exclude", "Nävus": "nv", "Naevus": "nv"})
    assert table["set_aside"].tolist()[0] == "diagnosis Melanom"


def test_their_columns_of_our_names_do_not_stand_in(tmp_path: Path) -> None:
    """Their 'split' and 'path' mean something else; their 'diagnosis' is not the mapped one."""
    text = "image_id,dx,diagnosis,split,path\na,mel,zzz,0,/x\nb,nv,yyy,1,/y\n"
    table = read(folder(tmp_path, text), columns={"diagnosis": "dx"})
    assert table["diagnosis"].tolist() == ["mel", "nv"]
    assert table["split"].isna().all()
    assert Path(table["path"][0]).name == "a.jpg"


def test_which_table(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "clinic" / "old.csv").write_text(CSV)
    with pytest.raises(
        SiteError, match=r"expected one table .*'befunde\.csv', 'old\.csv'; set the site's table"
    ):
        read(root)
    assert len(read(root, table="old.csv")) == 4
    with pytest.raises(SiteError, match=r"absent\.csv does not exist"):
        read(root, table="absent.csv")
    with pytest.raises(SiteError, match="clinik does not exist; the nearest is 'clinic'"):
        read(root, path="clinik")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": None}, "needs a path"),
        ({"columns": {"lesion": "x"}}, "'lesion' is not one of our columns; the nearest is 'lesion_id'"),
        ({"diagnoses": {"Melanom": "melano"}}, "not a known diagnosis.*known are mel, nv"),
        ({"header_row": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_are_checked(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        FolderSite.model_validate({"name": "c", "source": "folder", "path": "p", **options})


def test_uda1(shared_data: Path) -> None:
    site = FolderSite.model_validate(
        {"name": "uda1", "source": "folder", "path": "uda1", "columns": {"image_id": "image"}}
    )
    table = validate(site.read(shared_data, shared_data, 0), "metadata.csv")
    assert table["diagnosis"].value_counts().to_dict() == {"nv": 346, "mel": 107}
    assert table.attrs["lesions_known"] is False
    assert not missing_images(table).any()
