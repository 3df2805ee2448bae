"""One site's images, labels and metadata as a worker has them open: what trains, and what is judged."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedderm.evaluation.documents import SplitSize
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.subgroup_levels import age_bands
from fedderm.feature_cache import CachedSite, open_features
from fedderm.inference import score_images
from fedderm.metadata import Metadata
from fedderm.model.heads import Heads
from fedderm.training_settings import TrainingSettings
from fedderm.trainset import Images, TrainSet, site_train_set
from sites.annotations import pattern_labels
from sites.diagnosis_schemes import NAMES, DiagnosisScheme, diagnosis_labels
from sites.metadata import Field, encoded
from sites.site import SiteSettings

ATTRIBUTES = {
    "sex": "sex",
    "anatomical site": "anatom_site",
    "Fitzpatrick type": "skin_type",
    "diagnosis": "diagnosis",
}
"""Attributes of subgroups, beside age, and their columns. Skin type is recorded, never read off pixels."""


@dataclass(frozen=True)
class LocalSite:
    """One site's images: row i of ``table`` is image i of ``pixels`` (N, S, S, 3)."""

    settings: SiteSettings
    table: pd.DataFrame
    pixels: npt.NDArray[np.uint8]
    fingerprints: pd.DataFrame
    notes: tuple[str, ...]
    frozen: CachedSite | None = None
    """Where features of a frozen trunk are kept; None: models are shown pixels."""
    diagnosis_scheme: DiagnosisScheme = "none"
    """What the model's head of diagnoses tells apart."""
    metadata_fields: tuple[Field, ...] = ()
    """What the model is told of patients."""

    @cached_property
    def images(self) -> Images:
        """Return what a model is shown: pixels, or the frozen trunk's features (N, V, T, F) for its heads.

        Features are computed with the first use. Raises ValueError where this site's trunk is another.
        """
        if self.frozen is None:
            return self.pixels
        try:
            return open_features(self.frozen)
        except ValueError as error:
            raise ValueError(f"site {self.settings.name}: {error}") from error

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Return the positions of a split's images."""
        return np.flatnonzero(self.table["split"].to_numpy() == split).astype(np.int64)

    def train_set(self, settings: TrainingSettings) -> TrainSet:
        """Return the images this site trains on; raises ValueError naming the site where it cannot."""
        try:
            return site_train_set(
                self.images, self._taught.rows, self._taught.classes, settings, *self._taught.beside
            )
        except ValueError as error:
            raise ValueError(f"site {self.settings.name}: {error}") from error

    @cached_property
    def _taught(self) -> "_Taught":
        """What is known of the train split's images, read off the table once and not in every round."""
        rows = self.rows("train")
        named = self.named(rows)
        diagnoses = None if named is None else (named, len(NAMES[self.diagnosis_scheme]))
        metadata = Metadata(self.known(rows), self.metadata_fields) if self.metadata_fields else None
        return _Taught(rows, self._classes(rows), (self.patterns(rows), diagnoses, metadata))

    def score(self, model: Heads, split: str, views: int, precision: str) -> "Seen":
        """Return the model's scores of a split's images, and the features behind them."""
        rows = self.rows(split)
        known = self.known(rows) if self.metadata_fields else None
        found = score_images(model, self.images, rows, views, precision, known)
        named = (
            np.ones(len(rows), np.int64)
            if found.differential is None
            else found.differential.argmax(axis=1) + 1
        )
        lesions = self.table["lesion_id"].to_numpy(dtype=str)[rows]
        scores = Scores(found.triage, named, self._classes(rows), lesions)
        return Seen(scores, found.features, found.patterns, found.diagnoses)

    def patterns(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64] | None:
        """Return the labels (n, 7) of dermoscopic patterns, NaN where there are none; None: of no image."""
        found = pattern_labels(self.table.iloc[rows])
        return None if np.isnan(found).all() else found

    def named(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """Return the diagnoses (n,) of ``rows`` among those of the model's head; None: it has none."""
        if self.diagnosis_scheme == "none":
            return None
        return diagnosis_labels(self.table.iloc[rows], self.diagnosis_scheme)

    def known(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the metadata (n, M) of ``rows`` that the model is told."""
        return encoded(self.table.iloc[rows], self.metadata_fields)

    def attributes(self, split: str) -> dict[str, npt.NDArray[np.str_]]:
        """Return the levels of a split's images by attribute, each (n,), "" where not recorded.

        Attributes that the site records for no image at all are left out.
        """
        part = self.table.iloc[self.rows(split)]
        found = {"age": age_bands(part["age"].to_numpy(dtype=np.float64, na_value=np.nan))}
        for attribute, column in ATTRIBUTES.items():
            found[attribute] = part[column].astype("string").fillna("").to_numpy(dtype=str)
        return {name: levels for name, levels in found.items() if (levels != "").any()}

    def log_odds(self) -> float:
        """Return the log odds of malignancy among the train split's images: what a site knows of its own
        prevalence."""
        malignant = self._classes(self.rows("train")) > 0
        return float(np.log(malignant.sum() / (~malignant).sum()))

    def sizes(self) -> dict[str, SplitSize]:
        """Return what each split holds."""
        return {str(split): _size(part) for split, part in self.table.groupby("split", observed=True)}

    def diagnoses(self) -> dict[str, int]:
        """Return the number of images by diagnosis."""
        used = self.table[self.table["split"].notna()]
        return {str(name): int(count) for name, count in used["diagnosis"].value_counts().items()}

    def _classes(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self.table["class_index"].to_numpy(dtype=np.int64)[rows]


class _Taught(NamedTuple):
    """What ``site_train_set`` is given beside images and settings."""

    rows: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    beside: tuple[npt.NDArray[np.float64] | None, tuple[npt.NDArray[np.int64], int] | None, Metadata | None]


class Seen(NamedTuple):
    """What a model says of a split, and what it looked at."""

    scores: Scores
    features: npt.NDArray[np.float32]
    """``(n, F)`` pooled features of the trunk."""
    patterns: npt.NDArray[np.float64] | None = None
    """``(n, 8)`` logits of BCC and seven patterns, of a model that has them."""
    diagnoses: npt.NDArray[np.float64] | None = None
    """``(n, K)`` logits of diagnoses, of a model with that head."""


def _size(part: pd.DataFrame) -> SplitSize:
    positive = part[part["class_index"] > 0]
    return SplitSize(
        images=len(part),
        lesions=int(part["lesion_id"].nunique()),
        positive_images=len(positive),
        positive_lesions=int(positive["lesion_id"].nunique()),
    )
