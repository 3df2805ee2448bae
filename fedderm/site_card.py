"""What a site says of itself at the roll call: never an image, never a small cell."""

from typing import Any

from fedderm import __version__
from fedderm.local_site import LocalSite


def site_card(site: LocalSite) -> dict[str, Any]:
    """Return name, role, version, number of training images, counts by split and by diagnosis, and notes.

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
        # Notes are sentences with counts in them.
        "notes": list(site.notes) if minimum <= 1 else [],
    }


def _shown(count: int, minimum: int) -> int | None:
    return count if count == 0 or count >= minimum else None
