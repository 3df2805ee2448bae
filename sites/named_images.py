"""From the names in a hospital's table to its image files, however suffix and letter case are written."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pandas as pd

from sites.errors import SiteError
from sites.files import is_image_file, quoted, without_suffix
from sites.words import composed


def _folded(name: str) -> str:
    return composed(name).casefold()


_SAME: Final[tuple[Callable[[str], str], ...]] = (composed, _folded)
"""When two names are the same: as they are written; then, for what is left, in any letter case."""


def locate(names: "pd.Series[str]", images: Path, file: Path) -> "pd.Series[str]":
    """Return the absolute path of each named image below ``images``; of an absent one, where it might be.

    Names may lack the suffix and the subfolder; accents may be composed or not. Letter case does not matter
    where a name is that of no other row and its file no other row's. Raises SiteError, with ``file`` and
    row, where a name may mean several files.
    """
    wanted = {row: name.replace("\\", "/").removeprefix("./") for row, name in names.items()}
    found: dict[object, Path] = {}
    files = _image_files(images)
    for same in _SAME:
        taken = set(found.values())
        known: defaultdict[str, list[Path]] = defaultdict(list)
        for path in files:
            if path not in taken:
                for key in {same(name) for name in _names_of(path, images)}:
                    known[key].append(path)
        open_rows = {row: same(name) for row, name in wanted.items() if row not in found}
        rows_of = Counter(open_rows.values())
        for row, key in open_rows.items():
            paths = known.get(key, [])
            if len(paths) > 1:
                raise SiteError(
                    f"{file}: row {row}, image '{wanted[row]}' is ambiguous: "
                    f"{quoted(p.relative_to(images) for p in paths)}; write its subfolder and suffix"
                )
            if paths and (same is composed or rows_of[key] == 1):
                found[row] = paths[0]
    return pd.Series([str(found.get(row, images / name)) for row, name in wanted.items()], index=names.index)


def _image_files(images: Path) -> list[Path]:
    found = []
    for parent, folders, files in os.walk(images):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        paths = (Path(parent, name) for name in sorted(files) if not name.startswith("."))
        found += [path for path in paths if is_image_file(str(path))]
    return found


def _names_of(path: Path, images: Path) -> set[str]:
    """Return the names a table may call a file by."""
    relative = path.relative_to(images).as_posix()
    return {relative, without_suffix(relative), path.name, without_suffix(path.name)}
