"""Where pattern heads look: by hand on maps and masks, and on a network that can only look at one place."""

import numpy as np
import pytest
import torch

from fedderm.model.cascade import Cascade
from fedderm.pattern_maps import PatternMaps, agreement, central
from fedderm.settings import ModelSettings


def network(**given: object) -> Cascade:
    torch.manual_seed(1)
    return Cascade(
        ModelSettings.model_validate(
            {"backbone": "test_resnet", "pretrained": "none", "image_size": 64, "patterns": True, **given}
        )
    )


def test_agreement_is_what_one_counts() -> None:
    heat = np.zeros((8, 8), np.float32)
    heat[:2, :2], heat[7, 7] = 1.0, 0.5
    mask = np.zeros((8, 8), bool)
    mask[:2, :4] = True
    other = np.zeros((8, 8), bool)
    other[7, 6:] = True
    found = agreement(heat, mask, [other], np.random.default_rng(1))
    assert found is not None
    assert found.inside == pytest.approx(4 / 8)
    assert found.outside == pytest.approx(0.5 / 56)
    assert found.share == pytest.approx(4 / 4.5)
    assert found.share_other == pytest.approx(0.5 / 4.5 * 4)  # eight pixels against its two


def test_a_mask_at_random_places_holds_its_area_of_any_map() -> None:
    rng = np.random.default_rng(2)
    mask = np.zeros((16, 16), bool)
    mask[3:9, 2:8] = True
    found = [agreement(rng.random((16, 16)).astype(np.float32), mask, [], rng) for _ in range(30)]
    assert np.mean([one.share_random for one in found if one]) == pytest.approx(mask.mean(), abs=0.01)
    assert all(np.isnan(one.share_other) for one in found if one)


def test_an_empty_map_or_mask_agrees_with_nothing() -> None:
    rng, mask = np.random.default_rng(1), central(8)
    assert agreement(np.zeros((8, 8), np.float32), mask, [], rng) is None
    assert agreement(np.ones((8, 8), np.float32), np.zeros((8, 8), bool), [], rng) is None
    assert agreement(np.ones((8, 8), np.float32), np.ones((8, 8), bool), [], rng) is None


def test_the_central_disc_is_a_fifth_of_the_image() -> None:
    assert central(112).mean() == pytest.approx(np.pi / 16, abs=0.003)


def test_maps_follow_a_bright_spot_for_a_head_that_was_trained_on_it() -> None:
    pytest.importorskip("pytorch_grad_cam")
    model = network()
    model.eval()
    dark = np.zeros((64, 64, 3), np.uint8)
    left, right = dark.copy(), dark.copy()
    left[16:48, :24], right[16:48, 40:] = 255, 255
    with torch.inference_mode():
        spot = model.features(torch.from_numpy(left[None]).permute(0, 3, 1, 2).float() / 255)[0]
        none = model.features(torch.zeros(1, 3, 64, 64))[0]
    model.patterns.weight.data[2] = (spot - none)[0]  # ulceration: whatever the spot adds
    maps = PatternMaps(model)
    for image, half in ((left, np.s_[:, :32]), (right, np.s_[:, 32:])):
        heat = maps.heat(image, 1)
        assert heat.shape == (64, 64)
        assert heat.max() == pytest.approx(1, abs=1e-3)
        assert heat[half].sum() > 0.6 * heat.sum()
    assert maps.heat(left, 3).sum() == 0  # an untrained head looks at nothing


def test_models_without_pattern_heads_or_feature_maps_are_refused() -> None:
    pytest.importorskip("pytorch_grad_cam")
    with pytest.raises(ValueError, match="no pattern heads"):
        PatternMaps(network(patterns=False))
