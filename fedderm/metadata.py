"""What is known of patients beside their images: in training, where some of it is hidden, and in use.

Clinics differ in what they record, and who uses a model may know nothing. So that it does not come to rely
on metadata, a part of them is hidden from it anew in every batch (modality dropout: Neverova et al.,
"ModDrop: Adaptive Multi-Modal Gesture Recognition", IEEE TPAMI 38(8), 2016): of an image all of them with
probability ``HIDDEN``, and otherwise each field with that probability. This also dilutes what the gaps
themselves tell: a clinic may leave out the age of nevi alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from sites.metadata import REGIONS, SEXES, Field, encoded, missing, owners, region

HIDDEN: Final = 0.2
"""A choice, not tuned: each field is hidden from 0.2 + 0.8 * 0.2 = 36 % of the images drawn."""


@dataclass(frozen=True)
class Metadata:
    """Of n images: ``numbers`` (n, M) of ``sites.metadata.encoded``, of ``fields``."""

    numbers: npt.NDArray[np.float32]
    fields: tuple[Field, ...]

    def of(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Return the numbers of ``rows`` (B,), (B, M)."""
        return torch.from_numpy(self.numbers[rows])

    def drawn(self, rows: npt.NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Return the numbers of ``rows`` (B,) for a batch of training, some of them hidden, (B, M)."""
        chances = torch.rand(len(rows), 1 + len(self.fields), generator=generator) < HIDDEN
        hidden = (chances[:, :1] | chances[:, 1:])[:, torch.from_numpy(owners(self.fields))]
        return torch.where(hidden, torch.from_numpy(missing(self.fields)), self.of(rows))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return several sites' as one."""
        return cls(np.concatenate([one.numbers for one in parts]), parts[0].fields)


@dataclass(frozen=True)
class Patient:
    """What is known of the patient of a single image; None: not known."""

    age: float | None = None
    """Years."""
    sex: str | None = None
    anatom_site: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what nobody is: told here, since a model would count it as missing."""
        if self.age is not None and not 0 <= self.age <= 120:
            raise ValueError(f"--age {self.age:g}: expected years from 0 to 120")
        if self.sex is not None and self.sex not in SEXES:
            raise ValueError(f"--sex {self.sex}: expected {' or '.join(SEXES)}; leave it out where unknown")
        if self.anatom_site is not None and region(self.anatom_site) is None:
            known = ", ".join(REGIONS)
            raise ValueError(
                f"--anatom-site {self.anatom_site}: expected {known}, or a part such as back, face or hand; "
                "leave it out where unknown"
            )

    def told(self, fields: Sequence[Field]) -> dict[str, Any]:
        """Return what a model of ``fields`` is told, None where it is not known.

        Raises ValueError for what is known and the model does not take.
        """
        for field, value in vars(self).items():
            if value is not None and field not in fields:
                takes = f"takes {' and '.join(fields)}" if fields else "takes no metadata"
                raise ValueError(
                    f"--{field.replace('_', '-')} {value}: this model {takes}; leave it out, or train with "
                    "model.metadata"
                )
        return {field: getattr(self, field) for field in fields}

    def encoded(self, fields: Sequence[Field]) -> npt.NDArray[np.float32]:
        """Return the row (1, M) that stands for the patient."""
        row = {"age": [self.age], "sex": [self.sex], "anatom_site": [self.anatom_site]}
        return encoded(pd.DataFrame(row).astype({"age": "Float64"}), fields)
