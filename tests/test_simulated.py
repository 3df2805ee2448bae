"""The generator agrees with its own truth; a simulated centre is the same however and by whomever it is
built."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydantic import ValidationError

from sites.case_mix import CaseMix, is_malignant
from sites.criteria import CRITERIA
from sites.errors import SiteError
from sites.lesions import render, render_views
from sites.rendering import PlannedLesion, render_all
from sites.simulated import SimulatedSite, plan
from sites.table import validate


def centre(**settings: object) -> SimulatedSite:
    return SimulatedSite.model_validate(
        {"name": "clinic", "source": "simulated", "lesions": 12, "render_size": 64, **settings}
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("diagnosis", sorted(CRITERIA))
def test_every_diagnosis_renders_the_same_from_the_same_state(diagnosis: str) -> None:
    first, second = (render(diagnosis, np.random.default_rng(3), 80) for _ in range(2))
    assert first.image.shape == (80, 107, 3)
    assert first.image.dtype == np.uint8
    assert first.lesion_mask.shape == (80, 107)
    assert 0.005 < first.lesion_mask.mean() < 0.95
    assert np.array_equal(first.image, second.image)
    assert not np.array_equal(first.image, render(diagnosis, np.random.default_rng(4), 80).image)


def test_pigmented_lesions_are_darker_inside_their_mask() -> None:
    darker = 0
    for seed in range(20):
        view = render("nv", np.random.default_rng(seed), 80)
        darker += view.image[view.lesion_mask].mean() < view.image[~view.lesion_mask].mean() - 10
    assert darker >= 19


def test_lesions_cover_the_share_of_the_frame_that_real_ones_do() -> None:
    shares = [
        render(d, np.random.default_rng(s), 64).lesion_mask.mean() for s in range(30) for d in ("nv", "mel")
    ]
    # HAM10000's sources: 17 to 36 % on average.
    assert 0.17 < np.mean(shares) < 0.36


def test_darker_skin_types_are_darker() -> None:
    skins = ["I", "II", "III", "IV", "V", "VI"]

    def background(skin: str) -> float:
        views = [render("df", np.random.default_rng(s), 48, skin) for s in range(12)]
        return float(np.mean([v.image[~v.lesion_mask].mean() for v in views]))

    levels = [background(skin) for skin in skins]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > 1.5 * levels[-1]


def test_structures_lie_where_their_masks_say() -> None:
    """Lacunae are redder than the rest of their lesion; a veil is bluer."""
    compared = {"red_lacunae": 0, "blue_white_veil": 0}
    for seed in range(60):
        for diagnosis, name in (("vasc", "red_lacunae"), ("mel", "blue_white_veil")):
            view = render(diagnosis, np.random.default_rng(seed), 64)
            mask = view.pattern_masks.get(name)
            if mask is None or min(mask.sum(), (view.lesion_mask & ~mask).sum()) < 80:
                continue
            colours = view.image.astype(float) / view.image.sum(-1, keepdims=True)
            channel = 0 if name == "red_lacunae" else 2
            within, rest = (
                colours[mask][:, channel].mean(),
                colours[view.lesion_mask & ~mask][:, channel].mean(),
            )
            compared[name] += 1 if within > rest else -1
    assert compared["red_lacunae"] > 15
    assert compared["blue_white_veil"] > 8


def test_views_of_a_lesion_differ_in_framing_only() -> None:
    views = render_views("mel", np.random.default_rng(1), 3, 64)
    assert len({v.image.tobytes() for v in views}) == 3
    assert len({frozenset(v.pattern_masks) for v in views}) == 1


def test_masks_do_not_change_the_image() -> None:
    with_masks, without = (
        render_views("bcc", np.random.default_rng(2), 2, 64, masks=m) for m in (True, False)
    )
    assert all(np.array_equal(a.image, b.image) for a, b in zip(with_masks, without, strict=True))


@pytest.mark.parametrize("wrong", [("melanoma", 64, "II"), ("mel", 64, "2"), ("mel", 8, "II")])
def test_what_cannot_be_rendered_is_refused(wrong: tuple[str, int, str]) -> None:
    with pytest.raises(ValueError, match=r"diagnosis|skin type|too small"):
        render(wrong[0], np.random.default_rng(0), wrong[1], wrong[2])


def test_a_centre_reads_as_a_lesion_table(tmp_path: Path) -> None:
    raw = centre(images_per_lesion=2.0, masks=True).read(None, tmp_path, 1)
    table = validate(raw, "simulated")
    assert table["set_aside"].isna().all()
    assert all(Path(p).is_absolute() and Path(p).is_file() for p in table["path"])
    for column in ("patient_id", "diagnosis", "age", "sex", "skin_type"):
        assert not table[["lesion_id", column]].drop_duplicates()["lesion_id"].duplicated().any()
    assert not table[["patient_id", "age"]].drop_duplicates()["patient_id"].duplicated().any()
    assert table["lesion_id"].nunique() == 12
    mask = Path(table["path"][0]).parents[1] / "masks" / f"{table['image_id'][0]}_lesion.png"
    assert Image.open(mask).size == Image.open(table["path"][0]).size


def test_reading_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first = centre().read(None, tmp_path / "a", 1)
    again = centre().read(None, tmp_path / "a", 1)
    elsewhere = centre().read(None, tmp_path / "b", 1)
    assert first.equals(again)
    folders = [Path(t["path"][0]).parents[1] for t in (first, elsewhere)]
    assert contents(folders[0]) == contents(folders[1])
    other = centre().read(None, tmp_path / "a", 2)
    assert Path(other["path"][0]).read_bytes() != Path(first["path"][0]).read_bytes()


@pytest.mark.slow
def test_two_builders_at_once_agree_and_a_dead_one_leaves_nothing(tmp_path: Path) -> None:
    site = centre()
    unfinished = tmp_path / "simulated" / f".{site._key(1)}-dead"
    unfinished.mkdir(parents=True)
    code = (
        "import sys; from pathlib import Path; from sites.simulated import SimulatedSite;"
        "s = SimulatedSite.model_validate_json(sys.argv[1]);"
        "print(s.read(None, Path(sys.argv[2]), 1)['path'][0])"
    )
    command = [sys.executable, "-c", code, site.model_dump_json(), str(tmp_path)]
    root = Path(__file__).resolve().parents[1]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(2)]
    paths = {b.communicate(timeout=120)[0].strip() for b in builders}
    assert len(paths) == 1
    assert Path(paths.pop()).is_file()
    assert not unfinished.exists()
    assert len([p for p in (tmp_path / "simulated").iterdir() if p.is_dir()]) == 1


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_a_byte(tmp_path: Path) -> None:
    lesions = [PlannedLesion(f"L{i}", (5, i), "nv", 40.0, "II", 1) for i in range(80)]
    finished: list[int] = []
    for workers in (1, 2):
        render_all(
            lesions, tmp_path / str(workers), size=32, masks=False, workers=workers, progress=finished.append
        )
    assert finished == [*range(1, 81)] * 2
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_the_case_mix_drives_who_comes() -> None:
    mix = CaseMix(
        prevalence=0.25,
        diagnoses={"nv": 4, "bkl": 1, "mel": 2, "bcc": 1},
        age_mean=40,
        age_sd=8,
        male=0.8,
        skin_types={"IV": 1, "V": 1},
    )
    lesions = plan(centre(lesions=1000, case_mix=mix.model_dump()), 1)
    counts = lesions["diagnosis"].value_counts()
    assert sum(n for d, n in counts.items() if is_malignant(str(d))) == 250
    assert counts["nv"] == 600
    assert set(lesions["skin_type"]) == {"IV", "V"}
    assert lesions["age"].mean() == pytest.approx(40, abs=1)
    assert lesions["age"].std() == pytest.approx(8, abs=1)
    assert (lesions["sex"] == "male").mean() == pytest.approx(0.8, abs=0.05)
    ages = lesions.groupby("diagnosis")["age"].mean()
    assert ages["bcc"] > ages["nv"]


def test_actinic_keratoses_are_not_rendered_to_be_excluded() -> None:
    assert "ak" not in set(plan(centre(lesions=200), 1)["diagnosis"])
    assert "ak" in set(plan(centre(lesions=200, ak_policy="benign"), 1)["diagnosis"])


def test_diagnoses_without_a_generator_are_refused() -> None:
    with pytest.raises(ValidationError, match="other_benign cannot be rendered"):
        centre(case_mix={"diagnoses": {"nv": 1, "other_benign": 1}})


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "simulated").write_text("a file where a folder should be")
    with pytest.raises(
        SiteError, match=r"^the simulated centre cannot be rendered into .* \(file exists\); make"
    ):
        centre().read(None, tmp_path, 1)


def test_no_two_centres_share_an_id(tmp_path: Path) -> None:
    tables = [centre(name=name).read(None, tmp_path, 1) for name in ("north", "south")]
    joined = pd.concat(tables)
    assert joined["image_id"].is_unique
    assert len({Path(p).read_bytes() for p in joined["path"]}) == len(joined)
