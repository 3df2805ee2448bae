"""What every document of an evaluation is made of."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Unit = Literal["image", "lesion"]


class Document(BaseModel):
    """A frozen document that round-trips through JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Document):
    """A value with its interval; None where undefined (a class is absent) or no interval was asked for."""

    value: float | None
    lower: float | None = None
    upper: float | None = None
