"""The images that a person names, and a bar while they are looked at."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track

from sites.files import IMAGE_SUFFIXES, is_image_file


def image_files(path: Path) -> Iterator[Path]:
    """Yield an image, or the images in a folder and below it, but no hidden ones.

    Raises ValueError for a folder without any.
    """
    if not path.is_dir():
        yield path
        return
    files = [
        file
        for file in sorted(path.rglob("*"))
        if not file.name.startswith(".") and file.is_file() and is_image_file(str(file))
    ]
    if not files:
        raise ValueError(f"{path}: holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    yield from files


def shown(paths: list[Path], what: str, free: bool = True) -> Iterator[Path]:
    """Yield the paths with a bar on standard error, where someone watches one and it is ``free``."""
    bar = Console(stderr=True)
    watched = bar.is_terminal and len(paths) > 1 and free
    yield from track(paths, what, console=bar, transient=True, disable=not watched)
