"""Every record of every message, there and back."""

import gc
import json
import weakref

import numpy as np
import pytest
from federations import raw_config
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedderm import config, messages
from fedderm.settings import Experiment
from strategies.arrays import to_record


@pytest.fixture
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return config.parse(raw_config(tmp_path_factory.mktemp("run")))


def message(content: RecordDict, message_type: str = messages.TRAIN) -> Message:
    return Message(content, dst_node_id=1, message_type=message_type)


def arrays() -> dict[str, np.ndarray]:
    return {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "counter": np.array(41, dtype=np.int64),
        "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.empty((0, 3), np.float32),
    }


def test_an_instruction_is_read_as_it_was_written(experiment: Experiment) -> None:
    record = messages.config_record(
        experiment,
        server_round=3,
        proximal_mu=0.5,
        pooled=True,
        splits="calibration,test",
        given_up={"a": ["b"]},
    )
    read = messages.read_instruction(message(messages.request(record)))
    assert read.experiment == experiment
    assert read.values["server_round"] == 3
    assert read.values["proximal_mu"] == 0.5
    assert read.values["pooled"] is True
    assert read.values["splits"] == "calibration,test"
    assert json.loads(read.values["given_up"]) == {"a": ["b"]}
    assert all("_" not in key for key in record)


def test_keys_that_strategies_add_reach_the_site(experiment: Experiment) -> None:
    record = messages.config_record(experiment)
    record["proximal-mu"] = 0.25
    assert messages.read_instruction(message(messages.request(record))).values == {"proximal_mu": 0.25}


def test_arrays_keep_name_order_shape_dtype_and_value() -> None:
    found = messages.from_record(to_record(arrays()))
    assert list(found) == list(arrays())
    for name, expected in arrays().items():
        np.testing.assert_array_equal(found[name], expected, strict=True)
        assert not found[name].flags.writeable


def test_a_models_arrays_are_read_from_a_message(experiment: Experiment) -> None:
    content = messages.request(messages.config_record(experiment), to_record(arrays()))
    np.testing.assert_array_equal(messages.read_arrays(message(content))["weight"], arrays()["weight"])


def test_reading_a_model_lets_go_of_it_at_once(experiment: Experiment) -> None:
    """Flower's ``content.array_records`` would keep it until the cyclic collector runs."""
    content = messages.request(messages.config_record(experiment), to_record(arrays()))
    asked = message(content)
    gone = weakref.ref(content["arrays"])
    del content
    gc.collect()
    gc.disable()
    try:
        messages.read_instruction(asked)
        messages.read_arrays(asked)
        del asked
        assert gone() is None
    finally:
        gc.enable()


def test_a_reference_travels_beside_the_model(experiment: Experiment) -> None:
    config = messages.config_record(experiment)
    reference = {"shift-scale": np.ones(3, np.float32)}
    asked = message(messages.request(config, to_record(arrays()), to_record(reference)))
    np.testing.assert_array_equal(messages.read_reference(asked)["shift-scale"], np.ones(3, np.float32))
    assert messages.read_arrays(asked).keys() == arrays().keys()
    assert messages.read_reference(message(messages.request(config))) == {}


def test_replies_are_read_as_they_were_written(experiment: Experiment) -> None:
    asked = message(messages.request(messages.config_record(experiment)))
    asked.metadata.__dict__["_message_id"] = "1"
    card = {"name": "clinic", "splits": {"test": {"images": None}}, "notes": ["n"]}
    prints = {"image": ["aa", "bb"], "lesion": []}
    assert messages.read_card(messages.card_reply(asked, card, prints)) == (card, prints)

    counts = {"test": np.arange(24, dtype=np.int64).reshape(2, 4, 3)}
    sums = {"sum": np.ones((4, 3))}
    for features in ({}, sums):
        told = messages.counts_reply(asked, counts, features)
        np.testing.assert_array_equal(messages.read_counts(told)["test"], counts["test"], strict=True)
        assert messages.read_features(told).keys() == features.keys()
    np.testing.assert_array_equal(messages.read_features(told)["sum"], sums["sum"], strict=True)

    reply = messages.evaluation_reply(asked, '{"site": "clinic"}', counts, {"image": np.ones((3, 2))}, {})
    document, replicates = messages.read_evaluation(reply)
    assert document == '{"site": "clinic"}'
    np.testing.assert_array_equal(replicates["image"], np.ones((3, 2)))
    np.testing.assert_array_equal(messages.read_counts(reply)["test"], counts["test"])

    moments = {"all.gram": np.eye(3), "all.targets": np.ones((3, 4))}
    found = messages.read_moments(messages.moments_reply(asked, moments))
    assert {name: one.tolist() for name, one in found.items()} == {
        name: one.tolist() for name, one in moments.items()
    }
    bad = messages.moments_reply(asked, {"all.gram": np.array([[np.inf]])})
    with pytest.raises(ValueError, match=r"all\.gram holds values that are not finite"):
        messages.read_moments(bad)


def test_a_train_reply_has_one_array_and_one_metric_record(experiment: Experiment) -> None:
    """Flower's strategies refuse anything else."""
    sent = messages.to_record(arrays())
    asked = message(messages.request(messages.config_record(experiment), sent))
    asked.metadata.__dict__["_message_id"] = "1"
    reply = messages.train_reply(asked, arrays(), {"num-examples": 24, "loss": 0.5}, {})
    assert [type(one).__name__ for one in reply.content.values()] == ["ArrayRecord", "MetricRecord"]
    assert dict(reply.content["metrics"]) == {"num-examples": 24, "loss": 0.5}
    beside = messages.train_reply(asked, arrays(), {"loss": 0.5}, {"control": arrays()})
    assert list(beside.content) == ["arrays", "control", "metrics"], "what a strategy asks for beside them"


def test_a_message_without_its_records_is_a_sentence(experiment: Experiment) -> None:
    with pytest.raises(ValueError, match="the train message carries no experiment; update the server"):
        messages.read_instruction(message(RecordDict()))
    with pytest.raises(ValueError, match="carries no experiment"):
        messages.read_instruction(message(RecordDict({"config": ConfigRecord({"experiment": 3})})))
    with pytest.raises(ValueError, match="carries no experiment"):
        messages.read_instruction(message(RecordDict({"config": ArrayRecord()})))
    with pytest.raises(ValueError, match="the train message carries no arrays"):
        messages.read_arrays(message(messages.request(messages.config_record(experiment))))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda text: text.replace('"rounds":', '"turns":'), "turns|rounds"),
        (lambda text: text[:-20], "JSON"),
        (lambda text: f"[{text}]", "it: "),
    ],
)
def test_another_versions_experiment_is_a_sentence(experiment: Experiment, change, named: str) -> None:
    record = ConfigRecord({"experiment": change(config.to_json(experiment))})
    expected = rf"the train message's experiment cannot be read \(.*({named}).*different versions of fedderm"
    with pytest.raises(ValueError, match=expected) as caught:
        messages.read_instruction(message(RecordDict({"config": record})))
    assert "\n" not in str(caught.value)


def test_given_up_images_are_the_sites_own(experiment: Experiment) -> None:
    record = messages.config_record(experiment, salt="s" * 16, given_up={"west": ["x", "y"], "east": ["z"]})
    instruction = messages.read_instruction(message(messages.request(record)))
    assert messages.given_up_images(instruction, "west") == ("s" * 16, frozenset({"x", "y"}))
    assert messages.given_up_images(instruction, "away") == ("s" * 16, frozenset())
    bare = messages.read_instruction(message(messages.request(messages.config_record(experiment))))
    assert messages.given_up_images(bare, "west") == ("", frozenset())
