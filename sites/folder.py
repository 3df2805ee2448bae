"""A hospital's own folder of images and its own table, whatever its columns are called."""

from pathlib import Path
from typing import Annotated, Final, Literal, Self

import pandas as pd
from pydantic import Field, field_validator, model_validator

from sites.diagnoses import DIAGNOSES
from sites.errors import SiteError
from sites.files import TABLE_SUFFIXES, nearest, quoted, read_table, source_folder, without_suffix
from sites.named_images import locate
from sites.site import SiteSettings
from sites.table import COLUMNS
from sites.words import composed, tally

EXCLUDE: Final = "exclude"
_NEEDED: Final = ("image_id", "diagnosis")
_MAPPABLE: Final = tuple(c for c in COLUMNS if c not in ("path", "split"))


class FolderSite(SiteSettings):
    """A folder of dermoscopic images with a CSV, TSV or Excel table that names each image's diagnosis.

    Holds: the hospital's own images (JPEG, PNG, TIFF, BMP, DICOM; subfolders too) and one table, a row per
    image.
    ``columns`` says what its columns are called, ``diagnoses`` what its words mean. Columns that are not
    mapped are carried along and can be selected by. The delimiter (comma, semicolon, tab, bar) and the
    encoding (UTF-8, UTF-16, Latin-1) are detected.

    Quirks: without a lesion column every image counts as a lesion of its own, and two images of one mole can
    land in train and in test: give one if the hospital has it. Blank diagnoses are set aside; unknown words
    are refused, not guessed. Nothing is written into the folder.

    Licence: the hospital's. Example: UDA-1 (CC0), 453 images of nevi and melanomas, no lesion ids.
    """

    source: Literal["folder"]
    table: Path | None = None
    """The table, relative to the folder. None: the only table in it."""
    images: Path | None = None
    """The folder of images, relative to the folder. None: the folder itself."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column to theirs, for instance ``image_id: file``. A column of our name needs no line."""
    diagnoses: dict[str, str] = Field(default_factory=dict)
    """Their word to a canonical diagnosis, or to ``exclude``; letter case and spaces do not matter."""
    sexes: dict[str, Literal["male", "female", "unknown"]] = Field(default_factory=dict)
    """Their word to male, female or unknown, for instance ``weiblich: female``."""
    sheet: str | int = 0
    """Excel sheet, by name or number (0 is the first)."""
    header_row: Annotated[int, Field(ge=1)] = 1
    """Row of the table that holds the column names; 1 is the first."""
    delimiter: str | None = None
    encoding: str | None = None

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        for ours in columns:
            if ours not in _MAPPABLE:
                raise ValueError(
                    f"'{ours}' is not one of our columns{nearest(ours, _MAPPABLE)}; known are "
                    f"{', '.join(_MAPPABLE)}"
                )
        return {ours: composed(theirs) for ours, theirs in columns.items()}

    @field_validator("diagnoses")
    @classmethod
    def _known_diagnoses(cls, diagnoses: dict[str, str]) -> dict[str, str]:
        for theirs, ours in diagnoses.items():
            if ours not in DIAGNOSES and ours != EXCLUDE:
                raise ValueError(
                    f"'{theirs}' is mapped to '{ours}', which is not a known "
                    f"diagnosis{nearest(ours, DIAGNOSES)}; known are {', '.join(DIAGNOSES)}, and {EXCLUDE}"
                )
        return diagnoses

    @model_validator(mode="after")
    def _has_path(self) -> Self:
        if self.path is None:
            raise ValueError("a folder site needs a path: the folder that holds the images and the table")
        return self

    def read(self, data_root: Path | None, work_dir: Path, seed: int) -> pd.DataFrame:  # noqa: ARG002
        """Return the raw lesion table; raises SiteError for the table's faults, naming file, row and
        column."""
        folder = source_folder(self.path, "", data_root)
        file = folder / self.table if self.table is not None else _only_table(folder)
        rows = read_table(
            file,
            delimiter=self.delimiter,
            encoding=self.encoding,
            sheet=self.sheet,
            header_row=self.header_row,
        )
        raw = self._renamed(rows, file)
        raw["diagnosis"], raw["set_aside"] = self._diagnoses(raw["diagnosis"], file)
        if "sex" in raw and self.sexes:
            words = {_plain(theirs): ours for theirs, ours in self.sexes.items()}
            raw["sex"] = raw["sex"].map(lambda word: words.get(_plain(str(word)), word), na_action="ignore")
        images = folder / self.images if self.images is not None else folder
        if not images.is_dir():
            raise SiteError(f"the image folder {images} does not exist; set the site's images")
        raw["path"] = locate(raw["image_id"], images, file)
        raw["image_id"] = raw["image_id"].map(without_suffix)
        raw.attrs = {"file": str(file), "columns": self.columns, "images": str(images)}
        return raw

    def _renamed(self, rows: pd.DataFrame, file: Path) -> pd.DataFrame:
        mapping = {ours: theirs for ours, theirs in self.columns.items() if theirs != ours}
        for ours in _MAPPABLE:
            theirs = self.columns.get(ours, ours)
            if theirs not in rows and (ours in _NEEDED or ours in self.columns):
                raise SiteError(
                    f"{file}: expected the column '{theirs}' for {ours}{nearest(theirs, rows.columns)}; "
                    f"found {quoted(rows.columns)}; set the site's columns.{ours} (or header_row, now "
                    f"{self.header_row})"
                )
        # Their unmapped columns of our names would clash with, or stand in for, what is mapped; path and
        # split are ours.
        taken = [c for c in ("path", *mapping) if c in rows]
        raw = rows.drop(columns=[c for c in taken if c not in mapping.values()])
        for ours, theirs in mapping.items():
            raw[ours] = rows[theirs]
        raw = raw.drop(columns=[c for c in ("split", "set_aside") if c in raw])
        if raw["image_id"].isna().any():
            row = raw.index[raw["image_id"].isna()][0]
            raise SiteError(
                f"{file}: row {row}, column '{self.columns.get('image_id', 'image_id')}' is blank; every row "
                "needs its image's name"
            )
        return raw

    def _diagnoses(self, words: "pd.Series[str]", file: Path) -> "tuple[pd.Series[str], pd.Series[str]]":
        """Return the canonical diagnosis and the reason to set the row aside, NA where there is none."""
        known = {name: name for name in DIAGNOSES} | {_plain(t): ours for t, ours in self.diagnoses.items()}
        plain = words.map(_plain, na_action="ignore")
        strange = words[plain.notna() & ~plain.isin(list(known))]
        if len(strange):
            first, others = tally(strange)
            column = self.columns.get("diagnosis", "diagnosis")
            raise SiteError(
                f"{file}: row {strange.index[0]}, column '{column}': {first} is not a known "
                f"diagnosis{nearest(strange.iloc[0], known)}{others}; known are {', '.join(known)}; "
                f"add {'them' if others else 'it'} to the site's diagnoses, as one of these or as exclude"
            )
        diagnosis = plain.map(known)
        excluded = diagnosis == EXCLUDE
        reason = ("diagnosis " + words).where(excluded)
        return diagnosis.mask(excluded), reason.mask(words.isna(), "no diagnosis")


def _plain(word: str) -> str:
    return " ".join(composed(word).casefold().split())


def _only_table(folder: Path) -> Path:
    tables = sorted(
        p
        for p in folder.iterdir()
        # An open workbook leaves a lock file "~$name.xlsx".
        if p.suffix.lower() in TABLE_SUFFIXES and p.is_file() and not p.name.startswith((".", "~$"))
    )
    if len(tables) != 1:
        found = quoted(p.name for p in tables) or "none"
        raise SiteError(
            f"{folder}: expected one table (CSV, TSV or Excel), found {found}; set the site's table"
        )
    return tables[0]
