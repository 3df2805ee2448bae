"""A site at work: its settings, its table and its pixels, opened once in a worker and kept across rounds."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from fedderm.config import from_json, to_json
from fedderm.config_sentences import sentence_of
from fedderm.devices import pick_device, use_threads
from fedderm.evaluation.documents import SplitSize
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.subgroup_levels import age_bands
from fedderm.feature_cache import CachedSite, open_features
from fedderm.inference import score_images
from fedderm.model.cascade import Cascade
from fedderm.model.heads import Heads
from fedderm.model.state import features_of, load_arrays
from fedderm.settings import Experiment, ModelSettings, TrainingSettings
from fedderm.trainset import Images, TrainSet, site_train_set
from fedderm.weights import Arrays
from sites.cache import PixelSettings, open_cache
from sites.catalogue import Site, load_site
from sites.salted import salted
from sites.site import SiteSettings

SITE_FILE = "site"
"""The key of a deployed node's ``--node-config`` that names its site file."""

TRUNK_FILE = "trunk"
"""The key of a deployed node's ``--node-config`` that names its file of a frozen trunk's weights."""

ATTRIBUTES = {
    "sex": "sex",
    "anatomical site": "anatom_site",
    "Fitzpatrick type": "skin_type",
    "diagnosis": "diagnosis",
}
"""Attributes of subgroups, beside age, and their columns. Skin type is recorded, never read off pixels."""

_SITE: TypeAdapter[Site] = TypeAdapter(Site)


class _SiteFile(BaseModel):
    site: list[Site]  # one; a list's entry is called by its name in a sentence


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
        try:
            return site_train_set(images, rows, self._classes(rows), settings)
        except ValueError as error:
            raise ValueError(f"site {self.settings.name}: {error}") from error

    def score(self, model: Heads, split: str, views: int, precision: str) -> "Seen":
        """Return the model's scores of a split's images, and the features behind them."""
        rows = self.rows(split)
        found = score_images(model, self.images, rows, views, precision)
        named = (
            np.ones(len(rows), np.int64)
            if found.differential is None
            else found.differential.argmax(axis=1) + 1
        )
        lesions = self.table["lesion_id"].to_numpy(dtype=str)[rows]
        return Seen(Scores(found.triage, named, self._classes(rows), lesions), found.features)

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


def _size(part: pd.DataFrame) -> SplitSize:
    positive = part[part["class_index"] > 0]
    return SplitSize(
        images=len(part),
        lesions=int(part["lesion_id"].nunique()),
        positive_images=len(positive),
        positive_lesions=int(positive["lesion_id"].nunique()),
    )


def site_of_node(experiment: Experiment, node_config: Mapping[str, Any]) -> Site:
    """Return the site that a Flower node holds.

    A deployed node reads the site file its node config names; a simulated one takes its own line of the
    experiment's ``sites``. Raises ValueError where neither can be done.
    """
    if SITE_FILE in node_config:
        return read_site_file(Path(str(node_config[SITE_FILE])))
    position = int(str(node_config.get("partition-id", -1)))
    if not 0 <= position < len(experiment.sites):
        raise ValueError(
            f"this node has partition {position} but the experiment lists {len(experiment.sites)} sites; "
            "start as many nodes as sites, or give the node its site file "
            "(--node-config 'site=\"/path/site.yaml\"')"
        )
    return experiment.sites[position]


def read_site_file(path: Path) -> Site:
    """Return the site a hospital describes in its own YAML file; its relative ``path`` starts at that file.

    Raises ValueError naming file and key.
    """
    raw: Any = None
    try:
        raw = {"site": [yaml.safe_load(path.read_text(encoding="utf-8-sig"))]}
        (site,) = _SiteFile.model_validate(raw).site
    except OSError as error:
        raise ValueError(f"{path}: the site file cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text; expected a YAML site file") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise ValueError(f"{path}: {sentence_of(error.errors(), raw, _SiteFile)}") from error
    return site if site.path is None else site.model_copy(update={"path": path.resolve().parent / site.path})


def open_site(
    experiment: Experiment, site: Site, salt: str, given_up: frozenset[str], trunk: str = ""
) -> LocalSite:
    """Return the site ready for work, without the images whose salted ids it has ``given_up``.

    With the digest of a frozen ``trunk``, models are shown that trunk's features.
    """
    return _open_site(to_json(experiment), site.model_dump_json(), salt, given_up, trunk)


@lru_cache(maxsize=64)
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
    frozen = CachedSite(cache.pixels, cache.identity, experiment, trunk) if trunk else None
    return LocalSite(site, table, cache.pixels, cache.fingerprints, cache.notes, frozen)


class _Cached(NamedTuple):
    """A site's files as they were read; what an experiment makes of them is in LocalSite."""

    table: pd.DataFrame
    pixels: npt.NDArray[np.uint8]
    fingerprints: pd.DataFrame
    notes: tuple[str, ...]
    identity: str
    """Name of the pixel cache's folder."""


@lru_cache(maxsize=64)
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


def worker_model(experiment: Experiment, arrays: Arrays) -> Heads:
    """Return this process's model with ``arrays`` loaded: a whole one, or under a frozen trunk its heads.

    A whole model is built once, not for every message.
    """
    use_threads(experiment.resources.cpus_per_site)
    gpus = experiment.resources.gpus_per_site
    model: Heads
    if experiment.training.trunk == "frozen":
        model = Heads(experiment.model, features_of(arrays)).to(pick_device(gpus))
    else:
        model = _build(experiment.model.model_dump_json(), gpus)
    load_arrays(model, arrays)
    return model


@lru_cache(maxsize=1)
def _build(settings_json: str, gpus: float) -> Cascade:
    model = Cascade(ModelSettings.model_validate_json(settings_json), pretrained=False)
    device = pick_device(gpus)
    # Channels last: 1.4 times as fast as torch's default order, on CPUs as on GPUs.
    return cast("Cascade", model.to(device).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
