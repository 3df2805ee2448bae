"""``index.html`` of ``fedderm explain``: images and heat maps on one self-contained page."""

from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import matplotlib
import numpy as np
from markupsafe import Markup

from fedderm.explanation import COLOURS, Explanation, Picture, encoded
from fedderm.predictor import Prediction, Predictor
from fedderm.report.parts import STYLE, page_environment, part
from fedderm.saliency import GRAD_CAM, MALIGNANT, ROLLOUT
from fedderm.whole_file import write_whole

TEMPLATE: Final = "explanation.html.md"
EXPLANATION_STYLE: Final = "explanation.css.md"


@dataclass(frozen=True)
class Shown:
    """One picture on the page."""

    source: str
    """As a data: address."""
    title: str
    note: str


@dataclass(frozen=True)
class Card:
    """One image on the page: as small as it can be, for a page may show hundreds."""

    name: str
    prediction: Prediction
    pictures: list[Shown]


def card_of(explanation: Explanation) -> Card:
    """Return what the page shows of one image."""
    return Card(
        Path(explanation.prediction.image).name,
        explanation.prediction,
        [_shown(picture) for picture in explanation.pictures],
    )


def write_explanations(folder: Path, cards: list[Card], predictor: Predictor, site: str | None) -> Path:
    """Return the path of the page, written whole or not at all; it asks the network for nothing."""
    methods = {shown.title for card in cards for shown in card.pictures}
    page = (
        page_environment()
        .get_template(TEMPLATE)
        .render(
            style=part(STYLE) + part(EXPLANATION_STYLE),
            cards=cards,
            settings=predictor.settings,
            point=predictor.point,
            site=site,
            views=predictor.views,
            rollout=any(title.startswith("Attention") for title in methods),
            scale=_scale(),
        )
    )
    target = folder / "index.html"
    write_whole(target, page)
    return target


def _shown(picture: Picture) -> Shown:
    source = "data:image/jpeg;base64," + b64encode(encoded(picture.pixels, "JPEG")).decode()
    if picture.heat is None:
        return Shown(source, "Image", picture.file)
    heat = picture.heat
    rows, columns = heat.cells
    cells = f"{rows} × {columns} places"
    if heat.method == ROLLOUT:
        about = f" ({heat.about})" if heat.about else ""
        return Shown(source, f"Attention rollout{about}", f"{cells}; of no class in particular")
    if not heat.heat.any():
        return Shown(source, _title(heat.about), f"{GRAD_CAM}: nothing here raised it")
    return Shown(source, _title(heat.about), f"{GRAD_CAM}, {cells}")


def _title(about: str) -> str:
    return "Towards malignant" if about == MALIGNANT else f"Towards {about}"


def _scale() -> Markup:
    """Return the colours of the maps as a CSS gradient."""
    stops = matplotlib.colormaps[COLOURS](np.linspace(0, 1, 9))[:, :3]
    colours = ", ".join(matplotlib.colors.to_hex(one) for one in stops)
    return Markup(f"linear-gradient(to right, {colours})")
