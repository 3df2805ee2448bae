"""fedderm's own roll call and rounds, over a SuperLink, from a model of two zeros."""

from dataclasses import asdict
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
    start = Initial({"w": np.zeros(2, np.float32)}, ())
    run_rounds(session, roll_call(session), start)
    folder.finish()
