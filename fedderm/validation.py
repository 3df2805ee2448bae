"""A finished model judged at a hospital without any network: the federation's own judging, from its files."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from fedderm.devices import use_threads
from fedderm.environment import describe
from fedderm.evaluation.counts import UNITS
from fedderm.evaluation.disclosure import FLOOR, understood
from fedderm.evaluation.documents import Certificate, OperatingPoint
from fedderm.evaluation.informed import FederationEvidence
from fedderm.evaluation.long_format import CALIBRATION, long_rows_of_federation, long_rows_of_site
from fedderm.evaluation.recalibration import evaluate_federation
from fedderm.evaluation.shift_reference import ShiftReference
from fedderm.evaluation_files import csv_of, json_of, write_evaluation
from fedderm.hospital.predictions import keep_predictions
from fedderm.hospital.record import Record
from fedderm.judging import Frame, Judged, judge
from fedderm.local_site import LocalSite
from fedderm.model.cascade import Cascade
from fedderm.model.ensemble import Ensemble
from fedderm.model_folder import REFERENCE, damaged, model_folder, read_description
from fedderm.networks import network_of
from fedderm.preparation import PreparationObserver, rendering_shown
from fedderm.recipe import Recipe
from fedderm.report import build_report
from fedderm.runs import new_folder
from fedderm.site_file import read_home, read_site_file
from fedderm.site_method import adapt_to
from fedderm.weights import read_arrays
from fedderm.whole_file import write_whole
from fedderm.worker_models import on_device
from sites.cache import open_cache
from sites.catalogue import Site, load_site
from sites.metadata import unknown, unknown_sentence


@dataclass(frozen=True)
class Model:
    """What a federation left for those who use its model: weights, recipe, and what its sites look like."""

    network: Cascade | Ensemble
    recipe: Recipe
    frame: Frame
    certificate: Certificate
    """Of the federation's threshold."""
    trained_at: Sequence[str]

    @classmethod
    def open(cls, path: Path) -> "Model":
        """Return the model of a run's folder, a model's folder, or a file of weights in one.

        Raises ValueError where there is none, or where a part that judging needs is missing or damaged.
        """
        folder = model_folder(path)
        found = read_description(folder)
        if "recipe" not in found:
            raise ValueError(
                f"{folder / 'model.json'}: does not say how the model is judged (it has no recipe), as those "
                "of earlier versions of fedderm; finish its run with this version"
            )
        reference = folder / REFERENCE
        try:
            frame = Frame(
                point=OperatingPoint.model_validate(found["federation_point"]),
                evidence=FederationEvidence.model_validate(found["evidence"]),
                reference=ShiftReference.from_arrays(read_arrays(reference)) if reference.is_file() else None,
            )
            recipe = Recipe.model_validate(found["recipe"])
            certificate = Certificate.model_validate(found["federation_certificate"])
            trained_at = [str(name) for name in found["training_sites"]]
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(folder, error) from error
        return cls(network_of(folder, found), recipe, frame, certificate, trained_at)


def validate(model: Path, site_file: Path, out: Path | None, observer: PreparationObserver) -> Path:
    """Return the folder with what ``model`` is worth at a held-out hospital: documents, report, predictions.

    ``out`` None: a new folder in the hospital's record, beside its site file. Nothing is sent; the report
    hides what the site's minimum cell size hides, so that it can be shown. Raises ValueError where the model
    learned from this site's images, or ``out`` holds something already.
    """
    held, site = Model.open(model), read_site_file(site_file)
    _require_held_out(site, held)
    local = _open(site_file, site, held.recipe, observer)
    lacking = unknown(local.table, local.metadata_fields)
    if lacking:
        observer.warn(unknown_sentence(site.name, lacking))
    observer.stage("evaluate", [site.name])
    use_threads(held.recipe.threads)
    network = on_device(held.network, 0)
    adapt_to(network, local, held.recipe.strategy)
    judged = judge(local, network, held.recipe, held.frame, held.recipe.evaluation.views)
    folder = _new_folder(out, site_file)
    _write(folder, site, judged, held, lacking)
    keep_predictions(folder / "predictions.csv", local, judged)
    build_report(folder)
    return folder


def _require_held_out(site: Site, model: Model) -> None:
    if site.role == "held-out" and site.name not in model.trained_at:
        return
    learned = f"the model learned from {', '.join(model.trained_at)}"
    if site.name in model.trained_at:
        raise ValueError(
            f"site {site.name}: {learned}; what it is worth there is in the federation's own report"
        )
    raise ValueError(f"site {site.name}: {learned}; set role: held-out in the site file to have it judged")


def _open(site_file: Path, site: Site, recipe: Recipe, observer: PreparationObserver) -> LocalSite:
    """Return the hospital's images, split as the federation would have them split."""
    home = read_home(site_file)
    with rendering_shown(observer.progress):
        data = load_site(site, home.data_root, home.work_dir, recipe.seed)

    def progress(done: int, total: int) -> None:
        observer.progress(f"{site.name}: decode images", done, total)

    cache = open_cache(data, recipe.model.pixels(), home.work_dir, progress=progress)
    return LocalSite(
        site,
        cache.table,
        cache.pixels,
        cache.fingerprints,
        tuple(data.notes),
        diagnosis_scheme=recipe.model.diagnoses,
        metadata_fields=recipe.model.metadata,
    )


def _new_folder(out: Path | None, site_file: Path) -> Path:
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise ValueError(f"{out}: holds something already; name a folder that is empty or new")
        return out.resolve()
    return new_folder(Record.of(site_file).folder / "evaluations")


def _write(folder: Path, site: Site, judged: Judged, model: Model, lacking: Sequence[str]) -> None:
    """Write what a run's folder has, as far as one site can: ``fedderm report`` draws the page again."""
    recipe, evaluation, known = model.recipe, judged.evaluation, understood(judged.counts)
    for part in ("evaluation", "rounds"):
        (folder / part).mkdir()
    federation = evaluate_federation(
        {site.role: known[site.role]},
        {
            site.role: {
                unit: judged.replicates[f"{site.role}.{unit}"]
                for unit in UNITS
                if f"{site.role}.{unit}" in judged.replicates
            }
        },
        model.frame.point,
        model.certificate,
        recipe.model.scheme,
    )
    rows = [
        *long_rows_of_site(evaluation, recipe.rounds),
        *long_rows_of_federation(federation, recipe.rounds),
    ]
    counts = {"test": known[site.role], CALIBRATION: known.get(CALIBRATION + FLOOR, known[CALIBRATION])}
    by_split = {f"{site.name}/{split}": one for split, one in counts.items()}
    write_evaluation(folder, {site.name: evaluation}, federation, rows, by_split)
    listed = {key: getattr(site, key) for key in ("name", "source", "role", "min_cell")}
    config = {**recipe.model_dump(mode="json"), "sites": [listed]}
    write_whole(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    environment = describe(recipe.seed, datetime.now(UTC))
    write_whole(folder / "environment.json", json_of(environment))
    write_whole(folder / "rounds" / "metrics.csv", csv_of(()))
    state: dict[str, Any] = {
        "round": recipe.rounds,
        "rounds": recipe.rounds,
        "finished": True,
        "history": [],
        "trained_at": len(model.trained_at),
        "without_metadata": list(lacking),
    }
    write_whole(folder / "rounds" / "state.json", json_of(state))
