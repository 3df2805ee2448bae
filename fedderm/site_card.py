"""What a site says of itself at the roll call: never an image, never a small cell."""

from typing import Any

import numpy as np

from fedderm import __version__
from fedderm.local_site import LocalSite
from sites.diagnoses import BCC_PATTERNS, CLASSES
from sites.diagnosis_schemes import NAMES
from sites.metadata import unknown


def site_card(site: LocalSite) -> dict[str, Any]:
    """Return name, role, version, number of training images, counts by split and by diagnosis, what these
    images teach, which of a model's metadata no image here has, and notes.

    Counts below the site's ``min_cell`` are None. ``num_examples`` weighs the site's model and is
    always exact.
    """
    minimum = site.settings.min_cell
    sizes = {
        split: {key: _shown(count, minimum) for key, count in size.model_dump().items()}
        for split, size in site.sizes().items()
    }
    return {
        "name": site.settings.name,
        "role": site.settings.role,
        "fedderm": __version__,
        "num_examples": len(site.rows("train")),
        "splits": sizes,
        "diagnoses": {name: _shown(count, minimum) for name, count in site.diagnoses().items()},
        "taught": _taught(site),
        "without": unknown(site.table, site.metadata_fields),
        # Notes are sentences with counts in them.
        "notes": list(site.notes) if minimum <= 1 else [],
    }


def _taught(site: LocalSite) -> dict[str, list[str]]:
    """Return the names of classes, patterns and diagnoses of which there are labels in the train split.

    Of patterns those of ``min_cell`` annotated images or more: who annotated fewer is nobody's business.
    """
    rows = site.rows("train")
    classes = np.unique(site.table["class_index"].to_numpy(dtype=np.int64)[rows])
    patterns, named = site.patterns(rows), site.named(rows)
    annotated = np.zeros(len(BCC_PATTERNS)) if patterns is None else (~np.isnan(patterns)).sum(axis=0)
    names = NAMES.get(site.diagnosis_scheme, ())
    least = max(1, site.settings.min_cell)
    return {
        "classes": [CLASSES[one] for one in classes],
        "patterns": [name for name, count in zip(BCC_PATTERNS, annotated, strict=True) if count >= least],
        "diagnoses": [] if named is None else [names[one] for one in np.unique(named[named >= 0])],
    }


def _shown(count: int, minimum: int) -> int | None:
    return count if count == 0 or count >= minimum else None
