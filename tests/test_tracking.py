"""What TensorBoard and MLflow are told is what the run's folder says, once, whatever happens on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import fedderm
from commands import write_config as write_clinic_config
from federations import Notes, new_run, run_in_memory, same, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedderm.evaluation.long_format import COLUMNS, LongRow
from fedderm.runs import RunFolder
from fedderm.settings import TrackingSettings
from fedderm.tracking.event_files import EventFiles
from fedderm.tracking.points import KEYS, hyperparameters, tag_of
from strategies.errors import Interrupted

LONG = {"rounds": 3, "strategy": {"name": "fedprox", "proximal_mu": 0.1}}

Curves = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def reference(root: Path) -> RunFolder:
    """Three rounds without a break, in a store of their own, too."""
    folder = new_run(root, **LONG, tracking={"mlflow": str(root / "reference-store")})
    run_in_memory(folder)
    return folder


def event_curves(run: Path) -> Curves:
    """Return what TensorBoard itself reads: tag to (step, value), in order."""
    reader = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]
    }


def table_curves(run: Path) -> Curves:
    """Return the two long tables of a folder as curves, by reading them independently of fedderm."""
    curves: Curves = {}
    for name, columns in (
        ("rounds", {"value": ""}),
        ("evaluation", {"value": "final/", "lower": "final-lower/", "upper": "final-upper/"}),
    ):
        table = pd.read_csv(run / name / "metrics.csv", dtype={"site": str}, keep_default_na=False)
        for row in table.itertuples():
            tag = f"{row.metric}/{row.unit}/{row.split}/{row.role}/{row.site}"
            for column, prefix in columns.items():
                if (text := getattr(row, column)) != "":
                    curves.setdefault(prefix + tag, []).append((int(row.round), float(text)))
    return curves


def of_the_tables(curves: Curves) -> Curves:
    return {tag: one for tag, one in curves.items() if tag.split("/")[0] not in ("round", "training")}


def without_clock(curves: Curves) -> Curves:
    """Leave out what depends on the machine and on folder names."""
    told_paths = ("round/seconds", "round/bytes_down", "round/evaluation_bytes_down")
    return {tag: one for tag, one in curves.items() if tag not in told_paths}


def in_single_precision(curves: Curves) -> Curves:
    return {tag: [(step, float(np.float32(value))) for step, value in one] for tag, one in curves.items()}


def test_tensorboard_reads_every_value_of_the_tables_and_no_other(reference: RunFolder) -> None:
    found, expected = event_curves(reference.path), table_curves(reference.path)
    assert of_the_tables(found) == in_single_precision(expected)
    assert len(found["auc/image/test/held-out/(pooled)"]) == 3
    assert "final/auc/lesion/whole-site/held-out/away" in found


def test_what_rounds_cost_and_sites_reported_has_curves_too(reference: RunFolder) -> None:
    history = json.loads((reference.path / "rounds" / "state.json").read_text())["history"]
    found = event_curves(reference.path)
    for site in ("west", "east"):
        losses = [(entry["round"], np.float32(entry["sites"][site]["loss"])) for entry in history]
        assert found[f"training/loss/{site}"] == losses
    for key in ("seconds", "bytes_down", "bytes_up", "evaluation_bytes_down", "evaluation_bytes_up"):
        assert found[f"round/{key}"] == [(entry["round"], np.float32(entry[key])) for entry in history]
    assert found["round/refused"] == [(1, 0.0), (2, 0.0), (3, 0.0)]
    assert "training/loss/away" not in found, "a held-out site trains nothing"


def test_a_tag_names_every_column_that_tells_values_apart() -> None:
    numbers = {"round", "value", "lower", "upper", "n", "positives"}
    assert set(KEYS) == set(COLUMNS) - numbers, "a new column of the long format must be part of the tag"
    row = {"site": "coast", "role": "train", "split": "test", "unit": "lesion", "metric": "ece", "value": 1}
    assert tag_of(row) == "ece/lesion/test/train/coast"


def test_a_row_without_a_value_is_not_logged(root: Path) -> None:
    folder = new_run(root, rounds=1)
    shared: dict[str, Any] = {"role": "train", "split": "test", "round": 1, "unit": "image"}
    nothing = {"lower": None, "upper": None, "n": 3, "positives": 0}
    folder.finish_round(
        1,
        {"w": np.zeros(1, np.float32)},
        {"sites": {}},
        [
            LongRow(site="west", metric="auc", value=None, **shared, **nothing),
            LongRow(site="west", metric="ece", value=0.123456789, **shared, **nothing),
        ],
    )
    EventFiles(folder).update()
    found = of_the_tables(event_curves(folder.path))
    assert found == {"ece/image/test/train/west": [(1, float(np.float32(0.123457)))]}, "the table's digits"


def test_the_settings_are_there_as_text_and_as_hyperparameters(reference: RunFolder) -> None:
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    reader = EventAccumulator(str(reference.path / "tensorboard"))
    reader.Reload()
    text = reader.Tensors("config")[0].tensor_proto.string_val[0].decode()
    assert text == f"```yaml\n{(reference.path / 'config.yaml').read_text()}```"
    data = reader.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    told = HParamsPluginData.FromString(data).session_start_info.hparams
    assert told["strategy.name"].string_value == "fedprox"
    assert told["strategy.proximal_mu"].number_value == 0.1
    assert set(told) == set(hyperparameters(reference.experiment))
    assert not any("dir" in name or "sites" in name for name in told)
    data = reader.SummaryMetadata("_hparams_/experiment").plugin_data.content
    compared = {info.name.tag for info in HParamsPluginData.FromString(data).experiment.metric_infos}
    assert compared <= set(event_curves(reference.path)), "the columns beside them have values"
    layout = Layout.FromString(reader.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = [chart for category in layout.category for chart in category.chart]
    assert any(list(chart.multiline.tag) == ["^auc/image/test/"] for chart in charts)


@pytest.mark.parametrize("stage", ["round 1/3: train", "round 2/3: evaluate", "recalibrate"])
def test_stopped_and_resumed_the_read_back_equals_an_unbroken_run(
    root: Path, reference: RunFolder, stage: str
) -> None:
    notes, store = Notes(), root / f"store-{stage[:7]}-{stage[-5:]}".replace("/", "-")
    folder = new_run(root, **LONG, tracking={"mlflow": str(store)})
    with pytest.raises(Interrupted):
        run_in_memory(folder, should_stop=lambda: notes.stages[-1] == stage, notes=notes)
    assert mlflow_run(folder).info.status == "KILLED"
    run_in_memory(RunFolder.open(folder.path))
    assert without_clock(event_curves(folder.path)) == without_clock(event_curves(reference.path))
    assert without_clock(stored_curves(folder)) == without_clock(stored_curves(reference))
    assert mlflow_run(folder).info.status == "FINISHED"


def test_a_round_that_was_written_but_not_finished_stands_once(root: Path, reference: RunFolder) -> None:
    """The state says one round, the event files already two: as in a folder that was copied too early."""
    notes, folder = Notes(), new_run(root, **LONG)
    after_one: list[str] = []

    def in_round_3() -> bool:
        if notes.stages[-1] == "round 2/3: train" and not after_one:
            after_one.append((folder.path / "rounds" / "state.json").read_text())
        return notes.stages[-1] == "round 3/3: train"

    with pytest.raises(Interrupted):
        run_in_memory(folder, should_stop=in_round_3, notes=notes)
    (folder.path / "rounds" / "state.json").write_text(after_one[0])
    assert len(event_curves(folder.path)["training/loss/west"]) == 2
    EventFiles(folder).update()
    assert len(event_curves(folder.path)["training/loss/west"]) == 1, "as long as the round is not held again"
    run_in_memory(RunFolder.open(folder.path))
    assert without_clock(event_curves(folder.path)) == without_clock(event_curves(reference.path))


def test_killed_between_the_state_and_the_event_file_the_round_is_shown_by_the_next_sitting(
    root: Path, reference: RunFolder
) -> None:
    notes, folder = Notes(), new_run(root, **LONG)
    with pytest.raises(Interrupted):
        run_in_memory(folder, should_stop=lambda: notes.stages[-1] == "round 3/3: train", notes=notes)
    newest = sorted((folder.path / "tensorboard").iterdir())[-1]
    assert "000002" in newest.name
    newest.unlink()
    run_in_memory(RunFolder.open(folder.path))
    assert without_clock(event_curves(folder.path)) == without_clock(event_curves(reference.path))


@pytest.mark.parametrize("obstacle", ["tensorboard", "mlflow", "no server"])
def test_what_cannot_be_written_costs_no_round_and_is_told_once(
    root: Path, reference: RunFolder, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (root / "a-file").touch()
    stores = {
        "tensorboard": None,
        "mlflow": str(root / "a-file" / "store"),
        "no server": "http://127.0.0.1:9",
    }
    folder = new_run(root, **LONG, tracking={"mlflow": stores[obstacle]})
    if obstacle == "tensorboard":
        (folder.path / "tensorboard").touch()
    notes = Notes()
    run_in_memory(folder, notes=notes)
    assert same(weights(folder.path), weights(reference.path))
    (told,) = [sentence for sentence in notes.warnings if "cannot" in sentence]
    assert told.startswith("TensorBoard's files" if obstacle == "tensorboard" else "MLflow")
    assert "the run goes on, its folder holds the same numbers" in told
    assert "\n" not in told
    if obstacle != "tensorboard":
        assert without_clock(event_curves(folder.path)) == without_clock(event_curves(reference.path))


def test_a_disk_that_has_room_again_at_the_end_holds_all_rounds(root: Path, reference: RunFolder) -> None:
    folder = new_run(root, **LONG)
    obstacle = folder.path / "tensorboard"
    obstacle.touch()

    class Mending(Notes):
        def round_done(self, number: int, rounds: int, rows: Any) -> None:
            super().round_done(number, rounds, rows)
            if number == 2:
                obstacle.unlink()

    run_in_memory(folder, notes=Mending())
    assert without_clock(event_curves(folder.path)) == without_clock(event_curves(reference.path))


def test_a_full_disk_loses_no_round_and_is_told_once(root: Path, reference: RunFolder) -> None:
    """The first file cannot be written; by the run's end there is room, and all rounds are shown."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    folder, notes = new_run(root, **LONG), Notes()
    (folder.path / "tensorboard").mkdir()
    (folder.path / "tensorboard" / f".next.{os.getpid()}").symlink_to("/dev/full")
    run_in_memory(folder, notes=notes)
    (told,) = notes.warnings
    assert "No space left on device" in told
    assert same(weights(folder.path), weights(reference.path))
    assert without_clock(event_curves(folder.path)) == without_clock(event_curves(reference.path))


def mlflow_client(folder: RunFolder) -> Any:
    from mlflow import MlflowClient

    store = folder.experiment.tracking.mlflow
    assert store is not None
    return MlflowClient(tracking_uri=Path(store).as_uri())


def mlflow_run(folder: RunFolder) -> Any:
    client = mlflow_client(folder)
    (experiment,) = [one for one in client.search_experiments() if one.name == folder.experiment.name]
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def stored_curves(folder: RunFolder) -> Curves:
    """Return what a store's files hold, lines of time, value and step; MLflow takes 12 ms for each curve."""
    store = folder.experiment.tracking.mlflow
    assert store is not None
    (metrics,) = Path(store).glob("*/*/metrics")
    curves: Curves = {}
    for path in metrics.rglob("*"):
        if path.is_file():
            tag = path.relative_to(metrics).as_posix().replace("_pooled_", "(pooled)")
            lines = [line.split() for line in path.read_text().splitlines()]
            curves[tag] = [(int(step), float(value)) for _, value, step in lines]
    return curves


def test_mlflow_holds_every_value_of_the_tables_and_no_other(reference: RunFolder) -> None:
    found = stored_curves(reference)
    assert of_the_tables(found) == table_curves(reference.path)
    assert in_single_precision(found) == event_curves(reference.path), "and what TensorBoard is told"
    client, run = mlflow_client(reference), mlflow_run(reference)
    last = {tag.replace("_pooled_", "(pooled)"): value for tag, value in run.data.metrics.items()}
    assert last == {tag: curve[-1][1] for tag, curve in found.items()}, "what MLflow itself answers"
    history = client.get_metric_history(run.info.run_id, "auc/image/test/held-out/_pooled_")
    assert [(one.step, one.value) for one in history] == found["auc/image/test/held-out/(pooled)"]
    assert run.info.run_name == reference.path.name
    assert run.data.params == {name: str(v) for name, v in hyperparameters(reference.experiment).items()}
    assert "proximal_mu: 0.1" in run.data.tags["mlflow.note.content"]
    assert run.info.status == "FINISHED"


def test_killed_while_it_logged_a_round_to_mlflow_nothing_stands_twice_and_nothing_lacks(
    root: Path, reference: RunFolder
) -> None:
    """As a SIGKILL leaves it: round 2 begun, half of its values in the store, the mark of its end missing."""
    from mlflow.entities import Metric

    store, notes = root / "store-half", Notes()
    folder = new_run(root, **LONG, tracking={"mlflow": str(store)})
    with pytest.raises(Interrupted):
        run_in_memory(folder, should_stop=lambda: notes.stages[-1] == "round 2/3: train", notes=notes)
    off = folder.experiment.model_copy(update={"tracking": TrackingSettings()})
    notes = Notes()
    with pytest.raises(Interrupted):
        run_in_memory(
            RunFolder(folder.path, off),
            should_stop=lambda: notes.stages[-1] == "round 3/3: train",
            notes=notes,
        )
    expected = without_clock(stored_curves(reference))
    second = [(tag, value) for tag, curve in expected.items() for step, value in curve if step == 2]
    client, run = mlflow_client(folder), mlflow_run(folder)
    client.set_tag(run.info.run_id, "fedderm.logging", 2)
    half = [Metric(tag.replace("(pooled)", "_pooled_"), value, 1, 2) for tag, value in second[::2]]
    client.log_batch(run.info.run_id, metrics=half)
    run_in_memory(RunFolder.open(folder.path))
    assert without_clock(stored_curves(folder)) == expected


@pytest.fixture
def without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extra: Python then finds no such package."""
    monkeypatch.setitem(sys.modules, "mlflow", None)


@pytest.mark.usefixtures("without_mlflow")
def test_mlflow_that_is_not_installed_is_refused_before_the_run_has_a_folder(tmp_path: Path) -> None:
    config = write_clinic_config(tmp_path, tracking={"mlflow": "mlruns"})
    sentence = fedderm("run", config).sentence()
    assert 'tracking.mlflow: MLflow is not installed; pip install "fedderm[mlflow]"' in sentence
    assert not (tmp_path / "runs").exists()


def test_a_password_in_the_address_is_refused(tmp_path: Path) -> None:
    config = write_clinic_config(tmp_path, tracking={"mlflow": "http://ann:secret@mlflow.clinic:5000"})
    sentence = fedderm("run", config).sentence()
    assert "tracking" in sentence
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in sentence
    assert "secret" not in sentence
    assert not (tmp_path / "runs").exists()


def test_nothing_of_mlflow_reaches_for_the_network(reference: RunFolder) -> None:
    """In a process without pytest's marks, which alone would switch MLflow's reports off."""
    code = (
        "import sys\n"
        "reached = []\n"
        "sys.addaudithook(lambda event, values: reached.append((event, values)) if event in\n"
        "    ('socket.connect', 'socket.getaddrinfo', 'socket.sendto') else None)\n"
        "from pathlib import Path\n"
        "from fedderm.runs import RunFolder\n"
        "from fedderm.tracking.mlflow_run import MlflowRun\n"
        "folder = RunFolder.open(Path(sys.argv[1]))\n"
        "tracker = MlflowRun(folder, sys.argv[2])\n"
        "tracker.update()\n"
        "tracker.conclude()\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "import time; time.sleep(1)\n"
        "print(is_telemetry_disabled(), reached)\n"
    )
    marks = ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS", "GITLAB_CI", "DO_NOT_TRACK")
    environment = {key: value for key, value in os.environ.items() if key not in marks}
    done = subprocess.run(
        [sys.executable, "-c", code, str(reference.path), str(reference.path.parent / "quiet-store")],
        env={**environment, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True []"


def test_switched_off_there_are_no_event_files(root: Path) -> None:
    folder = new_run(root, rounds=1, tracking={"tensorboard": False})
    run_in_memory(folder)
    assert not (folder.path / "tensorboard").exists()
    assert not (folder.path / "mlflow.json").exists()
