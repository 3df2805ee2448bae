"""Which dermoscopic criteria a lesion of each diagnosis shows, and how often.

The criteria are those of the literature (Argenziano et al. 2003 for melanocytic lesions, Menzies et al.
2000 for BCC, Zalaudek et al. 2012 for AK and SCC, Braun et al. 2002 for seborrhoeic keratosis). **The
frequencies are a choice of ours**: nobody publishes them as one table. They overlap on purpose, as in life:
an early melanoma looks like a nevus.
"""

from dataclasses import dataclass
from typing import Final

Range = tuple[float, float]


@dataclass(frozen=True)
class Criteria:
    """How lesions of one diagnosis look; a pair (low, high) is the value at ``atypia`` 0 and at ``atypia`` 1.

    ``atypia`` is drawn from a beta distribution for each lesion: how far it shows what is typical of
    malignant growth in a melanocytic lesion, and how florid it is in the others.
    """

    atypia: Range
    """Parameters of the beta distribution."""
    age: Range
    """Mean and standard deviation, years."""
    male: float
    area: Range
    """Median fraction of a 4:3 frame that the lesion covers."""
    irregularity: Range
    softness: Range
    """Width of the border's fade, in lesion radii."""
    pigment: Range
    """Melanin density (median over lesions)."""
    pigment_spread: float
    """Standard deviation of the log density from lesion to lesion."""
    variegation: Range
    """Relative spread of the density within a lesion."""
    erythema: Range
    """Mean and standard deviation of the added blood density."""
    haze: Range
    """Mean and standard deviation of the opacity of a milky pink veil."""
    structures: dict[str, Range]
    """Probability of each structure."""


_MELANOCYTIC: Final[dict[str, Range]] = {
    "network": (0.60, 0.62),
    "globules": (0.34, 0.55),
    "streaks": (0.03, 0.42),
    "blotch": (0.12, 0.60),
    "regression": (0.03, 0.50),
    "blue_white_veil": (0.0, 0.50),
    "shiny_white_streaks": (0.0, 0.25),
    "dotted_vessels": (0.02, 0.12),
    "milia_like_cysts": (0.02, 0.06),
}

CRITERIA: Final[dict[str, Criteria]] = {
    "nv": Criteria(
        atypia=(1.3, 4.0),
        age=(45, 16),
        male=0.51,
        area=(0.17, 0.30),
        irregularity=(0.10, 0.45),
        softness=(0.59, 0.27),
        pigment=(0.24, 0.36),
        pigment_spread=0.45,
        variegation=(0.14, 0.60),
        erythema=(0.36, 0.18),
        haze=(0.0, 0.05),
        structures=_MELANOCYTIC,
    ),
    "mel": Criteria(
        atypia=(2.6, 1.8),
        age=(61, 15),
        male=0.62,
        area=(0.20, 0.36),
        irregularity=(0.14, 0.50),
        softness=(0.52, 0.22),
        pigment=(0.26, 0.44),
        pigment_spread=0.45,
        variegation=(0.20, 0.75),
        erythema=(0.08, 0.12),
        haze=(0.08, 0.10),
        structures=_MELANOCYTIC,
    ),
    "bcc": Criteria(
        atypia=(2.0, 2.0),
        age=(67, 13),
        male=0.62,
        area=(0.13, 0.26),
        irregularity=(0.22, 0.42),
        softness=(0.65, 0.38),
        pigment=(0.06, 0.14),
        pigment_spread=0.55,
        variegation=(0.5, 0.9),
        erythema=(0.07, 0.08),
        haze=(0.28, 0.14),
        structures={
            "arborizing_vessels": (0.50, 0.80),
            "leaf_like_areas": (0.22, 0.34),
            "ovoid_nests": (0.38, 0.60),
            "spoke_wheel": (0.08, 0.14),
            "ulceration": (0.25, 0.50),
            "shiny_white_streaks": (0.30, 0.50),
            "scale": (0.10, 0.15),
            "globules": (0.10, 0.10),
        },
    ),
    "scc": Criteria(
        atypia=(2.0, 2.0),
        age=(71, 11),
        male=0.65,
        area=(0.16, 0.32),
        irregularity=(0.20, 0.40),
        softness=(0.59, 0.38),
        pigment=(0.08, 0.16),
        pigment_spread=0.6,
        variegation=(0.4, 0.8),
        erythema=(0.15, 0.09),
        haze=(0.18, 0.12),
        structures={
            "scale": (0.60, 0.70),
            "keratin_mass": (0.15, 0.50),
            "white_circles": (0.25, 0.42),
            "dotted_vessels": (0.60, 0.45),
            "ulceration": (0.20, 0.50),
            "arborizing_vessels": (0.05, 0.20),
            "strawberry": (0.15, 0.05),
        },
    ),
    "ak": Criteria(
        atypia=(2.0, 2.5),
        age=(69, 11),
        male=0.62,
        area=(0.16, 0.30),
        irregularity=(0.25, 0.45),
        softness=(0.78, 0.52),
        pigment=(0.07, 0.14),
        pigment_spread=0.6,
        variegation=(0.4, 0.7),
        erythema=(0.15, 0.09),
        haze=(0.04, 0.05),
        structures={
            "strawberry": (0.60, 0.55),
            "scale": (0.40, 0.65),
            "dotted_vessels": (0.12, 0.25),
            "milia_like_cysts": (0.08, 0.05),
        },
    ),
    "bkl": Criteria(
        atypia=(2.0, 2.2),
        age=(64, 14),
        male=0.57,
        area=(0.16, 0.30),
        irregularity=(0.18, 0.45),
        softness=(0.45, 0.15),
        pigment=(0.14, 0.26),
        pigment_spread=0.45,
        variegation=(0.20, 0.42),
        erythema=(0.03, 0.08),
        haze=(0.10, 0.10),
        structures={
            "milia_like_cysts": (0.20, 0.45),
            "comedo_openings": (0.20, 0.42),
            "fissures": (0.15, 0.35),
            "network": (0.16, 0.08),
            "scale": (0.10, 0.25),
            "regression": (0.06, 0.10),
            "globules": (0.08, 0.12),
            "blotch": (0.08, 0.12),
            "blue_white_veil": (0.02, 0.06),
        },
    ),
    "df": Criteria(
        atypia=(2.0, 2.5),
        age=(51, 14),
        male=0.45,
        area=(0.14, 0.24),
        irregularity=(0.08, 0.25),
        softness=(1.04, 0.75),
        pigment=(0.12, 0.22),
        pigment_spread=0.45,
        variegation=(0.15, 0.30),
        erythema=(0.14, 0.10),
        haze=(0.06, 0.06),
        structures={
            "central_white_patch": (0.62, 0.72),
            "network": (0.62, 0.50),
            "shiny_white_streaks": (0.12, 0.25),
            "scale": (0.05, 0.10),
            "dotted_vessels": (0.10, 0.20),
        },
    ),
    "vasc": Criteria(
        atypia=(2.0, 2.0),
        age=(51, 18),
        male=0.51,
        area=(0.09, 0.20),
        irregularity=(0.08, 0.30),
        softness=(0.45, 0.22),
        pigment=(0.03, 0.10),
        pigment_spread=0.7,
        variegation=(0.2, 0.4),
        erythema=(0.70, 0.30),
        haze=(0.03, 0.05),
        structures={
            "lacunae": (0.75, 0.85),
            "ulceration": (0.03, 0.15),
            "scale": (0.03, 0.06),
        },
    ),
}
