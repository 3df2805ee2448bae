"""Annotation tables at the door, at a site, and on the command line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fedderm.cli import app
from sites.annotations import agreed, pattern_labels, read_annotations
from sites.catalogue import load_site
from sites.diagnoses import BCC_PATTERNS
from sites.errors import SiteError
from sites.simulated import SimulatedSite

HEADER = f"image_id,annotator,{','.join(BCC_PATTERNS)}\n"


def written(folder: Path, rows: str, header: str = HEADER) -> Path:
    (folder / "annotations.csv").write_text(header + rows)
    return folder / "annotations.csv"


def centre(**settings: object) -> SimulatedSite:
    return SimulatedSite.model_validate(
        {
            "name": "clinic",
            "source": "simulated",
            "lesions": 30,
            "render_size": 64,
            "annotators": 4,
            **settings,
        }
    )


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        ("a,x,1,0,0,0,0,0\n", HEADER.replace(",ulceration", ""), "the column 'ulceration' is missing"),
        (",x,1,0,0,0,0,0,0\n", HEADER, "row 2 has no image_id"),
        ("a,,1,0,0,0,0,0,0\n", HEADER, "row 2 has no annotator"),
        (
            "a,x,1,0,0,0,0,0,0\na,y,yes,0,0,0,0,0,0\n",
            HEADER,
            "row 3, column 'pigment_network': 'yes' is no label",
        ),
        ("a,x,1,0,0,0,0,0,0\na,x,0,0,0,0,0,0,0\n", HEADER, "rows 2 and 3 both hold what x says of a"),
        ("a,x,,,,,,,\n", HEADER, "no image has a label"),
    ],
)
def test_each_fault_is_one_sentence(tmp_path: Path, rows: str, header: str, said: str) -> None:
    with pytest.raises(SiteError, match=said) as refused:
        read_annotations(written(tmp_path, rows, header))
    assert "annotations.csv" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_empty_cells_and_a_pattern_that_nobody_judged_are_no_labels(tmp_path: Path) -> None:
    found = agreed(read_annotations(written(tmp_path, "a,x,1,,0,0,0,0,\nb,x,0,,1,0,0,0,\n")))
    np.testing.assert_array_equal(found["pigment_network"], [1, 0])
    assert found["ulceration"].isna().all()
    assert found["arborizing_telangiectasia"].isna().all()


def test_a_simulated_centre_has_annotators_masks_and_the_truth(tmp_path: Path) -> None:
    data = load_site(centre(), None, tmp_path, 1)
    folder = Path(data.table["path"].iloc[0]).parents[1]
    truth = pd.read_csv(folder / "patterns.csv").set_index("image_id").loc[data.table["image_id"]]
    given = pattern_labels(data.table)
    known = ~np.isnan(given)
    assert known.mean() > 0.95  # four annotators who each see four images in five
    assert (given == truth[list(BCC_PATTERNS)].to_numpy())[known].mean() > 0.85
    assert "by 4 annotators" in " ".join(data.notes)
    bcc = (data.table["diagnosis"] == "bcc").to_numpy()
    assert truth.loc[bcc, list(BCC_PATTERNS[1:])].sum().sum() > 0
    assert truth.loc[bcc, "pigment_network"].sum() == 0  # no BCC is painted with a network
    assert truth.loc[~bcc, "pigment_network"].sum() > 0


def test_without_annotators_images_are_the_same_and_nobody_has_labels(tmp_path: Path) -> None:
    with_them = load_site(centre(), None, tmp_path, 1).table
    without = load_site(centre(annotators=0), None, tmp_path, 1).table
    for one, other in zip(with_them["path"], without["path"], strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()
    assert np.isnan(pattern_labels(without)).all()


def test_a_site_names_its_own_table(tmp_path: Path) -> None:
    plain = load_site(centre(annotators=0), None, tmp_path, 1).table
    first = plain["image_id"].iloc[0]
    file = written(tmp_path, f"{first},x,1,0,0,0,0,0,0\n{first},y,1,1,0,0,0,0,0\nelsewhere,x,1,0,0,0,0,0,0\n")
    table = load_site(centre(annotators=0, annotations=str(file)), None, tmp_path, 1).table
    found = pattern_labels(table)
    assert found[0, 0] == 1
    assert np.isnan(found[1:]).all()
    written(tmp_path, "elsewhere,x,1,0,0,0,0,0,0\n")
    with pytest.raises(SiteError, match="names none of the site's"):
        load_site(centre(annotators=0, annotations=str(file)), None, tmp_path, 1)


def test_the_command_tells_rates_and_writes_a_table_that_a_site_can_read(tmp_path: Path) -> None:
    data = load_site(centre(lesions=120), None, tmp_path, 1)
    folder = Path(data.table["path"].iloc[0]).parents[1]
    to = tmp_path / "consensus.csv"
    told = CliRunner().invoke(
        app,
        ["patterns", "consensus", str(folder / "annotations.csv"), "--to", str(to)],
        env={"COLUMNS": "140"},
    )
    assert told.exit_code == 0, told.output
    assert "annotator_4" in told.output
    assert "[" in told.output
    written_table = read_annotations(to)
    assert set(written_table["annotator"]) == {"consensus"}
    pd.testing.assert_frame_equal(
        agreed(written_table), agreed(read_annotations(folder / "annotations.csv")), check_like=True
    )


def test_two_annotators_are_told_that_rates_do_not_follow(tmp_path: Path) -> None:
    file = written(tmp_path, "a,x,1,0,0,0,0,0,0\na,y,1,1,0,0,0,0,0\nb,x,0,0,0,0,0,0,0\n")
    told = CliRunner().invoke(app, ["patterns", "consensus", str(file), "--to", str(tmp_path / "c.csv")])
    assert "error rates do not follow" in " ".join(told.output.split())
