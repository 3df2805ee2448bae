"""Before a simulation trains: load every site, decode its images, and prove that nothing is held twice."""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pandas as pd

from fedderm.federation.session import Observer
from fedderm.runs import RunFolder
from fedderm.settings import Experiment
from sites import simulated
from sites.audit import AuditResult, audit
from sites.cache import PixelCache, open_cache
from sites.catalogue import SiteData, load_site, site_summary
from sites.gallery import contact_sheet
from sites.giving_way import resolve
from sites.salted import salted
from sites.words import counted


class PreparationObserver(Observer, Protocol):
    """An observer that is also told how a preparation goes on."""

    def say(self, sentence: str) -> None:
        """Take note of what was decided."""

    def progress(self, title: str, done: int, total: int) -> None:
        """Take note that ``done`` of ``total`` steps are done."""


@dataclass(frozen=True)
class Prepared:
    """The sites as they will take part, and what the audit found."""

    sites: tuple[SiteData, ...]
    result: AuditResult
    removed: Mapping[str, frozenset[str]]
    """Site to the ids of images that it leaves to another site, or to another of its splits."""

    def given_up(self, salt: str) -> dict[str, list[str]]:
        """Return ``removed`` as salted ids, for the messages; sites that keep all are left out."""
        return {
            name: sorted(salted("image", one, salt) for one in ids)
            for name, ids in self.removed.items()
            if ids
        }

    def sentences(self) -> list[str]:
        """Return what a person wants to know of an audit that passed."""
        checked = self.result.sites
        images, lesions = (
            sum(getattr(one, key) for one in checked.values()) for key in ("images", "lesions")
        )
        told = [
            f"audit: {counted(images, 'image')} of {counted(lesions, 'lesion')} at "
            f"{counted(len(checked), 'site')}; no lesion, patient or image is in two splits or at two sites"
        ]
        for name, ids in self.removed.items():
            if ids:
                told.append(f"{name} gave up {counted(len(ids), 'image')} that another site or split holds")
        return told

    def document(self) -> dict[str, Any]:
        """Return the audit for the run folder."""
        return {
            "checked": {name: one.model_dump() for name, one in self.result.sites.items()},
            "conflicts": self.result.document()["first"],
            "removed": {name: len(ids) for name, ids in self.removed.items()},
            "sites": {data.site.name: _site_document(data) for data in self.sites},
        }


def prepare(experiment: Experiment, folder: RunFolder, observer: PreparationObserver) -> Prepared:
    """Return the audited sites; writes ``audit.json`` and the gallery.

    Raises SiteError where a site cannot start and AuditRefused where sites or splits share what the config
    does not settle.
    """
    loaded = load_sites(experiment, observer)
    caches = open_caches(experiment, loaded, observer)
    prepared = audit_prepared(loaded, caches)
    folder.write_json("audit.json", prepared.document())
    for name, cache in caches.items():
        _write_gallery(folder, name, cache, experiment.seed)
    if experiment.training.trunk == "frozen":
        cache_features(experiment, caches, observer)
    return prepared


def cache_features(
    experiment: Experiment, caches: Mapping[str, PixelCache], observer: PreparationObserver
) -> None:
    """Compute the frozen trunk's features of all sites where they are not cached, with all CPUs.

    The sites would otherwise do so with their first message, out of sight.
    """
    from fedderm.feature_cache import CachedSite, open_features
    from fedderm.model.frozen import frozen_trunk, initial_model

    trunk = frozen_trunk(initial_model(experiment.model, experiment.training_seed)).digest
    for name, cache in caches.items():

        def progress(done: int, total: int, name: str = name) -> None:
            observer.progress(f"{name}: compute features", done, total)

        site = CachedSite(cache.pixels, cache.folder.name, experiment, trunk)
        open_features(site, progress, threads=len(os.sched_getaffinity(0)))


def load_sites(experiment: Experiment, observer: PreparationObserver) -> list[SiteData]:
    """Return all sites' tables; simulated centres are rendered on the way."""
    loaded = []
    with rendering_shown(observer.progress):
        for position, site in enumerate(experiment.sites, start=1):
            loaded.append(load_site(site, experiment.data_root, experiment.work_dir, experiment.seed))
            observer.progress("load sites", position, len(experiment.sites))
    return loaded


@contextmanager
def rendering_shown(tell: Callable[[str, int, int], None]) -> Iterator[None]:
    """Tell how the rendering of simulated centres goes on: what, steps done, steps in all."""

    def progress(site: str, done: int, total: int) -> None:
        tell(f"{site}: render lesions", done, total)

    before, simulated.progress = simulated.progress, progress
    try:
        yield
    finally:
        simulated.progress = before


def open_caches(
    experiment: Experiment, loaded: Sequence[SiteData], observer: PreparationObserver
) -> dict[str, PixelCache]:
    """Return the sites' pixel caches by name, decoding images where a cache is missing."""
    pixels = experiment.model.pixels()

    def opened(data: SiteData) -> PixelCache:
        """Open a site's pixel cache, or make it."""

        def progress(done: int, total: int) -> None:
            observer.progress(f"{data.site.name}: decode images", done, total)

        return open_cache(data, pixels, experiment.work_dir, progress=progress)

    return {data.site.name: opened(data) for data in loaded}


def decoded(data: SiteData, cache: PixelCache) -> SiteData:
    """Return the site without images that could not be decoded, which join those set aside."""
    table = cache.table.copy()
    table.attrs = dict(data.table.attrs)
    set_aside = pd.concat([data.set_aside, cache.set_aside], ignore_index=True)
    return replace(data, table=table, set_aside=set_aside)


def audit_prepared(loaded: Sequence[SiteData], caches: Mapping[str, PixelCache]) -> Prepared:
    """Return the sites after the audit; raises AuditRefused."""
    loaded = [decoded(data, caches[data.site.name]) for data in loaded]
    result = audit(loaded, {name: cache.fingerprints for name, cache in caches.items()})
    resolved, _ = resolve(loaded, result)
    before = {data.site.name: _ids(data) for data in loaded}
    removed = {data.site.name: before[data.site.name] - _ids(data) for data in resolved}
    return Prepared(tuple(resolved), result, removed)


def _ids(data: SiteData) -> frozenset[str]:
    return frozenset(data.table["image_id"].astype(str))


def _site_document(data: SiteData) -> dict[str, Any]:
    summary = site_summary(data)
    lesions = sum(size["lesions"] for size in summary["splits"].values())
    return {
        "images": len(data.table),
        "lesions": lesions,
        "splits": summary["splits"],
        "diagnoses": summary["diagnoses"],
        "notes": list(data.notes),
        "set_aside": _listed(data.set_aside[["image_id", "reason"]].to_dict("records")),
    }


def _listed(rows: Iterable[Mapping[Any, Any]]) -> list[dict[str, str]]:
    return [{str(key): str(value) for key, value in row.items()} for row in rows]


def _write_gallery(folder: RunFolder, name: str, cache: PixelCache, seed: int) -> None:
    buffer = io.BytesIO()
    contact_sheet(cache, columns=8, rows=2, seed=seed).save(buffer, "JPEG", quality=85)
    (folder.path / "gallery" / f"{name}.jpg").write_bytes(buffer.getvalue())
