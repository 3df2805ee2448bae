"""What a message asks of a hospital, and what its policy says to that: before any image is looked at."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flwr.app import ConfigRecord, Message

from fedderm import __version__, messages
from fedderm.config import to_json
from fedderm.hospital.policy import TRAINING, Kind, Policy, is_private
from fedderm.messages import Instruction
from fedderm.refusal import Refused
from fedderm.settings import Experiment
from sites.site import SiteSettings
from sites.words import counted
from strategies.catalogue import site_side
from strategies.site_side import SiteSide

KIND_OF: Final[Mapping[str, Kind]] = {
    messages.QUERY: "query",
    messages.TRAIN: "train",
    messages.HEAD: "train.head",
    messages.EVALUATE: "evaluate",
    messages.RECALIBRATE: "recalibrate",
}

_SPLITS: Final = ("calibration", "test")
_VIEWS: Final = (1, 2, 4)


@dataclass(frozen=True)
class Asked:
    """A message that the policy lets through, as far as it can be told without what is remembered."""

    kind: Kind
    experiment: Experiment
    run: str
    """Flower's id of the run."""

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the experiment, all of its settings, in hexadecimal digits.

        People are shown the first twelve; what is approved is all of it, for two experiments with twelve
        alike can be found in minutes.
        """
        return hashlib.sha256(to_json(self.experiment).encode()).hexdigest()

    @property
    def most(self) -> int:
        """Return how often one run may ask this: what it needs, twice, since an answer may be lost."""
        rounds = self.experiment.rounds
        return 2 * {"train": rounds, "evaluate": rounds + 2}.get(self.kind, 2)


def asked_of(message: Message, site: SiteSettings, policy: Policy) -> Asked:
    """Return what a message asks; raises Refused where role or policy forbid it, whatever is remembered."""
    messages.require_version(message, f"site {site.name}")
    said = message.metadata.message_type
    kind = KIND_OF.get(said)
    if kind is None:
        raise Refused(f"site {site.name}: there is no exchange {plain(said)}; it is not answered")
    if site.role != "train" and kind in TRAINING:
        raise Refused(f"site {site.name} is held out: it refuses to train")
    if kind not in policy.answered(site.role):
        raise Refused(f"site {site.name}: its policy does not answer {kind}")
    try:
        instruction = messages.read_instruction(message)
    except ValueError as error:  # about the message, nothing of the site's
        raise Refused(f"site {site.name}: {error}") from error
    objection = _objection(kind, instruction, site, policy)
    if objection:
        raise Refused(f"site {site.name}: {objection}")
    return Asked(kind, instruction.experiment, str(message.metadata.run_id))


def _objection(kind: Kind, instruction: Instruction, site: SiteSettings, policy: Policy) -> str:
    """Return why a hospital does not do what it is asked, nothing where it does."""
    values, experiment = instruction.values, instruction.experiment
    if values.get("pooled") or experiment.baseline == "pooled":
        # A server must not choose what is read on a hospital's machine.
        return "the pooled baseline is for simulations; it refuses to take part"
    if values.get("image_updates") and (experiment.baseline != "local" or is_private(experiment.training)):
        # Steps beside the experiment's: no person approved them, and each costs privacy.
        return "it is told how many image updates to make; its run's own training settings say that"
    if given_up := messages.given_up_images(instruction, site.name)[1]:
        # Two answers, with and without an image, would tell that image's diagnosis and score.
        return (
            f"it is asked to leave out {counted(len(given_up), 'image')}; a hospital chooses its images "
            "itself: take them out of its table"
        )
    if policy.differential_privacy == "required" and (naked := _without_privacy(kind, experiment)):
        return f"its policy lets what it learned leave only with differential privacy, and {naked}"
    if kind in ("evaluate", "recalibrate") and values.get("views") not in _VIEWS:
        return f"asked for {plain(values.get('views'))} views of an image; there are 1, 2 or 4"
    if kind == "evaluate":
        splits = str(values.get("splits", "")).split(",")
        strange = sorted({*splits, *_features(values)} - set(_SPLITS))
        if strange or len(set(splits)) < len(splits):
            return (
                f"asked to count the splits {plain(values.get('splits'))} "
                f"(features: {plain(values.get('features_of', 'none'))}); it counts calibration and test, "
                "each once"
            )
    return ""


def _without_privacy(kind: Kind, experiment: Experiment) -> str:
    """Return what would leave of the train split without noise; nothing where all of it has noise."""
    if kind in TRAINING and not is_private(experiment.training):
        return "this run has none (training.privacy)"
    if kind == "train.head":
        return "the moments of its features have no noise (training.head_start, strategy.name)"
    if kind == "query" and experiment.strategy.weighting == "effective":
        return "its effective number of images tells its counts of classes (strategy.weighting)"
    return ""


def _features(values: Mapping[str, Any]) -> list[str]:
    wanted = str(values.get("features_of", ""))
    return [wanted] if wanted else []


def round_of(message: Message) -> int | None:
    """Return the round that a message speaks of, None where it speaks of none."""
    config = message.content.get("config") if message.has_content() else None
    number = config.get("server-round") if isinstance(config, ConfigRecord) else None
    return number if type(number) is int else None


def in_words(experiment: Experiment, site: SiteSettings, policy: Policy) -> list[str]:
    """Return what a run asks of a hospital, a sentence each: what is done there, and what leaves."""
    answered = policy.answered(site.role)
    model, training = experiment.model, experiment.training
    told = [
        f"{experiment.name}: {counted(experiment.rounds, 'round')} of {experiment.strategy.name} over a "
        f"{model.scheme} of {model.backbone}, {model.image_size} pixels a side, by a server of fedderm "
        f"{__version__}; it lists {counted(len(experiment.sites), 'site')}."
    ]
    if model.metadata:
        told.append(
            f"The model is told {', '.join(model.metadata)} of each patient from your table, at your site; "
            "what it learns from them leaves with its weights."
        )
    if "query" in answered:
        told.append(
            "At the start: counts by split and diagnosis, and salted hashes of image, lesion and patient ids."
        )
    if "train" in answered:
        work = (
            f"{training.local_epochs:g} passes over your train split"
            if training.local_epochs is not None
            else f"{counted(training.local_steps or 0, 'step')} of {training.batch_size} images"
        )
        private = "with" if is_private(training) else "without"
        told.append(
            f"Each round: {work}; the weights leave, {private} differential privacy, and the number of your "
            f"training images and their mean loss{_beside(site_side(experiment.strategy.name))}."
        )
    if "train.head" in answered and (training.head_start == "ridge" or experiment.strategy.name == "fed3r"):
        told.append("Once: sums and second moments of features by class leave.")
    if "evaluate" in answered:
        told.append(
            "After each round: histograms of scores by class leave, for the calibration and test splits."
        )
    if "recalibrate" in answered:
        told.append(
            "At the end: your report (metrics with intervals, thresholds, subgroups), histograms and "
            f"bootstrap counts leave, nothing below {site.min_cell} lesions."
        )
    return [plain(one, longest=400) for one in told]


def _beside(side: SiteSide) -> str:
    return "; this method keeps a state at your site between rounds" if side.stateful else ""


def plain(value: object, longest: int = 80) -> str:
    """Return a server's word fit for a terminal and a log: printable, and not longer than that."""
    text = "".join(one if one.isprintable() else "?" for one in str(value))
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
