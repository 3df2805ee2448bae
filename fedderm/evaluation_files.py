"""What an evaluation leaves in a folder: documents, the long table, and counts."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fedderm.counts_file import write_counts
from fedderm.evaluation.counts import Counts
from fedderm.evaluation.documents import FederationEvaluation, SiteEvaluation
from fedderm.evaluation.long_format import COLUMNS, LongRow
from fedderm.whole_file import write_whole


def write_evaluation(
    folder: Path,
    sites: Mapping[str, SiteEvaluation],
    federation: FederationEvaluation,
    rows: Iterable[LongRow],
    counts: Mapping[str, Counts],
) -> None:
    """Write into ``folder/evaluation``, each file whole or not at all; ``counts`` by ``site/split``."""
    documents = {name: one.model_dump(mode="json") for name, one in sites.items()}
    write_whole(folder / "evaluation" / "sites.json", json_of(documents))
    write_whole(folder / "evaluation" / "federation.json", json_of(federation.model_dump(mode="json")))
    write_counts(folder / "evaluation" / "counts.npz", counts)
    write_whole(folder / "evaluation" / "metrics.csv", csv_of(rows))


def json_of(content: Any) -> str:
    """Return JSON for a file that people may look into."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def csv_of(rows: Iterable[LongRow]) -> str:
    """Return rows of the long format as CSV."""
    return table_csv(pd.DataFrame(list(rows), columns=list(COLUMNS)))


def table_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV, numbers with six digits."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
