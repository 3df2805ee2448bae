"""How numbers are written: decimals, percentages, intervals, sizes; a missing one is a dash, never 0."""

from math import isfinite
from typing import Any

from fedderm.evaluation.documents import Estimate, Performance

MISSING = "–"
NBSP = "\u00a0"


def known(value: float | None) -> bool:
    """Return whether there is a finite number to show."""
    return value is not None and isfinite(value)


def decimal(value: float | None, places: int = 3) -> str:
    """Return ``0.791``, or an en dash."""
    return MISSING if value is None or not isfinite(value) else _signed(f"{value:.{places}f}")


def _signed(text: str) -> str:
    """Return a number with a true minus sign, and none before a zero."""
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text.lstrip("-")


def percent(value: float | None) -> str:
    """Return ``80 %`` for 0.8, with a space that does not break; or an en dash."""
    return MISSING if value is None or not isfinite(value) else f"{100 * value:.0f}{NBSP}%"


def interval(estimate: Estimate, as_percent: bool = False) -> str:
    """Return ``0.71–0.86`` (or ``66–90`` in percent); empty where no interval was computed."""
    lower, upper = estimate.lower, estimate.upper
    if lower is None or upper is None or not (isfinite(lower) and isfinite(upper)):
        return ""
    return f"{100 * lower:.0f}–{100 * upper:.0f}" if as_percent else f"{lower:.2f}–{upper:.2f}"


def span(estimate: Estimate, as_percent: bool = False) -> str:
    """Return an interval for the page: ``−0.02 to 0.14`` where an end is negative, for a dash beside a minus
    cannot be read."""
    lower, upper = estimate.lower, estimate.upper
    if lower is None or upper is None or lower >= 0 or as_percent:
        return interval(estimate, as_percent)
    return f"{decimal(lower, 2)} to {decimal(upper, 2)}"


def count(value: float | int | None) -> str:
    """Return ``8,902``, or an en dash."""
    return MISSING if value is None or not isfinite(value) else f"{value:,.0f}"


def size(octets: float | None) -> str:
    """Return bytes in the unit a person would choose: ``13.4 MB``."""
    if octets is None or not isfinite(octets):
        return MISSING
    for unit in ("B", "kB", "MB"):
        if abs(octets) < 1000:
            return f"{octets:.0f}{NBSP}{unit}" if unit == "B" else f"{octets:.1f}{NBSP}{unit}"
        octets /= 1000
    return f"{octets:.1f}{NBSP}GB"


def duration(seconds: float | None) -> str:
    """Return ``47 s``, ``12 min 5 s`` or ``2 h 10 min``."""
    if seconds is None or not isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f}{NBSP}s" if seconds < 10 else f"{seconds:.0f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60}{NBSP}min"


def listing(words: list[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return ``1 site`` or ``1,204 sites``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def metric(performance: Performance | None, name: str) -> Estimate:
    """Return a metric, with an undefined one where the evaluation does not hold it."""
    undefined = Estimate(value=None)
    return undefined if performance is None else performance.metrics.get(name, undefined)


def why_missing(performance: Performance | None, name: str) -> str:
    """Return the reason a metric has no value, for the reader's tooltip and the table's footnote."""
    if performance is None:
        return "not evaluated at this site"
    if performance.n == 0:
        return "nothing to show: the split is empty, or smaller than the site's minimum cell"
    unit = performance.unit
    if performance.positives == 0 and name in {"auc", "sensitivity", "balanced_accuracy", "f1", "macro_f1"}:
        return f"no malignant {unit}s in this split"
    if performance.positives == performance.n and name in {
        "auc",
        "specificity",
        "balanced_accuracy",
        "macro_f1",
    }:
        return f"no benign {unit}s in this split"
    if name == "ppv":
        return f"no {unit} is called malignant"
    if performance.absent_classes:
        return f"absent here: {', '.join(performance.absent_classes)}"
    return "not computed"


def detected(performance: Performance) -> tuple[int, int]:
    """Return (malignant ones called malignant, malignant ones) from the confusion counts.

    Rows and columns above 0 are malignant classes, whichever of them: a melanoma taken for a carcinoma is
    still referred. (0, 0) where a small cell hides the confusion counts.
    """
    malignant = performance.confusion[1:]
    return sum(sum(row[1:]) for row in malignant), sum(sum(row) for row in malignant)


def spared(performance: Performance) -> tuple[int, int]:
    """Return (benign ones called benign, benign ones) from the confusion counts."""
    benign = performance.confusion[0] if performance.confusion else []
    return (benign[0] if benign else 0), sum(benign)


def plain(value: Any) -> str:
    """Return a config or environment value as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return MISSING
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"
    if isinstance(value, list | tuple):
        return " / ".join(plain(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    return str(value)
