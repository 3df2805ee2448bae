"""Private federations: what they cost is counted, told and limited, and nothing leaves beside it."""

import math
from pathlib import Path
from typing import Any

import pytest
from federations import new_run, run_in_memory
from filelock import FileLock, Timeout
from flwr.app import Message
from hospitals import Hospital, asking, experiment
from pydantic import ValidationError
from test_combinations import check

from fedderm import messages
from fedderm.privacy_ledger import Ledger, Spent, cost_of, epsilon
from fedderm.refusal import Tellable
from fedderm.report import build_report
from fedderm.training_settings import PrivacySettings, TrainingSettings

pytest.importorskip("opacus")
PRIVATE = {"privacy": {"noise_multiplier": 2.0}}
RUN = "0123456789abcdef"


def test_epsilon_of_the_gaussian_mechanism() -> None:
    """Every image in every step: T releases of noise sigma are one of sigma / sqrt(T), whose Renyi bound is
    T / (2 sigma^2) + sqrt(2 T log(1 / delta)) / sigma at best (Mironov, CSF 2017); the conversion used is a
    little tighter, and never below what the mechanism is known to need."""
    sigma, steps, delta = 20.0, 50, 1e-5
    found = epsilon([Spent(RUN, 1, sigma, 1.0, steps)], delta)
    bound = steps / (2 * sigma**2) + math.sqrt(2 * steps * math.log(1 / delta)) / sigma
    assert 0.6 * bound < found <= bound
    assert epsilon([], delta) == 0


def test_rounds_add_up_as_if_they_were_one() -> None:
    whole = epsilon([Spent(RUN, 1, 1.0, 0.05, 300)], 1e-5)
    parts = epsilon([Spent(RUN, number, 1.0, 0.05, 100) for number in (1, 2, 3)], 1e-5)
    assert parts == pytest.approx(whole)
    assert whole < 3 * epsilon([Spent(RUN, 1, 1.0, 0.05, 100)], 1e-5)


def test_delta_is_below_one_over_the_images() -> None:
    with pytest.raises(ValueError, match=r"training\.privacy\.delta is 0\.01 and must be below one over"):
        cost_of(PrivacySettings(noise_multiplier=1.0, delta=0.01), RUN, 1, 100, 10, 5)
    assert cost_of(PrivacySettings(noise_multiplier=1.0, delta=0.009), RUN, 1, 100, 10, 5).sample_rate == 0.1


def test_a_private_run_tells_what_it_costs_and_no_loss(tmp_path: Path) -> None:
    folder = new_run(tmp_path, rounds=2, training={**PRIVATE, "batch_size": 4})
    run_in_memory(folder)
    history = folder.state()["history"]
    assert [sorted(entry["sites"]) for entry in history] == [["east", "west"]] * 2
    for name in ("east", "west"):
        first, second = (entry["sites"][name] for entry in history)
        assert 0 < first["epsilon"] < second["epsilon"]
        assert first["loss"] == first["triage-loss"] == 0
        entries = Ledger.of(folder.experiment.work_dir, name).entries()
        assert [one.round for one in entries] == [1, 2]
        assert epsilon(entries, 1e-5) == pytest.approx(second["epsilon"])
    page = build_report(folder.path).read_text(encoding="utf-8")
    assert "Differential privacy" in page
    assert f"{history[1]['sites']['west']['epsilon']:.2f}" in page


def test_a_round_that_is_trained_again_costs_again(tmp_path: Path) -> None:
    ledger = Ledger.of(tmp_path, "west")
    for _ in range(2):
        ledger.add(Spent(RUN, 1, 1.0, 0.1, 10))
    assert len(ledger.entries()) == 2
    with ledger.path.open("a") as file:
        file.write('{"run": "cut')
    with pytest.raises(ValueError, match="line 3: the ledger of private training cannot be read"):
        ledger.entries()


@pytest.mark.parametrize(
    ("training", "named"),
    [
        ({"label_skew": "logit_adjustment"}, "label_skew"),
        ({"oversampling": 2.0}, "oversampling"),
        ({"head_start": "ridge"}, "head_start"),
        ({"norm_statistics": "local"}, "norm_statistics"),
    ],
)
def test_what_depends_on_counts_or_has_no_noise_is_refused(training: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=f"{named} would tell of training images"):
        TrainingSettings.model_validate({**PRIVATE, **training})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"strategy": {"name": "qfedavg", "parameters": {"client_learning_rate": 0.1}}},
            "asks sites for the loss, which training.privacy does not cover",
        ),
        ({"strategy": {"weighting": "effective"}}, "weighting: effective tells a site's counts of classes"),
        ({"baseline": "pooled"}, "trains in one place, for which training.privacy is not made"),
    ],
)
def test_methods_that_tell_more_are_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check(tmp_path, **changes, training=PRIVATE)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("privacy")


def test_a_hospital_that_requires_privacy_trains_until_its_limit(root: Path, tmp_path: Path) -> None:
    run = experiment(root, training={"privacy": {"noise_multiplier": 6.0}, "batch_size": 4}, rounds=9)
    once = epsilon([cost_of_a_round(run)], 1e-5)
    twice = epsilon([cost_of_a_round(run)] * 2, 1e-5)
    policy = {"differential_privacy": "required", "max_epsilon": (once + twice) / 2}
    west = Hospital(root, tmp_path, "west", policy, work_dir=str(tmp_path / "own"))
    reply = west.asked(of_run(RUN, asking(run, messages.TRAIN)))
    assert reply.content["metrics"]["epsilon"] == pytest.approx(once)
    with pytest.raises(Tellable, match=r"would cost epsilon .* over all runs, and its policy allows"):
        west.asked(of_run("f" * 16, asking(run, messages.TRAIN, server_round=2)))
    sent, refused = west.log()
    told = next(one for one in sent["records"] if one["name"] == "metrics")
    assert told["epsilon"] == pytest.approx(once)
    assert refused["what"] == "refused"
    assert len(Ledger.of(tmp_path / "own", "west").entries()) == 1, "what was refused was not spent"


def test_no_message_makes_more_steps_than_the_ledger_counts(root: Path, tmp_path: Path) -> None:
    run = experiment(root, training={"privacy": {"noise_multiplier": 6.0}, "batch_size": 4})
    policy = {"differential_privacy": "required"}
    west = Hospital(root, tmp_path, "west", policy, work_dir=str(tmp_path / "own"))
    with pytest.raises(Tellable, match="how many image updates to make"):
        west.asked(of_run(RUN, asking(run, messages.TRAIN, image_updates=8000)))
    reply = west.asked(of_run(RUN, asking(run, messages.TRAIN)))
    (entry,) = Ledger.of(tmp_path / "own", "west").entries()
    assert entry.steps == reply.content["metrics"]["steps"]


def test_a_local_baseline_in_private_costs_what_it_trains(tmp_path: Path) -> None:
    folder = new_run(
        tmp_path, rounds=1, baseline="local", baseline_site="west", training={**PRIVATE, "batch_size": 4}
    )
    run_in_memory(folder)
    told = folder.state()["history"][0]["sites"]
    assert list(told) == ["west"]
    (entry,) = Ledger.of(Path(str(folder.experiment.work_dir)), "west").entries()
    assert entry.steps == told["west"]["steps"]


def test_the_ledger_is_its_owners_and_judged_by_one_process_at_a_time(tmp_path: Path) -> None:
    ledger = Ledger.of(tmp_path, "west")
    with ledger.locked():
        ledger.add(Spent(RUN, 1, 1.0, 0.1, 3))
        with pytest.raises(Timeout):
            FileLock(ledger.path.with_suffix(".lock"), timeout=0).acquire()
    assert ledger.path.stat().st_mode & 0o777 == 0o600


def of_run(run: str, message: Message) -> Message:
    message.content["config"]["run"] = run
    return message


def cost_of_a_round(run: Any) -> Spent:
    """What a round costs at west, by its own count of training images in a run in memory."""
    folder = new_run(Path(str(run.work_dir)).parent / "count", rounds=1)
    run_in_memory(folder)
    images = folder.state()["history"][0]["sites"]["west"]["num-examples"]
    steps = round(images * run.training.local_epochs / 4)
    return cost_of(run.training.privacy, RUN, 1, images, 4, steps)


@pytest.mark.parametrize("kind", [messages.HEAD, messages.QUERY])
def test_what_has_no_noise_does_not_leave_a_hospital_that_requires_it(
    root: Path, tmp_path: Path, kind: str
) -> None:
    """A server that says ``privacy`` and asks for moments, or for the effective number of images."""
    run = experiment(root, training=PRIVATE, strategy={"weighting": "effective"})
    west = Hospital(root, tmp_path, "west", {"differential_privacy": "required"})
    with pytest.raises(Tellable, match="leave only with differential privacy, and"):
        west.asked(asking(run, kind))
