"""One sitting of a run at the server, the same for `fedderm run` and `flwr run .`."""

import secrets
from collections.abc import Callable, Mapping, Sequence

from flwr.serverapp import Grid

from fedderm.environment import describe
from fedderm.federation.conclusion import conclude
from fedderm.federation.roll_call import roll_call, untaught
from fedderm.federation.session import Observer, Session, Traffic
from fedderm.federation.training import Initial, run_rounds
from fedderm.preparation import Prepared
from fedderm.report import build_report
from fedderm.runs import RunFolder
from fedderm.settings import Experiment
from fedderm.tracking.tracker import TrackingObserver
from fedderm.weights import FrozenTrunk


def serve(
    grid: Grid,
    folder: RunFolder,
    observer: Observer,
    prepared: Prepared | None,
    should_stop: Callable[[], bool] = lambda: False,
    registered: Mapping[int, str] | None = None,
) -> None:
    """Train, evaluate, recalibrate and report; what an earlier sitting finished is kept.

    ``prepared`` is what was found out about simulated sites beforehand; None where sites are elsewhere and
    the server knows what their cards say. ``registered``: node id to the site whose node it is, where that is
    known beforehand; other nodes are then left alone.
    """
    salt = secrets.token_hex(16)
    given_up = {} if prepared is None else prepared.given_up(salt)
    conduct(grid, folder, observer, salt, given_up, should_stop, registered)
    build_report(folder.path)


def conduct(
    grid: Grid,
    folder: RunFolder,
    observer: Observer,
    salt: str,
    given_up: Mapping[str, Sequence[str]],
    should_stop: Callable[[], bool] = lambda: False,
    registered: Mapping[int, str] | None = None,
) -> None:
    """Train, evaluate and recalibrate, without a report; what an earlier sitting finished is kept.

    ``given_up``: site to the ids, salted with ``salt``, of images that it leaves to another site or split.
    """
    experiment = folder.experiment
    if folder.read_json("environment.json") is None:
        folder.write_json("environment.json", describe(experiment.seed, folder.since))
    traffic = Traffic(**folder.state().get("traffic", {}))
    trunk, initial = start_of(folder)
    tracking = TrackingObserver(folder, observer)
    session = Session(grid, folder, tracking, should_stop, salt, given_up, traffic, trunk, registered)
    session.note(stopped=None, trunk=trunk and trunk.digest)
    tracking.begin()
    try:
        cards = roll_call(session)
        if told := untaught(session, cards).sentence():
            session.observer.warn(told)
        arrays = run_rounds(session, cards, initial)
        conclude(session, cards, arrays)
        tracking.conclude()
        folder.finish()
    except ValueError as error:
        session.note(stopped=str(error))  # who was refused and why, for whoever finds the folder later
        raise
    finally:
        tracking.end()
        folder.end_sitting()


def start_of(folder: RunFolder) -> tuple[FrozenTrunk | None, Initial]:
    """Return the frozen trunk, and the first round's model: the whole one, or what is trained of it.

    None for a trunk that is trained; no arrays where rounds have ended. Raises ValueError where the trunk is
    not the one that the run began with.
    """
    experiment, state = folder.experiment, folder.state()
    if experiment.training.trunk == "trained":
        return None, Initial({}, ()) if state["round"] else first_model(experiment)
    from fedderm.model.frozen import frozen_trunk, initial_model, is_trunk
    from fedderm.model.heads import Heads
    from fedderm.model.lora import first_adapters
    from fedderm.model.stages import LastStages
    from fedderm.model.state import to_arrays

    model = initial_model(experiment.model, experiment.training_seed)
    trunk = frozen_trunk(model)
    if state.get("trunk") not in (None, trunk.digest):
        raise ValueError(
            f"the frozen trunk is not the one that this run began with ({trunk.digest}, not "
            f"{state['trunk']}): its weights, or the package they come from, have changed; put them back, "
            "or start anew"
        )
    trained: Heads = model
    if experiment.training.trunk == "lora":
        trained = first_adapters(model, experiment.model, experiment.training, experiment.training_seed)
    elif experiment.training.trunk == "last_stages":
        trained = LastStages(model, experiment.model, experiment.training)
    arrays = to_arrays(trained)
    if trained is model:
        arrays = {name: array for name, array in arrays.items() if not is_trunk(name)}
    return trunk, Initial(arrays, ())


def first_model(experiment: Experiment) -> Initial:
    """Return the first global model: pretrained trunks where the config says so, heads at zero."""
    from fedderm.model.frozen import initial_model
    from fedderm.model.state import statistics_of, to_arrays

    model = initial_model(experiment.model, experiment.training_seed)
    return Initial(to_arrays(model), statistics_of(model))
