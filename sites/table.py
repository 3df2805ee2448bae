"""The lesion table: one row per image, the columns every source gives, and the check at the door."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pandas as pd

from sites.diagnoses import DIAGNOSES
from sites.errors import SiteError
from sites.files import nearest, quoted
from sites.words import tally

COLUMNS: Final = (
    "image_id",
    "path",
    "lesion_id",
    "patient_id",
    "diagnosis",
    "age",
    "sex",
    "anatom_site",
    "skin_type",
    "acquisition",
    "split",
)
SET_ASIDE: Final = "set_aside"
"""Extra column of a raw table: why a row cannot be used, NA where it can."""

MAX_CONFLICTS: Final = 0.05
"""A larger fraction of lesions with two diagnoses means that the lesion column holds something else."""

_NEEDED: Final = ("image_id", "path", "diagnosis")
_UNKNOWN: Final = frozenset({"", "unknown", "n/a", "na", "nan", "none", "other", "not reported", "?", "-"})
_SEX: Final = {"male": "male", "m": "male", "female": "female", "f": "female"}
_YEARS: Final = r"^(\d+(?:[.,]\d+)?)\s*(?:years?(?:\s+old)?|yrs?\.?|y\.?|jahre?(?:\s+alt)?|j\.?|a)?$"
"""A number of years, with its unit or without, with a decimal point or comma."""
_SKIN: Final = dict(zip("123456", ("I", "II", "III", "IV", "V", "VI"), strict=True))


def validate(raw: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return ``raw`` as a lesion table: all of ``COLUMNS``, anything else carried, and ``set_aside``.

    ``raw`` has at least image_id, path and diagnosis; its index holds row numbers for messages, which start
    with ``where`` (the file). Ages are years, 0 to 120 ("47 years" and "47,5" too); sex is male or female;
    skin types are Fitzpatrick I to VI; all are NA where unknown. ``attrs["lesions_known"]`` is False where a
    row's lesion id fell back to its image id. Lesion ids that start anew with each patient become
    ``patient/lesion``.

    A lesion whose images carry two diagnoses is set aside with all its images, because neither can be trusted
    over the other; SiteError is raised when that is more than one lesion and more than 5 % of them. Raises
    SiteError too for a missing column, an empty table, a repeated image, an unknown diagnosis, and an age,
    sex or skin type that cannot be read.
    """
    for column in _NEEDED:
        if column not in raw.columns:
            raise SiteError(f"{where}: the column '{column}' is missing; found {quoted(raw.columns)}")
    if raw.empty:
        raise SiteError(f"{where}: the table is empty")
    table = raw.copy()
    for column in (*COLUMNS, SET_ASIDE):
        if column not in table.columns:
            table[column] = None
        if column != "age":
            text = table[column].astype("str").str.strip()
            table[column] = text.mask(text.str.casefold().isin(["", "nan", "none"]))
    _check_ids(table, where)
    _check_diagnoses(table, where)
    theirs: dict[str, str] = raw.attrs.get("columns", {})
    table["age"] = _ages(table["age"], f"{where}: column '{theirs.get('age', 'age')}'")
    sex = "male or female" + (" (or map it in the site's sexes)" if "columns" in raw.attrs else "")
    for name, read, expected in (("sex", _sex, sex), ("skin_type", _skin_type, "I to VI")):
        table[name] = _each(table[name], read, f"{where}: column '{theirs.get(name, name)}'", expected)
    table["anatom_site"] = table["anatom_site"].mask(table["anatom_site"].str.casefold().isin(_UNKNOWN))
    for column in ("lesion_id", "patient_id"):
        table[column] = table[column].mask(table[column].str.casefold().isin(_UNKNOWN))
    lesions_known = bool(table["lesion_id"].notna().all())
    _name_by_patient(table, where)
    table["lesion_id"] = table["lesion_id"].fillna(table["image_id"])
    _set_conflicts_aside(table, where)
    extra = [c for c in table.columns if c not in COLUMNS and c != SET_ASIDE]
    table = table[[*COLUMNS, SET_ASIDE, *extra]].reset_index(drop=True)
    table.attrs = {**raw.attrs, "lesions_known": lesions_known}
    return table


def missing_images(table: pd.DataFrame) -> "pd.Series[bool]":
    """Return, per row, whether the image file is absent."""
    return ~table["path"].map(lambda path: Path(path).is_file()).astype(bool)


def _check_ids(table: pd.DataFrame, where: str) -> None:
    for column in ("image_id", "path"):
        blank = table.index[table[column].isna()]
        if len(blank):
            raise SiteError(f"{where}: row {blank[0]} has no {column}; every image needs one")
    repeated = table["image_id"].duplicated(keep=False)
    if repeated.any():
        first = table.loc[repeated, "image_id"].iloc[0]
        rows = [str(row) for row in table.index[table["image_id"] == first]]
        others = table.loc[repeated, "image_id"].nunique() - 1
        raise SiteError(
            f"{where}: the image id '{first}' is in rows {' and '.join(rows)}"
            + (f", and {others} more ids repeat" if others else "")
            + "; every image may be listed once, remove or rename the others"
        )


def _check_diagnoses(table: pd.DataFrame, where: str) -> None:
    unset = table["diagnosis"].isna() & table[SET_ASIDE].isna()
    table.loc[unset, SET_ASIDE] = "no diagnosis"
    usable = table.loc[table[SET_ASIDE].isna(), "diagnosis"]
    unknown = usable[~usable.isin(list(DIAGNOSES))]
    if len(unknown):
        first, others = tally(unknown)
        raise SiteError(
            f"{where}: row {unknown.index[0]}, column diagnosis: {first} is not a known diagnosis"
            f"{nearest(unknown.iloc[0], DIAGNOSES)}{others}; known are {', '.join(DIAGNOSES)}"
        )


def _ages(column: "pd.Series[str]", where: str) -> "pd.Series[float]":
    # The archive writes its oldest group as "85+".
    text = column.astype("str").str.strip().str.removesuffix("+")
    text = text.mask(text.str.casefold().isin(_UNKNOWN))
    plain = text.str.casefold().str.replace(_YEARS, r"\1", regex=True).str.replace(",", ".", regex=False)
    years = pd.to_numeric(plain, errors="coerce").astype(float)
    bad = text.notna() & ~years.between(0, 120)
    if bad.any():
        first, others = tally(column[bad].astype("str"))
        raise SiteError(
            f"{where}, row {bad.index[bad][0]}: {first} is not an age in years from 0 to 120{others}; "
            "correct it or leave it blank"
        )
    return years


def _each(
    column: "pd.Series[str]", read: Callable[[str], str | None], where: str, expected: str
) -> "pd.Series[str]":
    """Return the column with each distinct value put through ``read``, which raises KeyError at a wrong
    one."""
    meaning: dict[str, str | None] = {}
    wrong: list[str] = []
    for value in column.dropna().unique():
        try:
            meaning[value] = read(value.casefold())
        except KeyError:
            wrong.append(value)
    if wrong:
        bad = column[column.isin(wrong)]
        first, others = tally(bad)
        raise SiteError(
            f"{where}, row {bad.index[0]}: {first} is not understood{others}; expected {expected}, or "
            "blank where unknown"
        )
    return column.map(meaning).astype("str")


def _sex(value: str) -> str | None:
    return None if value in _UNKNOWN else _SEX[value]


def _skin_type(value: str) -> str | None:
    if value in _UNKNOWN:
        return None
    value = re.sub(r"^(fitzpatrick|skin type|type)\s*", "", value).removesuffix(".0").upper()
    if value in _SKIN.values():
        return value
    return _SKIN[value]


def _name_by_patient(table: pd.DataFrame, where: str) -> None:
    """Make lesion ids unique where each patient's are numbered from the start; refuse a few that clash."""
    known = table[table["patient_id"].notna() & table["lesion_id"].notna()]
    patients = known.groupby("lesion_id")["patient_id"].nunique()
    clashing = patients.index[patients > 1]
    if clashing.empty:
        return
    if len(clashing) <= MAX_CONFLICTS * len(patients):
        first = clashing[0]
        rows = ", ".join(str(row) for row in known.index[known["lesion_id"] == first][:5])
        raise SiteError(
            f"{where}: the lesion '{first}' belongs to {patients[first]} patients (rows {rows}); a "
            "lesion has one patient, correct its lesion or patient id"
        )
    table.loc[known.index, "lesion_id"] = known["patient_id"] + "/" + known["lesion_id"]


def _set_conflicts_aside(table: pd.DataFrame, where: str) -> None:
    usable = table[table[SET_ASIDE].isna()]
    kinds = usable.groupby("lesion_id")["diagnosis"].unique()
    conflicts = kinds[kinds.map(len) > 1]
    if conflicts.empty:
        return
    if len(conflicts) > max(1.0, MAX_CONFLICTS * len(kinds)):
        raise SiteError(
            f"{where}: {len(conflicts)} of {len(kinds)} lesions have images with different diagnoses (lesion "
            f"'{conflicts.index[0]}': {', '.join(sorted(conflicts.iloc[0]))}); check that lesion_id names "
            "one lesion and not a patient or a visit"
        )
    rows = table["lesion_id"].isin(conflicts.index) & table[SET_ASIDE].isna()
    table.loc[rows, SET_ASIDE] = "its lesion has images with different diagnoses"
