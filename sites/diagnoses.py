"""Canonical diagnoses, whether they are malignant, and the class maps of the schemes.

Malignant are melanoma (in situ too), basal cell carcinoma and squamous cell carcinoma (Bowen's disease
and keratoacanthoma too). Actinic keratosis is *indeterminate* in the ISIC archive's taxonomy, so every site
says what
to do with it (``ak_policy``).
"""

from typing import Final, Literal

CLASSES: Final = ("benign", "MEL", "SCC", "BCC")
"""Class index to name, in all schemes; index 0 is the triage negative."""

AkPolicy = Literal["exclude", "benign", "malignant"]

DIAGNOSES: Final[dict[str, str]] = {
    "mel": "melanoma",
    "nv": "melanocytic nevus",
    "bcc": "basal cell carcinoma",
    "scc": "squamous cell carcinoma",
    "ak": "actinic keratosis",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "vasc": "vascular lesion",
    "other_benign": "other benign lesion",
    "other_malignant": "other malignant lesion",
}
"""Canonical diagnosis to its plain name."""

BCC_PATTERNS: Final = (
    "pigment_network",
    "ulceration",
    "ovoid_nests",
    "multiple_globules",
    "maple_leaf_areas",
    "spoke_wheel_areas",
    "arborizing_telangiectasia",
)
"""Dermoscopic criteria of BCC (Menzies et al., Arch Dermatol 2000): the first speaks against it, the others
for it. The seven of arXiv 2407.00104."""

_CLASS_OF: Final[dict[str, int]] = {
    "mel": 1,
    "scc": 2,
    "bcc": 3,
    "nv": 0,
    "bkl": 0,
    "df": 0,
    "vasc": 0,
    "other_benign": 0,
}


def class_index(diagnosis: str, ak_policy: AkPolicy = "exclude") -> int | None:
    """Return the class of ``diagnosis`` (0 benign, 1 MEL, 2 SCC, 3 BCC), or None where the policy excludes
    it.

    ``ak`` counted as malignant belongs with SCC, whose precursor it is. ``other_malignant`` has no place in a
    MEL/SCC/BCC differentiation and is always excluded. Raises KeyError for a name that is not canonical.
    """
    if diagnosis == "other_malignant":
        return None
    if diagnosis == "ak":
        return {"exclude": None, "benign": 0, "malignant": 2}[ak_policy]
    return _CLASS_OF[diagnosis]
