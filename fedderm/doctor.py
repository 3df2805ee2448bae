"""What a site's data and machine allow, said before anything joins: one finding a sentence, with its fix."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedderm.evaluation.thresholds import certifiable_sensitivity, positives_needed
from fedderm.preparation import PreparationObserver, decoded, rendering_shown
from fedderm.runtime import gpus
from fedderm.settings import Experiment
from sites.cache import PixelCache, open_cache
from sites.catalogue import Site, SiteData, load_site, site_summary
from sites.errors import SiteError
from sites.words import counted

LOW_DISK = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """``fine``: nothing to do. ``look``: works, but know this. ``stops``: it cannot start until mended."""

    level: Literal["fine", "look", "stops"]
    sentence: str


def examine(site: Site, experiment: Experiment, observer: PreparationObserver) -> list[Finding]:
    """Return what there is to say about a site, the worst last so that it is read."""
    try:
        with rendering_shown(observer):
            data = load_site(site, experiment.data_root, experiment.work_dir, experiment.seed)
        cache = open_cache(
            data,
            experiment.model.pixels(),
            experiment.work_dir,
            progress=lambda done, total: observer.progress(f"{site.name}: decode images", done, total),
        )
    except SiteError as error:
        return [*_machine(experiment), Finding("stops", str(error))]
    data = decoded(data, cache)
    findings = [
        *_table(data),
        *_images(data, cache),
        *_duplicates(cache),
        *_certifiable(data, experiment),
        *_machine(experiment),
    ]
    return sorted(findings, key=lambda finding: ("fine", "look", "stops").index(finding.level))


def _table(data: SiteData) -> Iterator[Finding]:
    summary = site_summary(data)
    for split, size in summary["splits"].items():
        yield Finding(
            "fine",
            f"{split}: {counted(size['images'], 'image')} of {counted(size['lesions'], 'lesion')}, "
            f"{size['positive_lesions']} of them malignant",
        )
    listed = ", ".join(f"{name} {count}" for name, count in summary["diagnoses"].items())
    yield Finding("fine", f"diagnoses (images): {listed}")
    for note in data.notes:
        yield Finding("look", note)
    none_known = bool((data.table["lesion_id"] == data.table["image_id"]).all())
    if none_known and not data.table.attrs.get("lesions_known", True):
        yield Finding(
            "look",
            "no lesion ids: each image counts as a lesion of its own; if lesions repeat, splits may leak",
        )


def _images(data: SiteData, cache: PixelCache) -> Iterator[Finding]:
    aside = data.set_aside.to_dict("records")
    yield Finding(
        "fine", f"{counted(len(cache.table), 'image')} decoded at {cache.settings.image_size} pixels"
    )
    for row in aside[:5]:
        yield Finding("look", f"image {row['image_id']} is set aside: {row['reason']}")
    if len(aside) > 5:
        more = len(aside) - 5
        yield Finding("look", f"{more} more {'image is' if more == 1 else 'images are'} set aside")
    levels = np.asarray(cache.pixels[:: max(1, len(cache.pixels) // 500)]).mean(axis=(1, 2, 3))
    dark = int((levels < 20).sum())
    if dark:
        yield Finding("look", f"{dark} of {len(levels)} sampled images are nearly black; look at them")


def _duplicates(cache: PixelCache) -> Iterator[Finding]:
    prints = cache.fingerprints
    repeated = prints[prints["content"].duplicated(keep=False)].sort_values("content")
    if len(repeated):
        names = ", ".join(repeated["image_id"].astype(str).head(4))
        yield Finding(
            "look", f"{len(repeated)} images have the pixels of another one: {names} ...; keep one of each"
        )


def _certifiable(data: SiteData, experiment: Experiment) -> Iterator[Finding]:
    size = site_summary(data)["splits"].get("calibration")
    found = size["positive_lesions"] if size else 0
    settings = experiment.evaluation
    needed = positives_needed(settings.target_sensitivity, settings.confidence)
    goal = f"a sensitivity of {settings.target_sensitivity:.0%} at {settings.confidence:.0%} confidence"
    holds = f"calibration holds {counted(found, 'malignant lesion')}"
    if found >= needed:
        yield Finding("fine", f"{holds}: enough to certify {goal} ({needed} needed)")
    else:
        best = (
            f"; {found} can certify {certifiable_sensitivity(found, settings.confidence):.0%}"
            if found
            else ""
        )
        yield Finding(
            "look",
            f"{holds}; {needed} are needed to certify {goal}: {needed - found} more{best}",
        )


def _machine(experiment: Experiment) -> Iterator[Finding]:
    work_dir = experiment.work_dir.absolute()
    free = shutil.disk_usage(next(one for one in (work_dir, *work_dir.parents) if one.exists())).free
    level: Literal["fine", "look"] = "fine" if free > LOW_DISK else "look"
    yield Finding(level, f"disk: {free / 2**30:.1f} GiB free for caches")
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    yield Finding("fine" if memory > 2 else "look", f"memory: {memory:.1f} GiB free; {os.cpu_count()} cores")
    wanted = experiment.resources.gpus_per_site
    if wanted != "auto" and wanted > 0 and experiment.resources.address is None and gpus() < wanted:
        yield Finding(
            "stops", f"resources.gpus_per_site is {wanted:g} but there are {gpus()} GPUs here; set it to 0"
        )
