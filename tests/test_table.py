"""The check at the door: what passes, what is set aside, and what each refusal says."""

from pathlib import Path

import pandas as pd
import pytest

from sites.errors import SiteError
from sites.files import read_table
from sites.table import COLUMNS, missing_images, validate


def raw(**columns: list[object]) -> pd.DataFrame:
    """Return a raw table of three images, row numbers 2 to 4 as in a file, with the columns given
    replaced."""
    size = len(next(iter(columns.values()))) if columns else 3
    start: dict[str, list[object]] = {
        "image_id": [f"i{n}" for n in range(size)],
        "path": [f"/images/i{n}.jpg" for n in range(size)],
        "diagnosis": ["nv"] * size,
    }
    return pd.DataFrame({**start, **columns}, index=pd.RangeIndex(2, 2 + size))


def test_has_all_columns_and_carries_others() -> None:
    table = validate(raw(device=["a", "b", "c"]), "t.csv")
    assert list(table.columns) == [*COLUMNS, "set_aside", "device"]
    assert table.index.tolist() == [0, 1, 2]
    assert table["age"].isna().all()
    assert table["age"].dtype == float


def test_lesion_falls_back_to_the_image_and_says_so() -> None:
    table = validate(raw(lesion_id=["L1", None, "unknown"]), "t.csv")
    assert table["lesion_id"].tolist() == ["L1", "i1", "i2"]
    assert table.attrs["lesions_known"] is False
    assert validate(raw(lesion_id=["L1", "L1", "L2"]), "t.csv").attrs["lesions_known"] is True


def test_age_sex_and_skin_type_are_normalised() -> None:
    table = validate(
        raw(age=["85+", "", "0"], sex=["M", "unknown", "Female"], skin_type=["2.0", "type IV", None]), "t.csv"
    )
    assert table["age"].iloc[[0, 2]].tolist() == [85.0, 0.0]
    assert pd.isna(table["age"].iloc[1])
    assert table["sex"].iloc[[0, 2]].tolist() == ["male", "female"]
    assert pd.isna(table["sex"].iloc[1])
    assert table["skin_type"].iloc[:2].tolist() == ["II", "IV"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"age": ["50", "121", "3"]}, ["row 3", "column 'age'", "'121'", "0 to 120"]),
        ({"age": ["50", "5", "old"]}, ["row 4", "'old'"]),
        ({"age": ["50", "-1", "7"]}, ["row 3", "'-1'"]),
        ({"sex": ["male", "weiblich", "female"]}, ["row 3", "column 'sex'", "'weiblich'", "male or female"]),
        ({"skin_type": ["I", "II", "VII"]}, ["row 4", "column 'skin_type'", "'VII'"]),
        ({"diagnosis": ["nv", "mell", "nv"]}, ["row 3", "'mell'", "nearest is 'mel'", "vasc"]),
        ({"diagnosis": ["NV", "nv", "nv"]}, ["row 2", "'NV'"]),
        ({"image_id": ["a", "b", "a"]}, ["'a'", "rows 2 and 4"]),
        ({"image_id": ["a", None, "c"]}, ["row 3 has no image_id"]),
    ],
)
def test_refusals_name_file_row_and_value(columns: dict[str, list[object]], words: list[str]) -> None:
    with pytest.raises(SiteError) as refusal:
        validate(raw(**columns), "t.csv")
    for word in ["t.csv", *words]:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_refuses_a_missing_column_and_an_empty_table() -> None:
    with pytest.raises(SiteError, match="column 'diagnosis' is missing; found 'image_id', 'path'"):
        validate(raw().drop(columns="diagnosis"), "t.csv")
    with pytest.raises(SiteError, match="empty"):
        validate(raw().iloc[:0], "t.csv")


def test_blank_diagnosis_is_set_aside_not_lost() -> None:
    table = validate(raw(diagnosis=["nv", None, "mel"]), "t.csv")
    assert len(table) == 3
    assert table["set_aside"].tolist()[1] == "no diagnosis"
    assert table["set_aside"].isna().tolist() == [True, False, True]


def test_a_lesion_with_two_diagnoses_is_set_aside_whole() -> None:
    lesions = ["L0", "L0", *[f"L{n}" for n in range(1, 40)]]
    table = validate(raw(lesion_id=lesions, diagnosis=["nv", "mel", *["nv"] * 39]), "t.csv")
    assert table.loc[table["set_aside"].notna(), "lesion_id"].tolist() == ["L0", "L0"]


def test_many_conflicts_mean_that_the_column_is_no_lesion() -> None:
    with pytest.raises(SiteError, match="2 of 3 lesions have images with different diagnoses"):
        validate(
            raw(lesion_id=["A", "A", "B", "B", "C"], diagnosis=["nv", "mel", "mel", "nv", "nv"]), "t.csv"
        )


def test_lesions_numbered_within_patients_stay_apart() -> None:
    """Lesion 1 of patient p and lesion 1 of patient q are two lesions: 2 x 2 = 4 lesions, not 2."""
    table = validate(raw(lesion_id=["1", "2", "1", "2"], patient_id=["p", "p", "q", "q"]), "t.csv")
    assert table["lesion_id"].tolist() == ["p/1", "p/2", "q/1", "q/2"]


def test_one_lesion_under_two_patients_is_an_error_of_the_table() -> None:
    """One clash among 31 lesions is 3 %: a typing error, not a numbering within patients."""
    lesions = ["L0", "L0", *[f"L{n}" for n in range(1, 31)]]
    patients = ["p", "q", *["p"] * 30]
    with pytest.raises(SiteError, match="lesion 'L0' belongs to 2 patients \\(rows 2, 3\\)"):
        validate(raw(lesion_id=lesions, patient_id=patients), "t.csv")


def test_missing_images(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    table = validate(raw(path=[str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]), "t.csv")
    assert missing_images(table).tolist() == [False, True]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_reads_any_delimiter_and_encoding(tmp_path: Path, delimiter: str, encoding: str) -> None:
    rows = [["file", "Körperstelle"], ["a", "Rücken"], ["", ""], ["b", "Füße"]]
    file = tmp_path / "t.csv"
    file.write_text("\n".join(delimiter.join(row) for row in rows), encoding=encoding)
    frame = read_table(file)
    assert frame.columns.tolist() == ["file", "Körperstelle"]
    assert frame["Körperstelle"].tolist() == ["Rücken", "Füße"]
    assert frame.index.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", r"t\.csv is empty; expected a row of column names and a row for each image"),
        ("a,b\n", "no rows"),
        ("a,b\n1,2,3\n4,5,6\n", "as a table: row 2 has 3 cells and those above it 2; put a text that holds"),
        ("a,b\n1,2\n1,2,3\n", "as a table: row 3 has 3 cells and those above it 2"),
        ('a,b\n1,2\n"1,2\n', "as a table: the quotation mark in row 3 is never closed"),
        ("a,a\n1,2\n", "there twice"),
    ],
)
def test_broken_tables_are_one_sentence(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(content)
    with pytest.raises(SiteError, match=words) as refusal:
        read_table(file)
    assert "t.csv" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_no_spreadsheet(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"not a zip")
    with pytest.raises(SiteError, match=r"t\.xlsx is no Excel workbook: it is damaged, or another kind"):
        read_table(tmp_path / "t.xlsx")
    with pytest.raises(SiteError, match="does not exist"):
        read_table(tmp_path / "absent.csv")


def test_an_encoding_that_is_wrong_or_unknown_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("a;b\nNävus;x\n".encode("latin-1"))
    with pytest.raises(SiteError, match=r"t\.csv is not utf-8 text; correct the site's encoding"):
        read_table(tmp_path / "t.csv", encoding="utf-8")
    with pytest.raises(SiteError, match="there is no encoding 'utf-9'"):
        read_table(tmp_path / "t.csv", encoding="utf-9")


@pytest.mark.parametrize(
    ("written", "years"),
    [("47", 47), ("47 years", 47), ("47 Jahre", 47), ("47y", 47), ("47,5", 47.5), ("47.5 J.", 47.5)],
)
def test_an_age_may_have_a_unit_of_years_and_a_decimal_comma(written: str, years: float) -> None:
    assert validate(raw(age=[written, "1 year", "?"]), "t.csv")["age"].tolist()[:2] == [years, 1]


@pytest.mark.parametrize("written", ["47 months", "4 7", "47,5,1", "years", "470 years", "forty"])
def test_an_age_that_is_no_number_of_years_is_refused(written: str) -> None:
    with pytest.raises(SiteError, match=f"row 2: '{written}' is not an age in years"):
        validate(raw(age=[written, "1", "2"]), "t.csv")


def test_all_words_that_are_not_understood_are_named_at_once() -> None:
    with pytest.raises(
        SiteError, match=r"row 2: 'x' \(2 rows\) is not understood; nor are 'y'; expected male"
    ):
        validate(raw(sex=["x", "y", "X".lower()]), "t.csv")
    with pytest.raises(SiteError, match=r"row 2: 'old' is not an age in years from 0 to 120; nor are '-1'; "):
        validate(raw(age=["old", "-1", "30"]), "t.csv")
    names = [f"n{number}" for number in range(13)]
    with pytest.raises(
        SiteError, match=r"'n0' is not a known .*; nor are 'n1', .*, 'n9' and 3 more; known are"
    ):
        validate(raw(diagnosis=names), "t.csv")
