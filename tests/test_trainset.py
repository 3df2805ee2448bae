"""What a site trains on: how often each image is drawn, the prior's log odds, and pooling."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedderm.training_settings import TrainingSettings
from fedderm.trainset import TrainSet, pool, site_train_set


def classes_of(benign: int, malignant: int) -> np.ndarray:
    return np.r_[np.zeros(benign, np.int64), 1 + np.arange(malignant, dtype=np.int64) % 3]


def train_set(benign: int, malignant: int, first: int = 0, **settings: object) -> TrainSet:
    """Return a set whose image of row i is filled with ``first`` + i."""
    count = benign + malignant
    pixels = np.broadcast_to(np.arange(first, first + count)[:, None, None, None], (count, 2, 2, 3))
    return site_train_set(
        pixels.astype(np.uint8),
        np.arange(count),
        classes_of(benign, malignant),
        TrainingSettings.model_validate(settings),
    )


def share(data: TrainSet) -> float:
    """Return the fraction of draws that are malignant."""
    return float(data.weights[data.classes > 0].sum() / data.weights.sum())


@pytest.mark.parametrize(
    ("benign", "malignant", "expected"),
    [
        (90, 10, 0.4),  # four times 0.1 is the wanted fraction
        (95, 5, 0.2),  # the cap: four times 0.05
        (40, 60, 0.6),  # more than wanted already: left as it is
    ],
)
def test_malignant_images_are_drawn_up_to_the_fraction_and_the_cap(
    benign: int, malignant: int, expected: float
) -> None:
    data = train_set(benign, malignant, oversampling=4.0, malignant_fraction=0.4)
    assert share(data) == pytest.approx(expected)
    assert data.weights.mean() == pytest.approx(1)


def test_oversampling_of_one_draws_as_images_occur() -> None:
    np.testing.assert_allclose(train_set(30, 7, oversampling=1.0).weights, 1)


def test_the_classes_drawn_are_those_of_the_weights() -> None:
    data = train_set(95, 5, oversampling=4.0, malignant_fraction=0.4)
    assert data.drawn.shape == (100, 4)
    np.testing.assert_allclose(data.drawn[:, 0], 80)
    np.testing.assert_allclose(data.drawn[:, 1:].sum(axis=1), 20)


@given(
    benign=st.integers(1, 40),
    malignant=st.integers(1, 40),
    count=st.integers(1, 300),
    seed=st.integers(0, 2**20),
)
def test_each_image_is_drawn_its_expected_number_of_times_within_one(
    benign: int, malignant: int, count: int, seed: int
) -> None:
    data = train_set(benign, malignant)
    drawn = np.bincount(data.draw(count, np.random.default_rng(seed)), minlength=len(data))
    expected = count * data.weights / data.weights.sum()
    assert drawn.sum() == count
    assert (np.abs(drawn - expected) < 1 + 1e-9).all()


def test_draws_are_unbiased() -> None:
    """Over 2000 rounds of 10 draws, an image expected p times a round is drawn within 4 SD of 2000 p."""
    data = train_set(20, 3)
    rng = np.random.default_rng(5)
    drawn = sum(np.bincount(data.draw(10, rng), minlength=len(data)) for _ in range(2000))
    p = 10 * data.weights / data.weights.sum()
    fraction = p % 1
    assert (np.abs(drawn - 2000 * p) <= 4 * np.sqrt(2000 * fraction * (1 - fraction)) + 1e-9).all()


def test_draws_come_in_random_order() -> None:
    """The share of malignant images in batches of 16 spreads as at random: SD sqrt(0.4 * 0.6 / 16)."""
    data = train_set(600, 400)
    drawn = data.classes[data.draw(1600, np.random.default_rng(0))] > 0
    assert drawn.reshape(100, 16).mean(axis=1).std() == pytest.approx(np.sqrt(0.4 * 0.6 / 16), rel=0.3)


def test_a_batch_holds_the_chosen_images_whichever_site_they_are_of() -> None:
    pooled = pool([train_set(3, 2), train_set(2, 2, first=100)])
    chosen = np.array([7, 0, 4, 5, 0])
    assert pooled.batch(chosen)[:, 0, 0, 0].tolist() == [102, 0, 4, 100, 0]
    assert pooled.batch(chosen).shape == (5, 2, 2, 3)


def test_a_batch_from_a_memory_map_is_plain_memory(tmp_path: Path) -> None:
    values = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)
    np.save(tmp_path / "pixels.npy", values)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    data = site_train_set(mapped, np.array([1, 3]), np.array([0, 1]), TrainingSettings())
    batch = data.batch(np.array([1, 0]))
    assert type(batch) is np.ndarray
    assert batch.flags.writeable
    np.testing.assert_array_equal(batch, values[[3, 1]])


def test_a_pool_is_its_sites_side_by_side() -> None:
    sites = [train_set(90, 10), train_set(50, 50), train_set(19, 1)]
    pooled = pool([pool(sites[:2]), sites[2]])
    assert len(pooled) == 220
    for field in ("classes", "weights", "drawn"):
        np.testing.assert_array_equal(
            getattr(pooled, field), np.concatenate([getattr(one, field) for one in sites])
        )
    everything = np.concatenate([one.batch(np.arange(len(one))) for one in sites])
    np.testing.assert_array_equal(pooled.batch(np.arange(220)), everything)


def test_a_balanced_pools_sites_are_drawn_alike() -> None:
    """Whatever their sizes, and also where the pool is built in two steps."""
    pooled = pool([train_set(90, 10), train_set(10, 40)], balanced=True)
    drawn = pooled.draw(2000, np.random.default_rng(0))
    assert np.bincount(pooled.rows[drawn, 0]) == pytest.approx([1000, 1000], abs=5)
    three = pool([pooled, train_set(7, 3)], balanced=True)
    drawn = three.draw(3000, np.random.default_rng(0))
    assert three.sources == 3
    assert np.bincount(three.rows[drawn, 0]) == pytest.approx([1000, 1000, 1000], abs=5)


def test_a_pools_sites_are_drawn_in_proportion_to_their_images() -> None:
    pooled = pool([train_set(90, 10), train_set(10, 40)])
    drawn = pooled.draw(300, np.random.default_rng(0))
    assert abs(int((drawn < 100).sum()) - 200) <= 1


@pytest.mark.parametrize(
    ("benign", "malignant", "found"),
    [(0, 0, "no images"), (5, 0, "0 malignant of 5 images"), (0, 5, "5 malignant of 5 images")],
)
def test_a_site_of_one_class_cannot_train(benign: int, malignant: int, found: str) -> None:
    with pytest.raises(ValueError, match=f"train split has {found}; training needs malignant and benign"):
        train_set(benign, malignant)


def test_the_effective_number_is_that_of_the_balanced_set_that_tells_as_much() -> None:
    """1/17 + 1/2553 = 1/(n/2) + 1/(n/2) gives n = 67.6; a balanced set is its own."""
    assert train_set(2553, 17).effective() == pytest.approx(4 / (1 / 17 + 1 / 2553))
    assert train_set(30, 30).effective() == pytest.approx(60)
