"""What a training site does in a round, as settings; and what all sections of a config have in common."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scheme = Literal["binary", "four_class", "cascade"]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys and say what they mean."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class AugmentationSettings(Settings):
    """Random changes of a training image; strengths multiply the documented ranges, 0 switches off."""

    geometry: Annotated[float, Field(ge=0, le=3)] = 1.0
    """Flips and any rotation (whenever > 0), zoom, aspect and shift in proportion."""
    colour: Annotated[float, Field(ge=0, le=3)] = 1.0
    """Channel gains, gamma, saturation, contrast and brightness."""
    elastic: Annotated[float, Field(ge=0, le=3)] = 0.0
    """A smooth random displacement, as of skin that is pressed and stretched (Simard et al., 2003)."""
    mixing: Literal["none", "mixup", "cutmix"] = "none"
    """Each image is mixed with another of its batch, and their losses alike (fedderm.mixing)."""
    mixing_alpha: Positive = 0.4
    """The share of the other image follows from Beta(alpha, alpha): small values mix little."""

    @model_validator(mode="after")
    def _mixing_has_its_own_setting(self) -> Self:
        if self.mixing == "none" and self.mixing_alpha != 0.4:
            raise ValueError("mixing_alpha belongs to mixing: mixup or cutmix; set one, or remove it")
        return self


class LossSettings(Settings):
    """What an image's loss is, given p, the probability of its true class (docs/models.md)."""

    kind: Literal["cross_entropy", "focal", "generalised"] = "cross_entropy"
    """-log p; focal: less of what is told well already; generalised: less of what is told so badly that its
    label may be wrong."""
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    """Focal loss is (1 - p)^gamma times cross-entropy."""
    generalised_q: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Generalised cross-entropy is (1 - p^q) / q: towards 0 cross-entropy, 1 the mean absolute error."""
    class_balance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """beta of the class-balanced loss, such as 0.999: classes weigh by the inverse of their effective number
    (1 - beta^n) / (1 - beta) at a site; 0: all alike."""
    malignant_cost: Positive = 1.0
    """What a missed malignant lesion costs over a false alarm: malignant images weigh so many times more."""

    @model_validator(mode="after")
    def _kinds_have_their_own_settings(self) -> Self:
        if self.kind != "focal" and self.focal_gamma != 2.0:
            raise ValueError("focal_gamma belongs to kind: focal; set it, or remove it")
        if self.kind != "generalised" and self.generalised_q != 0.7:
            raise ValueError("generalised_q belongs to kind: generalised; set it, or remove it")
        return self

    @property
    def plain(self) -> bool:
        """Return whether it is cross-entropy without weights, whose minimum is the probability."""
        return self.kind == "cross_entropy" and self.class_balance == 0 and self.malignant_cost == 1


class PrivacySettings(Settings):
    """Example-level differential privacy of what a site learns (fedderm.private_gradient)."""

    noise_multiplier: Positive
    """Standard deviation of the noise on the sum of a batch's gradients, over ``max_grad_norm``."""
    max_grad_norm: Positive = 1.0
    """Each image's gradient is clipped to this norm."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """The probability with which epsilon may not hold; below one over a site's training images."""


_WITHOUT_COUNTS = {"label_skew": "none", "oversampling": 1.0}
"""What privacy asks for: all else depends on a site's counts of classes, which the noise does not cover."""


class TrainingSettings(Settings):
    """What a training site does in one round."""

    trunk: Literal["trained", "last_stages", "lora", "frozen"] = "trained"
    """How deep training goes. last_stages: the trunk's last stages and the heads are trained and sent, all
    else stays as it was. lora: low-rank adapters in the trunk's layers and the heads are. frozen: only the
    heads are. Every site computes the trunk's features once and keeps them on its disk; the one augmentation
    left is mirroring."""
    last_stages: Annotated[int, Field(ge=1)] = 1
    """How many of its stages; docs/models.md counts those of some backbones."""
    lora_rank: Annotated[int, Field(ge=1, le=256)] = 8
    """Rank of the adapters."""
    lora_alpha: Positive = 8.0
    """The adapters' product is multiplied by lora_alpha / lora_rank."""
    head_start: Literal["none", "ridge"] = "none"
    """ridge: before the first round the heads are fitted to the trunk's features in closed form, in one
    exchange."""
    head_penalty: Positive = 0.5
    """Of that ridge regression, relative to the features' mean square."""
    local_epochs: Positive | None = 1.0
    """Passes over the site's training images a round; fractions allowed."""
    local_steps: Annotated[int, Field(ge=1)] | None = None
    """In place of passes: this many batches a round at every site, however many images it has."""
    source_balanced: bool | None = None
    """The pooled baseline draws as many images of each site as of another. None: with local_steps, as the
    sites then do; with passes it draws every image as often as another."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Of initial weights, draws and dropout; None: the experiment's. Splits, simulated centres and intervals
    always have the experiment's."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Nesterov's, of sgd; 0 is plain SGD."""
    learning_rate: Positive = 0.0003
    head_factor: Positive = 10.0
    """The heads' learning rate over the trunk's: they start from nothing, the trunk from ImageNet."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0001
    schedule: Literal["cosine", "constant"] = "cosine"
    """Over all rounds; a site's rate follows from the round, so a resumed run has the same."""
    clip_norm: Positive = 1.0
    """Largest gradient norm."""
    norm_statistics: Literal["frozen", "local"] = "frozen"
    """BatchNorm with the global model's running statistics (no client drift), or the batch's own."""
    oversampling: Annotated[float, Field(ge=1)] = 4.0
    """Malignant images are drawn at most this many times as often as they occur ..."""
    malignant_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """... and at most until they are this fraction of what is drawn."""
    label_skew: Literal["none", "logit_adjustment", "fedlc"] = "logit_adjustment"
    """What the loss does about sites whose classes are unlike: nothing; a site's log class frequencies added
    to the logits; or FedLC's margins, wider for rarer classes. docs/models.md."""
    label_skew_tau: Annotated[float, Field(ge=0)] = 1.0
    """Its strength; 0 is none. Logit adjustment of 1 takes a site's prevalence out of the score."""
    label_skew_heads: Literal["triage", "both"] = "triage"
    """Whether MEL, SCC and BCC are adjusted among each other, too."""
    differentiation_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the MEL/SCC/BCC loss beside the triage loss."""
    pattern_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss of BCC and patterns beside the scheme's, of a model with patterns."""
    loss: LossSettings = LossSettings()
    diagnosis_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the cross entropy over diagnoses beside the scheme's, of a model with that head."""
    augmentation: AugmentationSettings = AugmentationSettings()
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on a GPU, float32 on a CPU."""
    privacy: PrivacySettings | None = None
    """Differential privacy at every site (docs/privacy.md); None: without."""

    @model_validator(mode="before")
    @classmethod
    def _steps_replace_passes(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("local_steps") is not None:
            return {"local_epochs": None, **given}
        return given

    @model_validator(mode="before")
    @classmethod
    def _privacy_counts_no_classes(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("privacy") is not None:
            return {**_WITHOUT_COUNTS, **given}
        return given

    @model_validator(mode="after")
    def _privacy_covers_all_that_leaves(self) -> Self:
        if self.privacy is None:
            return self
        wrong = [key for key, value in _WITHOUT_COUNTS.items() if getattr(self, key) != value]
        wrong += ["head_start"] if self.head_start != "none" else []
        wrong += ["norm_statistics"] if self.norm_statistics != "frozen" else []
        wrong += ["loss.class_balance"] if self.loss.class_balance > 0 else []
        wrong += ["loss.malignant_cost"] if self.loss.malignant_cost != 1 else []
        wrong += ["augmentation.mixing"] if self.augmentation.mixing != "none" else []
        if wrong:
            raise ValueError(
                f"{' and '.join(wrong)} would tell of training images what privacy has no noise for; leave "
                "out one or the other"
            )
        return self

    @model_validator(mode="after")
    def _passes_or_steps(self) -> Self:
        if (self.local_epochs is None) == (self.local_steps is None):
            raise ValueError(
                "local_steps stands in place of local_epochs; give one of the two (local_epochs: null takes "
                "that out)"
            )
        return self

    @property
    def prevalence_free(self) -> bool:
        """Return whether the triage logit is relative to even odds, whatever a site's prevalence is."""
        return self.label_skew == "logit_adjustment" and self.label_skew_tau == 1 and self.loss.plain

    @model_validator(mode="after")
    def _frequencies_are_undone_once(self) -> Self:
        if self.loss.class_balance > 0 and self.label_skew != "none":
            raise ValueError(
                f"loss.class_balance and label_skew: {self.label_skew} both make up for a site's rare "
                "classes, which would be done twice; set label_skew: none, or leave class_balance out"
            )
        if self.trunk == "frozen" and self.augmentation.mixing == "cutmix":
            raise ValueError(
                "augmentation.mixing: cutmix pastes pixels, and with trunk: frozen there are features in "
                "their place; choose mixup"
            )
        return self

    @model_validator(mode="after")
    def _frozen_means_frozen(self) -> Self:
        if self.trunk != "trained" and self.norm_statistics == "local":
            why = {
                "frozen": "computes its features once",
                "lora": "keeps all but adapters as it was",
                "last_stages": "keeps all statistics as they were",
            }[self.trunk]
            raise ValueError(
                f"norm_statistics: local changes the trunk's BatchNorm layers, and trunk: {self.trunk} "
                f"{why}; remove one of the two"
            )
        return self

    @model_validator(mode="after")
    def _depth_has_its_own_settings(self) -> Self:
        if self.trunk != "last_stages" and self.last_stages != 1:
            raise ValueError("last_stages belongs to trunk: last_stages; set it, or remove it")
        if self.trunk != "lora" and (self.lora_rank, self.lora_alpha) != (8, 8.0):
            raise ValueError("lora_rank and lora_alpha belong to trunk: lora; set it, or remove them")
        return self
