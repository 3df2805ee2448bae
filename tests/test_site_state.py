"""What sites keep between rounds: the store, and methods with state in whole small federations."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from federations import SITES, Notes, local, new_run, run_in_memory, same, state, weights
from flwr.app import Message

from fedderm.runs import RunFolder
from fedderm.site_store import SiteStore
from fedderm.weights import read_arrays
from strategies.errors import Interrupted

RUN = "0123456789abcdef"
METHODS: dict[str, dict[str, Any]] = {
    "scaffold": {"training": {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.01}},
    "feddyn": {"strategy": {"parameters": {"alpha": 0.1}}},
    "fedbn": {"training": {"norm_statistics": "local"}},
    "silobn": {"training": {"norm_statistics": "local"}, "strategy": {"parameters": {"held_out": "mean"}}},
    "fedper": {},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("site-state")


def method_run(root: Path, name: str, **changes: Any) -> RunFolder:
    own = METHODS[name]
    strategy = {"name": name, **own.get("strategy", {}), **changes.pop("strategy", {})}
    return new_run(root, **{"rounds": 3, **own, **changes, "strategy": strategy})


def store_of(folder: RunFolder, site: str) -> Path:
    return folder.experiment.work_dir / "site_state" / state(folder)["run"] / site


def test_a_store_keeps_what_counted_and_passes_over_the_rest(tmp_path: Path) -> None:
    store = SiteStore.of(tmp_path, RUN, "west")
    assert store.read(0) == {}
    for number, counted in ((1, 0), (2, 1), (3, 2)):
        store.write(number, {"c": np.full(2, number, np.float32)}, counted)
    np.testing.assert_array_equal(store.read(2)["c"], [2, 2])
    assert sorted(path.stem for path in store.folder.iterdir()) == ["0002", "0003"], (
        "round 1 is not needed again"
    )
    np.testing.assert_array_equal(store.read(2)["c"], [2, 2])


def test_a_lost_or_strange_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="site west: what it kept of round 4 is gone"):
        SiteStore.of(tmp_path, RUN, "west").read(4)
    for run in ("", "../../../../etc", "0123456789ABCDEF"):
        with pytest.raises(ValueError, match="is not 16 hexadecimal digits"):
            SiteStore.of(tmp_path, run, "west")
    store = SiteStore.of(tmp_path, RUN, "west")
    store.write(1, {"c": np.ones(2, np.float32)}, 0)
    next(store.folder.iterdir()).write_bytes(b"torn")
    with pytest.raises(ValueError, match="0001"):
        store.read(1)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_run_stopped_in_every_round_equals_one_that_was_not(root: Path, name: str) -> None:
    """Stopped with one site trained, or evaluated, after it has written that round's state."""
    steady = method_run(root, name)
    run_in_memory(steady)
    stopped = method_run(root, name)
    for number, stage in ((1, "train"), (2, "evaluate"), (2, "train"), (3, "train")):
        notes, asked = Notes(), []

        def with_one_site_done(
            at: str = f"round {number}/3: {stage}", notes: Notes = notes, asked: list[str] = asked
        ) -> bool:
            asked.append(notes.stages[-1])
            return asked.count(at) == 2

        with pytest.raises(Interrupted):
            run_in_memory(RunFolder.open(stopped.path), should_stop=with_one_site_done, notes=notes)
        assert (store_of(stopped, "west") / f"000{number}.safetensors").is_file(), "it trained in vain"
    run_in_memory(RunFolder.open(stopped.path))
    assert same(weights(stopped.path), weights(steady.path))
    for file in ("rounds/metrics.csv", "evaluation/metrics.csv", "evaluation/sites.json"):
        assert (stopped.path / file).read_bytes() == (steady.path / file).read_bytes(), file


def test_a_refused_round_does_not_count_for_the_sites_state(root: Path) -> None:
    """East's reply of round 2 is broken: in round 3 it goes on from the state that it kept of round 1."""
    seen: dict[int, int] = {}

    def break_round_2(position: int, message: Message, reply: Message) -> Message:
        config = message.content["config"]
        if message.metadata.message_type == "train" and position == 1:
            seen[int(config["server-round"])] = int(config["state-round"])
            if config["server-round"] == 2:
                reply.content["metrics"]["loss"] = float("nan")
        return reply

    folder = method_run(root, "scaffold", strategy={"quorum": 0.5})
    run_in_memory(folder, change=break_round_2)
    assert seen == {1: 0, 2: 1, 3: 1}
    assert "east" in state(folder)["history"][1]["refused"]
    kept = store_of(folder, "east")
    assert not same(read_arrays(kept / "0001.safetensors"), read_arrays(kept / "0003.safetensors"))


def test_a_site_that_lost_its_state_is_named(root: Path) -> None:
    notes, folder = Notes(), method_run(root, "feddyn")
    with pytest.raises(Interrupted):
        run_in_memory(folder, should_stop=lambda: notes.stages[-1] == "round 2/3: train", notes=notes)
    for file in store_of(folder, "east").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match="site east: what it kept of round 1 is gone"):
        run_in_memory(RunFolder.open(folder.path))


def kept_and_global(folder: RunFolder, site: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return read_arrays(store_of(folder, site) / "0003.safetensors"), weights(folder.path)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("fedper", {"triage.weight", "triage.bias", "differentiation.weight", "differentiation.bias"}),
        ("fedbn", {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}),
        ("silobn", {"running_mean", "running_var", "num_batches_tracked"}),
    ],
)
def test_sites_keep_what_the_method_says_and_differ_in_it(root: Path, name: str, kept: set[str]) -> None:
    folder = method_run(root, name)
    run_in_memory(folder)
    west, model = kept_and_global(folder, "west")
    east, _ = kept_and_global(folder, "east")
    names = set(west) if name == "fedper" else {key.rpartition(".")[2] for key in west}
    assert names == kept
    assert west.keys() == east.keys() <= model.keys()
    moving = [key for key in west if not key.endswith("num_batches_tracked")]
    assert all(not np.array_equal(west[key], east[key]) for key in moving)


@pytest.mark.parametrize("name", ["fedbn", "fedper"])
def test_personal_models_are_told_apart_and_never_pooled(root: Path, name: str) -> None:
    folder = method_run(root, name)
    run_in_memory(folder)
    for file in ("rounds/metrics.csv", "evaluation/metrics.csv"):
        table = pd.read_csv(folder.path / file)
        personal = table[table["split"] == "test-personal"]
        assert set(personal["site"]) == {"west", "east"}, "of training sites only, and of each by itself"
        whole = table[(table["split"] == "test") & (table["site"] == "west") & (table["metric"] == "auc")]
        own = personal[(personal["site"] == "west") & (personal["metric"] == "auc")]
        assert whole["n"].tolist() == own["n"].tolist()
    evaluations = folder.read_json("evaluation/sites.json")
    assert evaluations["west"]["personal"]["performance"].keys() == {"image", "lesion"}
    assert evaluations["away"]["personal"] is None


def test_fedavg_sends_nothing_of_this(root: Path) -> None:
    folder = new_run(root, SITES, rounds=1)
    grid = run_in_memory(folder)
    assert all("state-round" not in message.content["config"] for _, message in grid.messages)
    assert not list((folder.experiment.work_dir / "site_state").glob(f"{state(folder)['run']}/*"))


def test_a_held_out_site_normalises_with_its_own_images_or_with_the_mean(root: Path) -> None:
    """Re-estimated: the running mean of the first layer is that of the site's own calibration images."""
    import torch

    from fedderm.batches import to_input
    from fedderm.site_method import adapt_to, reestimate
    from fedderm.worker_models import worker_model

    folder = method_run(root, "fedbn")
    site = local(folder, 2)
    from fedderm.serving import first_model

    arrays = first_model(folder.experiment).arrays
    model = worker_model(folder.experiment, arrays)
    adapt_to(model, site, folder.experiment.strategy)
    norm = next(one for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.eval()
    with torch.inference_mode():
        model(to_input(site.pixels[site.rows("calibration")], torch.device("cpu")))
    handle.remove()
    torch.testing.assert_close(norm.running_mean, seen[0].mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, seen[0].var(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)

    before = weights_of(worker_model(folder.experiment, arrays))
    mean = method_run(root, "silobn")
    adapt_to(model, site, mean.experiment.strategy)
    assert same(weights_of(model), before), "held_out: mean"
    adapt_to(model, local(folder, 0), folder.experiment.strategy)
    assert same(weights_of(model), before), "a training site has statistics of its own"
    reestimate(model, site.pixels, site.rows("calibration")[:1])
    assert same(weights_of(model), before), "one image has no variance"


def weights_of(model: Any) -> dict[str, Any]:
    from fedderm.model.state import to_arrays

    return to_arrays(model)


def test_the_last_rounds_models_are_averaged(root: Path) -> None:
    sent: list[dict[str, Any]] = []

    def note(position: int, message: Message, reply: Message) -> Message:
        from fedderm import messages

        if message.metadata.message_type == "evaluate" and position == 0:
            sent.append({name: np.array(one) for name, one in messages.read_arrays(message).items()})
        return reply

    folder = new_run(root, SITES, rounds=3, strategy={"average_last": 2})
    run_in_memory(folder, change=note)
    final = weights(folder.path)
    for name, value in final.items():
        if np.issubdtype(value.dtype, np.floating):
            both = np.float64([sent[1][name], sent[2][name]])
            np.testing.assert_allclose(value, both.mean(axis=0), rtol=1e-6, atol=1e-9)
        else:
            np.testing.assert_array_equal(value, sent[2][name])
    assert same(dict(sorted(sent[3].items())), dict(sorted(final.items()))), (
        "the threshold and all that follows is of the mean"
    )
    plain = new_run(root, SITES, rounds=3)
    run_in_memory(plain)
    assert same(dict(sorted(sent[2].items())), dict(sorted(weights(plain.path).items()))), (
        "training goes on from the last model, not from the mean"
    )
