"""The same experiment on a Ray cluster of several machines, one of which is lost in the middle of a round.

The machines are Ray nodes of their own on this one: a head that works for no site, and two with a core each.
"""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from federations import (
    Notes,
    new_run,
    only_run,
    run_command,
    run_in_memory,
    same,
    state,
    weights,
    write_config,
)
from ray.cluster_utils import Cluster
from ray.experimental import get_object_locations

from fedderm.runs import RunFolder
from fedderm.simulation import run_simulation
from strategies.exchange import Event

FEW = ({"name": "west", "lesions": 30}, {"name": "east", "lesions": 28}, {"name": "north", "lesions": 24})


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    on_term = signal.getsignal(signal.SIGTERM)  # which Ray takes over
    small: dict[str, Any] = {"object_store_memory": 128 * 2**20}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    for _ in range(2):
        found.add_node(num_cpus=1, **small)
    yield found
    found.shutdown()
    signal.signal(signal.SIGTERM, on_term)


class Axe(Notes):
    """An observer that ends one of the machines as soon as a site has answered in the second round."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.cluster = cluster
        self.events: list[Event] = []

    def site(self, event: Event) -> None:
        self.events.append(event)
        second = any(title.startswith("round 2/") and title.endswith("train") for title in self.stages)
        if second and event.kind == "arrived" and len(self.cluster.worker_nodes) == 2:
            self.cluster.remove_node(next(iter(self.cluster.worker_nodes)), allow_graceful=False)


@pytest.mark.slow
def test_a_machine_lost_in_the_middle_of_a_round_changes_nothing(tmp_path: Path, cluster: Cluster) -> None:
    reference = new_run(tmp_path / "here", FEW)
    run_in_memory(reference)
    folder = new_run(tmp_path / "there", FEW, resources={"workers": None, "address": cluster.address})
    axe = Axe(cluster)
    run_simulation(folder, axe)
    assert len(cluster.worker_nodes) == 1
    assert same(weights(folder.path), weights(reference.path))
    for name in ("rounds/metrics.csv", "evaluation/metrics.csv"):
        assert (folder.path / name).read_bytes() == (reference.path / name).read_bytes(), name
    assert [entry["refused"] for entry in state(folder)["history"]] == [{}, {}]
    assert isinstance(RunFolder.open(folder.path), RunFolder)


@pytest.mark.slow
def test_a_reply_lost_with_its_machine_before_it_was_read_is_made_again(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = new_run(tmp_path / "here", FEW)
    run_in_memory(reference)
    folder = new_run(tmp_path / "there", FEW, resources={"workers": None, "address": cluster.address})
    notes, read, lost = Notes(), ray.get, []
    first = threading.Lock()  # taken for good by the thread that comes first

    def get(wanted: Any, **options: Any) -> Any:
        """Read as Ray does; but the first reply of round 2 loses its machine when it is there to be read."""
        second = any(title.startswith("round 2/") and title.endswith("train") for title in notes.stages)
        if second and isinstance(wanted, ray.ObjectRef):
            ray.wait([wanted], fetch_local=False)
            places = get_object_locations([wanted])[wanted]["node_ids"]
            there = [node for node in cluster.worker_nodes if node.node_id in places]
            if there and first.acquire(blocking=False):
                lost.extend(there)
                cluster.remove_node(there[0], allow_graceful=False)
        return read(wanted, **options)

    monkeypatch.setattr(ray, "get", get)
    run_simulation(folder, notes)
    assert len(lost) == 1
    assert same(weights(folder.path), weights(reference.path))
    assert [entry["refused"] for entry in state(folder)["history"]] == [{}, {}]


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    path = write_config(tmp_path, FEW, resources={"workers": None, "address": "127.0.0.1:1"})
    code, output = run_command("run", path, cwd=tmp_path)
    assert code == 2
    assert "no Ray cluster answers at '127.0.0.1:1'" in output
    assert "Traceback" not in output
    assert not (only_run(tmp_path) / "model" / "model.safetensors").exists()
