"""fedderm's own roll call and rounds, over a SuperLink, from a model of two zeros."""

import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedderm.federation.roll_call import roll_call
from fedderm.federation.session import Session, Traffic
from fedderm.federation.training import Initial, run_rounds
from fedderm.runs import RunFolder
from fedderm.server_app import LogObserver

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Go on with the run folder that the run config names."""
    folder = RunFolder.open(Path(str(context.run_config["run"])))
    traffic = Traffic(**folder.state().get("traffic", asdict(Traffic())))
    session = Session(grid, folder, LogObserver(), lambda: False, "salt", {}, traffic)
    start = time.monotonic()
    cards = roll_call(within(session, 600.0))
    # A reply takes as long as Flower's processes take to begin: seconds, or a minute on a busy machine.
    deadline = max(folder.experiment.strategy.deadline, 3 * (time.monotonic() - start))
    run_rounds(within(session, deadline), cards, Initial({"w": np.zeros(2, np.float32)}, ()))
    folder.finish()


def within(session: Session, deadline: float) -> Session:
    """Return the session with another deadline."""
    experiment = session.experiment
    strategy = experiment.strategy.model_copy(update={"deadline": deadline})
    changed = experiment.model_copy(update={"strategy": strategy})
    return replace(session, folder=replace(session.folder, experiment=changed))
