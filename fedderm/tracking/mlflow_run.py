"""A run's points in an MLflow store: a folder, a database or a server, as the config names it.

Nothing leaves for anywhere else: MLflow's own usage reports are switched off before it is imported.
"""

import importlib.util
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final

from fedderm import config
from fedderm.runs import RunFolder
from fedderm.tracking.points import Point, hyperparameters, points_by_round, points_of_conclusion

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DATABASES: Final = ("sqlite", "postgresql", "mysql", "mssql")
_METRICS_A_BATCH: Final = 1000
_PARAMS_A_BATCH: Final = 100
_LONGEST_NOTE: Final = 5000

_KEY, _LOGGING, _LOGGED = "fedderm.key", "fedderm.logging", "fedderm.logged"


def require_mlflow(store: str) -> None:
    """Return if the packages that an MLflow store needs are installed; raises ValueError with the command."""
    if importlib.util.find_spec("mlflow") is None:
        raise ValueError(
            'tracking.mlflow: MLflow is not installed; pip install "fedderm[mlflow]", or set it to null'
        )
    scheme = store.partition(":")[0].partition("+")[0]
    if scheme in _DATABASES and importlib.util.find_spec("sqlalchemy") is None:
        raise ValueError(
            f"tracking.mlflow: a store in a database ({scheme}) needs the whole of MLflow; "
            "pip install mlflow, or give a folder or a server"
        )


def uri_of(store: str) -> str:
    """Return the address of a store: what is none, such as ``mlruns``, is a folder."""
    known = re.match(r"[a-z][a-z0-9+.-]*:", store) or store == "databricks"
    return store if known else Path(store).resolve().as_uri()


def name_of(tag: str) -> str:
    """Return a tag as MLflow takes it: the pool is ``_pooled_``, which no site can be called."""
    return tag.replace("(pooled)", "_pooled_")


class MlflowRun:
    """One run of fedderm as one run in an MLflow store, found again by a key in the run's folder."""

    name = "MLflow"

    def __init__(self, folder: RunFolder, store: str) -> None:
        self._folder = folder
        self._store = store
        self._client: MlflowClient | None = None
        self._id = ""
        self._logged = 0
        """The last round that is in the store; one more than there are once the final model is, too."""

    def update(self) -> None:
        """Log the finished rounds that are not in the store; raises whatever MLflow and the network raise."""
        client = self._attached()
        self._client = None  # after a failure the store is asked anew what came through
        for number, points in points_by_round(self._folder, after=self._logged).items():
            self._log(client, number, points)
        self._client = client

    def conclude(self) -> None:
        """Log the final model, once, and mark the run as finished."""
        self.update()
        client, last = self._attached(), self._folder.experiment.rounds + 1
        if self._logged < last:
            self._log(client, last, points_of_conclusion(self._folder))
        client.set_terminated(self._id, "FINISHED")

    def stop(self) -> None:
        """Mark a run that stopped early as killed; resumed, it runs again."""
        if self._client is not None:
            self._client.set_terminated(self._id, "KILLED")

    def _attached(self) -> "MlflowClient":
        """Return the client, once the store holds this run: that of an earlier sitting, or a new one."""
        if self._client is not None:
            return self._client
        client = _client(self._store)
        experiment = _experiment_id(client, self._folder.experiment.name)
        found = client.search_runs([experiment], f"tags.`{_KEY}` = '{self._key()}'", max_results=1)
        if found:
            run = found[0]
            client.update_run(run.info.run_id, "RUNNING")
        else:
            run = client.create_run(experiment, run_name=self._folder.path.name, tags=self._tags())
        self._id = run.info.run_id
        self._log_hyperparameters(client, run.data.params)
        self._logged = int(run.data.tags.get(_LOGGED, 0))
        begun = int(run.data.tags.get(_LOGGING, 0))
        if begun > self._logged:
            self._complete(client, begun)
        self._client = client
        return client

    def _key(self) -> str:
        """Return what this run is found by: written before the store hears of it, so that a kill between
        the two leaves no second run there.
        """
        known = self._folder.read_json("mlflow.json")
        if known is None:
            known = {"key": uuid.uuid4().hex}
            self._folder.write_json("mlflow.json", known)
        return str(known["key"])

    def _tags(self) -> dict[str, str]:
        text = config.dump(self._folder.experiment)
        return {_KEY: self._key(), "mlflow.note.content": f"```yaml\n{text[:_LONGEST_NOTE]}\n```"}

    def _log_hyperparameters(self, client: "MlflowClient", known: dict[str, str]) -> None:
        from mlflow.entities import Param

        values = hyperparameters(self._folder.experiment).items()
        missing = [Param(name, str(value)) for name, value in values if name not in known]
        for batch in _batches(missing, _PARAMS_A_BATCH):
            client.log_batch(self._id, params=batch)

    def _log(self, client: "MlflowClient", number: int, points: Sequence[Point]) -> None:
        """Log one round between two marks: a sitting that died between them is noticed by the next one."""
        from mlflow.entities import Metric

        client.set_tag(self._id, _LOGGING, number)
        now = int(time() * 1000)
        metrics = [Metric(name_of(one.tag), one.value, now, one.step) for one in points]
        for batch in _batches(metrics, _METRICS_A_BATCH):
            client.log_batch(self._id, metrics=batch)
        client.set_tag(self._id, _LOGGED, number)
        self._logged = number

    def _complete(self, client: "MlflowClient", number: int) -> None:
        """Log what a sitting that died while it logged this round did not come to: nothing twice."""
        final = number > self._folder.experiment.rounds
        points = (
            points_of_conclusion(self._folder) if final else points_by_round(self._folder).get(number, [])
        )
        missing = [one for one in points if not self._holds(client, one)]
        self._log(client, number, missing)

    def _holds(self, client: "MlflowClient", point: Point) -> bool:
        history = client.get_metric_history(self._id, name_of(point.tag))
        return any(one.step == point.step for one in history)


def _client(store: str) -> "MlflowClient":
    """Return a client of the store, with a few short attempts instead of MLflow's minutes."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    uri = uri_of(store)
    if uri.startswith("file:"):
        # MLflow keeps this store as it is and asks whoever uses it to say so; a database needs a server's
        # worth of packages.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _experiment_id(client: "MlflowClient", name: str) -> str:
    """Return the id of the MLflow experiment of this name; another run may create it at the same time."""
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            known = client.get_experiment_by_name(name)
            if known is None:
                raise
    return str(known.experiment_id)


def _batches(values: Sequence[Any], most: int) -> Iterator[list[Any]]:
    for start in range(0, len(values), most):
        yield list(values[start : start + most])
