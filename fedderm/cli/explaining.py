"""What ``fedderm explain`` does: images in, a folder with a page and pictures out."""

from pathlib import Path

from fedderm.cli.errors import tell
from fedderm.cli.images import image_files, shown
from fedderm.cli.terminal import output
from fedderm.explanation import explain, prefixes, write_pictures
from fedderm.predictor import Predictor
from fedderm.report.explanation_page import Card, card_of, write_explanations
from fedderm.saliency import require_explain
from sites.errors import ImageUnreadable


def explain_images(model: Path, images: list[Path], to: Path, site: str | None) -> bool:
    """Write the page and the pictures into the folder ``to``; return whether all images could be read.

    An unreadable image is named on standard error and does not stop the others. Raises ValueError where the
    model cannot be used, the extra is missing, ``to`` holds something, or a folder holds no image.
    """
    require_explain()
    paths = [file for path in images for file in image_files(path)]
    predictor = Predictor.open(model, site)
    predictor.single("fedderm explain")
    to.mkdir(parents=True, exist_ok=True)
    if any(to.iterdir()):
        raise ValueError(f"--to {to}: holds something already; name a folder that is empty or new")
    names = dict(zip(range(len(paths)), prefixes(paths), strict=True))
    cards: list[Card] = []
    for place, path in enumerate(shown(paths, "explain")):
        try:
            found = explain(predictor, path, names[place])
        except ImageUnreadable as error:
            tell(str(error))
            continue
        write_pictures(to, found)
        cards.append(card_of(found))
    unreadable = len(paths) - len(cards)
    if unreadable > 1:
        tell(f"{unreadable} of {len(paths)} images could not be read")
    if cards:
        page = write_explanations(to, cards, predictor, site)
        output().print(f"{len(cards)} explained: {page}")
        output().print(
            "A heat map shows where the network looked, not whether it is right. Research use only."
        )
    return not unreadable
