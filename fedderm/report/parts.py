"""What all pages are made of: templates with one way to write numbers, and parts that are put into them."""

from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedderm.report import formats

# Flower's app bundle carries .py, .md, .yaml and .json but neither .html nor .css: hence the last suffix.
STYLE: Final = "style.css.md"


def page_environment() -> Environment:
    """Return the templates of this package; everything put into them is escaped unless it is Markup."""
    environment = Environment(
        loader=PackageLoader("fedderm.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        decimal=formats.decimal,
        percent=formats.percent,
        count=formats.count,
        size=formats.size,
        duration=formats.duration,
        plain=formats.plain,
    )
    return environment


def part(name: str) -> Markup:
    """Return a file of this package as it is: a style or a script."""
    return Markup(Path(__file__).with_name(name).read_text(encoding="utf-8"))
