"""What an audit finds: the same lesion, patient or photograph at two places (splits of sites)."""

import re
from collections import Counter
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["image", "lesion", "patient", "identical pixels", "near-identical pixels"]

# ISIC 2019 renamed resized images; some tables give file names for ids.
_DECORATION: Final = re.compile(r"(_downsampled)?(\.(jpe?g|png|tiff?|bmp|dcm|dicom))?$", re.IGNORECASE)


class Holding(BaseModel):
    """What one place holds of a conflict."""

    model_config = ConfigDict(frozen=True)

    site: str
    split: str
    images: tuple[str, ...]
    lesions: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {len(self.images) - 1} more" if len(self.images) > 1 else ""
        return f"{self.images[0]}{more} (lesion {self.lesions[0]}) in {self.site}/{self.split}"


class Conflict(BaseModel):
    """The same lesion, patient or photograph at two places."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    value: str
    """The shared id, or hash of pixels, or correlation of near-identical pixels."""
    first: Holding
    second: Holding

    @property
    def within(self) -> bool:
        """Whether both places are splits of one site."""
        return self.first.site == self.second.site

    def __str__(self) -> str:
        name = f"{self.kind} {self.value}" if self.kind in ("image", "lesion", "patient") else self.kind
        return f"{name}: {self.first} and {self.second}"


class Audited(BaseModel):
    """What was compared of one site."""

    model_config = ConfigDict(frozen=True)

    images: int
    lesions: int
    pixels: int
    """Images whose pixels were compared; the others were by their ids only."""


class AuditResult(BaseModel):
    """What the audit compared and found."""

    model_config = ConfigDict(frozen=True)

    sites: dict[str, Audited]
    conflicts: tuple[Conflict, ...]

    def counts(self) -> dict[str, int]:
        """Return how many conflicts there are of each kind, between which sites: ``"lesion: a, b"`` to n."""
        between = (f"{c.kind}: {', '.join(sorted({c.first.site, c.second.site}))}" for c in self.conflicts)
        return dict(sorted(Counter(between).items()))

    def document(self, first: int = 50) -> dict[str, Any]:
        """Return a JSON-able account: what was compared, the counts, and the first conflicts in words."""
        sites = {name: audited.model_dump() for name, audited in self.sites.items()}
        return {"sites": sites, "conflicts": self.counts(), "first": [str(c) for c in self.conflicts[:first]]}


def plain_id(identifier: str) -> str:
    """Return an image or lesion id without what copies of a data set append to it."""
    return _DECORATION.sub("", identifier)
