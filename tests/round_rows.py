"""Rows of a run's table, for tests."""

from fedderm.evaluation.long_format import LongRow


def row(site: str, number: int, value: float | None) -> LongRow:
    """Return a training site's AUC after a round."""
    return LongRow(
        site=site,
        role="train",
        split="test",
        round=number,
        unit="image",
        metric="auc",
        value=value,
        lower=None,
        upper=None,
        n=1000,
        positives=30,
    )
