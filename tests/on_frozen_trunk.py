"""What holds of every run in which most of a trunk stays as it was: adapters, and last stages, alike."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from federations import (
    AppGrid,
    Notes,
    local,
    new_run,
    raw_config,
    run_in_memory,
    same,
    simulated,
    state,
    weights,
)
from flwr.app import Context, Message, RecordDict

from fedderm import config, messages, site_tasks
from fedderm.comparison.cells import run_cell
from fedderm.comparison.job import Job
from fedderm.comparison.scores import FILE, read_scores
from fedderm.evaluation.scores import Scores
from fedderm.federation.training import read_counts
from fedderm.model.frozen import frozen_trunk, initial_model
from fedderm.model.heads import Heads
from fedderm.model.state import to_arrays
from fedderm.predictor import Predictor
from fedderm.runs import RunFolder
from fedderm.serving import start_of
from fedderm.weights import save_arrays
from fedderm.worker_models import worker_model
from strategies.errors import Interrupted

Run = tuple[RunFolder, AppGrid]
AWAY = 2


def a_cell_is_the_run_and_scores_the_whole_model(root: Path, run: Run, changes: dict[str, Any]) -> None:
    folder = new_run(root, **{**changes, "rounds": 3})
    told = list[Mapping[str, Any]]()
    run_cell(Job(str(folder.path), None, "0123456789abcdef", {}), told.append)
    assert [one["number"] for one in told] == [1, 2, 3]
    assert same(weights(folder.path), weights(run[0].path))
    found = read_scores(folder.path / FILE)["away", "global"]
    model = Predictor.open(folder.path).model
    site = local(folder, AWAY)
    expected = Scores.join(*(site.score(model, split, 1, "auto").scores for split in ("calibration", "test")))
    np.testing.assert_allclose(found.triage, expected.per_lesion().triage, rtol=0, atol=1e-6)


def the_loss_falls(run: Run) -> None:
    history = state(run[0])["history"]
    losses = [np.mean([site["loss"] for site in entry["sites"].values()]) for entry in history]
    assert losses[-1] < losses[0] - 0.01


def it_is_the_same_in_any_order_and_resumed(root: Path, exchange: str, changes: dict[str, Any]) -> None:
    folders = [new_run(root, **changes, strategy={"exchange": exchange}) for _ in range(3)]
    run_in_memory(folders[0])
    run_in_memory(folders[1], order=lambda position: -position)
    notes = Notes()
    with pytest.raises(Interrupted):
        run_in_memory(folders[2], should_stop=lambda: notes.stages[-1] == "round 2/2: train", notes=notes)
    run_in_memory(RunFolder.open(folders[2].path))
    for other in folders[1:]:
        assert same(weights(folders[0].path), weights(other.path))


def another_trunk_is_refused_by_name(root: Path, backbone: str, changes: dict[str, Any]) -> None:
    """What would be trained here belongs to another network."""
    folder = new_run(root, **changes)
    _, initial = start_of(folder)
    words = rf"the frozen trunk {backbone} .* other weights here, \w{{16}}, than at the server, feedfeed"
    with pytest.raises(ValueError, match=words):
        worker_model(folder.experiment, initial.arrays, "feedfeedfeedfeed")


def a_site_file_names_the_trunk(root: Path, folder: Path, changes: dict[str, Any], part: Any) -> None:
    """The server's path means nothing at a hospital, and must not be read.

    ``part`` makes what is trained of a whole model, given its experiment.
    """
    whole = initial_model(new_run(root, **changes).experiment.model, 3)
    save_arrays(folder / "here.safetensors", to_arrays(whole.trunks[0]))
    site = {**simulated("clinic", 20, "held-out"), "splits": {"train": 0, "calibration": 0, "test": 1}}
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    model = {**changes.get("model", {}), "pretrained": "/at/the/server.safetensors"}
    experiment = config.parse(raw_config(root, **{**changes, "model": model}))
    digest = frozen_trunk(whole).digest
    asked = messages.config_record(experiment, splits="test", views=1, trunk=digest, server_round=1)
    trained: Heads = part(whole, experiment)
    content = messages.request(asked, messages.to_record(to_arrays(trained)))
    message = Message(content, 1, messages.EVALUATE)
    message.metadata.__dict__["_message_id"] = "1"
    context = Context(1, 1, {"site": str(folder / "site.yaml")}, RecordDict(), {})
    with pytest.raises(ValueError, match=r"site clinic: .* name your copy of it"):
        site_tasks.evaluate(message, context)
    (folder / "site.yaml").write_text(yaml.safe_dump({**site, "trunk": "here.safetensors"}))
    reply = site_tasks.evaluate(message, context)
    assert read_counts(reply)["test"].cells.sum() > 0
