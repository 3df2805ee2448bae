"""A whole federation with the real apps: roles, weights, baselines, quorum, replies that cannot be used."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from federations import (
    SITES,
    AppGrid,
    Notes,
    local,
    new_run,
    run_in_memory,
    same,
    simulated,
    state,
    weights,
)
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

from fedderm import client_app, messages
from fedderm.federation.session import Answers
from fedderm.node import site_seed
from fedderm.runs import RunFolder
from fedderm.serving import first_model, serve
from fedderm.training import Stretch, train_locally
from fedderm.worker_models import worker_model
from strategies.errors import QuorumLost

WEST, EAST, AWAY = range(3)


def altered(reply: Message, **arrays: np.ndarray) -> Message:
    """Replace arrays of a reply to train."""
    record = reply.content.array_records["arrays"]
    for name, value in arrays.items():
        record[name] = Array(value)
    return reply


def test_a_held_out_site_is_asked_who_it_is_and_how_the_model_does_and_never_to_train(
    finished: tuple[RunFolder, AppGrid],
) -> None:
    folder, grid = finished
    assert grid.types_sent_to(AWAY) == ["query", "evaluate", "evaluate", "query.recalibrate"]
    trains = ["query", "train", "evaluate", "train", "evaluate", "evaluate", "query.recalibrate"]
    assert grid.types_sent_to(WEST) == grid.types_sent_to(EAST) == trains
    for entry in state(folder)["history"]:
        assert list(entry["sites"]) == ["west", "east"], "the config's order"
        assert entry["refused"] == entry["not_evaluated"] == {}


def test_a_held_out_site_that_is_asked_to_train_refuses(finished: tuple[RunFolder, AppGrid]) -> None:
    folder, grid = finished
    request = next(message for to, message in grid.messages if to == WEST and "arrays" in message.content)
    context = Context(1, 100, {"partition-id": AWAY}, RecordDict(), {})
    message = Message(request.content, 100 + AWAY, "train")
    with pytest.raises(Exception, match="site away is held out: it refuses to train"):
        client_app.app(message, context)
    assert len(local(folder, AWAY).rows("train")) == 0, "it has nothing to train on either"


def test_fedprox_with_mu_0_is_fedavg_bit_for_bit_and_mu_tethers(
    root: Path, finished: tuple[RunFolder, AppGrid]
) -> None:
    runs = [finished[0].path]
    for mu in (0.0, 30.0):
        folder = new_run(root, strategy={"name": "fedprox", "proximal_mu": mu})
        run_in_memory(folder)
        runs.append(folder.path)
    fedavg, zero, thirty = map(weights, runs)
    assert same(fedavg, zero)
    start = first_model(finished[0].experiment).arrays

    def travelled(arrays: dict[str, np.ndarray]) -> float:
        return float(sum(np.square(arrays[name] - start[name]).sum() for name in start) ** 0.5)

    assert travelled(thirty) < 0.9 * travelled(fedavg)


@pytest.mark.parametrize("weighting", ["examples", "equal"])
def test_a_round_is_the_weighted_mean_of_what_the_sites_sent(root: Path, weighting: str) -> None:
    folder = new_run(root, rounds=1, strategy={"weighting": weighting})
    sent: dict[int, tuple[dict[str, np.ndarray], int]] = {}

    def note(position: int, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train":
            examples = reply.content.metric_records["metrics"]["num-examples"]
            sent[position] = ({k: a.copy() for k, a in messages.read_arrays(reply).items()}, int(examples))
        return reply

    run_in_memory(folder, order=lambda position: -position, change=note)
    assert sorted(sent) == [WEST, EAST]
    examples = [len(local(folder, position).rows("train")) for position in (WEST, EAST)]
    assert [sent[position][1] for position in (WEST, EAST)] == examples
    assert examples[0] > examples[1] + 5, "weights that differ, or the two ways could not be told apart"
    share = examples if weighting == "examples" else [1, 1]
    final = weights(folder.path)
    for name, value in final.items():
        both = [sent[position][0][name] for position in (WEST, EAST)]
        if np.issubdtype(value.dtype, np.integer):
            np.testing.assert_array_equal(value, np.maximum(*both))
        else:
            expected = np.average(np.float64(both), axis=0, weights=share)
            np.testing.assert_allclose(value, expected, rtol=3e-7, atol=1e-9)


def test_one_site_alone_gives_its_local_model_and_so_does_its_pool(root: Path) -> None:
    """The reference trains without any federation: the same site, seeds and stretch, round after round."""
    sites = (SITES[EAST], SITES[AWAY])
    folder = new_run(root, sites)
    run_in_memory(folder)
    experiment = folder.experiment
    site, arrays = local(folder, 0), first_model(experiment).arrays
    from fedderm.model.state import to_arrays

    for number in (1, 2):
        model = worker_model(experiment, arrays)
        data = site.train_set(experiment.training)
        train_locally(
            model, data, experiment.training, Stretch(number, 2), site_seed(experiment, "east", number)
        )
        arrays = to_arrays(model)
    assert same(weights(folder.path), {name: np.asarray(arrays[name]) for name in weights(folder.path)})

    pooled = new_run(root, sites, baseline="pooled")
    run_in_memory(pooled)
    assert same(weights(folder.path), weights(pooled.path))


def test_the_pooled_baseline_trains_once_on_all_training_sites_images(root: Path) -> None:
    folder = new_run(root, baseline="pooled")
    grid = run_in_memory(folder)
    assert [grid.types_sent_to(position).count("train") for position in (WEST, EAST, AWAY)] == [2, 0, 0]
    all_of_them = sum(len(local(folder, position).rows("train")) for position in (WEST, EAST))
    assert [entry["sites"]["(pooled)"]["num-examples"] for entry in state(folder)["history"]] == [
        all_of_them
    ] * 2
    assert set(json.loads((folder.path / "evaluation" / "sites.json").read_text())) == {
        "west",
        "east",
        "away",
    }


def test_a_fraction_of_the_sites_is_drawn_by_seed_and_the_others_are_not_asked(root: Path) -> None:
    folder = new_run(root, rounds=4, strategy={"fraction": 0.5}, evaluation={"every": 4, "bootstrap": 0})
    grid = run_in_memory(folder)
    drawn = [list(entry["sites"]) for entry in state(folder)["history"]]
    assert [len(one) for one in drawn] == [1] * 4
    assert {one[0] for one in drawn} == {"west", "east"}
    assert grid.types_sent_to(WEST).count("train") == sum(one == ["west"] for one in drawn)
    again = new_run(root, rounds=4, strategy={"fraction": 0.5}, evaluation={"every": 4, "bootstrap": 0})
    run_in_memory(again, order=lambda position: -position)
    assert [list(entry["sites"]) for entry in state(again)["history"]] == drawn
    rounds = pd.read_csv(folder.path / "rounds" / "metrics.csv")["round"]
    assert set(rounds) == {4}, "every: 4 looks at the last round only"


def test_a_site_with_broken_weights_is_left_out_named_and_the_quorum_decides(root: Path) -> None:
    def broken(position: int, message: Message, reply: Message) -> Message:
        if position == EAST and message.metadata.message_type == "train":
            name, values = next((k, v) for k, v in messages.read_arrays(reply).items() if v.ndim == 4)
            bad = values.copy()
            bad[0, 0, 0, 0] = np.nan
            return altered(reply, **{name: bad})
        return reply

    strict = new_run(root)
    with pytest.raises(QuorumLost, match=r"round 1: 1 of 2 sites .* site east: array .* not finite"):
        run_in_memory(strict, change=broken)
    assert state(strict)["round"] == 0
    assert "site east: array" in state(strict)["stopped"]

    notes, lenient = Notes(), new_run(root, strategy={"quorum": 0.5})
    run_in_memory(lenient, change=broken, notes=notes)
    assert [list(entry["sites"]) for entry in state(lenient)["history"]] == [["west"], ["west"]]
    refused = [entry["refused"]["east"] for entry in state(lenient)["history"]]
    assert all("1 of" in one and "not finite" in one for one in refused)
    assert sum("site east" in one for one in notes.warnings) == 2
    assert all(np.isfinite(value).all() for value in weights(lenient.path).values())

    run_in_memory(strict)  # the site was mended: the same run goes on and is as good as new
    assert "stopped" not in state(strict)
    assert state(strict)["finished"]


def test_a_silent_site_is_given_up_at_the_deadline(root: Path) -> None:
    def silent(position: int, message: Message, reply: Message) -> Message | None:
        return None if position == WEST and message.metadata.message_type == "train" else reply

    folder = new_run(root, rounds=1, strategy={"deadline": 4.0, "quorum": 0.5})
    run_in_memory(folder, change=silent)
    entry = state(folder)["history"][0]
    assert entry["refused"] == {"west": "site west: no answer within 4 s"}
    assert list(entry["sites"]) == ["east"]


@pytest.mark.parametrize("what", ["evaluate", "query.recalibrate"])
def test_answers_that_cannot_be_read_are_named_and_the_quorum_decides(root: Path, what: str) -> None:
    """Another version of fedderm at a hospital, say: counts of another shape, no document."""

    def odd(position: int, message: Message, reply: Message) -> Message:
        if position == AWAY and message.metadata.message_type == what:
            shape = ArrayRecord({"test": Array(np.zeros((2, 4, 3, 7), np.int32))})
            return Message(RecordDict({"counts": shape}), reply_to=message)
        return reply

    notes, lenient = Notes(), new_run(root, strategy={"quorum": 0.5})
    run_in_memory(lenient, change=odd, notes=notes)
    assert state(lenient)["finished"]
    assert any(one.startswith(f"site away: its answer to {what} cannot be used") for one in notes.warnings)
    missing = state(lenient)["not_concluded"]
    assert list(missing) == (["away"] if what == "query.recalibrate" else [])
    if what == "evaluate":
        assert list(state(lenient)["history"][0]["not_evaluated"]) == ["away"]
        return
    strict = new_run(root)
    with pytest.raises(QuorumLost, match=r"recalibrate: 2 of 3 sites .* site away"):
        run_in_memory(strict, change=odd)
    assert (state(strict)["round"], state(strict)["finished"]) == (2, False)
    grid = run_in_memory(strict)
    assert not any("train" in grid.types_sent_to(position) for position in range(3))
    assert set(json.loads((strict.path / "evaluation" / "sites.json").read_text())) == {
        "west",
        "east",
        "away",
    }


@pytest.mark.parametrize("change", [{"site": "west"}, {"site": "(pooled)"}, {"role": "held-out"}])
def test_a_last_answer_speaks_of_its_sender_alone(root: Path, change: dict[str, str]) -> None:
    """A hostile hospital writes its report under another's name, or into a pool that is not its own."""

    def forged(position: int, message: Message, reply: Message) -> Message:
        if position == EAST and message.metadata.message_type == messages.RECALIBRATE:
            document, drawn = messages.read_evaluation(reply)
            counts = {pool: np.asarray(one) for pool, one in messages.read_counts(reply).items()}
            said = json.dumps({**json.loads(document), **change})
            return messages.evaluation_reply(message, said, counts, drawn, messages.read_distances(reply))
        return reply

    notes, folder = Notes(), new_run(root, strategy={"quorum": 0.5})
    run_in_memory(folder, change=forged, notes=notes)
    assert list(state(folder)["not_concluded"]) == ["east"]
    assert any("site east: its answer to recalibrate cannot be used (it" in one for one in notes.warnings)
    assert set(json.loads((folder.path / "evaluation" / "sites.json").read_text())) == {"west", "away"}


def test_two_nodes_of_one_name_are_refused_before_training(root: Path) -> None:
    def impostor(position: int, message: Message, reply: Message) -> Message:
        if position == AWAY and message.metadata.message_type == "query":
            card, prints = messages.read_card(reply)
            return messages.card_reply(message, {**card, "name": "west"}, prints)
        return reply

    folder = new_run(root)
    with pytest.raises(ValueError, match="two nodes call themselves west; give each site its own name"):
        run_in_memory(folder, change=impostor)
    assert state(folder)["round"] == 0


def test_a_site_with_another_role_than_the_configs_is_told(root: Path) -> None:
    """The hospital decides: it is held out, and whoever wrote the config hears of it."""

    def held_out(position: int, message: Message, reply: Message) -> Message:
        if position == EAST and message.metadata.message_type == "query":
            card, prints = messages.read_card(reply)
            return messages.card_reply(message, {**card, "role": "held-out"}, prints)
        return reply

    notes, folder = Notes(), new_run(root, strategy={"quorum": 0.5})
    grid = run_in_memory(folder, change=held_out, notes=notes)
    assert "train" not in grid.types_sent_to(EAST)
    (told,) = (one for one in notes.warnings if "takes part with role" in one)
    assert told.startswith(
        "site east takes part with role: held-out, as its own site file says, and not with "
    )


def test_a_node_that_is_registered_under_another_name_is_refused(root: Path) -> None:
    """Its site file says east; the coordinator registered its key as west's, and the other way round."""
    folder, grid = new_run(root), AppGrid(3)
    west, east, away = grid.get_node_ids()
    with pytest.raises(ValueError, match="the site registered as east calls itself west"):
        serve(grid, folder, Notes(), None, registered={west: "east", east: "west", away: "away"})
    assert "train" not in grid.types_sent_to(WEST)


def test_nodes_of_sites_that_the_config_does_not_list_are_left_alone(root: Path) -> None:
    """Four hospitals are connected and registered, three take part: the fourth is not even asked its name."""
    folder, grid = new_run(root, rounds=1), AppGrid(4)
    registered = dict(zip(grid.get_node_ids(), ("west", "east", "away", "fourth"), strict=True))
    serve(grid, folder, Notes(), None, registered=registered)
    assert state(folder)["finished"]
    assert grid.types_sent_to(3) == []


def test_a_site_of_another_version_is_refused_by_name(root: Path) -> None:
    def older(position: int, message: Message, reply: Message) -> Message:
        if position == EAST and message.metadata.message_type == "query":
            card, prints = messages.read_card(reply)
            return messages.card_reply(message, {**card, "fedderm": "0.0.9"}, prints)
        return reply

    folder = new_run(root)
    with pytest.raises(
        ValueError, match=r"node 2: .*it runs fedderm 0\.0\.9, the server \d.*update the older"
    ):
        run_in_memory(folder, change=older)


def test_two_sites_of_one_name_are_refused_in_the_config(root: Path) -> None:
    with pytest.raises(ValueError, match="two sites are called west"):
        new_run(root, [SITES[WEST], simulated("west")])


def test_an_unreadable_card_says_whose_and_stops_before_training(root: Path) -> None:
    def mute(position: int, message: Message, reply: Message) -> Message:
        return Message(RecordDict({}), reply_to=message) if position == EAST else reply

    folder = new_run(root)
    with pytest.raises(ValueError, match=r"its answer to query cannot be used .*same version"):
        run_in_memory(folder, change=mute)


def test_a_quorum_counts_upwards() -> None:
    answers = Answers({"a": 1, "b": 2}, {"c": "site c: gone"})
    answers.require(0.5, "roll call")
    answers.require(2 / 3, "roll call")
    with pytest.raises(
        QuorumLost, match="roll call: 2 of 3 sites gave a usable answer and 3 are needed: site c"
    ):
        answers.require(0.67, "roll call")
    with pytest.raises(QuorumLost, match="1 are needed"):
        Answers({}, {"c": "site c: gone"}).require(0.0, "round 1")
