"""Backbones by name, at sizes, and with weights from a package, a file and a hub that is not there."""

from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from fedderm.model.backbones import build_backbone, timm_name
from fedderm.model.cascade import Cascade
from fedderm.model.names import PACKAGED, SHORT_NAMES, check_names
from fedderm.settings import ModelSettings


def features(network: nn.Module, size: int) -> torch.Tensor:
    torch.set_num_threads(1)
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        return network.eval()(pixels)


@pytest.fixture(scope="module")
def own_weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """Return a folder with one backbone saved as net.safetensors and net.pth, and the backbone."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(11)
    network = build_backbone("test_resnet", 64, "none").network
    save_file(network.state_dict(), folder / "net.safetensors")
    torch.save(network.state_dict(), folder / "net.pth")
    return folder, network


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width"), [(n, 1280 if n in ("efficientnetv2_s", "mobilenet_v2") else 768) for n in SHORT_NAMES]
)
def test_backbones_with_short_names_take_their_size_and_others(name: str, width: int) -> None:
    backbone = build_backbone(name, 96, "none")
    assert backbone.features == width
    assert torch.isfinite(features(backbone.network, 96)).all()
    with torch.device("meta"):  # shapes without the seconds of arithmetic
        for size in (224, 384):
            network = build_backbone(name, size, "none").network.eval()
            assert network(torch.zeros(2, 3, size, size)).shape == (2, width)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", PACKAGED])
def test_the_width_is_that_of_the_features(name: str) -> None:
    backbone = build_backbone(name, 64, "none")
    assert features(backbone.network, 64).shape == (2, backbone.features)


def test_the_normalisation_is_the_backbones_own() -> None:
    assert build_backbone("resnet18", 64, "none").mean == (0.485, 0.456, 0.406)
    assert build_backbone(PACKAGED, 64, "none").std == (0.5, 0.5, 0.5)


def test_a_size_that_does_not_divide_is_a_sentence() -> None:
    settings = ModelSettings(backbone="test_vit", pretrained="none", image_size=100)
    with pytest.raises(ValueError, match=r"model\.image_size: test_vit cannot take images of 100.*divis"):
        Cascade(settings)
    assert Cascade(settings.model_copy(update={"image_size": 96})).training


@pytest.mark.parametrize(
    ("name", "hint"),
    [("vit_b", "did you mean vit_b16"), ("eficientnet_b0", "efficientnet_b0"), ("zzzzzz", "list_models")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.backbone: timm has no model {name}.*{hint}"):
        timm_name(name)


@pytest.mark.parametrize("name", ["resnet", "vit_b", "eficientnet_b0", "resnet18.a1", "register_model"])
def test_a_name_is_refused_without_torch_in_the_same_words(name: str) -> None:
    settings = ModelSettings(backbone=name, pretrained="none")
    if name == "resnet18.a1":  # whether a tag exists is known to timm alone, and asked later
        check_names(settings)
        return
    with pytest.raises(ValueError, match=r"model\.backbone: timm has no model") as early:
        check_names(settings)
    with pytest.raises(ValueError, match=r"model\.backbone") as late:
        timm_name(name)
    assert sorted(str(early.value).split()) == sorted(str(late.value).split())


def test_names_that_timm_takes_pass_without_torch() -> None:
    for name in [*SHORT_NAMES, *timm.list_models()[::50], "convnext_tiny_in22ft1k", "resnet18.a1_in1k"]:
        check_names(ModelSettings(backbone=name, pretrained="none"))


def test_an_unknown_tag_is_answered_with_the_known() -> None:
    assert timm_name("resnet18.a1_in1k") == "resnet18.a1_in1k"
    with pytest.raises(ValueError, match=r"no weights nope of resnet18; there are .*resnet18\.a1_in1k"):
        timm_name("resnet18.nope")


def test_packaged_weights_reach_every_tensor() -> None:
    torch.manual_seed(0)
    empty = timm.create_model(PACKAGED, num_classes=0).state_dict()
    loaded = build_backbone(PACKAGED, 96, "package").network
    state = loaded.state_dict()
    learned = [name for name in state if not name.endswith("num_batches_tracked")]
    assert len(learned) == 245
    assert [name for name in learned if torch.equal(state[name], empty[name])] == []
    assert all((one >= 0).all() for name, one in state.items() if name.endswith("running_var"))


def test_packaged_features_tell_images_apart_where_random_ones_do_not() -> None:
    """Two noise images and two flat ones: within a kind, trained features are far more alike than across."""
    noise = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    flat = torch.stack([torch.full((3, 96, 96), level) for level in (-0.2, 0.2)])

    torch.set_num_threads(1)

    def contrast(pretrained: str) -> float:
        torch.manual_seed(0)
        network = build_backbone(PACKAGED, 96, pretrained).network.eval()
        with torch.inference_mode():
            found = nn.functional.normalize(network(torch.cat([noise, flat])) + 1e-12)
        similar = found @ found.T
        return float(similar[0, 1] + similar[2, 3] - similar[0, 2] - similar[1, 3])

    assert contrast("package") > contrast("none") + 0.5


def test_a_package_holds_one_backbones_weights_only() -> None:
    with pytest.raises(ValueError, match=rf"no package holds weights for resnet18; expected .*{PACKAGED}"):
        build_backbone("resnet18", 64, "package")


@pytest.mark.parametrize("file", ["net.safetensors", "net.pth"])
def test_a_file_saved_from_the_backbone_gives_its_features(
    own_weights: tuple[Path, nn.Module], file: str
) -> None:
    folder, saved = own_weights
    torch.manual_seed(99)
    loaded = build_backbone("test_resnet", 64, str(folder / file)).network
    torch.testing.assert_close(features(loaded, 64), features(saved, 64), rtol=0, atol=0)


def test_a_file_with_a_classifier_is_taken_without_it(tmp_path: Path) -> None:
    classifier = timm.create_model("test_resnet", num_classes=8)
    torch.save({"state_dict": classifier.state_dict()}, tmp_path / "net.pth")
    loaded = build_backbone("test_resnet", 64, str(tmp_path / "net.pth")).network
    for name, one in loaded.state_dict().items():
        torch.testing.assert_close(one, classifier.state_dict()[name], rtol=0, atol=0)


def test_position_embeddings_of_a_file_are_resampled_to_the_image_size(tmp_path: Path) -> None:
    saved = build_backbone("test_vit", 160, "none").network
    with torch.no_grad():
        saved.pos_embed.fill_(0.25)
    save_file(saved.state_dict(), tmp_path / "vit.safetensors")
    loaded = build_backbone("test_vit", 96, str(tmp_path / "vit.safetensors")).network
    assert loaded.pos_embed.shape[1] < saved.pos_embed.shape[1]
    torch.testing.assert_close(loaded.pos_embed, torch.full_like(loaded.pos_embed, 0.25))


def test_files_of_other_weights_are_refused(own_weights: tuple[Path, nn.Module], tmp_path: Path) -> None:
    """Without our check timm would load what fits, here nothing, and train on from random weights."""
    folder, saved = own_weights
    refused = r"does not hold weights for {}.*\(.*\); give a file that was saved from this backbone"
    with pytest.raises(ValueError, match=refused.format("test_vit")):
        build_backbone("test_vit", 64, str(folder / "net.safetensors"))
    half = dict(list(saved.state_dict().items())[:-7])
    save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match=r"it lacks .*; 7 names differ in all"):
        build_backbone("test_resnet", 64, str(tmp_path / "half.safetensors"))
    save_file({**saved.state_dict(), "another.weight": torch.zeros(3)}, tmp_path / "more.safetensors")
    with pytest.raises(ValueError, match=r"it has another\.weight; 1 names differ"):
        build_backbone("test_resnet", 64, str(tmp_path / "more.safetensors"))
    wide = {name: torch.cat([one, one]) if one.ndim == 4 else one for name, one in saved.state_dict().items()}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match="size mismatch"):
        build_backbone("test_resnet", 64, str(tmp_path / "wide.safetensors"))


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
def test_a_damaged_file_is_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match=rf"{name} does not hold weights for test_resnet") as caught:
        build_backbone("test_resnet", 64, str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_pickled_program_is_not_run(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state": Touch()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="does not hold weights"):
        build_backbone("test_resnet", 64, str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.pth is no file; expected none, hub, package or a file"):
        build_backbone("test_resnet", 64, str(tmp_path / "gone.pth"))


def test_a_hub_that_is_not_there_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Port 9 of this machine refuses: the client must not go through its retries, nor stay switched off."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(ValueError, match=r"of test_resnet could not be fetched from the hub .*package"):
        build_backbone("test_resnet", 64, "hub")
    assert waits == []
    assert constants.HF_HUB_OFFLINE is False
