"""What does not go together is refused with the reason, before a run has a folder."""

from pathlib import Path
from typing import Any

import pytest
from federations import raw_config, run_command, write_config

from fedderm import config
from fedderm.combinations import check_choices

SGD = {"optimizer": "sgd"}
LOCAL = {"norm_statistics": "local"}


def check(tmp_path: Path, **changes: Any) -> None:
    check_choices(config.parse(raw_config(tmp_path, **changes)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"strategy": {"name": "scaffold"}}, r"scaffold: .*training.optimizer is adamw.*set .* to sgd"),
        ({"strategy": {"name": "fednova"}}, r"fednova: .*training.optimizer is adamw"),
        (
            {"strategy": {"name": "fedbn"}},
            r"fedbn: .*norm_statistics: frozen gives them none; set it to local",
        ),
        ({"strategy": {"name": "silobn"}}, r"silobn: .*norm_statistics: frozen"),
        (
            {
                "strategy": {"name": "fedbn"},
                "training": LOCAL,
                "model": {"backbone": "test_vit", "image_size": 160},
            },
            "fedbn: backbone test_vit has no BatchNorm layers, so that it would be FedAvg",
        ),
        (
            {"strategy": {"name": "krum", "parameters": {"num_malicious_nodes": 1}}},
            "against 1 lying sites it needs the replies of 5 training sites and a round may have 2",
        ),
        (
            {"strategy": {"name": "krum", "parameters": {"num_malicious_nodes": -1}}},
            "num_malicious_nodes is -1; it must be a whole number",
        ),
        (
            {"rounds": 3, "strategy": {"name": "fedper", "average_last": 2}},
            "average_last would put a mean of rounds under what a site keeps",
        ),
        (
            {"strategy": {"name": "bulyan"}},
            "against 0 lying sites it needs the replies of 3 training sites and a round may have 2",
        ),
        (
            {"baseline": "pooled", "strategy": {"name": "fedadam"}},
            "fedadam: baseline: pooled trains in one place, where there is nothing to aggregate",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check(tmp_path, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": {"name": "scaffold"}, "training": SGD},
        {"strategy": {"name": "fednova"}, "training": {**SGD, "momentum": 0.0}},
        {"strategy": {"name": "fedbn"}, "training": LOCAL},
        {"strategy": {"name": "silobn", "parameters": {"held_out": "mean"}}, "training": LOCAL},
        {"strategy": {"name": "feddyn"}},
        {"baseline": "pooled"},
    ],
)
def test_what_makes_sense_is_not(tmp_path: Path, changes: dict[str, Any]) -> None:
    check(tmp_path, **changes)


def test_all_is_told_at_once_and_nothing_is_left_behind(tmp_path: Path) -> None:
    path = write_config(tmp_path, strategy={"name": "scaffold"}, baseline="pooled")
    code, output = run_command("run", path, cwd=tmp_path)
    assert code == 2
    assert "Traceback" not in output
    assert "nothing to aggregate" in output
    assert "set training.optimizer to sgd" in output
    assert not (tmp_path / "runs").exists()
