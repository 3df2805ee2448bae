"""The benchmarks compare like with like: equal work or no figures, memory counted once, growth fitted."""

import os
import subprocess
import sys
import time
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

# The benchmarks are not part of the installed package.
sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import claims, fits
from benchmarks.claims import Claim
from benchmarks.systems import data
from benchmarks.systems.measured import Measured, Round, Training, Unequal, require_equal
from benchmarks.systems.proportional import (
    MARK,
    Held,
    Sample,
    Watch,
    combined,
    end_marked,
    marked,
    parse_rollup,
    peak,
)
from benchmarks.systems.running import Bench, Failed, marked_process

COUNTS = [4, 16, 64, 256]


def test_a_line_is_found_and_leaves_nothing() -> None:
    seconds = [0.5 + 0.02 * n for n in COUNTS]
    line = fits.fit(COUNTS, seconds, 1)
    assert line.coefficients == pytest.approx((0.5, 0.02))
    assert line.residuals == pytest.approx([0] * 4, abs=1e-12)
    assert line.at(100) == pytest.approx(2.5)
    assert str(line) == "0.5 + 0.02 n"
    assert fits.quadratic_share(COUNTS, seconds) == pytest.approx(0, abs=1e-9)
    assert fits.explained(COUNTS, seconds) == pytest.approx(1)


def test_a_quadratic_scan_shows() -> None:
    """0.001 n at every site's message and 1e-4 n^2 of scanning: 0.256 and 6.5536 of 6.8096 s at 256."""
    seconds = [0.001 * n + 1e-4 * n**2 for n in COUNTS]
    assert fits.fit(COUNTS, seconds, 2).coefficients == pytest.approx((0, 0.001, 1e-4), abs=1e-9)
    assert fits.quadratic_share(COUNTS, seconds) == pytest.approx(6.5536 / 6.8096)
    assert max(map(abs, fits.fit(COUNTS, seconds, 1).residuals)) > 0.1
    assert fits.quadratic_share(COUNTS, [10 - one for one in seconds]) == 0, "it bends down"


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="needs more than 2 different"):
        fits.fit([4, 4, 16], [1, 1, 2], 2)


def test_memory_is_read_in_bytes() -> None:
    rollup = (
        "00400000-7ffe rollup\nRss: 9 kB\nPss:   300 kB\nPss_Dirty: 1 kB\nPss_Anon: 2 kB\nPss_Shmem: 40 kB\n"
    )
    assert parse_rollup(rollup) == Held(300 * 1024, 40 * 1024)
    with pytest.raises(ValueError, match="holds no Pss"):
        parse_rollup("Rss: 9 kB\n")
    with pytest.raises(ValueError, match="not in kB"):
        parse_rollup("Pss: 3 MB\nPss_Shmem: 1 kB\n")


def test_shared_memory_that_nobody_maps_counts_too() -> None:
    """100 + 50 held, of which 30 + 10 shared; /dev/shm grew by 60, so 20 lie there unmapped."""
    held = {1: Held(100, 30), 2: Held(50, 10)}
    assert combined(0.0, 1, held, in_shared_memory=65, before=5) == Sample(0.0, 100, 170)
    assert combined(0.0, 1, held, in_shared_memory=20, before=5) == Sample(0.0, 100, 150)
    assert combined(0.0, 3, held, in_shared_memory=0).server == 0, "the server has ended"


def test_the_peak_is_that_of_the_time_asked_for() -> None:
    samples = [Sample(1, 10, 100), Sample(2, 30, 90), Sample(3, 20, 300)]
    assert (peak(samples, 1, 2).server, peak(samples, 1, 2).total) == (30, 100)
    assert peak(samples).total == 300
    with pytest.raises(ValueError, match="no sample"):
        peak(samples, 4, 5)


def test_a_marked_group_is_found_watched_and_ended() -> None:
    """The child's child holds 64 MiB; both inherit the mark, and nobody else has it."""
    child = "import time; held = bytearray(64 << 20); print('ready', flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    mark = f"test-{os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, "-c", parent], env={**os.environ, MARK: mark}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(marked(mark)) == 2
        with Watch(mark, process.pid, 0.02) as watch:
            end = time.monotonic() + 60
            while not watch.samples and time.monotonic() < end:
                time.sleep(0.02)
        seen = peak(watch.samples)
        assert seen.total - seen.server > 64 << 20
        assert 0 < seen.server < 64 << 20
    finally:
        left = end_marked(mark)
        process.wait()
    assert len(left) == 2
    assert marked(mark) == []


def test_a_system_that_fails_says_so(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"exit code 3:\nno room"):
        marked_process(["-c", "print('no room'); raise SystemExit(3)"], tmp_path / "said.log")


def test_unequal_weights_are_not_timed() -> None:
    reference = {"w": np.array([1.0, 2.0], np.float32)}
    near, far = {"w": reference["w"] + 4e-6}, {"w": reference["w"] + [0, 4e-5]}
    assert require_equal({"limit": reference, "fedderm": near}, "limit", 1e-5)["fedderm"] < 1e-5
    for other in (far, {"w": np.array([np.nan, 2.0])}, {"v": reference["w"]}, {"w": np.ones(3)}):
        with pytest.raises(Unequal):
            require_equal({"limit": reference, "fedderm": other}, "limit", 1e-5)


def test_a_rounds_training_is_its_busiest_workers(tmp_path: Path) -> None:
    """Worker 7 trains 1 + 2 s of a round of 4 s; its second reply is added 0.5 s after it was trained."""
    trained = [Training("a", 7, 0, 1), Training("b", 8, 0, 2.5), Training("c", 7, 1, 3)]
    one = Round(0, 4, trained, [1.25, 3, 3.5], sites=3)
    assert (one.seconds, one.training) == (4, 3)
    assert one.replies() == [0.25, 0.5, 0.5]
    measured = Measured([one, Round(4, 9, (), (), 3), Round(9, 10, (), (), 1)], {"w": np.ones(2)})
    assert measured.steady(3) == [measured.rounds[1]]
    assert len(measured.steady()) == 2
    measured.save(tmp_path / "system.json")
    again = Measured.load(tmp_path / "system.json")
    assert again.rounds[0].training == 3
    assert again.arrays["w"].tolist() == [1, 1]


def test_claims_say_whether_they_are_met(tmp_path: Path) -> None:
    rounds = Claim(what="a round", unit="s", ours=1.09, limit=1.0, flower=1.24, target=1.10, judged="ratio")
    faster = Claim(what="an epoch", unit="img/s", ours=900, target=1000, at_least=True, note="of noise")
    assert (rounds.met, faster.met) == (True, False)
    assert not Claim(what="", unit="s", ours=1, target=2, judged="ratio").met, "no limit, no ratio"
    shown = claims.table([rounds, faster]).splitlines()
    assert [cell.strip() for cell in shown[2].split("|")[1:-1]] == [
        "a round",
        "1 s",
        "1.09 s",
        "1.24 s",
        "1.09x, Flower 1.24x",
        "<= 1.10x",
        "yes",
    ]
    assert ">= 1,000 img/s" in shown[3]
    assert shown[-1] == "- an epoch: of noise"
    claims.save(tmp_path / "claims.json", [rounds, faster], machine={})
    assert claims.load(tmp_path / "claims.json") == [rounds, faster]


def test_sites_hold_as_many_training_images_as_asked(tmp_path: Path) -> None:
    from benchmarks.systems.quiet import Quiet
    from fedderm.preparation import load_sites

    experiment = data.experiment(tmp_path, [2, 12, 128], 32, workers=1)
    sizes = [one.table["split"].value_counts().to_dict() for one in load_sites(experiment, Quiet())]
    assert [one["train"] for one in sizes] == [2, 12, 128]
    assert all(one["calibration"] == one["test"] == 2 for one in sizes)
    with pytest.raises(ValueError, match="an even number"):
        data.experiment(tmp_path / "odd", [3], 32)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_an_epoch_of_the_loader_has_each_image_once(strength: float) -> None:
    """Five shades each of the eight corners of the colour cube: an image of one colour keeps its corner, and
    without augmentation its shade."""
    from benchmarks.loader import BATCH, ours
    from fedderm.training_settings import TrainingSettings
    from fedderm.trainset import site_train_set

    corners = np.array(list(product((40, 200), repeat=3)), np.uint8)
    colours = np.concatenate([corners + np.uint8(shade) for shade in range(5)])
    pixels = np.tile(colours[:, None, None], (1, 16, 16, 1))
    rows = np.arange(40)
    batches = list(ours(site_train_set(pixels, rows, rows % 4, TrainingSettings()), strength))
    assert [len(one) for one in batches] == [BATCH, 40 - BATCH]
    images = np.concatenate([one.numpy() for one in batches])
    assert (images.shape, images.dtype) == ((40, 3, 16, 16), np.float32)
    assert 0 <= images.min() <= images.max() <= 1
    assert len(np.unique(images, axis=0)) == 40
    shown = images.mean(axis=(2, 3))
    assert set(Counter(map(tuple, shown > 0.4)).values()) == {5}
    alike = np.array_equal(np.unique(np.rint(255 * shown), axis=0), np.unique(colours, axis=0))
    assert alike == (strength == 0)


@pytest.mark.slow
def test_limit_flower_and_fedderm_do_the_same_work(tmp_path: Path) -> None:
    """Real local training, sites of unlike sizes, two rounds of three; without Ray, which changes nothing in
    what is trained.
    """
    from benchmarks.systems import noted_client, ours, plain_flower
    from fedderm.in_process import InProcessGrid

    experiment = data.experiment(tmp_path, [4, 10, 16], 32, workers=2, rounds=3, training={"batch_size": 8})
    found = {
        "limit": Bench(experiment, tmp_path).run("limit", [2, 3], rounds=2).measured,
        "fedderm": ours.serve(InProcessGrid(noted_client.app, 3), experiment, 2, [2, 3]),
        "Flower": plain_flower.serve(InProcessGrid(plain_flower.client, 3), experiment, 2, [2, 3]),
    }
    require_equal({system: one.arrays for system, one in found.items()}, "limit", 1e-5)
    for system, one in found.items():
        assert [done.sites for done in one.rounds] == [2, 2, 3, 3], system
        for done in one.rounds:
            assert len(done.trained) == done.sites, system
            assert 0 < done.training <= done.seconds, system
            assert min(done.replies()) > 0, system
    workers = {system: {t.worker for r in one.rounds for t in r.trained} for system, one in found.items()}
    assert workers["fedderm"] == workers["Flower"] == {os.getpid()}
    assert len(workers["limit"] - {os.getpid()}) == 2
    initial = Measured([], ours.first_model(experiment).arrays)
    with pytest.raises(Unequal):
        require_equal({"limit": found["limit"].arrays, "start": initial.arrays}, "limit", 1e-5)
