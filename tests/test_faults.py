"""What goes wrong at sites: a loss that is not finite, dead workers, vanished folders, images held twice."""

import json
import os
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from federations import AppGrid, Notes, new_run, run_in_memory, same, simulated, weights
from flwr.app import Message
from PIL import Image
from site_images import lesion_image
from sklearn.metrics import roc_auc_score

from fedderm import messages
from fedderm.local_site import LocalSite
from fedderm.node import open_site
from fedderm.runs import RunFolder
from fedderm.runtime import Interrupted
from fedderm.serving import serve
from fedderm.simulation import run_simulation
from fedderm.worker_models import worker_model
from sites.giving_way import AuditRefused
from strategies.errors import QuorumLost
from strategies.exchange import Event

SPLITS = {"train": 0.5, "calibration": 0.25, "test": 0.25}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


def hospital(folder: Path, seeds: Sequence[int], prefix: str) -> Path:
    """Write a hospital's folder: image ``seed`` for each seed, every second one a melanoma; return it."""
    folder.mkdir(parents=True)
    for seed in seeds:
        Image.fromarray(lesion_image(seed, 48, 64)).save(folder / f"{prefix}{seed}.png")
    names = [f"{prefix}{seed}" for seed in seeds]
    diagnoses = ["mel" if seed % 2 else "nv" for seed in seeds]
    pd.DataFrame({"image_id": names, "diagnosis": diagnoses}).to_csv(folder / "table.csv", index=False)
    return folder


def hospital_site(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "source": "folder", "path": str(folder), "splits": SPLITS, **more}


def state(folder: RunFolder) -> dict[str, Any]:
    return json.loads((folder.path / "rounds" / "state.json").read_text())


def test_a_loss_that_is_not_finite_is_told_of_each_site_and_nothing_is_kept(root: Path) -> None:
    folder = new_run(root, training={"learning_rate": 1e30})
    with pytest.raises(QuorumLost) as failure:
        run_in_memory(folder)
    sentence = str(failure.value)
    assert sentence.startswith("round 1: 0 of 2 sites gave a usable reply and 2 are needed (quorum 1): ")
    for site in ("west", "east"):
        assert sentence.count(f"site {site}: ") == 1, "named once, not once by each layer"
        assert f"site {site}: the loss is not finite by step" in sentence
    assert "\n" not in sentence
    assert "Exception" not in sentence
    assert state(folder)["round"] == 0
    assert not list((folder.path / "rounds").glob("*.safetensors"))


def test_a_site_that_fails_is_left_out_as_if_it_had_never_been_there(root: Path) -> None:
    def fail(position: int, message: Message, reply: Message) -> Message:
        if position == 1 and message.metadata.message_type == "train":
            raise ValueError("the volume with the images is offline")
        return reply

    sites = [simulated("west", 40), simulated("shaky", 30), simulated("east", 28)]
    strict = new_run(root, sites, rounds=1)
    with pytest.raises(
        QuorumLost, match=r"2 of 3 sites .*: site shaky: the volume with the images is offline"
    ):
        run_in_memory(strict, change=fail)

    lenient = new_run(root, sites, rounds=1, strategy={"quorum": 0.6})
    run_in_memory(lenient, change=fail)
    refused = {"shaky": "site shaky: the volume with the images is offline"}
    assert state(lenient)["history"][0]["refused"] == refused
    alone = new_run(root, [sites[0], sites[2]], rounds=1)
    run_in_memory(alone)
    assert same(weights(lenient.path), weights(alone.path))


def test_a_folder_that_disappears_between_rounds(root: Path) -> None:
    """Pixels are in the cache, so a run goes on; a later sitting says which site, and goes on once mended."""
    here, away = hospital(root / "clinic", range(40), "c"), root / "clinic-moved"
    sites = [hospital_site(here, "clinic"), simulated("west", 40)]
    reference = new_run(root, sites, rounds=3)
    run_in_memory(reference)

    notes, folder = Notes(), new_run(root, sites, rounds=3)

    def stop() -> bool:
        if notes.stages[-1] == "round 2/3: train" and here.exists():
            here.rename(away)
        return notes.stages[-1] == "round 3/3: train"

    with pytest.raises(Interrupted):
        run_in_memory(folder, should_stop=stop, notes=notes)
    assert state(folder)["round"] == 2
    with pytest.raises(ValueError, match="clinic") as failure:
        run_in_memory(RunFolder.open(folder.path))
    assert str(here) in str(failure.value)
    assert "\n" not in str(failure.value)
    away.rename(here)
    run_in_memory(RunFolder.open(folder.path))
    assert same(weights(folder.path), weights(reference.path))
    shutil.rmtree(here)


class WorkerKiller(Notes):
    """Kills every worker of this process's Ray when a site is first asked to train in round 2."""

    def __init__(self) -> None:
        super().__init__()
        self.killed: list[int] = []
        self.resent: list[str] = []

    def site(self, event: Event) -> None:
        if event.kind == "resent":
            self.resent.append(event.member.name)
        if event.kind == "sent" and self.stages[-1] == "round 2/3: train" and not self.killed:
            self.killed = workers()
            for pid in self.killed:
                os.kill(pid, signal.SIGKILL)


def workers() -> list[int]:
    """Return the ids of Ray's busy or idle actors below this process."""
    parents, names = {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            names[int(process.name)] = (process / "cmdline").read_bytes()
        except OSError:
            continue

    def below(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [pid for pid, name in names.items() if name.startswith(b"ray::SiteWorker") and below(pid)]


@pytest.mark.slow
def test_workers_killed_in_mid_round_are_replaced_and_change_nothing(root: Path) -> None:
    reference = new_run(root, rounds=3)
    run_in_memory(reference)
    killer, folder = WorkerKiller(), new_run(root, rounds=3, resources={"workers": 2})
    run_simulation(folder, killer)
    assert killer.killed
    assert killer.resent, "who lost a worker is asked again, and the person is told"
    assert same(weights(folder.path), weights(reference.path))
    assert all(not entry["refused"] for entry in state(folder)["history"])


@pytest.fixture(scope="module")
def twins(root: Path) -> tuple[Path, Path]:
    """Two hospitals: ``second`` holds ten photographs of ``first`` under names of its own."""
    return hospital(root / "first", range(100, 140), "f"), hospital(root / "second", range(130, 166), "s")


def test_images_held_twice_are_refused_before_training_with_the_list(
    root: Path, twins: tuple[Path, Path]
) -> None:
    folder = new_run(root, [hospital_site(twins[0], "first"), hospital_site(twins[1], "second")])
    notes = Notes()
    with pytest.raises(AuditRefused) as failure:
        run_in_memory(folder, notes=notes)
    sentence = str(failure.value)
    assert "the audit found 10 overlaps" in sentence
    assert "f130" in sentence
    assert "s130" in sentence
    assert "'gives_way_to: [second]' in site first, or the reverse" in sentence
    assert notes.stages == [], "no site was asked anything"


def test_a_deployment_refuses_what_the_salted_lists_share(root: Path, twins: tuple[Path, Path]) -> None:
    """There the server sees no table: only what the sites' cards give away."""
    folder = new_run(root, [hospital_site(twins[0], "first"), hospital_site(twins[1], "second")])
    grid = AppGrid(2)
    with pytest.raises(ValueError, match="first and second share 10 identical images"):
        serve(grid, folder, Notes(), None)
    assert grid.types_sent_to(0) == grid.types_sent_to(1) == ["query"]


def test_what_a_site_gives_up_is_neither_trained_on_nor_tested_on(
    root: Path, twins: tuple[Path, Path]
) -> None:
    sites = [hospital_site(twins[0], "first"), hospital_site(twins[1], "second", gives_way_to=["first"])]
    folder = new_run(root, sites)
    shared = {f"s{seed}" for seed in range(130, 140)}
    queries: list[dict[str, Any]] = []

    def note(_: int, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "query":
            queries.append(messages.read_card(reply)[0])
        return reply

    run_in_memory(folder, change=note)

    whole = [open_site(folder.experiment, site, "", frozenset()) for site in folder.experiment.sites]
    kept = whole[1].table[~whole[1].table["image_id"].isin(shared)]
    assert len(kept) == 26
    lost = whole[1].table.loc[whole[1].table["image_id"].isin(shared), "split"]
    assert {"train", "test"} <= set(lost), "or this would show nothing"
    in_train = [int((whole[0].table["split"] == "train").sum()), int((kept["split"] == "train").sum())]
    assert [int(card["num_examples"]) for card in queries] == in_train
    trained = state(folder)["history"][1]["sites"]
    assert [trained[name]["num-examples"] for name in ("first", "second")] == in_train

    document = json.loads((folder.path / "evaluation" / "sites.json").read_text())["second"]
    assert document["splits"]["test"]["images"] == int((kept["split"] == "test").sum())
    performance = document["before"]["image"]
    assert performance["n"] == int((kept["split"] == "test").sum())
    assert performance["metrics"]["auc"]["value"] == pytest.approx(
        auc_without(folder, whole[1], shared), abs=1e-9
    )
    audit = json.loads((folder.path / "audit.json").read_text())
    assert audit["removed"] == {"first": 0, "second": 10}


def auc_without(folder: RunFolder, site: LocalSite, ids: set[str]) -> float:
    """Return scikit-learn's AUC of the final model on the site's test images other than ``ids``."""
    scores = site.score(worker_model(folder.experiment, weights(folder.path)), "test", 1, "auto").scores
    rows = site.rows("test")
    keep = ~site.table["image_id"].iloc[rows].isin(ids).to_numpy()
    return float(roc_auc_score(scores.truth[keep] > 0, scores.triage[keep]))


def test_each_fault_in_the_docs_names_a_test_that_exists() -> None:
    tests = Path(__file__).resolve().parent
    page = (tests.parent / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "| test |" not in line]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", row.rpartition(" | ")[2])
        assert named, f"no test: {row}"
        for file, name in named:
            assert not name or f"def {name}(" in (tests / file).read_text(encoding="utf-8"), f"{file}: {name}"
