"""The clinical rule, and the network's own outputs held against it."""

import itertools

import numpy as np
import pytest

from fedderm.evaluation.bcc_rule import evaluate_patterns, suggests_bcc
from fedderm.evaluation.proportions import wilson
from sites.diagnoses import BCC_PATTERNS


def test_network_excludes_and_any_other_pattern_suggests() -> None:
    for patterns in itertools.product([False, True], repeat=7):
        expected = not patterns[0] and any(patterns[1:])
        assert bool(suggests_bcc(np.array([patterns]))[0]) == expected


def logits(bcc: float, *present: int) -> list[float]:
    return [bcc, *(1.0 if place in present else -1.0 for place in range(7))]


SAID = np.array(
    [
        logits(2, 1),  # BCC, ulceration: obeyed
        logits(2, 1),  # the same lesion, again
        logits(2, 0, 1),  # BCC in spite of a network
        logits(-2, 0),  # not BCC, network: obeyed
        logits(-2),  # not BCC, nothing: obeyed
        logits(-2, 6),  # not BCC in spite of vessels
    ]
)
LESIONS = np.array(["a", "a", "b", "c", "d", "e"])
TRUTH = np.array([3, 3, 0, 0, 1, 3])


def test_rates_are_those_counted_by_hand_over_lesions() -> None:
    found = evaluate_patterns(SAID, TRUTH, None, LESIONS)
    assert (found.n, found.positives) == (5, 2)
    by_hand = {
        "accuracy": (3, 5),
        "precision": (1, 2),
        "recall": (1, 2),
        "rule_obeyed": (3, 5),
        "rule_obeyed_bcc": (1, 2),
        "rule_obeyed_other": (2, 3),
        "relevant_found": (2, 2),
        "exclusion_met": (2, 3),
    }
    for name, (hits, n) in by_hand.items():
        told = getattr(found, name)
        assert told.value == pytest.approx(hits / n), name
        assert (told.lower, told.upper) == pytest.approx(wilson(hits, n)), name
    # BCC a (2) above c, d and tied with b; e (-2) tied with c and d and below b: 2.5 + 1 of 6 pairs.
    assert found.auc.value == pytest.approx(3.5 / 6)
    assert found.patterns == []


def test_patterns_are_judged_on_lesions_with_a_label_alone() -> None:
    labels = np.full((6, 7), np.nan)
    labels[:, 1] = [0, 1, 1, np.nan, 0, 1]
    found = {one.pattern: one for one in evaluate_patterns(SAID, TRUTH, labels, LESIONS).patterns}
    assert tuple(found) == BCC_PATTERNS
    ulceration = found["ulceration"]
    # Present in a (one of its images), b and e; the head says so of a and b. d has it not, c has no label.
    assert (ulceration.n, ulceration.positives) == (4, 3)
    assert ulceration.sensitivity.value == pytest.approx(2 / 3)
    assert ulceration.specificity.value == 1
    assert found["ovoid_nests"].n == 0
    assert found["ovoid_nests"].auc.value is None


def test_small_cells_tell_nothing() -> None:
    labels = np.ones((6, 7))
    found = evaluate_patterns(SAID, TRUTH, labels, LESIONS, min_cell=3)
    assert (found.n, found.positives) == (0, 0)
    assert found.accuracy.value is None
    assert found.auc.value is None
    assert all((one.n, one.positives) == (0, 0) for one in found.patterns)
    assert all(
        one.specificity.value is one.sensitivity.value is one.auc.value is None for one in found.patterns
    )
