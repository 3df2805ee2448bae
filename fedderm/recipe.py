"""How a model was made and is judged, without where: for who has the model and no run folder."""

from pathlib import Path
from typing import Literal, Protocol

from fedderm.model.names import FUSED, branches_of
from fedderm.settings import (
    EvaluationSettings,
    Experiment,
    ModelSettings,
    StrategySettings,
    adds_no_prevalence,
)
from fedderm.training_settings import Settings, TrainingSettings


class Terms(Protocol):
    """What judging a finished model needs of an experiment, or of its recipe."""

    @property
    def seed(self) -> int:
        """Of splits and intervals."""

    @property
    def strategy(self) -> StrategySettings:
        """How the server aggregated."""

    @property
    def model(self) -> ModelSettings:
        """The cascade and the pixels it sees."""

    @property
    def training(self) -> TrainingSettings:
        """What a training site did."""

    @property
    def evaluation(self) -> EvaluationSettings:
        """What is measured."""

    @property
    def prevalence_free(self) -> bool:
        """Whether scores are free of a site's prevalence."""


class Recipe(Settings):
    """An experiment's settings but for its sites, folders and machines."""

    name: str
    seed: int
    rounds: int
    baseline: Literal["none", "pooled", "local"]
    baseline_site: str | None
    strategy: StrategySettings
    model: ModelSettings
    training: TrainingSettings
    evaluation: EvaluationSettings
    threads: int
    """Of a site, on which the last bits of its numbers depend."""

    @property
    def prevalence_free(self) -> bool:
        """Whether scores are free of a site's prevalence, so that its own may be added."""
        return adds_no_prevalence(self.training, self.strategy)


def recipe_of(experiment: Experiment) -> Recipe:
    """Return an experiment's recipe; a file of weights is told by its name alone."""
    weights = branches_of(experiment.model.backbone, experiment.model.pretrained)
    told = dict.fromkeys(Path(one).name for _, one in weights)
    names = [Path(one).name for _, one in weights] if len(told) > 1 else list(told)
    model = experiment.model.model_copy(update={"pretrained": FUSED.join(names)})
    return Recipe(
        name=experiment.name,
        seed=experiment.seed,
        rounds=experiment.rounds,
        baseline=experiment.baseline,
        baseline_site=experiment.baseline_site,
        strategy=experiment.strategy,
        model=model,
        training=experiment.training,
        evaluation=experiment.evaluation,
        threads=experiment.resources.cpus_per_site,
    )
