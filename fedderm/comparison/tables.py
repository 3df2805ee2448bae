"""The tables of a comparison, one CSV file each in ``results/``, and its sentences."""

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from fedderm.comparison.conclusions import conclusions_of
from fedderm.comparison.results import REFERENCE_ONCE_MORE, Results, Statistics
from fedderm.evaluation.arms import ArmDifference
from fedderm.evaluation.documents import Estimate
from fedderm.evaluation.triage_sweep import sweep_metrics
from fedderm.whole_file import write_whole

Row = dict[str, Any]


def write_tables(results: Results) -> None:
    """Write ``results/`` of the comparison's folder; docs/compare.md says what the columns mean."""
    folder = results.comparison.path / "results"
    folder.mkdir(exist_ok=True)
    tables = {
        "summary": [*_summary(results.models, "global"), *_summary(results.personal, "personal")],
        "differences": [
            *_differences(results.models, "global"),
            *_differences(results.personal, "personal"),
        ],
        "ranks": list(_ranks(results)),
        "worst": list(_worst(results)),
        "cost": [vars(cost) for cost in results.costs],
        "convergence": list(_convergence(results)),
        "local_matrix": list(_matrix(results)),
        "sweep": list(_sweep(results)),
        "diagnoses": list(_diagnoses(results)),
        "gaps": list(_gaps(results)),
        "choice": list(_choices(results)),
        "pairs": list(_differences_of(results.sweep.pairs, "global")),
    }
    for name, rows in tables.items():
        path = folder / f"{name}.csv"
        if rows:
            text = pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")
            write_whole(path, text)
        else:
            path.unlink(missing_ok=True)
    write_whole(folder / "conclusions.txt", "\n".join(conclusions_of(results)) + "\n")


def _summary(statistics: Statistics, model: str) -> Iterator[Row]:
    for one in statistics.means:
        if one.seeds and not one.arm.startswith(REFERENCE_ONCE_MORE):
            yield {
                "arm": one.arm,
                "site": one.place.name,
                "role": one.place.role,
                "model": model,
                "metric": one.metric,
                "mean": one.estimate.value,
                "lower": one.estimate.lower,
                "upper": one.estimate.upper,
                "seeds": one.seeds,
                "lesions": one.place.lesions,
                "malignant": one.place.malignant,
            }


def _diagnoses(results: Results) -> Iterator[Row]:
    for one in results.diagnoses.means:
        yield {
            "arm": one.arm,
            "trained": one.trained,
            "site": one.site,
            "role": one.role,
            "metric": one.metric,
            **_told("mean", one.estimate),
            "seeds": one.seeds,
            "lesions": one.lesions,
        }


def _gaps(results: Results) -> Iterator[Row]:
    for one in results.diagnoses.gaps:
        told = {
            key: value
            for name in ("home", "away", "gap", "less_alone")
            for key, value in _told(name, getattr(one, name)).items()
        }
        place = {"arm": one.arm, "trained": one.trained, "site": one.site}
        yield {**place, **told, "seeds": one.seeds, "lesions": one.lesions}


def _told(name: str, estimate: Estimate) -> Row:
    prefix = "" if name == "mean" else f"{name}_"
    return {name: estimate.value, f"{prefix}lower": estimate.lower, f"{prefix}upper": estimate.upper}


def _sweep(results: Results) -> Iterator[Row]:
    thresholds = dict(zip(sweep_metrics(results.sweep.steps), ("", *results.sweep.steps), strict=True))
    for one in results.sweep.means:
        if one.seeds:
            yield {
                "arm": one.arm,
                "site": one.place.name,
                "role": one.place.role,
                "threshold": thresholds[one.metric],
                "macro_f1": one.estimate.value,
                "lower": one.estimate.lower,
                "upper": one.estimate.upper,
                "seeds": one.seeds,
                "lesions": one.place.lesions,
                "malignant": one.place.malignant,
            }


def _choices(results: Results) -> Iterator[Row]:
    for one in results.choices:
        yield {
            "arm": one.arm,
            "with_values": one.label,
            "calibration_auc": one.auc,
            "seeds": one.seeds,
            "lesions": one.lesions,
            "chosen": one.chosen,
        }


def _differences(statistics: Statistics, model: str) -> Iterator[Row]:
    yield from _differences_of(statistics.differences, model)


def _differences_of(differences: Iterable[ArmDifference], model: str) -> Iterator[Row]:
    for one in differences:
        yield {
            "arm": one.arm,
            "reference": one.reference.removeprefix(REFERENCE_ONCE_MORE),
            "site": one.place.name,
            "role": one.place.role,
            "model": model,
            "metric": one.metric,
            "difference": one.estimate.value,
            "lower": one.estimate.lower,
            "upper": one.estimate.upper,
            "p": one.p,
            "p_holm": one.p_holm,
            "seeds": one.seeds,
            "lesions": one.place.lesions,
            "malignant": one.place.malignant,
        }


def _ranks(results: Results) -> Iterator[Row]:
    for one in results.ranks:
        yield {
            "arm": one.arm,
            "role": one.role,
            "rank": one.estimate.value,
            "lower": one.estimate.lower,
            "upper": one.estimate.upper,
            "arms": one.arms,
            "sites": one.sites,
            "seeds": one.seeds,
        }


def _worst(results: Results) -> Iterator[Row]:
    for (role, arm), shares in results.worst.items():
        for site, share in shares.items():
            yield {"arm": arm, "role": role, "site": site, "share_of_draws_as_worst": share}


def _convergence(results: Results) -> Iterator[Row]:
    for curve in results.curves:
        for point in curve.points.to_dict("records"):
            yield {"arm": curve.arm, "role": curve.role, **{str(key): one for key, one in point.items()}}


def _matrix(results: Results) -> Iterator[Row]:
    for arm, entries in results.matrices.items():
        for trained, one in entries:
            if not one.seeds:  # a site that is held out has no model of its own
                continue
            yield {
                "arm": arm,
                "trained": trained,
                "tested": one.place.name,
                "role": one.place.role,
                "metric": one.metric,
                "mean": one.estimate.value,
                "lower": one.estimate.lower,
                "upper": one.estimate.upper,
                "seeds": one.seeds,
                "lesions": one.place.lesions,
                "malignant": one.place.malignant,
            }
