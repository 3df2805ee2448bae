"""A hostile server and a hospital's node: what is asked beyond the policy is refused, not answered.

The server is this test; the node is the real ClientApp with a site file.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hospitals import Hospital, asking, bare, experiment, sizes

from fedderm import __version__, messages
from fedderm.deploy.site_status import last_answer
from fedderm.hospital.memory import now
from fedderm.hospital.policy import Policy, is_private
from fedderm.refusal import Refused, Tellable
from fedderm.training_settings import TrainingSettings
from sites.salted import salted


def refused(hospital: Hospital, message: Any, match: str) -> None:
    """The node refuses in these words, says no more than them, and has them in its log."""
    with pytest.raises(Refused, match=match) as caught:
        hospital.asked(message)
    last = hospital.log()[-1]
    assert (last["what"], last["told"]) == ("refused", str(caught.value))
    assert "\n" not in str(caught.value)
    assert "records" not in last


ANSWERED = [messages.QUERY, messages.TRAIN, messages.EVALUATE]


def test_what_the_policy_lets_through_is_answered_and_in_the_log(root: Path, tmp_path: Path) -> None:
    west, run = Hospital(root, tmp_path, "west"), experiment(root)
    for kind in ANSWERED:
        reply = west.asked(asking(run, kind, run_id=7))
        entry = west.log()[-1]
        assert entry["what"] == "sent"
        assert entry["content"] == reply.content.object_id
        assert entry["bytes"] == sum(record.count_bytes() for record in reply.content.values())
        assert [one["name"] for one in entry["records"]] == list(reply.content)
        assert (entry["run"], entry["experiment"]) == ("7", "tiny")
    log = west.log()
    assert [entry["exchange"] for entry in log] == ["query", "train", "evaluate"]
    assert [entry["round"] for entry in log] == [None, 1, None]
    arrays = {one["name"]: one for one in log[1]["records"][0]["arrays"]}
    assert arrays["triage.bias"]["shape"] == [1]
    assert arrays["triage.bias"]["dtype"] == "float32"


@pytest.mark.parametrize("kind", [messages.TRAIN, messages.HEAD])
def test_a_validate_only_hospital_never_trains(root: Path, tmp_path: Path, kind: str) -> None:
    """Not even where its own file says that it answers ``train``: the role decides."""
    for policy in (None, {"answers": ["query", "train", "train.head", "evaluate"]}):
        away = Hospital(root, tmp_path, "away", policy)
        refused(away, asking(experiment(root), kind), "site away is held out: it refuses to train")


@pytest.mark.parametrize(
    "kind", ["query.images", "evaluate.scores", "train.default", "query.default", "evaluate.per_image"]
)
def test_exchanges_that_there_are_not(root: Path, tmp_path: Path, kind: str) -> None:
    """``query.default`` is Flower's other name of ``query``: there is no way round the policy through it."""
    west = Hospital(root, tmp_path, "west", {"answers": ["recalibrate"]})
    refused(west, asking(experiment(root), kind), rf"there is no exchange {kind}; it is not answered")


def test_only_what_the_file_lists_is_answered(root: Path, tmp_path: Path) -> None:
    west, run = Hospital(root, tmp_path, "west", {"answers": ["query", "evaluate"]}), experiment(root)
    refused(west, asking(run, messages.TRAIN), "site west: its policy does not answer train$")
    refused(west, asking(run, messages.RECALIBRATE), "its policy does not answer recalibrate")
    assert sizes(west.asked(asking(run, messages.EVALUATE))).keys() == {"calibration", "test"}


@pytest.mark.parametrize(
    ("kind", "values", "match"),
    [
        (messages.EVALUATE, {"splits": "train"}, r"asked to count the splits train \(features: none\)"),
        (messages.EVALUATE, {"splits": "test,validation"}, "it counts calibration and test, each once"),
        (messages.EVALUATE, {"splits": "test,test"}, "splits test,test"),
        (messages.EVALUATE, {"splits": ""}, "asked to count the splits"),
        (messages.EVALUATE, {"features_of": "train"}, r"\(features: train\)"),
        (messages.EVALUATE, {"views": 100_000}, "asked for 100000 views of an image"),
        (messages.RECALIBRATE, {"views": "all"}, "asked for all views"),
        (messages.TRAIN, {"pooled": True}, "the pooled baseline is for simulations"),
        (messages.TRAIN, {"server_round": 99}, "asked for round 99 of 2"),
        (messages.TRAIN, {"image_updates": 2000}, "it is told how many image updates to make"),
    ],
)
def test_more_than_an_exchange_is_for(
    root: Path, tmp_path: Path, kind: str, values: dict[str, Any], match: str
) -> None:
    refused(Hospital(root, tmp_path, "west"), asking(experiment(root), kind, **values), match)


def test_the_pooled_baseline_in_any_exchange(root: Path, tmp_path: Path) -> None:
    refused(
        Hospital(root, tmp_path, "west"),
        asking(experiment(root, baseline="pooled"), messages.EVALUATE),
        "the pooled baseline is for simulations",
    )


def test_subtraction_by_leaving_out_an_image(root: Path, tmp_path: Path) -> None:
    """The server knows the salted ids: it could count with and without one image, and subtract."""
    west, run = Hospital(root, tmp_path, "west"), experiment(root)
    card = west.asked(asking(run, messages.QUERY))
    _, prints = messages.read_card(card)
    one = {"west": prints["image"][:1]}
    refused(west, asking(run, messages.EVALUATE, given_up=one), "it is asked to leave out 1 image; ")
    other = {"east": [salted("image", "x", "s" * 16)]}
    assert west.asked(asking(run, messages.EVALUATE, given_up=other)).has_content()


def test_a_servers_site_list_changes_nothing_at_the_hospital(root: Path, tmp_path: Path) -> None:
    """min_cell, role, path: the server's line about the site is not what the node reads."""
    sites = [
        {"name": "west", "lesions": 40, "min_cell": 0},
        {"name": "away", "lesions": 36, "min_cell": 0, "role": "train"},
    ]
    run = experiment(root, sites=sites)
    open_west = Hospital(root, tmp_path / "open", "west")
    careful = Hospital(root, tmp_path / "careful", "west", min_cell=10)
    shown, hidden = (one.asked(asking(run, messages.EVALUATE)) for one in (open_west, careful))
    cells = [np.asarray(one) for one in messages.read_counts(shown).values()]
    assert any(((one > 0) & (one < 10)).any() for one in cells), "or there would be nothing to hide"
    for counts in messages.read_counts(hidden).values():
        assert not ((counts > 0) & (counts < 10)).any()
    refused(Hospital(root, tmp_path, "away"), asking(run, messages.TRAIN), "site away is held out")


def test_a_file_that_names_no_minimum_has_ten(root: Path, tmp_path: Path) -> None:
    west = Hospital(root, tmp_path, "west")
    west.file.write_text(west.file.read_text().replace("min_cell: 0\n", ""))
    card, _ = messages.read_card(west.asked(asking(experiment(root), messages.QUERY)))
    counts = [n for size in card["splits"].values() for n in size.values()] + list(card["diagnoses"].values())
    assert None in counts
    assert not [n for n in counts if n is not None and 0 < n < 10]


def test_another_version_is_refused_by_both_names(root: Path, tmp_path: Path) -> None:
    west, run = Hospital(root, tmp_path, "west"), experiment(root)
    told = f"site west runs fedderm {__version__} and the server 9.9.9; install the same version at both"
    refused(west, asking(run, messages.TRAIN, version="9.9.9"), told)
    for kind in ("query", "train"):
        refused(west, bare(kind), f"runs fedderm {__version__} and the server one that does not tell")


def test_updates_only_with_differential_privacy(root: Path, tmp_path: Path) -> None:
    west, run = Hospital(root, tmp_path, "west", {"differential_privacy": "required"}), experiment(root)
    for kind in (messages.TRAIN, messages.HEAD):
        refused(west, asking(run, kind), "leave only with differential privacy, and this run has none")
    assert west.asked(asking(run, messages.EVALUATE)).has_content()


def test_privacy_is_read_from_the_experiments_training_section() -> None:
    class WithPrivacy(TrainingSettings):
        privacy: dict[str, float] | None = None

    assert not is_private(TrainingSettings())
    assert not is_private(WithPrivacy())
    assert is_private(WithPrivacy(privacy={"epsilon": 8.0}))


# So many a day


def test_a_days_rounds_are_counted_over_all_runs_and_restarts(root: Path, tmp_path: Path) -> None:
    west = Hospital(root, tmp_path, "west", {"rounds_per_day": 2})
    run, other = experiment(root), experiment(root, seed=8)
    west.asked(asking(run, messages.TRAIN, run_id=1))
    with pytest.raises(Tellable):  # a round that failed counts, too
        west.asked(asking(run, messages.TRAIN, run_id=2, server_round=99))
    refused(
        Hospital(root, tmp_path, "west", {"rounds_per_day": 2}),
        asking(other, messages.TRAIN, run_id=3),
        r"its policy answers 2 of train and train.head in 24 hours \(rounds_per_day\), and has",
    )
    refused(west, asking(run, messages.HEAD), "rounds_per_day")
    assert west.asked(asking(run, messages.EVALUATE)).has_content(), "evaluations are counted apart"
    with west.record.memory.change() as memory:
        memory.answers[0].time -= timedelta(hours=24)
    assert west.asked(asking(run, messages.TRAIN)).has_content(), "one of the two was a day ago"
    refused(west, asking(run, messages.TRAIN), "rounds_per_day")


def test_a_days_evaluations(root: Path, tmp_path: Path) -> None:
    west, run = Hospital(root, tmp_path, "west", {"evaluations_per_day": 1}), experiment(root)
    west.asked(asking(run, messages.EVALUATE))
    refused(west, asking(run, messages.EVALUATE), "evaluations_per_day")
    refused(west, asking(run, messages.RECALIBRATE), "evaluations_per_day")


# Approval


def test_each_run_waits_for_a_person(root: Path, tmp_path: Path) -> None:
    west, run = Hospital(root, tmp_path, "west", {"approve_runs": True}), experiment(root)
    waiting = r"site west: run [0-9a-f]{12} is waiting for approval at the hospital"
    for kind in (messages.QUERY, messages.TRAIN, messages.EVALUATE, messages.RECALIBRATE):
        refused(west, asking(run, kind, run_id=11), waiting)
    ((digest, request),) = west.record.memory.read().requests.items()
    assert request.pending
    told = " ".join(request.words)
    assert "tiny: 2 rounds of fedavg over a cascade of test_resnet, 32 pixels a side" in told
    assert "1 passes over your train split; the weights leave, without differential privacy" in told

    assert "of each patient" not in told

    west.record.approve(digest[:5])
    assert west.asked(asking(run, messages.QUERY, run_id=11)).has_content()
    assert west.asked(asking(run, messages.TRAIN, run_id=11)).has_content()
    refused(west, asking(experiment(root, rounds=3), messages.TRAIN, run_id=11), waiting)
    refused(west, asking(run, messages.TRAIN, run_id=12), waiting)  # the same once more is another run

    west.record.approve(digest)
    assert west.asked(asking(run, messages.TRAIN, run_id=12)).has_content()
    assert west.asked(asking(run, messages.EVALUATE, run_id=11)).has_content(), "its own yes still holds"

    west.record.withdraw(digest)
    refused(west, asking(run, messages.TRAIN, run_id=12), waiting)
    assert [entry["what"] for entry in west.log() if "by" in entry] == ["approved", "approved", "withdrawn"]


def test_a_person_is_told_that_a_model_reads_metadata(root: Path, tmp_path: Path) -> None:
    west = Hospital(root, tmp_path, "west", {"approve_runs": True})
    run = experiment(root, model={"metadata": ["age", "sex"]})
    refused(west, asking(run, messages.QUERY), "is waiting for approval")
    (request,) = west.record.memory.read().requests.values()
    assert any(
        one.startswith("The model is told age, sex of each patient from your table") for one in request.words
    )


def test_a_yes_is_for_one_experiment_and_not_for_others_that_begin_alike(root: Path, tmp_path: Path) -> None:
    """Twelve digits alike can be found in minutes; people are shown those, and all 64 are kept."""
    west, run = Hospital(root, tmp_path, "west", {"approve_runs": True}), experiment(root)
    refused(west, asking(run, messages.QUERY), "waiting for approval")
    ((digest, request),) = west.record.memory.read().requests.items()
    assert len(digest) == 64
    with west.record.memory.change() as memory:  # an approved experiment whose first twelve are the same
        del memory.requests[digest]
        memory.requests[digest[:12] + "0" * 52] = request
    west.record.approve(digest[:12])
    refused(west, asking(run, messages.QUERY), "waiting for approval")


def test_a_yes_is_for_as_much_as_the_run_said(root: Path, tmp_path: Path) -> None:
    west = Hospital(root, tmp_path, "west", {"approve_runs": True})
    run = experiment(root, rounds=1)
    refused(west, asking(run, messages.TRAIN, run_id=11), "waiting for approval")
    west.record.approve(next(iter(west.record.memory.read().requests)))
    for _ in range(2):  # the second: its answer may have been lost
        assert west.asked(asking(run, messages.TRAIN, run_id=11)).has_content()
    refused(
        west, asking(run, messages.TRAIN, run_id=11), "approved for its own rounds, and has asked train 2"
    )
    assert west.asked(asking(run, messages.EVALUATE, run_id=11)).has_content()


def test_requests_that_a_server_invents_do_not_fill_the_disk(root: Path, tmp_path: Path) -> None:
    west = Hospital(root, tmp_path, "west", {"approve_runs": True})
    first = experiment(root, seed=1000)
    refused(west, asking(first, messages.QUERY), "waiting for approval")
    ((digest, _),) = west.record.memory.read().requests.items()
    west.record.approve(digest)
    for seed in range(60):
        with pytest.raises(Refused):
            west.asked(asking(experiment(root, seed=seed), messages.QUERY))
    kept = west.record.memory.read().requests
    assert len(kept) == 51
    assert digest in kept, "what a person approved stays"


# What an error tells


def test_an_error_at_the_site_stays_there(root: Path, tmp_path: Path) -> None:
    """A table's error quotes rows, a file's error paths: the server gets neither, the hospital's log both."""
    (tmp_path / "clinic").mkdir()
    (tmp_path / "clinic" / "table.csv").write_text("image_id,diagnosis\nmeyer_anna_1951,mole\n")
    ward = Hospital(root, tmp_path, "west")
    ward.file.write_text("{name: ward, source: folder, path: clinic}")
    with pytest.raises(Tellable, match=r"^site ward: it could not answer; the hospital's own log says why$"):
        ward.asked(asking(experiment(root), messages.QUERY))
    entry = ward.log()[-1]
    assert entry["what"] == "failed"
    assert "mole" in entry["detail"] or "meyer_anna_1951" in entry["detail"]


def test_a_site_file_that_is_wrong_answers_nothing(root: Path, tmp_path: Path) -> None:
    west = Hospital(root, tmp_path, "west")
    west.file.write_text(west.file.read_text() + "policy: {rounds_per_dya: 1}\n")
    with pytest.raises(Tellable, match=r"^this site: it could not answer"):
        west.asked(asking(experiment(root), messages.QUERY))
    assert "policy.rounds_per_dya: no such key (did you mean rounds_per_day?)" in west.log()[-1]["detail"]


def test_a_damaged_memory_answers_nothing(root: Path, tmp_path: Path) -> None:
    west, run = Hospital(root, tmp_path, "west"), experiment(root)
    west.asked(asking(run, messages.QUERY))
    west.record.memory.path.write_text("{")
    with pytest.raises(Tellable, match="could not answer"):
        west.asked(asking(run, messages.QUERY))
    assert "memory.json: is damaged" in west.log()[-1]["detail"]


def test_the_memory_forgets_after_a_day() -> None:
    from fedderm.hospital.memory import Memory

    memory, noon = Memory(), now()
    for hours in range(0, 100, 10):
        memory.begin("train", noon + timedelta(hours=hours))
    assert len(memory.answers) == 3
    assert memory.begun(("train",), noon + timedelta(hours=90)) == 3
    assert memory.begun(("train",), noon + timedelta(hours=94)) == 2
    assert memory.begun(("evaluate",), noon + timedelta(hours=90)) == 0


def test_the_role_decides_what_is_answered_where_the_file_does_not() -> None:
    assert Policy().answered("train") == ("query", "train", "train.head", "evaluate", "recalibrate")
    assert Policy().answered("held-out") == ("query", "evaluate", "recalibrate")
    assert Policy(answers=["train", "query"]).answered("held-out") == ("query",)


def test_a_hospitals_status_tells_that_it_could_not_answer(root: Path, tmp_path: Path) -> None:
    west, run = Hospital(root, tmp_path, "west"), experiment(root)
    assert last_answer(west.file) == (True, "it has answered nothing yet")
    west.asked(asking(run, messages.QUERY))
    fine, told = last_answer(west.file)
    assert fine
    assert told.startswith("its last answer: query, sent, ")
    refused(west, asking(run, "train.everything"), "there is no exchange")
    assert last_answer(west.file)[0], "that is the policy at work"
    west.file.write_text("{name: west, source: folder, path: gone}")
    with pytest.raises(Tellable, match="it could not answer"):
        west.asked(asking(run, messages.EVALUATE))
    fine, told = last_answer(west.file)
    assert not fine
    assert "its last answer: evaluate, failed, " in told
    assert f"{west.log()[-1]['detail']} (fedderm site log " in told
