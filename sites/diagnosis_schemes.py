"""Further schemes of diagnoses that a head can tell apart: HAM10000's seven classes and MILK10k's eleven.

An image whose diagnosis has no place in a scheme has no label there. What a site's ``ak_policy`` leaves out
is in no scheme either: with ``exclude``, AKIEC holds no actinic keratosis.
"""

from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DiagnosisScheme = Literal["none", "seven", "eleven"]

NAMES: Final[dict[str, tuple[str, ...]]] = {
    "seven": ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"),
    "eleven": (
        "AKIEC",
        "BCC",
        "BEN_OTH",
        "BKL",
        "DF",
        "INF",
        "MAL_OTH",
        "MEL",
        "NV",
        "SCCKA",
        "VASC",
    ),
}
"""Index to class: ``seven`` as in HAM10000 (ISIC 2018), ``eleven`` as in MILK10k's ground truth."""

NO_LABEL: Final = -1

_BOTH: Final = {
    "mel": "MEL",
    "nv": "NV",
    "bcc": "BCC",
    "ak": "AKIEC",
    "bkl": "BKL",
    "df": "DF",
    "vasc": "VASC",
}
_CLASS_OF: Final[dict[str, dict[str, str]]] = {
    # HAM10000's akiec is actinic keratosis and squamous cell carcinoma in situ. ISIC 2019 resolves it into AK
    # and SCC, where SCC holds invasive carcinoma too: joint training on both has one class for all of them.
    "seven": {**_BOTH, "scc": "AKIEC"},
    # MILK10k keeps carcinoma in situ with AKIEC and invasive carcinoma in SCCKA: scc alone does not
    # say which. other_benign may be BEN_OTH or INF. Both have a label where the source's own column tells.
    "eleven": {**_BOTH, "other_malignant": "MAL_OTH"},
}


def diagnosis_labels(table: pd.DataFrame, scheme: DiagnosisScheme) -> NDArray[np.int64]:
    """Return each row's index in ``NAMES[scheme]``, (n,); NO_LABEL where it has no place, or is not told.

    ``table`` has ``diagnosis``. For ``eleven`` the columns ``milk10k`` (MILK10k's own class) and ``dx``
    (HAM10000's, whose akiec is MILK10k's AKIEC) go before it, where a source has them. All are NO_LABEL for
    ``none``.
    """
    if scheme == "none":
        return np.full(len(table), NO_LABEL, np.int64)
    named = table["diagnosis"].astype("object").map(_CLASS_OF[scheme])
    if scheme == "eleven":
        if "dx" in table:
            named = named.mask((table["dx"].astype("object") == "akiec").fillna(False), "AKIEC")
        if "milk10k" in table:
            own = table["milk10k"].astype("object")
            named = own.where(own.isin(NAMES[scheme]), named)
    index = {name: place for place, name in enumerate(NAMES[scheme])}
    return np.asarray(named.map(index).fillna(NO_LABEL), dtype=np.int64)
