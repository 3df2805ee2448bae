"""From an exception to a sentence and an exit code."""

import errno
import os
import sys
import traceback

MISTAKE, FAULT, INTERRUPTED = 2, 1, 130

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def exit_code_of(error: BaseException) -> int:
    """Print what happened to standard error and return the exit code.

    2: something a person can mend (one sentence). 130: interrupted. 1: a fault of fedderm's (a traceback, to
    be reported). With FEDDERM_DEBUG=1 mistakes show their traceback, too.
    """
    if os.environ.get("FEDDERM_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Interrupted":
        tell(str(error) or "interrupted")
        return INTERRUPTED
    if isinstance(error, OSError):
        tell(_sentence(error))
        return MISTAKE
    if isinstance(error, ValueError):
        tell(str(error))
        return MISTAKE
    traceback.print_exception(error)
    tell("this is a fault of fedderm's, not yours; please report the lines above")
    return FAULT


def tell(sentence: str) -> None:
    """Print one line to standard error, whatever line breaks came with it."""
    print(f"fedderm: {' '.join(sentence.split())}", file=sys.stderr)


def _sentence(error: OSError) -> str:
    """Return an operating system's error in words: where, what, and what to do about it."""
    if error.errno in _DISK_FULL:
        where = f" ({error.filename})" if error.filename else ""
        return f"the disk is full{where}; free some space and go on with --resume: finished rounds are kept"
    if error.errno is None or error.filename is None:
        return str(error)
    remedy = {
        errno.ENOENT: "; check this path, or choose another place",
        errno.EACCES: "; change its permissions or choose another place",
        errno.EPERM: "; choose another place",
        errno.EROFS: "; choose another place",
        errno.ENOTDIR: "; a part of this path is a file, choose another place",
        errno.EEXIST: "; a file of this name is in the way",
        errno.EMFILE: "; raise the limit (ulimit -n)",
    }.get(error.errno, "")
    return f"{error.filename}: {os.strerror(error.errno).lower()}{remedy}"
