"""A site at work: its settings, its table and its pixels, opened once in a worker and kept across rounds."""

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import TypeAdapter

from fedderm.config import from_json, to_json
from fedderm.devices import pick_device, use_threads
from fedderm.evaluation.documents import SplitSize
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.subgroup_levels import age_bands
from fedderm.feature_cache import CachedSite, open_features
from fedderm.inference import score_images
from fedderm.metadata import Metadata
from fedderm.model.cascade import Cascade
from fedderm.model.frozen import OnFrozenTrunk, built_trunk, is_trunk
from fedderm.model.heads import Heads
from fedderm.model.lora import Adapted
from fedderm.model.stages import LastStages
from fedderm.model.state import features_of, load_arrays
from fedderm.settings import Experiment, ModelSettings
from fedderm.training_settings import TrainingSettings
from fedderm.trainset import Images, TrainSet, site_train_set
from fedderm.weights import Arrays
from sites.annotations import pattern_labels
from sites.cache import PixelSettings, open_cache
from sites.catalogue import Site, load_site
from sites.diagnosis_schemes import NAMES, DiagnosisScheme, diagnosis_labels
from sites.metadata import Field, encoded
from sites.salted import salted
from sites.site import SiteSettings

ATTRIBUTES = {
    "sex": "sex",
    "anatomical site": "anatom_site",
    "Fitzpatrick type": "skin_type",
    "diagnosis": "diagnosis",
}
"""Attributes of subgroups, beside age, and their columns. Skin type is recorded, never read off pixels."""

_SITE: TypeAdapter[Site] = TypeAdapter(Site)

_OPEN_SITES: Final = 1024
"""Sites that a worker keeps open: more than it has. One that is opened anew for each message costs ten times
as much as its message (benchmarks.sites); open, it is a table and a map of a file."""


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
        rows, images = self.rows("train"), self.images
        named = self.named(rows)
        diagnoses = None if named is None else (named, len(NAMES[self.diagnosis_scheme]))
        metadata = Metadata(self.known(rows), self.metadata_fields) if self.metadata_fields else None
        beside = (self.patterns(rows), diagnoses, metadata)
        try:
            return site_train_set(images, rows, self._classes(rows), settings, *beside)
        except ValueError as error:
            raise ValueError(f"site {self.settings.name}: {error}") from error

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


def open_site(
    experiment: Experiment, site: Site, salt: str, given_up: frozenset[str], trunk: str = ""
) -> LocalSite:
    """Return the site ready for work, without the images whose salted ids it has ``given_up``.

    Where only heads train, models are shown the features of the ``trunk`` of that digest.
    """
    return _open_site(to_json(experiment), site.model_dump_json(), salt, given_up, trunk)


@lru_cache(maxsize=_OPEN_SITES)
def _open_site(
    experiment_json: str, site_json: str, salt: str, given_up: frozenset[str], trunk: str
) -> LocalSite:
    experiment = from_json(experiment_json)
    site = _SITE.validate_json(site_json)
    where = (experiment.data_root, experiment.work_dir)
    cache = _read(site_json, *where, experiment.seed, experiment.model.pixels(), salt)
    table = cache.table
    if given_up:
        # Emptied, not removed: row i must stay image i of the pixel cache.
        hidden = table["image_id"].astype(str).map(lambda one: salted("image", one, salt)).isin(given_up)
        table = table.assign(split=table["split"].where(~hidden, None))
    shown_features = trunk and experiment.training.trunk == "frozen"
    frozen = CachedSite(cache.pixels, cache.identity, experiment, trunk) if shown_features else None
    told = (experiment.model.diagnoses, experiment.model.metadata)
    return LocalSite(site, table, cache.pixels, cache.fingerprints, cache.notes, frozen, *told)


class _Cached(NamedTuple):
    """A site's files as they were read; what an experiment makes of them is in LocalSite."""

    table: pd.DataFrame
    pixels: npt.NDArray[np.uint8]
    fingerprints: pd.DataFrame
    notes: tuple[str, ...]
    identity: str
    """Name of the pixel cache's folder."""


@lru_cache(maxsize=_OPEN_SITES)
def _read(
    site_json: str,
    data_root: Path | None,
    work_dir: Path,
    seed: int,
    pixels: PixelSettings,
    sitting: str,
) -> _Cached:
    """Return a site's table and pixels, read once a sitting, of which the salt tells.

    A comparison has a hundred cells over the same sites, and a large table takes seconds to read.
    """
    del sitting
    data = load_site(_SITE.validate_json(site_json), data_root, work_dir, seed)
    cache = open_cache(data, pixels, work_dir)
    # Without the 4 KB a image that only the simulation's own audit looks at.
    fingerprints = cache.fingerprints[["image_id", "content"]].copy()
    return _Cached(cache.table, cache.pixels, fingerprints, tuple(data.notes), cache.folder.name)


def site_seed(experiment: Experiment, name: str, round_number: int) -> list[int]:
    """Return the seed of a site's randomness in a round: of the site's name, not of its place in a list."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return [experiment.training_seed, int.from_bytes(digest, "big"), round_number]


def worker_model(experiment: Experiment, arrays: Arrays, trunk: str = "") -> Heads:
    """Return this process's model with ``arrays`` loaded: a whole one, or what is trained on a frozen trunk.

    ``trunk``: the digest of the one that adapters or last stages belong to; without it arrays of a trunk are
    those of a whole model. A network is built once, not for every message.
    Raises ValueError where this machine's trunk is another, or the arrays do not fit.
    """
    use_threads(experiment.resources.cpus_per_site)
    gpus = experiment.resources.gpus_per_site
    model: Heads
    depth = experiment.training.trunk
    if depth == "trained" or (not trunk and any(is_trunk(name) for name in arrays)):
        return whole_model(experiment.model, arrays, gpus)
    if depth in ("lora", "last_stages"):
        model = _on_frozen(to_json(experiment), trunk, gpus)
    else:
        model = Heads(experiment.model, features_of(arrays)).to(pick_device(gpus))
    load_arrays(model, arrays)
    return model


def whole_model(settings: ModelSettings, arrays: Arrays, gpus: float | Literal["auto"] = 0) -> Heads:
    """Return this process's whole model with ``arrays`` loaded, on the CPU unless ``gpus`` is above 0."""
    model = _build(settings.model_dump_json(), gpus)
    load_arrays(model, arrays)
    return model


@lru_cache(maxsize=1)
def _build(settings_json: str, gpus: float | Literal["auto"]) -> Cascade:
    return on_device(Cascade(ModelSettings.model_validate_json(settings_json), pretrained=False), gpus)


@lru_cache(maxsize=1)
def _on_frozen(experiment_json: str, trunk: str, gpus: float | Literal["auto"]) -> OnFrozenTrunk:
    experiment = from_json(experiment_json)
    whole = built_trunk(experiment.model, experiment.training_seed, trunk)
    kind = Adapted if experiment.training.trunk == "lora" else LastStages
    return kind(on_device(whole, gpus), experiment.model, experiment.training)


M = TypeVar("M", bound=Heads)


def on_device(model: M, gpus: float | Literal["auto"]) -> M:
    """Return the model on the CPU unless ``gpus`` is above 0, in the order of channels that is fastest."""
    device = pick_device(gpus)
    # Channels last: 1.4 times as fast as torch's default order, on CPUs as on GPUs.
    return cast("M", model.to(device).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
