"""A whole federation on one machine: prepare the sites, start Flower and Ray, serve."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedderm.client_app import app as client
from fedderm.gpu_sharing import settled
from fedderm.preparation import PreparationObserver, prepare
from fedderm.runs import RunFolder
from fedderm.runtime import simulate, stop_requested
from fedderm.serving import serve

WORKER_MODULES = ("fedderm.site_tasks",)
"""Imported by the workers while Ray starts: most of a first message's time."""


def run_simulation(folder: RunFolder, observer: PreparationObserver) -> None:
    """Run the folder's experiment to its end, or on from its last finished round.

    Raises ValueError with a sentence for whatever a person can mend, Interrupted after Ctrl-C.
    """
    experiment = folder.experiment
    prepared = prepare(experiment, folder, observer)

    def decided(sentence: str) -> None:
        observer.say(sentence)
        folder.write_state({**folder.state(), "gpu_sharing": sentence})

    resources = settled(experiment, len(experiment.sites), observer.progress, decided)
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        serve(grid, folder, observer, prepared, stop_requested)

    simulate(
        server,
        client,
        len(experiment.sites),
        resources,
        folder.path / "flower.log",
        preload=WORKER_MODULES,
    )
