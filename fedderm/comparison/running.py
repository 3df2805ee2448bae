"""A whole comparison: plan, audit, cells, and ``cells.csv`` after each of them."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Protocol

from fedderm.comparison.cell_row import CellRow
from fedderm.comparison.folder import ComparisonFolder
from fedderm.comparison.folds import folds_of
from fedderm.comparison.job import Job
from fedderm.comparison.kept_settings import refuse_other_settings
from fedderm.comparison.plan import Cell, cells_of
from fedderm.comparison.schedule import CellObserver, Order, run_cells
from fedderm.gpu_sharing import settled
from fedderm.preparation import (
    PreparationObserver,
    Prepared,
    audit_prepared,
    cache_features,
    load_sites,
    open_caches,
)
from fedderm.runtime import Resources
from fedderm.settings import Experiment
from sites.errors import OneClassOnly, SiteError
from sites.giving_way import AuditRefused


class ComparisonObserver(PreparationObserver, CellObserver, Protocol):
    """Someone who is told how the sites are prepared and how cells go on."""

    def planned(self, cells: Sequence[Cell], done: Sequence[Cell]) -> None:
        """Take note of all cells, and of those that an earlier sitting has finished."""


def run_comparison(folder: ComparisonFolder, observer: ComparisonObserver) -> list[CellRow]:
    """Run the cells that are not done yet, and return the lines of all in the plan's order.

    Finished cells are kept, interrupted ones go on after their last finished round, failed ones are tried
    again. Raises ValueError where a cell was run with other settings than the config has now, and where a
    site cannot start or cannot train, AuditRefused where sites or splits share what the config does not
    settle: then no cell has been touched.
    """
    cells = cells_of(folder.experiment)
    for cell in cells:
        refuse_other_settings(folder.cell_path(cell), cell.id, cell.experiment)
    done = [cell for cell in cells if folder.is_done(cell)]
    records = _Records(folder, cells)
    observer.planned(cells, done)
    waiting = [cell for cell in cells if cell not in done]
    try:
        prepared = prepare_folds(folder, {cell.held_out for cell in waiting}, observer)
        _cache_features(waiting, observer)
        orders = _orders(folder, waiting, prepared)
        log_file = folder.path / "workers.log"
        if orders:
            resources = _resources(folder, waiting, observer)
            run_cells(orders, resources, log_file, _Recorder(records, observer))
    finally:
        folder.run.end_sitting()
    return records.rows()


def _resources(folder: ComparisonFolder, waiting: Sequence[Cell], observer: ComparisonObserver) -> Resources:
    """Return what the cells may use, the neediest of them where a GPU's memory has to be measured."""
    distinct = {
        (one.model.model_dump_json(), one.training.batch_size, one.training.trunk, one.strategy.name): one
        for one in (cell.experiment for cell in waiting)
    }
    if folder.experiment.resources.gpus_per_site != "auto":
        return folder.experiment.resources
    found = [settled(one, len(waiting), observer.progress, observer.say) for one in distinct.values()]
    return max(found, key=lambda one: float(one.gpus_per_site))


def prepare_folds(
    folder: ComparisonFolder, wanted: set[str], observer: PreparationObserver
) -> dict[str, Prepared]:
    """Return the audited sites of each wanted fold; writes ``audit.json``."""
    found = {}
    for held_out, federation in folds_of(folder.experiment).items():
        if held_out in wanted:
            found[held_out] = _prepared(federation, held_out, observer)
    documents = {held_out: prepared.document() for held_out, prepared in found.items()}
    if "" in documents:
        folder.run.write_json("audit.json", documents[""])
    elif documents:
        earlier = (folder.run.read_json("audit.json") or {}).get("folds", {})
        folder.run.write_json("audit.json", {"folds": {**earlier, **documents}})
    return found


def _cache_features(cells: Sequence[Cell], observer: PreparationObserver) -> None:
    """Compute the features of every frozen trunk once, before cells ask for them at the same time."""
    trunks = {
        (one.model.model_dump_json(), one.training_seed if one.model.pretrained == "none" else None): one
        for one in (cell.experiment for cell in cells)
        if one.training.trunk == "frozen"
    }
    for experiment in trunks.values():
        loaded = load_sites(experiment, observer)
        cache_features(experiment, open_caches(experiment, loaded, observer), observer)


def _prepared(federation: Experiment, held_out: str, observer: PreparationObserver) -> Prepared:
    try:
        loaded = load_sites(federation, observer)
        prepared = audit_prepared(loaded, open_caches(federation, loaded, observer))
        for data in prepared.sites:
            here = data.table.loc[data.table["split"] == "train", "class_index"] > 0
            if data.site.role == "train" and here.nunique() < 2:
                raise OneClassOnly(
                    f"site '{data.site.name}': {int(here.sum())} of the {len(here)} images that its train "
                    "split keeps after the audit are malignant, and a model cannot be trained on one class"
                )
    except OneClassOnly as error:
        if not held_out:
            raise
        raise SiteError(
            f"compare.protocol: leave_one_site_out trains each site while others are held out, but {error}; "
            "give it role: held-out and name the other sites in compare.leave_out"
        ) from error
    except AuditRefused as error:
        raise AuditRefused(f"with {held_out} held out {error}" if held_out else str(error)) from error
    return prepared


def _orders(folder: ComparisonFolder, cells: Sequence[Cell], folds: Mapping[str, Prepared]) -> list[Order]:
    salt, root = secrets.token_hex(16), folder.experiment.data_root
    audits = {held_out: prepared.document() for held_out, prepared in folds.items()}
    given_up = {held_out: prepared.given_up(salt) for held_out, prepared in folds.items()}
    return [
        Order(
            cell,
            Job(
                folder=str(folder.prepare_cell(cell, audits[cell.held_out])),
                data_root=None if root is None else str(root),
                salt=salt,
                given_up=given_up[cell.held_out],
            ),
        )
        for cell in cells
    ]


class _Records:
    """The lines of ``cells.csv``, written again whenever one changes."""

    def __init__(self, folder: ComparisonFolder, cells: Sequence[Cell]) -> None:
        self._folder = folder
        self._rows = {cell.id: folder.row(cell) for cell in cells}
        folder.write_cells(self.rows())

    def rows(self) -> list[CellRow]:
        return list(self._rows.values())

    def ended(self, cell: Cell, error: str) -> None:
        self._rows[cell.id] = self._folder.row(cell, error)
        self._folder.write_cells(self.rows())


class _Recorder:
    """Writes down how a cell ended before the observer hears of it."""

    def __init__(self, records: _Records, observer: CellObserver) -> None:
        self._records = records
        self._observer = observer
        self.cell_started = observer.cell_started
        self.cell_round = observer.cell_round
        self.warn = observer.warn

    def cell_ended(self, cell: Cell, error: str) -> None:
        self._records.ended(cell, error)
        self._observer.cell_ended(cell, error)
