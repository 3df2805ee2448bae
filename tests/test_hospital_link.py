"""A hostile coordinator over real Flower processes: its code does not run at a hospital, and its questions
beyond the policy are refused."""

import json
import subprocess
from pathlib import Path

import pytest
from federations import write_config
from flower_processes import Flower
from hospitals import Hospital

from fedderm import __version__
from fedderm.hospital.own_app import node_environment, own_commands

APP = Path(__file__).resolve().parent / "hostile_app"
ROOT = APP.parents[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_coordinators_code_does_not_run_at_a_hospital(flower: Flower, root: Path, tmp_path: Path) -> None:
    """Two nodes with the same validate-only site: one started as Flower has it, one with its own commands.

    The first gives its site file away: the danger is there. The second answers with fedderm's card, once, and
    refuses the rest, and its log has all of it.
    """
    flower.environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    config = write_config(root)
    naive, careful = Hospital(tmp_path / "naive", "away"), Hospital(tmp_path / "careful", "away")
    flower.start()
    flower.node(f'site="{naive.file}"')
    path = node_environment(tmp_path / "commands")["PATH"].split(":")[0]
    flower.node(f'site="{careful.file}"', PATH=f"{path}:{flower.environment['PATH']}")
    out = tmp_path / "out.json"
    done = flower.run(APP, f'config="{config}" out="{out}"')
    assert out.is_file(), done.stdout + done.stderr + (flower.home / "supernodes.log").read_text()
    answers = sorted(json.loads(out.read_text()), key=lambda words: "stolen" not in words[0])
    assert len(answers[0]) == 1
    assert "stolen" in answers[0][0]
    assert "role: held-out" in answers[0][0]
    assert not naive.record.folder.exists()

    assert len(answers[1]) == 4
    refusals = "\n".join(one for one in answers[1] if one.startswith("error"))
    assert "stolen" not in "".join(answers[1])
    assert sum(one.startswith("card: ") for one in answers[1]) == 1
    assert f"site away runs fedderm {__version__} and the server 9.9.9" in refusals
    assert "site away is held out: it refuses to train" in refusals
    assert "asked to count the splits train" in refusals
    told = sorted((one["what"], one["exchange"]) for one in careful.log())
    assert told == [("refused", "evaluate"), ("refused", "query"), ("refused", "train"), ("sent", "query")]


def test_commands_that_would_run_a_coordinators_code_are_refused(tmp_path: Path) -> None:
    own_commands(tmp_path / "commands")
    for name in ("flwr-agentapp", "flwr-serverapp", "flwr-simulation", "flwr-model", "flwr-connector"):
        done = subprocess.run(
            [tmp_path / "commands" / name, "--token", "x"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert f"a hospital answers messages and runs no {name}" in done.stderr
    assert {one.stat().st_mode & 0o777 for one in (tmp_path / "commands").iterdir()} == {0o700}


def test_flower_itself_starts_no_other_commands() -> None:
    """A new kind of task in a later Flower would be started with the coordinator's code."""
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    from fedderm.hospital import own_app

    assert set(TASK_TYPE_TO_COMMAND.values()) == {"flwr-clientapp", *own_app._CODE_OF_OTHERS}
