"""The worked example of docs/adding-a-strategy.md: one file and one line, taken from the page and run."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from federations import Notes, new_run, run_in_memory, same, weights
from memory_grid import f32
from quadratic_sites import QuadraticFederation, unlike_sites

from fedderm import config
from fedderm.runs import RunFolder
from strategies.errors import Interrupted
from strategies.names import STRATEGIES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "adding-a-strategy.md"


@pytest.fixture(scope="module", autouse=True)
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put the page's file where the page's line says, as far as this process is concerned."""
    file, line = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    name, where = re.fullmatch(r'\s*"(\w+)": "([\w.:]+)",\s*', line).groups()
    module = where.partition(":")[0]
    path = tmp_path_factory.mktemp("example") / f"{module.rpartition('.')[2]}.py"
    path.write_text(file, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(module, path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    spec.loader.exec_module(loaded)
    STRATEGIES[name] = where
    yield
    del STRATEGIES[name], sys.modules[module]


def test_the_step_by_hand() -> None:
    """v = 0.5 * 2 + (6 - 3) = 4 and x = 3 + 4 = 7."""
    from strategies.fedproxm import momentum_step

    model, velocity = momentum_step({"w": f32(3)}, {"w": f32(6)}, {"w": f32(2)}, 0.5)
    np.testing.assert_array_equal(model["w"], f32(7))
    np.testing.assert_array_equal(velocity["w"], f32(4))


def test_without_momentum_it_is_fedprox() -> None:
    options = {"mu": 0.3, "momentum": 0.0}
    ours = QuadraticFederation("fedproxm", unlike_sites(), options).run(5)
    theirs = QuadraticFederation("fedprox", unlike_sites(), {"proximal_mu": 0.3}).run(5)
    np.testing.assert_allclose(ours.w, theirs.w, rtol=1e-12)


def test_a_config_takes_it_and_a_killed_run_resumes(tmp_path: Path) -> None:
    changes = {"rounds": 3, "strategy": {"name": "fedproxm", "parameters": {"momentum": 0.5}}}
    steady, stopped = new_run(tmp_path, **changes), new_run(tmp_path, **changes)
    run_in_memory(steady)
    notes = Notes()
    with pytest.raises(Interrupted):
        run_in_memory(stopped, should_stop=lambda: notes.stages[-1] == "round 3/3: train", notes=notes)
    run_in_memory(RunFolder.open(stopped.path))
    assert same(weights(stopped.path), weights(steady.path))
    with pytest.raises(
        ValueError, match=r"strategy.name: there is no strategy fedproxmm; did you mean fedproxm\?"
    ):
        config.parse({**steady.experiment.model_dump(mode="json"), "strategy": {"name": "fedproxmm"}})
