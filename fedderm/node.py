"""A site opened once in a worker, and kept open across rounds and experiments."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import TypeAdapter

from fedderm.config import from_json, to_json
from fedderm.feature_cache import CachedSite
from fedderm.local_site import LocalSite
from fedderm.settings import Experiment
from sites.cache import PixelSettings, open_cache
from sites.catalogue import Site, load_site
from sites.salted import salted

_SITE: TypeAdapter[Site] = TypeAdapter(Site)

_OPEN_SITES: Final = 1024
"""Sites that a worker keeps open: more than it has. One that is opened anew for each message costs ten times
as much as its message (benchmarks.sites); open, it is a table and a map of a file."""


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
