"""What several annotators say of an image's dermoscopic patterns: the table, its check, and a site's labels.

One row per image and annotator: ``image_id, annotator`` and the seven columns of
``sites.diagnoses.BCC_PATTERNS`` with 1 (present), 0 (absent) or nothing (not judged). Not every annotator
sees every image, nor every image an annotator. Other columns are ignored. A table of one annotator, such as a
consensus, is one too.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sites.consensus import consensus
from sites.diagnoses import BCC_PATTERNS
from sites.errors import SiteError
from sites.files import nearest, quoted, read_table
from sites.words import counted, tally

COLUMN: Final = "pattern:{}"
"""Column of a lesion table with a pattern's label: 0, 1 or NaN where nobody judged it."""
_VALUES: Final = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}


def read_annotations(file: Path) -> pd.DataFrame:
    """Return the table: image_id, annotator, and each pattern as 0, 1 or NaN.

    Raises SiteError, in one sentence, for a missing column, a row without image or annotator, a value that is
    no label, an image that an annotator judged twice, and a table without any label.
    """
    table = read_table(file)
    for column in ("image_id", "annotator", *BCC_PATTERNS):
        if column not in table.columns:
            raise SiteError(
                f"{file}: the column '{column}' is missing{nearest(column, table.columns)}; expected "
                f"image_id, annotator and {', '.join(BCC_PATTERNS)}, found {quoted(table.columns)}"
            )
    for column in ("image_id", "annotator"):
        blank = table.index[table[column].isna()]
        if len(blank):
            raise SiteError(f"{file}: row {blank[0]} has no {column}; every row needs one")
    for pattern in BCC_PATTERNS:
        text = table[pattern].astype("str").str.strip()
        given = table[pattern].notna()
        wrong = given & ~text.isin(list(_VALUES))
        if wrong.any():
            first, others = tally(text[wrong])
            raise SiteError(
                f"{file}: row {wrong.index[wrong][0]}, column '{pattern}': {first} is no label{others}; "
                "write 1 (present), 0 (absent) or leave it empty (not judged)"
            )
        table[pattern] = text.map(_VALUES).where(given).astype(float)
    twice = table.duplicated(["image_id", "annotator"], keep=False)
    if twice.any():
        row = table[twice].iloc[0]
        rows = table.index[(table["image_id"] == row["image_id"]) & (table["annotator"] == row["annotator"])]
        raise SiteError(
            f"{file}: rows {' and '.join(map(str, rows))} both hold what {row['annotator']} says of "
            f"{row['image_id']}; keep one of them"
        )
    if not table[list(BCC_PATTERNS)].notna().to_numpy().any():
        raise SiteError(f"{file}: no image has a label; write 1 or 0 in the columns of the patterns")
    return table[["image_id", "annotator", *BCC_PATTERNS]].reset_index(drop=True)


def labels(table: pd.DataFrame, pattern: str) -> tuple[pd.Index, list[str], NDArray[np.float64]]:
    """Return images, annotators, and what each says of a pattern, (images, annotators), NaN where nothing."""
    wide = table.set_index(["image_id", "annotator"])[pattern].unstack("annotator")  # noqa: PD010 - no mean of pairs that are unique
    return wide.index, [str(name) for name in wide.columns], wide.to_numpy(dtype=float)


def agreed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the EM consensus: a row per image (the index), a column per pattern, 0, 1 or NaN."""
    found = {}
    for pattern in BCC_PATTERNS:
        images, _, given = labels(table, pattern)
        found[pattern] = pd.Series(consensus(given).labels(), index=images)
    return pd.DataFrame(found)


def with_patterns(table: pd.DataFrame, file: Path) -> tuple[pd.DataFrame, str]:
    """Return a lesion table with the consensus of ``file`` in its pattern columns, and a note.

    Raises SiteError for an unusable file, and where it names none of the site's images.
    """
    annotations = read_annotations(file)
    known = annotations["image_id"].isin(set(table["image_id"]))
    if not known.any():
        raise SiteError(
            f"{file}: names none of the site's {counted(len(table), 'image')} (its first is "
            f"'{annotations['image_id'].iloc[0]}', the site's '{table['image_id'].iloc[0]}'); check image_id"
        )
    # Of all rows: an image that the site has set aside still tells what its annotators are worth.
    found = agreed(annotations).reindex(table["image_id"])
    columns = {COLUMN.format(name): found[name].to_numpy() for name in BCC_PATTERNS}
    annotated = int(found.notna().any(axis=1).sum())
    annotators = counted(len(annotations["annotator"].unique()), "annotator")
    note = f"{annotated} of {len(table)} images have pattern labels, by {annotators}"
    return table.assign(**columns), note


def pattern_labels(table: pd.DataFrame) -> NDArray[np.float64]:
    """Return the labels (N, 7) of a lesion table's images, NaN where there are none."""
    columns = [COLUMN.format(name) for name in BCC_PATTERNS]
    if columns[0] not in table.columns:
        return np.full((len(table), len(columns)), np.nan)
    return table[columns].to_numpy(dtype=float)
