"""The run folder: what a round leaves, in which order, and what is read back."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from commands import write_config
from round_rows import row

from fedderm import config, environment
from fedderm.evaluation.long_format import COLUMNS
from fedderm.runs import KEPT_CHECKPOINTS, RunFolder
from fedderm.weights import Arrays


def new_run(root: Path, rounds: int = 5) -> RunFolder:
    return RunFolder.create(config.load(write_config(root), [f"rounds={rounds}"]))


def model(number: int) -> Arrays:
    return {"w": np.full(3, float(number))}


def test_a_new_run_holds_its_resolved_config_and_two_in_one_second_do_not_collide(tmp_path: Path) -> None:
    first, second = new_run(tmp_path), new_run(tmp_path)
    assert first.path != second.path
    assert first.path.parent == tmp_path / "runs" / "tiny"
    assert RunFolder.open(first.path) == first
    assert "clip_norm: 1.0" in (first.path / "config.yaml").read_text()
    assert first.state() == {"round": 0, "rounds": 5, "finished": False, "history": []}
    assert first.latest_arrays() is None


def test_rounds_add_up_and_only_the_last_checkpoints_stay(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    for number in (1, 2, 3):
        run.finish_round(number, model(number), {"seconds": number}, [row("a", number, number / 7)])
    assert run.state()["round"] == 3
    assert run.state()["history"] == [{"round": n, "seconds": n} for n in (1, 2, 3)]
    assert sorted(p.name for p in (run.path / "rounds").glob("*.safetensors")) == [
        f"000{n}.safetensors" for n in range(4 - KEPT_CHECKPOINTS, 4)
    ]
    latest = run.latest_arrays()
    assert latest is not None
    assert latest["w"].tolist() == [3, 3, 3]
    lines = (run.path / "rounds" / "metrics.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1:] == [
        f"a,train,test,{n},image,auc,{value},,,1000,30"
        for n, value in ((1, "0.142857"), (2, "0.285714"), (3, "0.428571"))
    ]


def test_names_and_missing_values_survive_later_rounds(tmp_path: Path) -> None:
    """A site may be called 007, NA, null or 1.0; a table that was read as numbers would rename it."""
    run = new_run(tmp_path)
    names = ["007", "NA", "null", "1.0", "1e5", "true"]
    run.finish_round(1, model(1), {}, [row(name, 1, None) for name in names])
    before = (run.path / "rounds" / "metrics.csv").read_text()
    run.finish_round(2, model(2), {}, [row("007", 2, 1.0)])
    after = (run.path / "rounds" / "metrics.csv").read_text()
    assert [line.split(",")[0] for line in before.splitlines()[1:]] == names
    assert after == before + "007,train,test,2,image,auc,1,,,1000,30\n"


def test_a_round_without_rows_keeps_the_table(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.finish_round(1, model(1), {}, [])
    assert (run.path / "rounds" / "metrics.csv").read_text() == ",".join(COLUMNS) + "\n"
    run.finish_round(2, model(2), {}, [row("a", 2, 0.5)])
    table = (run.path / "rounds" / "metrics.csv").read_text()
    run.finish_round(3, model(3), {}, [])
    assert (run.path / "rounds" / "metrics.csv").read_text() == table


def test_a_round_is_added_to_the_table_as_it_stands(tmp_path: Path) -> None:
    """As texts, in whatever way: a digit more than this fedderm writes stays, and so does a long name."""
    run = new_run(tmp_path)
    run.finish_round(1, model(1), {}, [row("a, b", 1, 0.5), row("x" * 5000, 1, 0.25)])
    path = run.path / "rounds" / "metrics.csv"
    path.write_text(path.read_text().replace("0.25,", "0.2500000001,"))
    before = path.read_text()
    run.finish_round(2, model(2), {}, [row("c", 2, 1.0)])
    found = path.read_text()
    assert found.replace("0.25,", "0.2500000001,") == before + "c,train,test,2,image,auc,1,,,1000,30\n"
    run.finish_round(3, model(3), {}, [row("d", 3, 1.0)])
    assert path.read_text() == found + "d,train,test,3,image,auc,1,,,1000,30\n"
    path.write_text(path.read_text() + "d,train,te")
    with pytest.raises(ValueError, match=r"metrics\.csv: is damaged"):
        run.finish_round(4, model(4), {}, [row("e", 4, 1.0)])


def test_a_state_that_somebody_else_wrote_is_read_again(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.finish_round(1, model(1), {"x": 1}, [], traffic={"down": 1})
    other = RunFolder.open(run.path)
    assert other.state() == run.state()
    assert run.state()["traffic"] == {"down": 1}
    other.finish_round(2, model(2), {"x": 2}, [])
    assert run.state()["round"] == 2
    assert run.state()["history"] == [{"round": 1, "x": 1}, {"round": 2, "x": 2}]
    (run.path / "rounds" / "state.json").write_text('{"round": 1')
    with pytest.raises(ValueError, match=r"state\.json: is damaged"):
        run.state()


def test_the_state_is_json_with_a_round_a_line(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    for number in (1, 2):
        run.finish_round(number, model(number), {"sites": {"a": {"loss": 0.5}}}, [])
    text = (run.path / "rounds" / "state.json").read_text()
    assert json.loads(text) == run.state()
    assert '{"round": 1, "sites": {"a": {"loss": 0.5}}},\n{"round": 2, ' in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_state({**run.state(), "x": float("nan")})
    assert (run.path / "rounds" / "state.json").read_text() == text, "the old file is still whole"


def test_a_round_done_again_after_a_kill_replaces_what_it_left(tmp_path: Path) -> None:
    """Killed between the metrics and the state: round 2's rows are there, the state says round 1."""
    run = new_run(tmp_path)
    run.finish_round(1, model(1), {"x": 1}, [row("a", 1, 0.1)])
    state = (run.path / "rounds" / "state.json").read_text()
    run.finish_round(2, model(2), {"x": 2}, [row("a", 2, 0.2)])
    once = (run.path / "rounds" / "metrics.csv").read_text()
    finished = (run.path / "rounds" / "state.json").read_text()
    (run.path / "rounds" / "state.json").write_text(state)
    again = RunFolder.open(run.path)
    assert again.state()["round"] == 1
    again.finish_round(2, model(2), {"x": 2}, [row("a", 2, 0.2)])
    assert (run.path / "rounds" / "metrics.csv").read_text() == once
    assert (run.path / "rounds" / "state.json").read_text() == finished


def test_the_end_adds_up_the_seconds_of_all_sittings(tmp_path: Path) -> None:
    """From the very begin of each, when its sites are loaded: the first sitting here began a minute ago."""
    run = new_run(tmp_path)
    run.write_json("environment.json", {"python": "3"})
    replace(run, since=run.since - timedelta(seconds=60)).end_sitting()
    assert run.read_json("environment.json")["seconds"] == pytest.approx(60, abs=5)
    replace(run, since=datetime.now(UTC) - timedelta(seconds=2.5)).end_sitting()
    environment = run.read_json("environment.json")
    assert environment == {"python": "3", "seconds": pytest.approx(62.5, abs=10)}
    assert run.state()["finished"] is False
    run.finish()
    assert run.state()["finished"] is True


def test_json_is_plain_and_never_nan(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.write_json("audit.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_json("audit.json", {"a": float("nan")})
    assert run.read_json("audit.json") == {"a": 1}, "the old file is still whole"
    assert run.read_json("absent.json") is None


def test_a_run_can_be_opened_where_its_data_lie_elsewhere(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    elsewhere = RunFolder.open(run.path, tmp_path / "moved").experiment
    assert elsewhere.data_root == tmp_path / "moved"
    assert elsewhere.model_copy(update={"data_root": tmp_path}) == run.experiment


def test_the_environment_names_no_person_machine_or_path() -> None:
    found = environment.describe(7, datetime(2026, 11, 21, 5, 8, tzinfo=UTC))
    text = json.dumps(found)
    assert (found["seed"], found["started"]) == (7, "2026-11-21T05:08:00+00:00")
    assert found["torch"] != "not installed"
    assert str(Path.home()) not in text
    assert str(Path(__file__).parents[1]) not in text
    assert all(isinstance(value, str | int | float) for value in found.values())
