"""What ``fedderm patterns consensus`` does: annotators' rates on the screen, a table in a file."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedderm.cli.terminal import output, plain_table
from fedderm.whole_file import write_whole
from sites.annotations import labels, read_annotations
from sites.consensus import FEWEST, consensus, intervals, majority
from sites.diagnoses import BCC_PATTERNS
from sites.words import counted

Floats = NDArray[np.float64]


def write_consensus(annotations: Path, to: Path, seed: int) -> None:
    """Print annotators' sensitivity and specificity by pattern, and write the consensus table.

    ``to`` can be given to a site as its annotations: image_id, annotator (consensus), the patterns, and
    P(present) of each in ``<pattern>_probability``.
    """
    if to.suffix != ".csv":
        raise ValueError(f"--to {to}: expected a file that ends in .csv")
    table = read_annotations(annotations)
    shown = plain_table("pattern", "annotator", "images", "sensitivity", "specificity", folding="pattern")
    votes = plain_table("pattern", "images", "present: EM", "majority", "ties", "differ", folding="pattern")
    agreed: dict[str, pd.Series[float]] = {}
    unidentified = []
    for pattern in BCC_PATTERNS:
        images, annotators, answers = labels(table, pattern)
        found, share = consensus(answers), majority(answers)
        judged = ~np.isnan(share)
        if not judged.any():
            continue
        ends = intervals(answers, seed)
        for place, name in enumerate(annotators):
            count = int((~np.isnan(answers[:, place])).sum())
            if count:
                rates = (
                    _rate(found.sensitivity[place], ends.sensitivity[place]),
                    _rate(found.specificity[place], ends.specificity[place]),
                )
                shown.add_row(pattern, name, str(count), *rates)
        if (~np.isnan(answers)).sum(axis=1).max() < FEWEST:
            unidentified.append(pattern)
        ties = judged & (share == 0.5)
        differ = judged & ~ties & ((share > 0.5) != (found.labels() == 1))
        votes.add_row(
            pattern,
            str(int(judged.sum())),
            str(int(np.nansum(found.labels()))),
            str(int((share[judged] > 0.5).sum())),
            str(int(ties.sum())),
            str(int(differ.sum())),
        )
        agreed[pattern] = pd.Series(found.labels(), index=images)
        agreed[f"{pattern}_probability"] = pd.Series(found.probability.round(6), index=images)
    written = pd.DataFrame(agreed)
    written = written.reindex(columns=[*BCC_PATTERNS, *(f"{name}_probability" for name in BCC_PATTERNS)])
    written[list(BCC_PATTERNS)] = written[list(BCC_PATTERNS)].astype("Int64")
    written.insert(0, "annotator", "consensus")
    write_whole(to, written.rename_axis("image_id").to_csv(lineterminator="\n"))
    console = output()
    console.print(shown)
    console.print(votes)
    if unidentified:
        console.print(
            f"Of {', '.join(unidentified)} no image has {FEWEST} annotators: error rates do not follow from "
            "so few, and those above depend on the vote they start from. Use the labels, not the rates."
        )
    console.print(
        f"{to}: the consensus of {counted(len(written), 'image')}; 95 % intervals by bootstrap of images"
    )


def _rate(value: float, ends: Floats) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]"
