"""A site's table, images and counts, and what they allow."""

from collections.abc import Callable
from typing import TypeVar

from fedderm.doctor.counts import examine_counts
from fedderm.doctor.findings import About, Examination, Finding, Progress
from fedderm.doctor.images import examine_files, examine_pixels
from fedderm.doctor.table import examine_table
from fedderm.preparation import decoded, rendering_shown
from sites.cache import PixelCache, open_cache
from sites.catalogue import Site, SiteData, load_site
from sites.errors import SiteError

Opened = TypeVar("Opened")


def examine_site(site: Site, examination: Examination, progress: Progress) -> list[Finding]:
    """Return what there is to say about a site's data, in the order of its preparation.

    Where the site would be refused, everything that can be told of what is left is told all the same.
    """
    findings: list[Finding] = []
    loaded = _leniently(site, lambda one: _load(one, examination, progress), findings, "table")
    if loaded is None:
        return findings
    data = loaded
    findings += examine_files(data, progress)
    cache = _leniently(site, lambda one: _decode(one, data, examination, progress), findings, "images")
    if cache is not None:
        data = decoded(data, cache)
        findings += examine_pixels(data, cache)
    return [*findings, *examine_table(data), *examine_counts(data, examination.evaluation)]


def _load(site: Site, examination: Examination, progress: Progress) -> SiteData:
    with rendering_shown(progress):
        return load_site(site, examination.data_root, examination.work_dir, examination.seed)


def _decode(site: Site, data: SiteData, examination: Examination, progress: Progress) -> PixelCache:
    return open_cache(
        SiteData(site, data.table, data.set_aside, data.notes),
        examination.pixels,
        examination.work_dir,
        progress=lambda done, total: progress(f"{site.name}: decode images", done, total),
    )


def _leniently(
    site: Site, work: Callable[[Site], Opened], findings: list[Finding], about: About
) -> Opened | None:
    """Return what the work makes of the site; where it refuses, note so and try without a limit on unreadable
    images, so that all of them can be named."""
    try:
        return work(site)
    except SiteError as error:
        findings.append(Finding("stops", about, " ".join(str(error).split())))
    except OSError as error:
        findings.append(Finding("stops", "machine", f"{error.filename}: {error.strerror}; see to that place"))
    try:
        return work(site.model_copy(update={"max_unreadable": 1.0}))
    except (SiteError, OSError):
        return None
