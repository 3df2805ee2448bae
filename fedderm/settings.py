"""The settings of an experiment: one frozen model a section, each field with its meaning and range."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from fedderm.compare_settings import CompareSettings
from fedderm.config_sentences import nearest
from fedderm.runtime import Resources
from fedderm.training_settings import Fraction, Positive, Scheme, Settings, TrainingSettings
from sites.cache import PixelSettings
from sites.catalogue import Site
from sites.diagnosis_schemes import DiagnosisScheme
from sites.metadata import FIELDS
from sites.metadata import Field as MetadataField
from strategies.names import STRATEGIES, unknown


class StrategySettings(Settings):
    """How the server aggregates."""

    name: str = "fedavg"
    """One of ``strategies.names.STRATEGIES``; docs/strategies.md says what each does."""
    proximal_mu: Annotated[float, Field(ge=0)] = 0.0
    """FedProx's mu; 0 is FedAvg."""
    parameters: dict[str, int | float | str] = Field(default_factory=dict)
    """Of the other strategies, such as {eta: 0.01} for fedadam."""
    average_last: Annotated[int, Field(ge=1)] = 1
    """The final model is the mean of the global models after the last so many rounds; 1: the last one."""
    weighting: Literal["examples", "effective", "equal"] = "examples"
    """A site's weight in the average: its training images; their effective number 4 P N / (P + N) for P
    malignant and N benign ones (the images of a balanced set that tells as much); or the same for all."""
    exchange: Literal["float32", "float16"] = "float32"
    """What large arrays travel as. float16: half the bytes; the server keeps float32, sites send updates."""
    fraction: Fraction = 1.0
    """Fraction of the training sites asked each round, drawn by seed."""
    quorum: Fraction = 1.0
    """Fraction of the asked sites whose reply must be accepted, in a round and at the run's end; with fewer
    the run stops, to be resumed."""
    deadline: Positive = 3600.0
    """Seconds that a site has to answer."""

    @field_validator("name")
    @classmethod
    def _exists(cls, name: str) -> str:
        if name not in STRATEGIES:
            raise ValueError(unknown(name))
        return name

    @model_validator(mode="after")
    def _mu_belongs_to_fedprox(self) -> Self:
        if self.name != "fedprox" and self.proximal_mu > 0:
            raise ValueError("proximal_mu is FedProx's; set name: fedprox or remove it")
        return self


class ModelSettings(Settings):
    """The cascade and the pixels it sees."""

    scheme: Scheme = "cascade"
    trunk: Literal["shared", "separate"] = "shared"
    """One backbone with both heads, or the papers' two networks."""
    backbone: str = "tf_efficientnet_lite0"
    """Any timm model name; vit_b16, swin_s, convnext_s and efficientnetv2_s are short for the cascade
    paper's four. a+b: the late fusion of two or more, such as convnext_tiny+tf_efficientnet_b0."""
    pretrained: str = "package"
    """none, hub, package (the weights that ship with a Python package: tf_efficientnet_lite0), or a file;
    of fused backbones one word for all, or one each: hub+none."""
    image_size: Annotated[int, Field(ge=32, le=1024)] = 112
    """Pixels a side."""
    crop: Literal["center", "squash"] = "center"
    hair: Literal["none", "removed"] = "none"
    """removed: dark hair is painted over before anything else (docs/hair.md)."""
    colour: Literal["none", "shades_of_grey"] = "none"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Before the heads."""
    patterns: bool = False
    """Multitask: beside the scheme's heads, one for BCC and one for each of seven dermoscopic patterns, which
    learn where a site has annotations (docs/patterns.md)."""

    diagnoses: DiagnosisScheme = "none"
    """A further head with a softmax over diagnoses: seven (HAM10000's) or eleven (MILK10k's), which learns
    from the images whose diagnosis is among them (docs/models.md)."""

    metadata: tuple[MetadataField, ...] = ()
    """What the heads are told of the patient beside the image: age, sex, anatom_site, any of which a site may
    lack (docs/metadata.md)."""

    @field_validator("metadata")
    @classmethod
    def _each_field_once(cls, fields: tuple[MetadataField, ...]) -> tuple[MetadataField, ...]:
        if len(set(fields)) < len(fields):
            raise ValueError(f"a field stands twice in [{', '.join(fields)}]; keep one")
        return tuple(field for field in FIELDS if field in fields)

    @model_validator(mode="after")
    def _trunk_matches_scheme(self) -> Self:
        if self.trunk == "separate" and self.scheme != "cascade":
            raise ValueError(f"trunk: separate needs scheme: cascade; {self.scheme} has one stage")
        return self

    def pixels(self) -> PixelSettings:
        """Return the pixel cache's settings."""
        return PixelSettings(image_size=self.image_size, crop=self.crop, hair=self.hair, colour=self.colour)


class EvaluationSettings(Settings):
    """What is measured, and what a threshold must hold."""

    target_sensitivity: Annotated[float, Field(gt=0, lt=1)] = 0.90
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    target_npv: Annotated[float, Field(gt=0, lt=1)] = 0.98
    """Negative predictive value that one of the offered thresholds must hold."""
    max_referral: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Fraction of lesions that one of the offered thresholds may refer at most."""
    bootstrap: Annotated[int, Field(ge=0, le=20000)] = 2000
    """Lesion-clustered resamples behind each interval; 0: no intervals."""
    views: Literal[1, 2, 4] = 4
    """Test-time augmentation: the image, its mirror images and half turn; mean logit. Rounds use one view."""
    every: Annotated[int, Field(ge=1)] = 1
    """Evaluate all sites each so many rounds; the last round always."""


class TrackingSettings(Settings):
    """Where a run's tables are shown while it goes on; they are in its folder in any case."""

    tensorboard: bool = True
    """Event files in the run's folder, for TensorBoard."""
    mlflow: Annotated[str, Field(min_length=1)] | None = None
    """An MLflow store: a folder, or an address such as http://mlflow.clinic:5000; needs fedderm[mlflow]."""

    @model_validator(mode="after")
    def _no_password(self) -> Self:
        if self.mlflow is not None and re.match(r"[a-z0-9+]+://[^/@]*:[^/@]*@", self.mlflow):
            raise ValueError(
                "mlflow holds a password, and the config travels to every site; leave it out and set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return self


class Experiment(Settings):
    """One complete experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 2026
    rounds: Annotated[int, Field(ge=1)] = 10
    data_root: Path | None = None
    """Where the sources' folders lie; --data-root says it too."""
    work_dir: Path = Path(".fedderm")
    """Pixel and feature caches, rendered simulated centres, what sites keep of unfinished runs."""
    runs_dir: Path = Path("runs")
    baseline: Literal["none", "pooled", "local"] = "none"
    """pooled: the training sites' images in one place; needs them all on this machine. local: baseline_site
    trains alone. Both with the whole federation's budget of image updates."""
    baseline_site: str | None = None
    """The training site that trains alone with baseline: local; all sites are evaluated."""
    strategy: StrategySettings = StrategySettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    resources: Resources = Resources()
    tracking: TrackingSettings = TrackingSettings()
    compare: CompareSettings | None = None
    """What `fedderm compare` runs; `fedderm run` takes the experiment as it is."""
    sites: Annotated[list[Site], Field(min_length=1)]

    @model_validator(mode="after")
    def _sites_make_a_federation(self) -> Self:
        names = [site.name for site in self.sites]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"sites: two sites are called {twice[0]}; give each its own name")
        if self.strategy.average_last > self.rounds:
            raise ValueError(
                f"strategy.average_last is {self.strategy.average_last} but the run has {self.rounds} rounds"
            )
        if self.training.trunk != "trained" and "hub" in self.model.pretrained.split("+"):
            raise ValueError(
                "model.pretrained: hub would have every site fetch the frozen trunk itself; save its weights "
                "to a file and name that, or take package or none"
            )
        if not any(site.role == "train" for site in self.sites):
            raise ValueError("sites: none has role: train; at least one must train")
        for site in self.sites:
            unknown = sorted(set(site.gives_way_to) - set(names))
            if unknown:
                raise ValueError(
                    f"sites.{site.name}.gives_way_to names {unknown[0]}, which is no site of this experiment"
                )
        return self

    @model_validator(mode="after")
    def _the_local_baseline_has_its_site(self) -> Self:
        if self.baseline != "local":
            if self.baseline_site is not None:
                raise ValueError("baseline_site belongs to baseline: local; set it or remove baseline_site")
            return self
        training = [site.name for site in self.sites if site.role == "train"]
        if self.baseline_site is None:
            raise ValueError(
                f"baseline_site: baseline: local needs the site that trains alone; name one of "
                f"{', '.join(training)}"
            )
        if self.baseline_site not in training:
            listed = any(site.name == self.baseline_site for site in self.sites)
            why = "is held out and cannot train" if listed else "is no site of this experiment"
            raise ValueError(
                f"baseline_site: {self.baseline_site} {why}; name one of {', '.join(training)}"
                f"{nearest(self.baseline_site, training)}"
            )
        return self

    @property
    def training_seed(self) -> int:
        """Return the seed of all that training draws, initial weights included."""
        return self.seed if self.training.seed is None else self.training.seed

    def alone(self) -> Self:
        """Return the experiment without what only a comparison needs."""
        return self.model_copy(update={"compare": None})

    @property
    def prevalence_free(self) -> bool:
        """Whether scores are free of a site's prevalence, so that its own may be added: not Fed3R's, which
        has no loss to adjust."""
        return self.training.prevalence_free and self.strategy.name != "fed3r"

    def trained_at(self) -> list[str]:
        """Return the sites whose images the model learns from: the training sites, or the local baseline's
        one."""
        training = [site.name for site in self.sites if site.role == "train"]
        return training if self.baseline_site is None else [self.baseline_site]


def adds_no_prevalence(training: TrainingSettings, strategy: StrategySettings) -> bool:
    """Return whether scores are free of a site's prevalence: not Fed3R's, which has no loss to adjust."""
    return training.prevalence_free and strategy.name != "fed3r"
