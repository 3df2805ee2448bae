"""What a run knows about its model, its training and the machine: plain sentences, empty where unknown."""

from typing import Any

from fedderm.papers.markdown import told
from fedderm.report.folder import RunFolder
from fedderm.report.formats import duration, known, plain, plural, size
from fedderm.report.sections import round_rows, round_totals

_SCHEMES = {
    "cascade": "A cascade: triage (malignant or benign), then differentiation of what was called malignant "
    "into melanoma, squamous cell and basal cell carcinoma",
    "binary": "Triage alone: malignant or benign",
    "four_class": "One stage: triage (malignant or benign) and the class among benign, melanoma, squamous "
    "cell and basal cell carcinoma",
}
_START = {
    "none": "The network started from random weights.",
    "hub": "The network started from weights of a public hub.",
    "package": "The network started from ImageNet weights that ship with a Python package.",
}
_MACHINE = ("platform", "processor", "cpu", "cores", "memory", "memory (GiB)", "gpu")
_NOT_SOFTWARE = (*_MACHINE, "seed", "started", "seconds", "git commit")


def method_facts(run: RunFolder) -> dict[str, str]:
    """Return what is known about model, training, evaluation settings, hardware and software, by topic."""
    rounds = round_totals(round_rows(run))
    return {
        "model": _model(_section(run, "model")),
        "initialisation": _initialisation(run),
        "preprocessing": _preprocessing(_section(run, "model")),
        "augmentation": _augmentation(run),
        "training": _training(run),
        "imbalance": _imbalance(_section(run, "training"), closed_form=_is_fed3r(run)),
        "strategy": _strategy(run),
        "privacy": _privacy(run),
        "selection": _selection(run),
        "views": _views(_section(run, "evaluation")),
        "evaluation": _evaluation(_section(run, "evaluation")),
        "software": _software(run.environment),
        "hardware": _hardware(run.environment),
        "cost": _cost(run, rounds),
        "reproduction": _reproduction(run),
    }


def _section(run: RunFolder, name: str) -> dict[str, Any]:
    found = run.config.get(name)
    return found if isinstance(found, dict) else {}


def _settings(title: str, settings: dict[str, Any], leave: tuple[str, ...] = ()) -> str:
    pairs = [
        f"{key.replace('_', ' ')} {plain(value)}"
        for key, value in settings.items()
        if value is not None and value != {} and key not in leave
    ]
    return f"{title}: {', '.join(pairs)}." if pairs else ""


def _model(model: dict[str, Any]) -> str:
    if not model:
        return ""
    scheme = _SCHEMES.get(str(model.get("scheme")), plain(model.get("scheme", "scheme not recorded")))
    trunk = {"shared": "one shared backbone", "separate": "a backbone for each stage"}.get(
        str(model.get("trunk")), "backbone"
    )
    dropout = f" Dropout {plain(model['dropout'])} before the heads." if "dropout" in model else ""
    fields = [str(field).replace("anatom_site", "anatomical site") for field in model.get("metadata") or ()]
    beside = f" Beside the image the heads were told {', '.join(fields)}, where recorded." if fields else ""
    return f"{scheme}; {trunk}: {plain(model.get('backbone', 'not recorded'))}.{dropout}{beside}"


def _initialisation(run: RunFolder) -> str:
    start, head = _section(run, "model").get("pretrained"), _section(run, "training").get("head_start")
    closed_form = (
        "Before the first round the heads were fitted in closed form (ridge regression) from sums over sites."
    )
    return told(
        [
            _START.get(str(start), f"The network started from the file {start}.") if start else "",
            closed_form if head == "ridge" else "",
        ]
    )


def _preprocessing(model: dict[str, Any]) -> str:
    if "image_size" not in model:
        return ""
    crop = {"center": "cropped to the central square", "squash": "squeezed to a square"}
    colour = {"none": "no colour correction", "shades_of_grey": "shades-of-grey colour constancy"}
    parts = [
        "dark hair removed (after DullRazor)" if model.get("hair") == "removed" else "",
        crop.get(str(model.get("crop")), ""),
        f"resized to {plain(model['image_size'])} pixels a side",
        colour.get(str(model.get("colour")), ""),
    ]
    return f"RGB images, {', '.join(part for part in parts if part)}."


def _augmentation(run: RunFolder) -> str:
    found = _section(run, "training").get("augmentation")
    return _settings("Augmentation of training images, strengths", found) if isinstance(found, dict) else ""


def _is_fed3r(run: RunFolder) -> bool:
    return _section(run, "strategy").get("name") == "fed3r"


def _training(run: RunFolder) -> str:
    training = _section(run, "training")
    if _is_fed3r(run):
        return (
            "No gradient training: the heads are ridge regression in closed form (Fed3R), from one exchange "
            "of sums over the sites' features, with a penalty of "
            f"{plain(training.get('head_penalty'))} of their mean square."
        )
    depths = {"lora": ("lora_rank", "lora_alpha"), "last_stages": ("last_stages",)}
    others = [key for depth, keys in depths.items() if depth != training.get("trunk") for key in keys]
    return _settings("Local training", training, leave=("augmentation", *others))


def _imbalance(training: dict[str, Any], *, closed_form: bool) -> str:
    parts = []
    if "oversampling" in training and "malignant_fraction" in training:
        parts.append(
            f"Malignant images were drawn up to {plain(training['oversampling'])} times as often as they "
            f"occur, until they were {plain(training['malignant_fraction'])} of what was drawn."
        )
    if "label_skew" in training and not closed_form:
        parts.append(_label_skew(training))
    if parts:
        parts.append("Probabilities were recalibrated afterwards on lesions at their natural prevalence.")
    return told(parts)


def _label_skew(training: dict[str, Any]) -> str:
    tau, kind = training.get("label_skew_tau", 1), training["label_skew"]
    if kind == "none" or tau == 0:
        return "The loss was not adjusted to a site's class frequencies."
    logits = "the triage logit" if training.get("label_skew_heads") == "triage" else "all logits"
    if kind == "fedlc":
        return f"In the loss, margins of FedLC (tau {plain(tau)}) were put on {logits}."
    sentence = f"Each site's log class frequencies, times {plain(tau)}, were added to {logits} in the loss"
    return (
        f"{sentence}, so that the site's prevalence does not enter the model." if tau == 1 else f"{sentence}."
    )


def _strategy(run: RunFolder) -> str:
    if run.config.get("baseline") == "pooled":
        return "The pooled baseline: the training sites' images in one place, with the same budget."
    if run.config.get("baseline") == "local":
        return f"The local baseline: {run.config['baseline_site']} alone, with the whole federation's budget."
    strategy = run.config.get("strategy")
    if isinstance(strategy, dict):
        return _settings("Federated training, images stay at their site; aggregation", strategy)
    return f"Federated training, images stay at their site; aggregation: {strategy}." if strategy else ""


def _privacy(run: RunFolder) -> str:
    if run.config.get("baseline") == "pooled":
        return "This run is the pooled baseline: it needed the training sites' images in one place."
    return (
        "Images stay at their site; a site sends model updates, counts and summaries, never scores of images."
    )


def _selection(run: RunFolder) -> str:
    done = run.state.get("round")
    last = (
        f"after the last round ({done} of {run.state.get('rounds', done)})" if done else "of the last round"
    )
    return f"The model {last} was evaluated; no round was chosen by its results."


def _views(evaluation: dict[str, Any]) -> str:
    views = evaluation.get("views")
    if not views:
        return ""
    single = "One view of each image, without ensembling."
    return single if views == 1 else f"One model; the mean logit over {views} mirrored views of each image."


def _evaluation(evaluation: dict[str, Any]) -> str:
    if "target_sensitivity" not in evaluation:
        return ""
    bootstrap = evaluation.get("bootstrap")
    intervals = (
        f" Intervals are 95 % percentile intervals of {bootstrap:,} bootstrap resamples of lesions, "
        "stratified by class; Wilson's where no resample differs."
        if bootstrap
        else ""
    )
    return (
        f"Target sensitivity {plain(evaluation['target_sensitivity'])}, confidence "
        f"{plain(evaluation.get('confidence', 'not recorded'))}.{intervals}"
    )


def _software(environment: dict[str, Any]) -> str:
    versions = [f"{name} {plain(v)}" for name, v in environment.items() if name not in _NOT_SOFTWARE]
    commit = environment.get("git commit")
    return told(
        [f"{', '.join(versions)}." if versions else "", f"Source code at commit {commit}." if commit else ""]
    )


def _hardware(environment: dict[str, Any]) -> str:
    parts = [
        f"{name} {plain(environment[name]) if environment[name] is not None else 'none'}"
        for name in _MACHINE
        if name in environment
    ]
    return f"The machine that ran the experiment: {', '.join(parts)}." if parts else ""


def _cost(run: RunFolder, rounds: dict[str, float | None]) -> str:
    spent, done = run.environment.get("seconds"), run.state.get("round")
    traffic = run.state.get("traffic") or {"down": rounds["bytes_down"], "up": rounds["bytes_up"]}
    moved = [
        f"{size(octets)} {way} the sites"
        for way, octets in (("to", traffic.get("down")), ("from", traffic.get("up")))
        if known(octets)
    ]
    return told(
        [
            f"{plural(int(done), 'round')}." if done else "",
            f"{duration(float(spent))} in all." if isinstance(spent, int | float) else "",
            f"Sent: {', '.join(moved)}." if moved else "",
        ]
    )


def _reproduction(run: RunFolder) -> str:
    started, seed = run.environment.get("started"), run.config.get("seed")
    return told(
        [
            f"Run {run.name}, started {started}." if started else f"Run {run.name}.",
            f"Seed {seed}." if seed is not None else "",
            "The run's folder holds the complete configuration (config.yaml), the environment and the audit.",
        ]
    )
