"""What a model has heads for and no training site taught: such a head says nothing, and is not shown."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from fedderm.settings import ModelSettings
from sites.diagnoses import BCC_PATTERNS, CLASSES
from sites.diagnosis_schemes import NAMES


@dataclass(frozen=True)
class Untaught:
    """Names of the model's outputs that no training site had an image of, in their heads' order."""

    classes: tuple[str, ...] = ()
    """Of MEL, SCC and BCC, of a model that tells them apart."""
    patterns: tuple[str, ...] = ()
    """Dermoscopic patterns of which no image of a training site was annotated."""
    diagnoses: tuple[str, ...] = ()
    """Of the further head's diagnoses."""

    @classmethod
    def at(cls, model: ModelSettings, taught: Iterable[Mapping[str, Any]]) -> Self:
        """Return what is left of a model's outputs by what its training sites' cards say they teach."""
        told = list(taught)
        wanted = {
            "classes": CLASSES[1:] if model.scheme != "binary" else (),
            "patterns": BCC_PATTERNS if model.patterns else (),
            "diagnoses": NAMES.get(model.diagnoses, ()),
        }
        known = {kind: {name for one in told for name in one.get(kind, ())} for kind in wanted}
        left = {
            kind: tuple(name for name in names if name not in known[kind]) for kind, names in wanted.items()
        }
        return cls(**left)

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Self:
        """Return what ``model.json`` says; nothing where it is of an earlier version.

        Raises TypeError where it is damaged.
        """
        found = description.get("untaught", {})
        if not isinstance(found, Mapping) or not all(isinstance(names, list) for names in found.values()):
            raise TypeError("untaught: expected lists of names")
        return cls(**{field.name: tuple(map(str, found.get(field.name, ()))) for field in fields(cls)})

    def __or__(self, other: Self) -> Self:
        """Return what at least one of two models was not taught: a mean of both says nothing of it."""
        mine, theirs = asdict(self), asdict(other)
        return type(self)(**{kind: tuple(dict.fromkeys((*mine[kind], *theirs[kind]))) for kind in mine})

    def as_dict(self) -> dict[str, list[str]]:
        """Return plain lists, for ``model.json``."""
        return {kind: list(names) for kind, names in asdict(self).items()}

    def sentence(self) -> str:
        """Return what no training site taught, or ""."""
        told = [
            f"{what} {', '.join(name.replace('_', ' ') for name in names)}"
            for what, names in (
                ("an image of", self.classes),
                ("annotations of", self.patterns),
                ("an image of", self.diagnoses),
            )
            if names
        ]
        return f"No training site had {', nor '.join(told)}: the model cannot tell them." if told else ""


NOTHING: Final = Untaught()
