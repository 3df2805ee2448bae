"""The table of a run's rounds: added to as it stands, and read from its end."""

from pathlib import Path

import pytest
from round_rows import row

from fedderm.evaluation.long_format import COLUMNS
from fedderm.round_metrics import append_metrics, metrics_before, rows_after


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Thirty rounds of a hundred sites: more than is read at a time."""
    path = tmp_path / "metrics.csv"
    for number in range(1, 31):
        append_metrics(path, number, [row(f"site-{place}", number, 0.5) for place in range(100)])
    assert path.stat().st_size > 100_000
    return path


def test_rows_are_those_after_a_round_in_their_order(table: Path) -> None:
    found = rows_after(table, 28)
    assert [(one["site"], one["round"]) for one in found] == [
        (f"site-{place}", str(number)) for number in (29, 30) for place in range(100)
    ]
    assert found[0] == dict(
        zip(
            COLUMNS,
            ["site-0", "train", "test", "29", "image", "auc", "0.5", "", "", "1000", "30"],
            strict=True,
        )
    )
    assert len(rows_after(table, 0)) == 3000
    assert rows_after(table, 30) == []
    assert rows_after(table.with_name("none.csv"), 0) == []
    assert metrics_before(table, 31) == table.read_text()


def test_an_empty_last_line_is_no_row(table: Path) -> None:
    table.write_text(table.read_text() + "\n")
    assert len(rows_after(table, 29)) == 100


def test_a_table_without_its_last_newline_gets_no_fused_row(table: Path) -> None:
    before = table.read_text()
    table.write_text(before.removesuffix("\n"))
    append_metrics(table, 31, [row("late", 31, 0.5)])
    assert table.read_text() == before + "late,train,test,31,image,auc,0.5,,,1000,30\n"


@pytest.mark.parametrize(
    "tail",
    [
        "late,train,te\n",
        "late,train,test,31,image,auc,1,,,100\n",
        "late,train,test,x,image,auc,1,,,100,30\n",
        "a,b,c,31,e,f,g,h,i,j,k,l\n",
    ],
)
def test_a_damaged_end_is_one_sentence(table: Path, tail: str) -> None:
    table.write_text(table.read_text() + tail)
    with pytest.raises(ValueError, match=r"metrics\.csv: is damaged \(it has the line"):
        rows_after(table, 29)


def test_an_empty_file_is_damaged_where_rows_are_added(table: Path) -> None:
    table.write_text("")
    with pytest.raises(ValueError, match=r"metrics\.csv: is damaged"):
        append_metrics(table, 31, [row("late", 31, 0.5)])
