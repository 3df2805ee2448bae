"""From an exception to a sentence and an exit code."""

import errno
import os
import sys
import traceback

MISTAKE, FAULT, INTERRUPTED = 2, 1, 130


def exit_code_of(error: BaseException) -> int:
    """Print what happened to standard error and return the exit code.

    2: something a person can mend (one sentence). 130: interrupted. 1: a fault of fedderm's (a traceback, to be
    reported). With FEDDERM_DEBUG=1 mistakes show their traceback, too.
    """
    if os.environ.get("FEDDERM_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Interrupted":
        print(f"fedderm: {error or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"fedderm: the disk is full{where}; free some space and go on with --resume: finished rounds are kept",
            file=sys.stderr,
        )
        return MISTAKE
    if isinstance(error, ValueError | OSError):
        print(f"fedderm: {error}", file=sys.stderr)
        return MISTAKE
    traceback.print_exception(error)
    print("fedderm: this is a fault of fedderm's, not yours; please report the lines above", file=sys.stderr)
    return FAULT
