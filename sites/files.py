"""Reading a source's files: its folder, its tables of any common dialect, and its image files."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import pandas as pd

from sites.dicom import DICOM_SUFFIXES, begins_as_dicom
from sites.errors import SiteError
from sites.words import composed

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}) | DICOM_SUFFIXES
TABLE_SUFFIXES: Final = frozenset({".csv", ".tsv", ".tab", ".xlsx", ".xlsm"})
_DELIMITERS: Final = (",", ";", "\t", "|")


def nearest(word: object, known: Iterable[object]) -> str:
    """Return "; the nearest is '...'" for a message, or an empty string where nothing is near."""
    by_lower = {str(name).casefold(): str(name) for name in known}
    found = difflib.get_close_matches(str(word).strip().casefold(), list(by_lower), n=1, cutoff=0.6)
    return f"; the nearest is '{by_lower[found[0]]}'" if found else ""


def quoted(names: Iterable[object], most: int = 12) -> str:
    """Return names as "'a', 'b' and 3 more", for a message."""
    listed = [f"'{name}'" for name in names]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def resolve(path: Path, data_root: Path | None) -> Path:
    """Return ``path`` as an absolute path; a relative one starts at the data root.

    Raises SiteError where ``path`` is relative and there is no data root, or the data root does not exist.
    """
    path = path.expanduser()
    if path.is_absolute():
        return path
    if data_root is None:
        raise SiteError(
            f"the path '{path}' is relative and no data root was given; pass --data-root, or write an "
            "absolute path"
        )
    root = data_root.expanduser().resolve()
    if not root.is_dir():
        raise SiteError(f"the data root {root} is not a folder; pass the folder that holds the sources")
    return root / path


def source_folder(path: Path | None, usual: str, data_root: Path | None) -> Path:
    """Return a source's existing folder: ``path``, or its ``usual`` name below the data root."""
    folder = resolve(path if path is not None else Path(usual), data_root)
    if folder.is_dir():
        return folder
    present = sorted(entry.name for entry in folder.parent.iterdir()) if folder.parent.is_dir() else []
    raise SiteError(
        f"the folder {folder} does not exist{nearest(folder.name, present)}; set the site's path, or put "
        "the source's files there"
    )


def first_file(folder: Path, names: Iterable[str], what: str) -> Path:
    """Return the first of ``names`` that exists in ``folder``; raises SiteError naming all of them."""
    names = list(names)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise SiteError(
        f"{folder}: {what} is not there; expected one of {quoted(names)}, "
        f"found {quoted(sorted(p.name for p in folder.iterdir()), most=8) or 'an empty folder'}"
    )


def read_table(
    file: Path,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    sheet: str | int = 0,
    header_row: int = 1,
) -> pd.DataFrame:
    """Return a CSV, TSV or Excel file as a table of text, NA where a cell is empty.

    The index holds the row's number in the file (``header_row`` is 1 for the first), so that a message can
    name it. Delimiter and encoding are detected unless given; accents are composed (NFC). Raises SiteError
    for a file that is absent, empty or no table.
    """
    if not file.is_file():
        raise SiteError(f"the table {file} does not exist")
    if file.suffix.lower() in {".xlsx", ".xlsm"}:
        cells = _read_workbook(file, sheet, header_row)
    else:
        cells = _read_text(file, delimiter, encoding, header_row)
    # The header is read as a row like others: pandas would quietly rename the second of two equal columns.
    cells = cells.loc[:, cells.notna().any()]
    names = cells.iloc[0] if len(cells) else pd.Series(dtype="str")
    texts = [composed(str(name)).strip() if pd.notna(name) else "" for name in names]
    header = [text or f"(column {n})" for n, text in enumerate(texts, start=1)]
    _refuse_repeated(file, header)
    frame = cells.iloc[1:].set_axis(header, axis="columns")
    frame.index = pd.RangeIndex(header_row + 1, header_row + 1 + len(frame))
    for column in frame.columns:
        text = frame[column].astype("str").str.normalize("NFC").str.strip()
        frame[column] = text.mask(text == "")
    frame = frame.dropna(how="all")
    if frame.empty:
        raise SiteError(f"{file} has no rows below its header (row {header_row})")
    return frame


def _read_workbook(file: Path, sheet: str | int, header_row: int) -> pd.DataFrame:
    try:
        with pd.ExcelFile(file) as book:
            names = book.sheet_names
            if (sheet not in names) if isinstance(sheet, str) else not 0 <= sheet < len(names):
                raise SiteError(
                    f"{file} has no sheet '{sheet}'; there are {quoted(names)}; set the site's sheet"
                )
            return book.parse(sheet, header=None, skiprows=header_row - 1, dtype=str)
    except SiteError:
        raise
    except (ValueError, IndexError, KeyError, BadZipFile) as error:
        raise SiteError(
            f"{file} is no Excel workbook: it is damaged, or another kind of file under this name; save it "
            "again as .xlsx or .csv"
        ) from error


def _read_text(file: Path, delimiter: str | None, encoding: str | None, header_row: int) -> pd.DataFrame:
    encoding = encoding or _encoding(file)
    try:
        if delimiter is None:
            lines = file.read_text(encoding=encoding).splitlines()
            header = lines[header_row - 1] if len(lines) >= header_row else ""
            delimiter = max(_DELIMITERS, key=header.count)
        return pd.read_csv(
            file,
            sep=delimiter,
            encoding=encoding,
            dtype=str,
            header=None,
            skiprows=header_row - 1,
            skip_blank_lines=False,
        )
    except pd.errors.EmptyDataError as error:
        raise SiteError(
            f"{file} is empty; expected a row of column names and a row for each image"
        ) from error
    except UnicodeError as error:
        raise SiteError(f"{file} is not {encoding} text; correct the site's encoding") from error
    except LookupError as error:
        raise SiteError(f"there is no encoding '{encoding}'; write utf-8, utf-16 or latin-1") from error
    except (ValueError, pd.errors.ParserError) as error:
        raise SiteError(f"{file} cannot be read as a table: {_fault(str(error))}") from error


def _fault(message: str) -> str:
    """Return in our words what pandas found wrong with a table of text."""
    if cells := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message):
        return (
            f"row {cells[2]} has {cells[3]} cells and those above it {cells[1]}; put a text that holds the "
            "delimiter in quotes"
        )
    if row := re.search(r"EOF inside string starting at row (\d+)", message):
        return f"the quotation mark in row {int(row[1]) + 1} is never closed; close it or take it away"
    return " ".join(message.split())


def _encoding(file: Path) -> str:
    head = file.read_bytes()
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    try:
        head.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"


def _refuse_repeated(file: Path, header: list[str]) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise SiteError(f"{file}: the column {quoted(repeated)} is there twice; rename one")


def need_columns(frame: pd.DataFrame, needed: Iterable[str], file: Path, remedy: str) -> None:
    """Raise SiteError naming file, the first missing column, the columns there and the nearest of them."""
    for column in needed:
        if column not in frame.columns:
            raise SiteError(
                f"{file}: the column '{column}' is missing{nearest(column, frame.columns)}; found "
                f"{quoted(frame.columns)}; {remedy}"
            )


def is_image_file(path: str) -> bool:
    """Return whether a file is called an image, or is DICOM without being called so.

    DICOM files often have no suffix, or, named by a UID, one of digits. A ``DICOMDIR`` lists others.
    """
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 - 25,000 Paths are slow
    if suffix in IMAGE_SUFFIXES:
        return True
    unnamed = not suffix or suffix[1:].isdigit()
    return unnamed and os.path.basename(path) != "DICOMDIR" and begins_as_dicom(path)  # noqa: PTH119


def without_suffix(name: str) -> str:
    """Return an image's name with forward slashes and without the suffix of an image file."""
    name = name.replace("\\", "/")
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def images_by_stem(folders: Iterable[Path]) -> dict[str, Path]:
    """Return image file by name without suffix, of the files directly inside ``folders`` that exist."""
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            for name in sorted(entry.name for entry in entries):
                if is_image_file(os.path.join(folder, name)):  # noqa: PTH118
                    found.setdefault(without_suffix(name), folder / name)
    return found


def paths_of(image_ids: "pd.Series[str]", found: Mapping[str, Path], expected: Path) -> "pd.Series[str]":
    """Return the absolute path of each image; one that was not found gets ``expected/ID.jpg``."""
    return image_ids.map(lambda name: str(found.get(name, expected / f"{name}.jpg")))
