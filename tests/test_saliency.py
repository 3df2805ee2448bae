"""Heat maps: rollout by hand, places of a planted mark, and what Adebayo et al. ask of any such method."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from fedderm import saliency
from fedderm.devices import seeded, use_threads
from fedderm.model.cascade import Cascade
from fedderm.saliency import GRAD_CAM, MALIGNANT, ROLLOUT, Heat, heat_maps, rollout
from fedderm.settings import ModelSettings

pytest.importorskip("pytorch_grad_cam")

SIDE, MARK = 64, 16
pytestmark = pytest.mark.usefixtures("one_thread")


def network(backbone: str, side: int = SIDE, **changes: str) -> Cascade:
    """Return a network of random weights whose heads, which start at zero, say something."""
    seeded([5])
    model = Cascade(ModelSettings(backbone=backbone, pretrained="none", image_size=side, **changes))
    for _, head in model.heads():
        nn.init.normal_(head.weight, std=0.1)  # type: ignore[arg-type]
    return model


def marked(count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Return images of noise, half of them with a bright square, their truth, and where the square is."""
    images = torch.from_numpy(rng.random((count, 3, SIDE, SIDE), dtype=np.float32)) * 0.5
    places = []
    for row in range(count):
        y, x = (int(one) * MARK for one in rng.integers(0, SIDE // MARK, 2))
        if row % 2:
            images[row, :, y : y + MARK, x : x + MARK] += 0.5
        places.append((y, x))
    return images, torch.arange(count) % 2, places


@pytest.fixture(scope="module")
def trained() -> Cascade:
    """Return a small network that has learned to find the square."""
    use_threads(1)
    model = network("test_resnet")
    images, truth, _ = marked(128, np.random.default_rng(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(60):
        part = torch.arange(16) + 16 * (step % 8)
        loss = nn.functional.binary_cross_entropy_with_logits(
            model.train()(images[part]).triage, truth[part].float()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        found = model.eval()(images).triage > 0
    assert (found == truth.bool()).float().mean() > 0.95, "a net that learned nothing explains nothing"
    return model


def maps_of(model: Cascade, images: Tensor) -> list[Heat]:
    return [heat_maps(model, one[None], 1, None)[0].heat for one in images]


def test_the_map_lies_on_what_the_network_found(trained: Cascade) -> None:
    images, truth, places = marked(24, np.random.default_rng(2))
    inside = []
    for heat, malignant, (y, x) in zip(maps_of(trained, images), truth, places, strict=True):
        if malignant:
            here = heat[y : y + MARK, x : x + MARK].mean()
            inside.append(here / max(heat.mean(), 1e-6))
    assert np.median(inside) > 2, "a map that knows nothing has as much inside as anywhere: 1"


def test_random_weights_change_the_map(trained: Cascade) -> None:
    """Adebayo et al., NeurIPS 2018: a map that survives the loss of the weights is an edge detector."""
    images = marked(16, np.random.default_rng(3))[0][1::2]
    before = maps_of(trained, images)
    np.testing.assert_array_equal(before, maps_of(trained, images))
    after = maps_of(network("test_resnet"), images)
    alike = [
        spearmanr(one.ravel(), two.ravel()).statistic if two.any() else 0.0
        for one, two in zip(before, after, strict=True)
    ]
    assert np.mean(alike) < 0.5


def test_rollout_by_hand() -> None:
    """One token that attends to the other alone: after two layers 1/4 of it is left, 3/4 is the other."""
    attention = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    found = rollout([attention, attention])
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.75], [0.0, 1.0]], dtype=torch.float64))
    order = rollout([torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), attention])
    first = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    last = torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(order, last @ first)


def test_a_mirrored_image_has_the_mirrored_map() -> None:
    """With all four mirror images the mean is the same set of maps, each turned back."""
    image = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    for model in (network("test_resnet", 160), network("test_vit", 160)):
        there = heat_maps(model, image, 4, "BCC")
        mirrored = heat_maps(model, image.flip(3), 4, "BCC")
        for one, two in zip(there, mirrored, strict=True):
            np.testing.assert_allclose(one.heat, two.heat[:, ::-1], atol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "side", "cells", "rolled"),
    [
        ("test_resnet", 64, (2, 2), False),
        ("test_vit", 160, (10, 10), True),
        ("vit_tiny_patch16_224", 64, (4, 4), True),
        ("swin_tiny_patch4_window7_224", 64, (2, 2), False),
        ("convnext_atto", 64, (2, 2), False),
        ("mobilenetv2_050", 64, (2, 2), False),
    ],
)
def test_every_kind_of_trunk_has_its_maps(
    backbone: str, side: int, cells: tuple[int, int], rolled: bool
) -> None:
    model = network(backbone, side)
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        before = model.eval()(image)
    found = heat_maps(model, image, 2, "MEL")
    assert [(one.about, one.method) for one in found] == [
        (MALIGNANT, GRAD_CAM), ("MEL", GRAD_CAM), *([("", ROLLOUT)] if rolled else [])
    ]  # fmt: skip
    for one in found:
        assert one.cells == cells
        assert one.heat.shape == (side, side)
        assert one.heat.min() == 0
        assert one.heat.max() == (1 if one.heat.any() else 0)
    with torch.inference_mode():
        after = model(image)
    torch.testing.assert_close(
        before.triage, after.triage, msg="explaining left hooks or slow kernels behind"
    )


def test_the_tokens_of_the_map_are_those_of_the_image() -> None:
    """A patch whose pixels count is lit where it lies, not transposed."""
    model = network("test_vit", 160)
    image = torch.zeros(1, 3, 160, 160)
    image[:, :, 16:32, 128:144] = 1.0
    heat = {one.method: one.heat for one in heat_maps(model, image, 1, None)}
    rolled = heat[ROLLOUT]
    other = np.abs(rolled - np.median(rolled))
    y, x = np.unravel_index(other.argmax(), other.shape)
    assert (16 <= y < 32, 128 <= x < 144) == (True, True), (y, x)


def test_separate_trunks_have_a_map_each() -> None:
    model = network("test_vit", 160, trunk="separate")
    image = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(2))
    found = heat_maps(model, image, 1, "SCC")
    assert [(one.about, one.method) for one in found] == [
        (MALIGNANT, GRAD_CAM), ("SCC", GRAD_CAM), (MALIGNANT, ROLLOUT), ("SCC", ROLLOUT)
    ]  # fmt: skip
    assert np.abs(found[2].heat - found[3].heat).max() > 0.05


def test_without_the_extra_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saliency, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"explain needs grad-cam: pip install 'fedderm\[explain\]'"):
        saliency.require_explain()
