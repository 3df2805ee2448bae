"""A strategy's method at work at a site: its state, its addition to the loss, and the site's own arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fedderm.batches import to_input
from fedderm.inference import BATCH, BATCH_SIDE, batches
from fedderm.local_site import LocalSite
from fedderm.model.heads import Heads
from fedderm.model.state import load_arrays, own_names, parameter_arrays, to_arrays
from fedderm.optimizers import rate_factors
from fedderm.settings import Experiment, StrategySettings
from fedderm.site_store import SiteStore
from fedderm.training import TrainResult, initial_loss
from fedderm.training_settings import TrainingSettings
from fedderm.trainset import TrainSet
from fedderm.weights import Arrays
from strategies.catalogue import site_side
from strategies.fednova import PROGRESS
from strategies.qfedavg import INITIAL_LOSS
from strategies.site_side import LocalObjective, LocalWork, NDArrays, SiteSide


@dataclass(frozen=True)
class SiteMethod:
    """The site's side of the experiment's strategy, with what the site kept of its last round that
    counted.
    """

    side: SiteSide
    store: SiteStore | None
    sent: Mapping[str, Any]
    """The message's config values."""
    control: Mapping[str, npt.NDArray[Any]]
    """Arrays that the server sent beside the model."""
    counted: int
    """The round of the site's that counted last; 0 before the first."""
    state: Arrays
    """What the site kept of that round."""

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        name: str,
        sent: Mapping[str, Any],
        control: Mapping[str, npt.NDArray[Any]],
    ) -> "SiteMethod":
        """Return the method for the site called ``name``, whose state lies below ``work_dir``.

        Raises ValueError where the state is missing that the server counts on, or no round of this run's.
        """
        side = site_side(experiment.strategy.name)
        if not side.stateful:
            return cls(side, None, sent, control, 0, {})
        store = SiteStore.of(experiment.work_dir, str(sent.get("run", "")), name)
        counted = sent.get("state-round", 0)
        if type(counted) is not int or not 0 <= counted <= experiment.rounds:
            raise ValueError(f"site {name}: told of a state after round {counted}; update the server")
        return cls(side, store, sent, control, counted, store.read(counted))

    @property
    def personal(self) -> bool:
        """Whether the site has a model of its own, beside the global one."""
        return self.side.keeps is not None and bool(self.state)

    def personalise(self, model: Heads) -> None:
        """Put the site's own arrays into the global ``model``; before its first round it has none."""
        if self.personal:
            load_arrays(model, self.state, part=True)

    def objective(self) -> LocalObjective:
        """Return what is added to the local loss."""
        return self.side.objective(self.sent, self.control, self.state)

    def before(self, model: Heads, data: TrainSet, settings: TrainingSettings) -> "Before":
        """Return what must be known of the model before it is trained."""
        loss = initial_loss(model, data, settings) if self.side.needs_initial_loss else None
        tracked = self.side.stateful and self.side.keeps is None
        return Before(parameter_arrays(model) if tracked else {}, loss)

    def after(
        self, before: "Before", model: Heads, result: TrainResult, number: int, settings: TrainingSettings
    ) -> tuple[Mapping[str, NDArrays], dict[str, float]]:
        """Keep the site's state after round ``number``; return records and metrics to be sent."""
        metrics = {PROGRESS: result.progress}
        if before.loss is not None:
            metrics[INITIAL_LOSS] = before.loss
        if self.store is None:
            return {}, metrics
        if self.side.keeps is not None:
            arrays = to_arrays(model)
            own = {name: arrays[name] for name in own_names(model, self.side.keeps)}
            self.store.write(number, own, self.counted)
            return {}, metrics
        factors = rate_factors(model, settings)
        progress = {name: result.progress * factor for name, factor in factors.items()}
        work = LocalWork(before.parameters, parameter_arrays(model), progress)
        outcome = self.side.outcome(self.sent, self.control, self.state, work)
        self.store.write(number, outcome.state, self.counted)
        return outcome.sent, metrics


@dataclass(frozen=True)
class Before:
    """What a method wants to know of the model before training."""

    parameters: Arrays
    loss: float | None


def adapt_to(model: Heads, site: LocalSite, strategy: StrategySettings) -> None:
    """Give ``model`` what a held-out site gets from FedBN and SiloBN: statistics of its calibration images.

    Labels are not looked at. Nothing changes for other strategies, for training sites, or where the config
    says ``held_out: mean``.
    """
    if site.settings.role == "held-out" and site_side(strategy.name).reestimates(strategy.parameters):
        reestimate(model, site.pixels, site.rows("calibration"))


def reestimate(model: Heads, pixels: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> None:
    """Set BatchNorm's running statistics to those of ``rows`` (n,) of ``pixels``: each batch's, averaged.

    Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", ICLR workshop 2017. Fewer
    than two images change nothing.
    """
    # As many on any device, since the result depends on it.
    size = max(1, min(BATCH, BATCH * BATCH_SIDE**2 // pixels.shape[1] ** 2))
    parts = [part for part in batches(rows, size) if len(part) > 1]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not parts:
        return
    usual = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a plain average over all batches
        norm.train()
    device = next(model.parameters()).device
    try:
        with torch.inference_mode():
            for part in parts:
                model(to_input(pixels[part], device))
    finally:
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum
            norm.eval()
