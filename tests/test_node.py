"""A site at work: which site a node is, what it opens, trains on, tells and refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from federations import raw_config, simulated
from flwr.app import Context, Message, RecordDict

from fedderm import client_app, config, messages
from fedderm.local_site import LocalSite
from fedderm.node import open_site, site_seed
from fedderm.settings import Experiment
from fedderm.site_card import site_card
from fedderm.site_file import at_home, site_of_node
from fedderm.trainset import TrainSet
from fedderm.worker_models import worker_model
from sites.cache import open_cache
from sites.catalogue import load_site
from sites.salted import salted, salted_fingerprints
from strategies.arrays import to_record

SALT = "a salt of sixteen or more"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one cache for all tests: rendering the three sites takes most of the time."""
    return tmp_path_factory.mktemp("node")


def experiment(folder: Path, **changes: Any) -> Experiment:
    return config.parse(raw_config(folder, **changes))


def opened(
    folder: Path, position: int = 0, given_up: frozenset[str] = frozenset(), **changes: Any
) -> LocalSite:
    run = experiment(folder, **changes)
    return open_site(run, run.sites[position], SALT, given_up)


def ask(run: Experiment, message_type: str, node_config: dict[str, Any], /, **values: Any) -> Message:
    """Return the ClientApp's reply to a message."""
    arrays = values.pop("arrays", None)
    record = None if arrays is None else to_record(arrays)
    content = messages.request(messages.config_record(run, salt=SALT, **values), record)
    message = Message(content, dst_node_id=5, message_type=message_type)
    message.metadata.__dict__["_message_id"] = "1"
    return client_app.app(message, Context(1, 5, node_config, RecordDict(), {}))


def arrays_of(run: Experiment) -> dict[str, np.ndarray]:
    from fedderm.serving import first_model

    return first_model(run).arrays


def drawn(data: TrainSet) -> list[bytes]:
    """Return the training images' own bytes, sorted."""
    return sorted(one.tobytes() for one in data.batch(np.arange(len(data))))


# Which site


def test_a_simulated_node_is_its_partitions_site(folder: Path) -> None:
    run = experiment(folder)
    assert [site_of_node(run, {"partition-id": n}).name for n in range(3)] == ["west", "east", "away"]


@pytest.mark.parametrize("node_config", [{"partition-id": 3}, {"partition-id": -1}, {}])
def test_a_node_without_a_site_is_a_sentence(folder: Path, node_config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"partition -?\d but the experiment lists 3 sites; .*site file"):
        site_of_node(experiment(folder), node_config)


def test_a_deployed_node_is_the_site_of_its_file(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("{name: ward, source: simulated, lesions: 30, role: held-out, min_cell: 10}")
    site = site_of_node(experiment(folder), {"site": str(file), "partition-id": 0})
    assert (site.name, site.role, site.min_cell) == ("ward", "held-out", 10)


def test_a_hospital_decides_where_its_node_reads_and_writes(folder: Path, tmp_path: Path) -> None:
    """Whatever places the server's config names; in a simulation they are the config's."""
    file = tmp_path / "site.yaml"
    run = experiment(folder, data_root="/server/data", work_dir="/server/cache")
    for written, data_root, work_dir in (
        ("", None, tmp_path / ".fedderm"),
        ("data_root: images\nwork_dir: cache", tmp_path / "images", tmp_path / "cache"),
        ("data_root: /mnt/images\nwork_dir: /var/cache", Path("/mnt/images"), Path("/var/cache")),
    ):
        file.write_text(f"name: ward\nsource: simulated\nlesions: 30\n{written}\n")
        mine = at_home(run, {"site": str(file)})
        assert (mine.data_root, mine.work_dir) == (data_root, work_dir)
        assert mine.model_copy(update={"data_root": run.data_root, "work_dir": run.work_dir}) == run
    assert at_home(run, {"partition-id": 0}) is run


def test_what_a_deployed_site_keeps_lies_where_its_file_says(folder: Path, tmp_path: Path) -> None:
    """FedPer's heads, rendered images and pixels, after one message: nothing at the server's places.

    The log of what leaves lies beside the site file.
    """
    elsewhere = tmp_path / "server"
    run = experiment(folder, work_dir=str(elsewhere), strategy={"name": "fedper"}, rounds=1)
    hospital = tmp_path / "hospital"
    hospital.mkdir()
    site = {**simulated("ward", 30), "work_dir": "kept"}
    (hospital / "site.yaml").write_text(yaml.safe_dump(site))
    node = {"site": str(hospital / "site.yaml")}
    asked: dict[str, Any] = {"server_round": 1, "run": "0" * 16, "state_round": 0, "pooled": False}
    reply = ask(run, messages.TRAIN, node, arrays=arrays_of(run), **asked)
    assert not reply.has_error(), reply
    assert (hospital / "kept" / "site_state" / ("0" * 16) / "ward" / "0001.safetensors").is_file()
    assert {path.name for path in hospital.iterdir()} == {"site.yaml", "site.record", "kept"}
    assert not elsewhere.exists()


def test_a_frozen_trunks_file_is_the_hospitals_own(folder: Path, tmp_path: Path) -> None:
    frozen = {"training": {"trunk": "frozen"}, "model": {"pretrained": "/server/weights.safetensors"}}
    run, file = experiment(folder, **frozen), tmp_path / "site.yaml"
    file.write_text("{name: ward, source: simulated, lesions: 30, trunk: w.safetensors}")
    assert at_home(run, {"site": str(file)}).model.pretrained == str(tmp_path / "w.safetensors")
    file.write_text("{name: ward, source: simulated, lesions: 30}")
    with pytest.raises(ValueError, match=r"site ward: .*name your copy of it in site\.yaml \(trunk: "):
        at_home(run, {"site": str(file)})
    plain = experiment(folder, model={"pretrained": "/server/weights.safetensors"})
    assert at_home(plain, {"site": str(file)}).model == plain.model, "a trunk that is trained is sent"


# What it opens


def test_rows_of_table_and_pixels_belong_together(folder: Path) -> None:
    run = experiment(folder)
    site = opened(folder)
    data = load_site(run.sites[0], None, run.work_dir, run.seed)
    cache = open_cache(data, run.model.pixels(), run.work_dir)
    np.testing.assert_array_equal(site.pixels, cache.pixels)
    assert site.table["image_id"].tolist() == cache.table["image_id"].tolist()
    rows = [site.rows(split) for split in ("train", "calibration", "test")]
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(len(site.table)))
    assert all(len(part) for part in rows)


def test_a_site_is_opened_once_for_one_and_the_same_question(folder: Path) -> None:
    assert opened(folder) is opened(folder)


def test_experiments_and_sites_do_not_mix(folder: Path) -> None:
    first, other_seed, larger = (
        opened(folder),
        opened(folder, seed=8),
        opened(folder, model={"image_size": 48}),
    )
    assert opened(folder, 1).settings.name == "east"
    assert larger.pixels.shape[1:] == (48, 48, 3)
    assert first.pixels.shape[1:] == (32, 32, 3)
    assert not np.array_equal(first.pixels[:20], other_seed.pixels[:20])
    assert opened(folder) is first


def test_given_up_images_vanish_from_splits_counts_training_and_fingerprints(folder: Path) -> None:
    whole = opened(folder)
    gone = [str(whole.table["image_id"][whole.rows(split)[0]]) for split in ("train", "calibration", "test")]
    part = opened(folder, given_up=frozenset(salted("image", one, SALT) for one in gone))
    for split, size in whole.sizes().items():
        assert part.sizes()[split].images == size.images - 1
        kept = set(part.table["image_id"].iloc[part.rows(split)])
        assert not kept & set(gone)
    assert sum(part.diagnoses().values()) == sum(whole.diagnoses().values()) - 3
    training = experiment(folder).training
    left, before = drawn(part.train_set(training)), drawn(whole.train_set(training))
    assert len(left) == len(before) - 1
    assert whole.pixels[whole.rows("train")[0]].tobytes() not in left
    # The rows of the pixel cache have not moved.
    assert part.table["image_id"].tolist() == whole.table["image_id"].tolist()
    prints = salted_fingerprints(part.table, part.fingerprints, SALT)
    assert not {salted("image", one.lower(), SALT) for one in gone} & set(prints["image"])
    assert len(prints["image"]) == len(whole.table) - 3


def test_another_salts_ids_give_nothing_up(folder: Path) -> None:
    image = str(opened(folder).table["image_id"][0])
    part = opened(folder, given_up=frozenset([salted("image", image, "another salt, as long")]))
    assert part.sizes() == opened(folder).sizes()


def test_scores_have_their_images_truth_and_lesion(folder: Path) -> None:
    run = experiment(folder)
    site = opened(folder)
    scores = site.score(worker_model(run, arrays_of(run)), "test", 1, "float32").scores
    test = site.table[site.table["split"] == "test"]
    assert scores.truth.tolist() == test["class_index"].tolist()
    assert scores.lesion.tolist() == test["lesion_id"].tolist()
    assert set(scores.differential.tolist()) <= {1, 2, 3}


def test_sizes_count_images_and_lesions(folder: Path) -> None:
    site = opened(folder)
    test = site.table[site.table["split"] == "test"]
    size = site.sizes()["test"]
    assert (size.images, size.lesions) == (len(test), len(set(test["lesion_id"])))
    malignant = test[test["class_index"] > 0]
    assert (size.positive_images, size.positive_lesions) == (
        len(malignant),
        len(set(malignant["lesion_id"])),
    )


def test_a_site_of_one_class_says_its_name(folder: Path) -> None:
    site = opened(folder)
    table = site.table.assign(class_index=0)
    alone = LocalSite(site.settings, table, site.pixels, site.fingerprints, site.notes)
    with pytest.raises(ValueError, match=r"site west: the train split has 0 malignant of \d+ images"):
        alone.train_set(experiment(folder).training)


# What it tells


def test_the_card_hides_small_cells_and_nothing_else(folder: Path) -> None:
    site = opened(folder)
    card = site_card(site)
    assert card["num_examples"] == len(site.rows("train"))
    assert card["splits"]["train"] == site.sizes()["train"].model_dump()
    assert card["diagnoses"] == site.diagnoses()

    hospital = site.settings.model_copy(update={"min_cell": 10})
    careful = site_card(LocalSite(hospital, site.table, site.pixels, site.fingerprints, ()))
    for split, size in site.sizes().items():
        for key, count in size.model_dump().items():
            assert careful["splits"][split][key] == (None if 0 < count < 10 else count)
    small = [name for name, count in site.diagnoses().items() if count < 10]
    assert small
    assert all(careful["diagnoses"][name] is None for name in small)


def test_seeds_are_the_sites_and_the_rounds_own(folder: Path) -> None:
    run, moved = experiment(folder), experiment(folder, seed=8)
    seeds = [site_seed(run, "west", 1), site_seed(run, "east", 1), site_seed(run, "west", 2)]
    assert len({tuple(one) for one in [*seeds, site_seed(moved, "west", 1)]}) == 4
    assert site_seed(run, "west", 1) == seeds[0]


# What it answers


def test_training_answers_the_same_whatever_was_asked_before(folder: Path) -> None:
    """The worker keeps its network between messages; nothing of an earlier one may remain."""
    run = experiment(folder, model={"dropout": 0.3})
    start = arrays_of(run)

    def train(partition: int) -> dict[str, np.ndarray]:
        reply = ask(run, messages.TRAIN, {"partition-id": partition}, arrays=start, server_round=1)
        assert reply.content["metrics"]["num-examples"] == len(opened(folder, partition).rows("train"))
        return messages.read_arrays(reply)

    first = train(0)
    assert any(not np.array_equal(first[name], start[name]) for name in start)
    train(1)
    ask(run, messages.EVALUATE, {"partition-id": 2}, arrays=first, splits="calibration,test", views=2)
    again = train(0)
    for name, one in first.items():
        np.testing.assert_array_equal(one, again[name])


def test_counts_are_those_of_the_splits_asked_for(folder: Path) -> None:
    run = experiment(folder)
    reply = ask(
        run, messages.EVALUATE, {"partition-id": 2}, arrays=arrays_of(run), splits="train,test", views=1
    )
    counts = messages.read_counts(reply)
    assert list(counts) == ["test"]  # a held-out site has no train split
    sizes = opened(folder, 2).sizes()["test"]
    assert counts["test"].sum(axis=(1, 2, 3)).tolist() == [sizes.images, sizes.lesions]


def test_a_held_out_site_refuses_to_train(folder: Path) -> None:
    run = experiment(folder)
    for message_type in (messages.TRAIN, messages.HEAD):
        with pytest.raises(ValueError, match="site away is held out: it refuses to train"):
            ask(run, message_type, {"partition-id": 2}, arrays=arrays_of(run), server_round=1)


def test_a_hospital_refuses_the_pooled_baseline(folder: Path, tmp_path: Path) -> None:
    """A server's experiment would otherwise say which folders of its machine are read."""
    run = experiment(folder)
    file = tmp_path / "site.yaml"
    file.write_text(yaml.safe_dump(run.sites[0].model_dump(mode="json", exclude_defaults=True)))
    with pytest.raises(ValueError, match="site west: the pooled baseline is for simulations"):
        ask(run, messages.TRAIN, {"site": str(file)}, arrays=arrays_of(run), server_round=1, pooled=True)


def test_a_loss_that_is_not_finite_names_site_and_round(folder: Path) -> None:
    run = experiment(folder)
    broken = {**arrays_of(run), "triage.bias": np.array([np.nan], np.float32)}
    with pytest.raises(ValueError, match=r"site east: the loss is not finite by step \d+ of round 2"):
        ask(run, messages.TRAIN, {"partition-id": 1}, arrays=broken, server_round=2)


def test_weights_of_another_model_are_a_sentence(folder: Path) -> None:
    run = experiment(folder)
    other = arrays_of(experiment(folder, model={"scheme": "binary"}))
    with pytest.raises(ValueError, match="the weights do not fit the model of the config"):
        ask(run, messages.EVALUATE, {"partition-id": 0}, arrays=other, splits="test", views=1)
