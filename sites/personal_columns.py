"""Columns of a site's table that look as if they name people, or hold dates: told before anyone trains."""

import re
from typing import Final

import pandas as pd

from sites.table import COLUMNS

_PERSONAL: Final = frozenset(
    {
        *("surname", "lastname", "firstname", "forename", "fullname", "patientname", "initials"),
        *("vorname", "nachname", "familienname", "patientenname"),
        *("birth", "birthdate", "birthday", "dateofbirth", "dob", "geburtsdatum", "geburtstag", "geb"),
        *("address", "adresse", "street", "strasse", "phone", "telephone", "telefon", "mobile"),
        *("email", "mail", "ssn", "mrn", "insurance", "versichertennummer", "fallnummer"),
    }
)
_OF_A_PERSON: Final = frozenset({"patient", "pat", "first", "last", "family", "given"})
_IDS: Final = ("patient_id", "lesion_id", "image_id")
_NAME: Final = r"^[^\W\d_][^\W\d_'’-]+ ?[,^] ?[^\W\d_][\w'’^ .-]*$"
"""Quixworth, Zephyrine; Quixworth^Zephyrine."""
_DATE: Final = (
    r"^(?:\d{4}-\d{1,2}-\d{1,2}|(?:19|20)\d{6}|\d{1,2}[./]\d{1,2}[./]\d{2,4})(?:[T ]\d{1,2}:\d{2}.*)?$"
)
_MOST: Final = 0.8
"""Share of a column's values that must look alike."""


def personal_columns(table: pd.DataFrame) -> list[str]:
    """Return the carried columns whose names say that they identify people, and our ids that are names."""
    return [
        str(column)
        for column in table.columns
        if (column in _IDS and _mostly(table[column], _NAME))
        or (column not in COLUMNS and _says_person(str(column)))
    ]


def date_ranges(table: pd.DataFrame) -> dict[str, tuple[pd.Timestamp, pd.Timestamp]]:
    """Return the first and the last date of each carried column that holds dates."""
    found = {}
    for column in table.columns:
        if column in COLUMNS or not _mostly(table[column], _DATE):
            continue
        texts = table[column].dropna().astype("str").str.strip()
        texts = texts[texts.str.match(_DATE)].str.split("[T ]", regex=True).str[0]
        day_first = bool(texts.str.contains("[./]").any())
        days = pd.to_datetime(texts, format="mixed", dayfirst=day_first, errors="coerce")
        if days.notna().any():
            found[str(column)] = (days.min(), days.max())
    return found


def _says_person(column: str) -> bool:
    spaced = re.sub(r"([a-zà-ÿ])([A-Z])", r"\1 \2", column).casefold()
    words = set(re.findall(r"[^\W\d_]+", spaced))
    joined = "".join(re.findall(r"[^\W\d_]+", spaced))
    if "name" in words and (words == {"name"} or words & _OF_A_PERSON):
        return True
    return bool((words | {joined}) & _PERSONAL)


def _mostly(column: "pd.Series[str]", pattern: str) -> bool:
    if pd.api.types.is_numeric_dtype(column):
        return False
    texts = column.dropna().astype("str").str.strip()
    return bool(len(texts)) and float(texts.str.match(pattern).mean()) >= _MOST
