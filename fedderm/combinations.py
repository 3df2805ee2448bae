"""Which strategy goes with which training, model and federation; nonsense is refused with the reason."""

from collections.abc import Iterator
from importlib.util import find_spec
from math import ceil
from typing import Final

from fedderm.federation.training import build_strategy
from fedderm.model.names import check_names
from fedderm.settings import Experiment
from fedderm.tracking.tracker import check_tracking
from strategies.catalogue import site_side

_FEWEST: Final = {"krum": (2, 3), "multikrum": (2, 3), "bulyan": (4, 3)}
"""Factor a and addend b: f liars are withstood by a f + b sites (Blanchard et al., NeurIPS 2017; El Mhamdi et
al., ICML 2018)."""


def check_choices(experiment: Experiment) -> None:
    """Raise ValueError for choices that do not exist or do not go together, all told at once.

    Asked before the run has a folder and minutes have gone into its sites.
    """
    check_names(experiment.model)
    build_strategy(experiment.strategy)
    check_tracking(experiment.tracking)
    if experiment.training.trunk == "lora":
        from fedderm.model.lora import check_adapters

        check_adapters(experiment.model, experiment.training)
    elif experiment.training.trunk == "last_stages":
        from fedderm.model.stages import check_stages

        check_stages(experiment.model, experiment.training)
    found = list(_objections(experiment))
    if found:
        raise ValueError(f"strategy.name: {experiment.strategy.name}: " + "; ".join(found))


def _objections(experiment: Experiment) -> Iterator[str]:
    name, training = experiment.strategy.name, experiment.training
    side = site_side(name)
    if experiment.baseline != "none" and name != "fedavg":
        yield (
            f"baseline: {experiment.baseline} trains in one place, where there is nothing to aggregate; "
            "set strategy.name to fedavg"
        )
    if side.needs_sgd and training.optimizer != "sgd":
        yield (
            f"its mathematics is that of SGD and training.optimizer is {training.optimizer}, whose steps "
            "are not gradients times a rate; set training.optimizer to sgd"
        )
    if side.keeps is not None and experiment.strategy.average_last > 1:
        yield (
            "average_last would put a mean of rounds under what a site keeps of the last one: a model that "
            "no round had; leave it out"
        )
    if side.keeps == "heads" and training.trunk == "frozen":
        yield (
            "with training.trunk: frozen only heads train and each site would keep its own: nothing would be "
            "shared; set trunk to trained, last_stages or lora"
        )
    elif side.keeps in ("norms", "norm-statistics") and training.trunk != "trained":
        yield (f"with training.trunk: {training.trunk} BatchNorm keeps its statistics; set trunk to trained")
    elif side.keeps in ("norms", "norm-statistics"):
        yield from _norm_objections(experiment)
    if name == "dpfedavg":
        yield from _client_privacy_objections(experiment)
    if training.privacy is not None:
        yield from _privacy_objections(experiment)
    if name == "fed3r":
        yield from _fed3r_objections(experiment)
    if experiment.model.patterns or experiment.model.diagnoses != "none":
        yield from _further_head_objections(experiment)
    yield from _robust_objections(experiment)


def _norm_objections(experiment: Experiment) -> Iterator[str]:
    if experiment.training.norm_statistics == "frozen":
        yield (
            "its sites keep BatchNorm statistics of their own and training.norm_statistics: frozen gives "
            "them none; set it to local"
        )
    elif not _has_batch_norm(experiment):
        yield (
            f"backbone {experiment.model.backbone} has no BatchNorm layers, so that it would be FedAvg; "
            "choose fedavg, or a backbone with BatchNorm such as tf_efficientnet_lite0"
        )


def _client_privacy_objections(experiment: Experiment) -> Iterator[str]:
    """What its epsilon does not count with."""
    strategy, sites = experiment.strategy, sum(site.role == "train" for site in experiment.sites)
    if strategy.parameters.get("sites") != sites:
        yield f"sites is {strategy.parameters.get('sites')} and {sites} sites train; give their number"
    if strategy.weighting != "equal":
        yield "a site that weighs more has less noise than it is told; set strategy.weighting: equal"
    if strategy.fraction < 1 or strategy.quorum < 1:
        yield "its noise is for all sites in every round; set strategy.fraction and quorum to 1"
    if experiment.training.norm_statistics == "local":
        yield "running statistics get no noise; set training.norm_statistics: frozen"
    if find_spec("opacus") is None:
        yield "it needs opacus to say what it costs: pip install 'fedderm[privacy]'"


def _privacy_objections(experiment: Experiment) -> Iterator[str]:
    """What would leave of training images without noise; and what cannot be computed."""
    side = site_side(experiment.strategy.name)
    if side.needs_initial_loss or experiment.strategy.name == "fed3r":
        what = "the loss" if side.needs_initial_loss else "sums over features"
        yield f"it asks sites for {what}, which training.privacy does not cover; choose one of the two"
    if experiment.strategy.weighting == "effective":
        yield (
            "strategy.weighting: effective tells a site's counts of classes, which training.privacy does not "
            "cover; choose examples or equal"
        )
    if experiment.baseline == "pooled":
        yield "baseline: pooled trains in one place, for which training.privacy is not made; leave out one"
    if find_spec("opacus") is None:
        yield "training.privacy needs opacus: pip install 'fedderm[privacy]'"


def _fed3r_objections(experiment: Experiment) -> Iterator[str]:
    training, strategy = experiment.training, experiment.strategy
    if training.trunk != "frozen":
        yield "it fits heads to features that stay, so set training.trunk: frozen"
    if experiment.rounds != 1:
        yield f"its one exchange is not repeated, so set rounds: 1, not {experiment.rounds}"
    if training.head_start != "none":
        yield "the head start is that same exchange, so leave training.head_start out"
    if strategy.fraction < 1 or strategy.quorum < 1:
        yield "the sums are those of all training sites, so leave strategy.fraction and quorum at 1"
    if experiment.model.metadata:
        yield "it fits heads to the trunk's features alone, so leave model.metadata out"
    if strategy.weighting != "examples":
        yield "images weigh as often as they are drawn, so set strategy.weighting: examples"


def _further_head_objections(experiment: Experiment) -> Iterator[str]:
    """Who fits or clips heads without knowing of those beside the scheme's."""
    model = experiment.model
    heads = [("model.patterns", "pattern labels", "false")] if model.patterns else []
    heads += [("model.diagnoses", "labels of diagnoses", "none")] if model.diagnoses != "none" else []
    for setting, labels, nothing in heads:
        if experiment.strategy.name == "fed3r":
            yield f"it fits the scheme's heads alone; set {setting} to {nothing}"
        if experiment.training.head_start != "none":
            yield f"training.head_start fits the scheme's heads alone; leave out it or {setting}"
        if experiment.training.privacy is not None:
            yield f"training.privacy is not made for {labels}; leave out it or {setting}"


def _has_batch_norm(experiment: Experiment) -> bool:
    from fedderm.model.cascade import Cascade
    from fedderm.model.state import own_names

    return bool(own_names(Cascade(experiment.model, pretrained=False), "norms"))


def _robust_objections(experiment: Experiment) -> Iterator[str]:
    strategy = experiment.strategy
    if strategy.name not in _FEWEST:
        return
    factor, addend = _FEWEST[strategy.name]
    liars = strategy.parameters.get("num_malicious_nodes", 0)
    if not isinstance(liars, int) or liars < 0:
        yield f"num_malicious_nodes is {liars}; it must be a whole number, zero or above"
        return
    asked = max(1, round(strategy.fraction * sum(site.role == "train" for site in experiment.sites)))
    usable, needed = max(1, ceil(strategy.quorum * asked - 1e-9)), factor * liars + addend
    if usable < needed:
        yield (
            f"against {liars} lying sites it needs the replies of {needed} training sites and a round may "
            f"have {usable} (sites, fraction, quorum); lower num_malicious_nodes, or choose fedmedian or "
            "fedtrimmedavg"
        )
