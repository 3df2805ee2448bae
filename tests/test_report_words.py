"""Numbers and sentences of the report, as people write them."""

from itertools import pairwise

from fedderm.evaluation.documents import (
    Certificate,
    Estimate,
    Performance,
)
from fedderm.report.figures import spread
from fedderm.report.formats import decimal, detected, duration, interval, size, span, spared, why_missing
from fedderm.report.sentences import promise


def performance(confusion: list[list[int]], **given: int) -> Performance:
    n, positives = sum(map(sum, confusion)), sum(map(sum, confusion[1:]))
    return Performance(
        unit="lesion", n=given.get("n", n), positives=given.get("positives", positives),
        metrics={}, confusion=confusion, absent_classes=[],
    )  # fmt: skip


def test_detected_counts_any_malignant_decision() -> None:
    # 2 + 1 of the 4 melanomas and 3 of the 3 carcinomas are referred; 7 of 9 benign are not.
    four = performance([[7, 1, 1, 0], [1, 2, 0, 1], [0, 0, 0, 0], [0, 1, 0, 2]])
    assert detected(four) == (6, 7)
    assert spared(four) == (7, 9)
    assert detected(performance([], n=50, positives=20)) == (0, 0)


def test_reasons_for_missing_values() -> None:
    assert why_missing(None, "auc") == "not evaluated at this site"
    assert why_missing(performance([[3, 0], [0, 0]]), "sensitivity") == "no malignant lesions in this split"
    assert why_missing(performance([[0, 0], [0, 3]]), "specificity") == "no benign lesions in this split"


def test_numbers_are_written_as_people_do() -> None:
    nbsp = "\N{NO-BREAK SPACE}"
    assert size(999) == f"999{nbsp}B"
    assert size(13_420_000) == f"13.4{nbsp}MB"
    assert duration(125) == f"2{nbsp}min 5{nbsp}s"
    assert duration(7800) == f"2{nbsp}h 10{nbsp}min"
    assert interval(Estimate(value=0.8, lower=0.66, upper=0.9), as_percent=True) == "66–90"
    assert interval(Estimate(value=0.8)) == ""
    assert span(Estimate(value=0.05, lower=-0.02, upper=0.14)) == "\N{MINUS SIGN}0.02 to 0.14"
    assert span(Estimate(value=0.8, lower=0.66, upper=0.9)) == "0.66–0.90"
    assert decimal(-0.0004) == "0.000"


def test_promise_says_how_many_are_missing() -> None:
    given = Certificate(
        target_sensitivity=0.9, confidence=0.95, positives=20, needed=29, certified=False, sentence=""
    )
    assert (
        promise(given) == "the 0.90 target cannot be certified: 20 malignant lesions to set it on, 29 needed"
    )
    assert "too few malignant lesions" in promise(given.model_copy(update={"positives": 0}))
    certified = promise(given.model_copy(update={"positives": 40, "certified": True}))
    assert (
        certified
        == "a sensitivity of at least 0.90 is guaranteed there with 95\N{NO-BREAK SPACE}% confidence"
    )


def test_labels_are_spread_without_touching() -> None:
    placed = spread([0.90, 0.90, 0.91, 0.99], apart=0.05, low=0.5, high=1.0)
    assert all(later - earlier > 0.05 - 1e-9 for earlier, later in pairwise(placed))
    assert max(placed) <= 1.0
    assert spread([0.6, 0.8], apart=0.05, low=0.5, high=1.0) == [0.6, 0.8]
