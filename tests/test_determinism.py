"""The same config and seed give the same weights, bit for bit, in whatever order replies come."""

from collections.abc import Callable
from pathlib import Path

import pytest
from federations import SITES, Notes, largest_difference, new_run, run_in_memory, same, weights

from fedderm.runs import RunFolder
from fedderm.simulation import run_simulation

# Four training sites of unlike sizes.
MANY = (*SITES, {"name": "north", "lesions": 24}, {"name": "south", "lesions": 33})
FILES = (
    "rounds/metrics.csv",
    "evaluation/metrics.csv",
    "evaluation/sites.json",
    "evaluation/federation.json",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("determinism")


@pytest.fixture(scope="module")
def reference(root: Path) -> RunFolder:
    """A run over one process, replies in the config's order."""
    folder = new_run(root, MANY)
    run_in_memory(folder)
    return folder


def assert_equal(run: RunFolder, reference: RunFolder) -> None:
    assert same(weights(run.path), weights(reference.path))
    for name in FILES:
        assert (run.path / name).read_bytes() == (reference.path / name).read_bytes(), name


@pytest.mark.parametrize(
    "order", [lambda site: -site, lambda site: (site * 3) % 5], ids=["reversed", "mixed"]
)
def test_the_order_of_replies_changes_nothing(
    root: Path, reference: RunFolder, order: Callable[[int], int]
) -> None:
    folder = new_run(root, MANY)
    run_in_memory(folder, order=order)
    assert_equal(folder, reference)


def test_another_seed_gives_other_weights(root: Path, reference: RunFolder) -> None:
    folder = new_run(root, MANY, seed=8)
    run_in_memory(folder)
    assert not same(weights(folder.path), weights(reference.path))


def test_a_sites_place_in_the_config_is_not_its_luck(root: Path) -> None:
    """Listed the other way round, each site draws what it drew: only the sum's last bits may differ.

    After one round: later ones train on from there, and training makes more of a last bit.
    """
    first, second = (new_run(root, sites, rounds=1) for sites in (MANY, MANY[::-1]))
    for folder in (first, second):
        run_in_memory(folder)
    assert largest_difference(weights(first.path), weights(second.path)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ray_with_any_number_of_workers_gives_the_same_run(
    root: Path, reference: RunFolder, workers: int
) -> None:
    folder = new_run(root, MANY, resources={"workers": workers})
    run_simulation(folder, Notes())
    assert_equal(folder, reference)
