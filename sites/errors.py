"""The errors that a person's data or settings can cause."""

import errno
from pathlib import Path
from typing import Final

_OUR_FAULT: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class SiteError(ValueError):
    """One sentence for a person: where, what was expected, what was found, what to do."""


class OneClassOnly(SiteError):  # noqa: N818 - says what happened
    """A train split of malignant or of benign images alone: there is nothing to tell apart."""


class ImageUnreadable(SiteError):  # noqa: N818 - says what happened
    """One sentence: which image file, and why no pixels came out of it."""


def out_of_reach(path: Path, error: Exception) -> Exception:
    """Return what a failed read of an image means: ImageUnreadable, or the error itself where the machine,
    not the image, is at fault."""
    if isinstance(error, OSError) and error.errno in _OUR_FAULT:
        return error
    if isinstance(error, PermissionError):
        return ImageUnreadable(f"{path}: this user may not read it; change its permissions")
    return ImageUnreadable(f"{path}: truncated or damaged ({error}); copy it again from its source")
