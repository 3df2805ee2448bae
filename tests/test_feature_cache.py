"""The feature cache: whole or not at all, keyed by what decides its content, built by one at a time."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from federations import raw_config

from fedderm import config
from fedderm.feature_cache import VIEWS, CachedSite, open_features
from fedderm.inference import extract_features
from fedderm.model.frozen import frozen_trunk, initial_model
from fedderm.settings import Experiment
from fedderm.weights import digest

ROOT = Path(__file__).resolve().parents[1]


def experiment(root: Path, **changes: object) -> Experiment:
    return config.parse(raw_config(root, training={"trunk": "frozen"}, **changes))


def pixels(count: int = 9) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def site(root: Path, images: np.ndarray | None = None, **changes: object) -> CachedSite:
    chosen = experiment(root, **changes)
    trunk = frozen_trunk(initial_model(chosen.model, chosen.seed)).digest
    return CachedSite(pixels() if images is None else images, "clinic-0123", chosen, trunk)


def test_it_holds_the_trunks_features_of_the_four_mirror_images(tmp_path: Path) -> None:
    one = site(tmp_path)
    found = open_features(one)
    model = initial_model(one.experiment.model, one.experiment.seed)
    assert found.shape == (9, VIEWS, 1, model.triage.in_features)
    assert not found.flags.writeable
    flips: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
        lambda x: x,
        lambda x: x[:, :, ::-1],
        lambda x: x[:, ::-1],
        lambda x: x[:, ::-1, ::-1],
    )
    for view, flip in enumerate(flips):
        expected, _ = extract_features(model, np.ascontiguousarray(flip(one.pixels)))
        np.testing.assert_allclose(found[:, view, 0], expected, rtol=0, atol=1e-5)


def test_what_is_cached_is_not_computed_again(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    first = open_features(site(tmp_path), lambda done, total: told.append((done, total)))
    assert told == [(9, 9)]
    second = open_features(site(tmp_path), lambda done, total: told.append((done, total)))
    assert len(told) == 1
    np.testing.assert_array_equal(first, second)


def test_other_weights_other_pixels_and_bfloat16_have_caches_of_their_own(tmp_path: Path) -> None:
    one = site(tmp_path)
    assert site(tmp_path, seed=8).folder != one.folder, "random weights of another seed"
    assert site(tmp_path, strategy={"name": "fedmedian"}, rounds=9).folder == one.folder
    other = CachedSite(one.pixels, "clinic-4567", one.experiment, one.trunk)
    assert other.folder != one.folder
    half = config.parse(raw_config(tmp_path, training={"trunk": "frozen", "precision": "bfloat16"}))
    assert CachedSite(one.pixels, one.identity, half, one.trunk).folder != one.folder


def test_a_digest_tells_names_types_shapes_and_values_apart() -> None:
    arrays = {"a": np.arange(6.0), "b": np.ones(2)}
    variants = [
        arrays,
        {"a": arrays["b"], "b": arrays["a"]},
        {**arrays, "a": arrays["a"].reshape(2, 3)},
        {**arrays, "a": arrays["a"].astype(np.float32)},
        {**arrays, "b": np.array([1.0, np.nextafter(1.0, 2.0)])},
        {"a": arrays["a"]},
    ]
    assert len({digest(one) for one in variants}) == len(variants)
    assert digest({"b": arrays["b"], "a": arrays["a"]}) == digest(arrays)


@pytest.mark.parametrize("damage", ["cut", "other", "gone"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    one = site(tmp_path)
    expected, file = np.array(open_features(one)), one.folder / "features.npy"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "other":
        np.save(file, expected[:4])
    else:
        file.unlink()
    np.testing.assert_array_equal(open_features(site(tmp_path)), expected)


def test_nothing_half_made_is_left_where_features_are_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedderm.model import frozen

    def broken(settings: object, seed: int) -> object:
        model = initial_model(settings, seed)  # type: ignore[arg-type]
        next(iter(model.trunk_parameters())).data.fill_(float("nan"))
        return model

    monkeypatch.setattr(frozen, "initial_model", broken)
    chosen = experiment(tmp_path)
    trunk = frozen_trunk(broken(chosen.model, chosen.seed)).digest  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="features are not finite"):
        open_features(CachedSite(pixels(), "clinic-0123", chosen, trunk))
    assert [one.suffix for one in (tmp_path / "cache" / "features").iterdir()] == [".lock"]


def test_several_processes_that_want_it_at_once_build_it_once(tmp_path: Path) -> None:
    """Three processes; only the one that computed says so, and all see the same."""
    code = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_feature_cache import pixels, site
from fedderm.feature_cache import open_features
told = []
found = open_features(site(Path(sys.argv[1]), pixels(300)), lambda done, total: told.append(done))
print(len(told) > 0, float(found.astype("f8").sum()))
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(ROOT / "tests")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=300)[0].split() for process in started]
    assert sorted(answer[0] for answer in answers) == ["False", "False", "True"]
    assert len({answer[1] for answer in answers}) == 1
