"""One sitting of a run at the server, the same for `fedderm run` and `flwr run .`."""

import secrets
from collections.abc import Callable, Mapping, Sequence

from flwr.serverapp import Grid

from fedderm.environment import describe
from fedderm.federation.conclusion import conclude
from fedderm.federation.roll_call import roll_call
from fedderm.federation.session import Observer, Session, Traffic
from fedderm.federation.training import Initial, run_rounds
from fedderm.preparation import Prepared
from fedderm.report import build_report
from fedderm.runs import RunFolder
from fedderm.settings import Experiment


def serve(
    grid: Grid,
    folder: RunFolder,
    observer: Observer,
    prepared: Prepared | None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train, evaluate, recalibrate and report; what an earlier sitting finished is kept.

    ``prepared`` is what was found out about simulated sites beforehand; None where sites are elsewhere and
    the server knows what their cards say.
    """
    salt = secrets.token_hex(16)
    given_up = {} if prepared is None else prepared.given_up(salt)
    conduct(grid, folder, observer, salt, given_up, should_stop)
    build_report(folder.path)


def conduct(
    grid: Grid,
    folder: RunFolder,
    observer: Observer,
    salt: str,
    given_up: Mapping[str, Sequence[str]],
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train, evaluate and recalibrate, without a report; what an earlier sitting finished is kept.

    ``given_up``: site to the ids, salted with ``salt``, of images that it leaves to another site or split.
    """
    experiment = folder.experiment
    if folder.read_json("environment.json") is None:
        folder.write_json("environment.json", describe(experiment.seed, folder.since))
    traffic = Traffic(**folder.state().get("traffic", {}))
    session = Session(grid, folder, observer, should_stop, salt, given_up, traffic)
    session.note(stopped=None)
    try:
        cards = roll_call(session)
        initial = Initial({}, ()) if folder.state()["round"] else initial_model(experiment)
        arrays = run_rounds(session, cards, initial)
        conclude(session, cards, arrays)
        folder.finish()
    except ValueError as error:
        session.note(stopped=str(error))  # who was refused and why, for whoever finds the folder later
        raise
    finally:
        folder.end_sitting()


def initial_model(experiment: Experiment) -> Initial:
    """Return the first global model: pretrained trunks where the config says so, heads at zero."""
    from fedderm.devices import seeded
    from fedderm.model.cascade import Cascade
    from fedderm.model.state import statistics_of, to_arrays

    seeded([experiment.training_seed, 0])
    model = Cascade(experiment.model)
    return Initial(to_arrays(model), statistics_of(model))
