"""A model's predictions for a hospital's own images: written beside its site file, and sent to nobody."""

from pathlib import Path

import numpy as np
import pandas as pd

from fedderm.evaluation.calibration_maps import CalibrationMap
from fedderm.judging import Judged
from fedderm.local_site import LocalSite
from fedderm.whole_file import write_whole


def prediction_table(site: LocalSite, judged: Judged) -> pd.DataFrame:
    """Return a row for each image of the calibration and the test split: what it is, and what is said of it.

    Columns: image_id, lesion_id, split, diagnosis, logit (raw, of malignancy), probability and decision at
    the federation's point, and at the site's own. Decisions are of single images; the report's are of a
    lesion's mean.
    """
    points = {"federation": judged.evaluation.federation_point, "site": judged.evaluation.site_point}
    parts = []
    for split, scores in judged.scores.items():
        part = site.table.iloc[site.rows(split)][["image_id", "lesion_id", "diagnosis"]].copy()
        part["split"], part["logit"] = split, scores.triage
        for name, point in points.items():
            part[f"probability_{name}"] = CalibrationMap.of(point).probabilities(scores.triage)
            called = scores.triage >= point.threshold
            part[f"decision_{name}"] = np.where(called, "malignant", "benign")
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def keep_predictions(path: Path, site: LocalSite, judged: Judged) -> None:
    """Write the table as CSV, whole or not at all, for its owner's eyes; raises OSError where the disk
    refuses."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(path, prediction_table(site, judged).to_csv(index=False, lineterminator="\n"))
    path.chmod(0o600)
