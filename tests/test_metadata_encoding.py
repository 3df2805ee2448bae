"""Age, sex and anatomical site as numbers, and what a clinic's words and gaps become."""

import json

import numpy as np
import pandas as pd
import pytest

from sites.metadata import FIELDS, REGIONS, columns, description, encoded, missing, owners, region
from sites.simulated import _ELSEWHERE, _ON_SUN_EXPOSED, _SPREAD

TABLE = pd.DataFrame(
    {
        "age": [70.0, np.nan, 50.0],
        "sex": ["male", None, "female"],
        "anatom_site": ["Posterior Torso", "somewhere", None],
    }
)


def test_a_row_by_hand() -> None:
    """(70 - 50) / 20 is one; male is the second of two; the back is the torso, second of six."""
    assert encoded(TABLE, FIELDS)[0].tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert columns(FIELDS) == (
        "age",
        "age: missing",
        "sex: female",
        "sex: male",
        "sex: missing",
        *(f"anatom_site: {name}" for name in REGIONS),
        "anatom_site: missing",
    )


def test_what_is_missing_or_no_word_of_ours_is_the_last_number_of_its_field() -> None:
    rows = encoded(TABLE, FIELDS)
    np.testing.assert_array_equal(rows[1], missing(FIELDS))
    assert missing(FIELDS).tolist() == [0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert rows[2].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert owners(FIELDS).tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2]


def test_some_fields_and_none() -> None:
    assert encoded(TABLE, ("sex",)).tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert encoded(TABLE, ()).shape == (3, 0)
    assert missing(()).shape == (0,)
    empty = encoded(TABLE.iloc[:0], FIELDS)
    assert empty.shape == (0, 12)
    assert empty.dtype == np.float32


def test_columns_of_nothing_but_gaps() -> None:
    """As a table is whose source has none of the three: objects, strings or numbers of NA."""
    for kind in ("object", "string"):
        table = pd.DataFrame({"age": [np.nan], "sex": [None], "anatom_site": [None]}).astype(
            {"sex": kind, "anatom_site": kind}
        )
        np.testing.assert_array_equal(encoded(table, FIELDS)[0], missing(FIELDS))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("head_neck_face", "Scalp", "ear", "head/neck"), "head/neck"),
        (("trunk", "back", "chest", "abdomen", "anterior torso", "lateral  torso"), "torso"),
        (("hand", "upper_extremity"), "upper extremity"),
        (("foot", "lower extremity"), "lower extremity"),
        (("acral", "palms/soles"), "palms/soles"),
        (("genital", "oral/genital"), "oral/genital"),
        (("", "unknown", "left"), None),
    ],
)
def test_words_of_the_sources(words: tuple[str, ...], expected: str | None) -> None:
    """HAM10000, ISIC 2019 and MILK10k each have words of their own."""
    assert {region(word) for word in words} == {expected}


def test_every_place_of_the_generator_has_a_region() -> None:
    assert all(region(word) for word in (*_ON_SUN_EXPOSED, *_ELSEWHERE, *_SPREAD))


def test_the_description_suffices_to_make_the_rows() -> None:
    """As somebody with the exported file would, who has nothing else."""
    told = json.loads(json.dumps(description(FIELDS)))
    row = dict(zip(told["columns"], told["missing"], strict=True))
    (subtracted, divisor) = (50.0, 20.0)
    assert told["fields"]["age"] == f"(years - {subtracted:g}) / {divisor:g}"
    row |= {"age": (70 - subtracted) / divisor, "age: missing": 0, "sex: male": 1, "sex: missing": 0}
    place = next(name for name, words in told["fields"]["anatom_site"].items() if "posterior torso" in words)
    row |= {f"anatom_site: {place}": 1, "anatom_site: missing": 0}
    assert list(row.values()) == encoded(TABLE, FIELDS)[0].tolist()
