"""What speaks against a decision: distances by hand, levels by counting, reasons by construction."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from commands import clinic, fedderm
from federations import local, new_run, run_in_memory
from PIL import Image
from test_predict import point, trained

from fedderm import messages
from fedderm.caution import DISAGREE, FOREIGN, caution
from fedderm.evaluation.distance import (
    BINS,
    EDGES,
    FEWEST_IMAGES,
    Familiar,
    distance_histogram,
    distances,
    from_arrays,
    to_arrays,
)
from fedderm.evaluation.shift_reference import Block, ShiftReference
from fedderm.inference import score_images
from fedderm.predictor import Predictor
from fedderm.runs import RunFolder
from fedderm.weights import read_arrays, save_arrays
from fedderm.worker_models import worker_model

pytestmark = pytest.mark.usefixtures("one_thread")


def block(means: np.ndarray, numbers: np.ndarray, scale: np.ndarray) -> Block:
    return Block(means, numbers, scale, np.zeros((1, len(scale))), np.array([10]))


def test_a_distance_is_to_the_nearest_mean_in_standard_deviations() -> None:
    """Two features of scales 1 and 2; means (0, 0) and (10, 0); a class without lesions is no mean.

    (3, 8) lies sqrt((3^2 + 4^2) / 2) from the first and sqrt((7^2 + 4^2) / 2) from the second.
    """
    means = np.array([[0.0, 0.0], [10.0, 0.0], [3.0, 8.0], [3.0, 8.0]])
    here = block(means, np.array([20, 20, 0, 0]), np.array([1.0, 2.0]))
    found = distances(here, np.array([[3.0, 8.0], [10.0, 0.0], [9.0, 0.0]]))
    np.testing.assert_allclose(found, [math.sqrt(12.5), 0.0, math.sqrt(0.5)])
    with pytest.raises(ValueError, match=r"expected 2 features an image, found \(1, 3\)"):
        distances(here, np.zeros((1, 3)))
    with pytest.raises(ValueError, match="the mean of no class"):
        distances(block(means, np.zeros(4, np.int64), np.ones(2)), np.zeros((1, 2)))


def test_one_image_in_a_hundred_of_the_training_sites_is_beyond_the_level() -> None:
    """New images of the same kind exceed the level about as often as its name says; histograms add up."""
    rng = np.random.default_rng(1)
    here = block(np.zeros((4, 30)), np.full(4, 50), np.ones(30))
    sites = [distances(here, rng.normal(size=(n, 30))) for n in (3000, 1000)]
    total = sum((distance_histogram(one) for one in sites), np.zeros(BINS, np.int64))
    np.testing.assert_array_equal(total, distance_histogram(np.concatenate(sites)))
    familiar = Familiar(here, total)
    assert (np.concatenate(sites) > familiar.level).mean() <= 0.01
    assert (np.concatenate(sites) > familiar.level * EDGES[0] / EDGES[1]).mean() > 0.01, (
        "no lower edge would do"
    )
    new = familiar.of(rng.normal(size=(20000, 30)))
    assert 0.004 < (new > 1).mean() < 0.016
    assert (familiar.of(rng.normal(size=(200, 30)) * 3) > 1).all()


@pytest.mark.parametrize("min_cell", [2, 10])
def test_no_small_cell_of_distances_leaves_and_what_is_hidden_warns(min_cell: int) -> None:
    found = np.abs(np.random.default_rng(2).normal(1.0, 0.3, size=500)) + 0.1
    whole, shown = distance_histogram(found), distance_histogram(found, min_cell)
    assert shown.sum() == whole.sum()
    assert set(shown[shown > 0]) - set(range(min_cell)) == set(shown[shown > 0])
    here = block(np.zeros((4, 1)), np.full(4, 50), np.ones(1))
    assert Familiar(here, shown).level <= Familiar(here, whole).level
    assert not distance_histogram(found[: min_cell - 1], min_cell).any()


def test_a_histogram_that_is_none_is_refused() -> None:
    for bad in (np.zeros(3, np.int64), np.zeros(BINS), np.full(BINS, -1)):
        with pytest.raises(ValueError, match="distances: expected 512 counts"):
            from_arrays({"distances": bad})
    assert not from_arrays({}).any()
    assert to_arrays(np.zeros(BINS, np.int64)) == {}


def test_reasons_and_shares() -> None:
    p, called = np.array([0.2, 0.4, 0.6, 0.4]), np.array([False, False, True, False])
    found = caution(p, called, False, 0.5, 1.0)
    assert found.reasons == (DISAGREE,)
    assert found.agreement == 0.75
    assert found.spread == pytest.approx(np.std([0.2, 0.4, 0.6, 0.4], ddof=1), abs=1e-6)
    assert caution(p, called, False, 1.0, 0.75).reasons == ()
    assert caution(p, called, True, 1.01, 0.75).reasons == (DISAGREE, FOREIGN)
    alone = caution(p[:1], called[:1], False, None, 1.0)
    assert (alone.spread, alone.agreement, alone.distance, alone.reasons) == (None, None, None, ())


def referenced(folder: RunFolder, photos: Path, factor: float) -> Predictor:
    """Write a reference around the photos' own features, all of whose images lie at ``factor`` of their own
    distances; return the model."""
    predictor = Predictor.open(folder.path)
    squares = np.stack([predictor.square(predictor.pixels(path)) for path in sorted(photos.glob("i*.png"))])
    features = score_images(predictor.model, squares, np.arange(len(squares)), predictor.views).features
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-3
    around = block(np.tile(mean, (4, 1)).astype(float), np.full(4, 20), scale.astype(float))
    far = distances(around, features).max() * factor
    reference = ShiftReference(around, np.zeros((1, 4, 128), np.int64))
    histogram = distance_histogram(np.full(FEWEST_IMAGES, far))
    save_arrays(
        folder.path / "model" / "reference.safetensors", {**reference.to_arrays(), **to_arrays(histogram)}
    )
    return Predictor.open(folder.path)


def test_predict_tells_views_and_foreign_images(tmp_path: Path) -> None:
    """Each figure from the views' own logits; the level is above all photos, and noise is beyond it."""
    photos = clinic(tmp_path, rows=6, malignant=2)
    folder = trained(tmp_path, views=4)
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(noise)
    predictor = referenced(folder, photos, 1.05)
    found = predictor.predict(photos / "i0.png")
    seen = predictor.view_scores(predictor.square(predictor.pixels(photos / "i0.png"))).triage
    assert len(seen) == 4
    assert seen.std() > 0, "views that are alike would prove nothing"
    assert seen.mean() == pytest.approx(predictor.logits(photos / "i0.png")[0][0])
    p = 1 / (1 + np.exp(-(2.0 * seen + 0.25)))
    assert found.spread == pytest.approx(p.std(ddof=1), abs=1e-6)
    assert (found.agreement, found.out_of_distribution, found.abstains) == (1.0, False, False)
    listed = fedderm("predict", folder.path, photos / "i0.png", noise, "--json")
    assert listed.code == 0, listed.err
    near, far = (json.loads(line) for line in listed.out.splitlines())
    assert (near["abstains"], near["abstains_because"]) == (False, [])
    assert near["distance"] <= 1 < far["distance"]
    assert (far["abstains"], far["abstains_because"]) == (True, [FOREIGN])
    assert 0 <= far["probability"] <= 1
    assert far["decision"] == "malignant"
    table = fedderm("predict", folder.path, noise)
    assert "99 % of 100 calibration images" in table.out
    assert "Foreign images are not told" not in table.out


def test_views_that_disagree_abstain_unless_fewer_are_asked_for(tmp_path: Path) -> None:
    """A threshold between the views' lowest and second logit: one of four disagrees with their mean."""
    image = clinic(tmp_path) / "i3.png"
    folder = trained(tmp_path, views=4)
    predictor = Predictor.open(folder.path)
    seen = np.sort(predictor.view_scores(predictor.square(predictor.pixels(image))).triage)
    low = float(seen[:2].mean())
    assert seen[0] < low < seen[1:].min()
    assert low < seen.mean()
    described = folder.path / "model" / "model.json"
    told = {**json.loads(described.read_text()), "federation_point": point(low, "Here.")}
    described.write_text(json.dumps(told))
    for options, abstains in (((), True), (("--agreement", 0.75), False), (("--agreement", 0.8), True)):
        said = fedderm("predict", folder.path, image, "--json", *options)
        line = json.loads(said.out)
        assert said.code == 0
        assert (line["agreement"], line["abstains"], line["out_of_distribution"]) == (0.75, abstains, None)
        assert line["abstains_because"] == ([DISAGREE] if abstains else [])
    table = fedderm("predict", folder.path, image)
    assert "Foreign images are not told: that takes 100 calibration images at training sites" in table.out


def test_bad_shares_and_damaged_references_are_one_sentence(tmp_path: Path) -> None:
    image = clinic(tmp_path) / "i0.png"
    folder = trained(tmp_path)
    found = fedderm("predict", folder.path, image, "--agreement", "1.5")
    assert (found.code, found.out) == (2, "")
    assert found.err.strip() == "fedderm: --agreement 1.5: expected a share of views between 0 and 1"
    reference = folder.path / "model" / "reference.safetensors"
    save_arrays(reference, {"distances": np.zeros(3, np.int64)})
    found = fedderm("predict", folder.path, image)
    assert found.code == 2
    assert f"{reference}: is damaged (" in found.err.replace("\n", "")
    assert "copy it again" in found.err


def test_a_model_of_one_view_says_that_it_has_one(tmp_path: Path) -> None:
    image = clinic(tmp_path) / "i0.png"
    folder = trained(tmp_path, views=1)
    line = json.loads(fedderm("predict", folder.path, image, "--json").out)
    assert (line["spread"], line["agreement"], line["abstains"]) == (None, None, False)
    assert "This model looks at one view" in fedderm("predict", folder.path, image).out


def test_training_sites_alone_say_how_far_their_images_lie(root: Path) -> None:
    """The server adds up what they send; by the model's folder, each site's own distances are those.

    Sites of the other tests are so small that no class has a mean.
    """
    sites = [
        {"name": "west", "lesions": 80},
        {"name": "east", "lesions": 60, "min_cell": 3},
        {"name": "away", "lesions": 36, "role": "held-out"},
    ]
    run = new_run(root, sites, rounds=1)
    grid = run_in_memory(run)
    kept = read_arrays(run.path / "model" / "reference.safetensors")
    around = ShiftReference.from_arrays(kept).features
    arrays = read_arrays(run.path / "model" / "model.safetensors")
    model, total = worker_model(run.experiment, arrays), np.zeros(BINS, np.int64)
    for place, site in enumerate(run.experiment.sites):
        if site.role == "train":
            found = local(run, place).score(model, "calibration", run.experiment.evaluation.views, "auto")
            total += distance_histogram(distances(around, found.features), site.min_cell)
    assert total.sum() > 0
    np.testing.assert_array_equal(from_arrays(kept), total)
    told = {to for to, one in grid.messages if one.metadata.message_type == messages.RECALIBRATE}
    assert told == {0, 1, 2}, "held-out sites are asked, too, and add nothing"
