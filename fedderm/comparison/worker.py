"""A worker process of a comparison: ``python -m fedderm.comparison.worker`` runs cells one after another.

Jobs come as lines of JSON on standard input, and lines of JSON go back on standard output. When standard
input ends the parent is gone, killed or done, and the process ends at once, in the middle of a round if need
be: what a round writes it writes whole. PyTorch, a site's table and its pixels are loaded once, not once a
cell.
"""

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any, TextIO

from fedderm.comparison.job import Job
from fedderm.comparison.memory import peak_of_this_process


def main() -> None:
    """Serve jobs until standard input ends."""
    channel = _private_output()
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()

    def tell(event: Mapping[str, Any]) -> None:
        print(json.dumps({**event, "peak": peak_of_this_process()}), file=channel, flush=True)

    from fedderm.comparison.cells import run_cell

    tell({"event": "ready"})
    while True:
        job = jobs.get()
        try:
            run_cell(Job(**job), tell)
        except (ValueError, OSError) as error:
            tell({"event": "failed", "sentence": str(error)})
        except Exception as error:
            traceback.print_exception(error)
            told = f"a fault of fedderm's ({type(error).__name__}: {error}); see workers.log and report it"
            tell({"event": "failed", "sentence": told})
        else:
            tell({"event": "done"})


def _private_output() -> TextIO:
    """Return standard output for this module alone; what libraries print goes to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def _listen(jobs: "queue.Queue[dict[str, Any]]") -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
