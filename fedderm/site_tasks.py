"""What a site does with a message. Imports torch, so only the process that works for a site imports this."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message

from fedderm import messages
from fedderm.budget import batch_size
from fedderm.evaluation.counts import counts_of
from fedderm.evaluation.disclosure import folded, told
from fedderm.evaluation.distance import to_arrays
from fedderm.evaluation.documents import OperatingPoint
from fedderm.evaluation.informed import FederationEvidence
from fedderm.evaluation.long_format import PERSONAL
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.shift_reference import ShiftReference, feature_summary
from fedderm.feature_moments import feature_moments
from fedderm.hospital.predictions import keep_predictions
from fedderm.hospital.record import Record
from fedderm.judging import Frame, judge
from fedderm.local_site import LocalSite, Seen
from fedderm.messages import Instruction
from fedderm.model.heads import Heads
from fedderm.model.state import shown_arrays
from fedderm.node import open_site, site_seed
from fedderm.privacy_ledger import Ledger, cost_of, epsilon
from fedderm.refusal import Refused, Tellable
from fedderm.site_card import site_card
from fedderm.site_file import SITE_FILE, at_home, read_policy, site_of_node
from fedderm.site_method import SiteMethod, adapt_to
from fedderm.training import Stretch, steps_on, train_locally
from fedderm.trainset import TrainSet, pool
from fedderm.worker_models import worker_model
from sites.catalogue import Site
from sites.salted import salted_fingerprints


def query(message: Message, context: Context) -> Message:
    """Introduce the site: card and salted fingerprints."""
    instruction = messages.read_instruction(message)
    site = _site(instruction, context)
    salt = str(instruction.values["salt"])
    card = {**site_card(site), **_effective(instruction, site)}
    return messages.card_reply(message, card, salted_fingerprints(site.table, site.fingerprints, salt))


def train(message: Message, context: Context) -> Message:
    """Train the global model on the site's train split and return it."""
    instruction = messages.read_instruction(message)
    experiment = instruction.experiment
    site = _training_site(instruction, context)
    data, name = _train_set(instruction, site, context)
    model = _model(instruction, message, context)
    stretch = Stretch(_round_of(instruction, name), experiment.rounds)
    seed = site_seed(experiment, name, stretch.round)
    method = _method(instruction, name, message, context)
    if method.side.needs_initial_loss:
        _require_cells(site, data, f"strategy.name: {experiment.strategy.name}, which asks for a loss,")
        if experiment.training.privacy is not None:
            raise Tellable(f"site {name}: a loss has no noise, and training.privacy asks for it")
    method.personalise(model)
    before = method.before(model, data, experiment.training)
    spent = _spent(instruction, name, stretch.round, data, context)
    try:
        result = train_locally(model, data, experiment.training, stretch, seed, method.objective())
    except ValueError as error:
        raise Tellable(f"site {name}: {error}") from error
    beside, told = method.after(before, model, result, stretch.round, experiment.training)
    metrics = {
        "server-round": stretch.round,
        "num-examples": len(data),
        "steps": result.steps,
        "images": result.images,
        "loss": result.loss,
        "triage-loss": result.triage_loss,
        "micro-batch": result.micro_batch,
        **spent,
        **told,
    }
    return messages.train_reply(message, shown_arrays(model), metrics, beside)


def head(message: Message, context: Context) -> Message:
    """Return the moments of the train split's features under the model that was sent."""
    instruction = messages.read_instruction(message)
    site = _training_site(instruction, context)
    if instruction.experiment.training.privacy is not None:
        raise Tellable(f"site {site.settings.name}: moments have no noise, and training.privacy asks for it")
    data, _ = _train_set(instruction, site, context)
    _require_cells(site, data, "training.head_start: ridge")
    model = _model(instruction, message, context)
    return messages.moments_reply(
        message, feature_moments(model, data, instruction.experiment.training.precision)
    )


def evaluate(message: Message, context: Context) -> Message:
    """Return the site's additive counts, by split; where asked for, sums of one split's features by class."""
    instruction = messages.read_instruction(message)
    experiment, values = instruction.experiment, instruction.values
    site = _site(instruction, context)
    model = _model(instruction, message, context)
    wanted, min_cell = str(values.get("features_of", "")), site.settings.min_cell
    adapt_to(model, site, experiment.strategy)
    counts: dict[str, Any] = {}
    features: dict[str, Any] = {}
    splits = [split for split in str(values["splits"]).split(",") if len(site.rows(split))]

    def score(split: str) -> tuple[Seen, Scores]:
        seen = site.score(model, split, int(values["views"]), experiment.training.precision)
        return seen, folded(seen.scores, min_cell)

    def tell(name: str, shown: Scores) -> None:
        counts.update({key: one.to_array() for key, one in told(name, counts_of(shown), min_cell).items()})

    for split in splits:
        seen, shown = score(split)
        tell(split, shown)
        if split == wanted:
            features = feature_summary(seen.features, shown.truth, shown.lesion, min_cell)
    method = _method(instruction, site.settings.name, message, context)
    if method.personal and "test" in splits:
        method.personalise(model)
        tell(PERSONAL, score("test")[1])
    return messages.counts_reply(message, counts, features)


def recalibrate(message: Message, context: Context) -> Message:
    """Return what the final model is worth here, before and after the site's own recalibration."""
    instruction = messages.read_instruction(message)
    site = _site(instruction, context)
    model = _model(instruction, message, context)
    values = instruction.values
    frame = Frame(
        point=OperatingPoint.model_validate_json(str(values["operating_point"])),
        evidence=FederationEvidence.model_validate_json(str(values["evidence"])),
        reference=_reference(message),
    )
    adapt_to(model, site, instruction.experiment.strategy)
    method = _method(instruction, site.settings.name, message, context)
    judged = judge(site, model, instruction.experiment, frame, int(values["views"]), method)
    if SITE_FILE in context.node_config:
        record = Record.of(Path(str(context.node_config[SITE_FILE])))
        name = f"{instruction.experiment.name}-{message.metadata.run_id}.csv"
        keep_predictions(record.predictions / name, site, judged)
    return messages.evaluation_reply(
        message,
        judged.evaluation.model_dump_json(),
        {name: counts.to_array() for name, counts in judged.counts.items()},
        judged.replicates,
        to_arrays(judged.distances),
    )


def _spent(
    instruction: Instruction, name: str, number: int, data: TrainSet, context: Context
) -> dict[str, float]:
    """Write down what private training of a round costs; return epsilon of the run so far, and delta.

    Raises Refused where it would exceed a hospital's own limit, before anything is trained.
    """
    experiment, training = instruction.experiment, instruction.experiment.training
    if training.privacy is None:
        return {}
    ledger = Ledger.of(at_home(experiment, context.node_config).work_dir, name)
    run = str(instruction.values.get("run", ""))
    images, steps = len(data), steps_on(data, training)
    try:
        cost = cost_of(training.privacy, run, number, images, batch_size(images, training), steps)
    except ValueError as error:
        raise Tellable(f"site {name}: {error}") from error
    with ledger.locked():  # two messages at once would each find room for one
        entries = [*ledger.entries(), cost]
        if SITE_FILE in context.node_config:
            policy = read_policy(Path(str(context.node_config[SITE_FILE])))
            all_runs = epsilon(entries, policy.delta)
            if policy.differential_privacy == "required" and all_runs > policy.max_epsilon:
                raise Refused(
                    f"site {name}: with this round what it learned would cost epsilon {all_runs:.3g} (delta "
                    f"{policy.delta:g}) over all runs, and its policy allows {policy.max_epsilon:g} "
                    "(max_epsilon)"
                )
        ledger.add(cost)
    of_run = [one for one in entries if one.run == run]
    return {"epsilon": epsilon(of_run, training.privacy.delta), "delta": training.privacy.delta}


def _model(instruction: Instruction, message: Message, context: Context) -> Heads:
    """Return the message's model, on this site's own trunk where that is frozen."""
    experiment = at_home(instruction.experiment, context.node_config)
    return worker_model(experiment, messages.read_arrays(message), messages.frozen_trunk(instruction))


def _method(instruction: Instruction, name: str, message: Message, context: Context) -> SiteMethod:
    """Return the strategy's side at this site, whose state lies in the site's own ``work_dir``."""
    sent, control = messages.read_sent(message), messages.read_control(message)
    return SiteMethod.of(at_home(instruction.experiment, context.node_config), name, sent, control)


def _round_of(instruction: Instruction, name: str) -> int:
    """Return the round of a ``train`` message; raises ValueError for one that the experiment has not."""
    number, rounds = instruction.values.get("server_round"), instruction.experiment.rounds
    if type(number) is not int or not 1 <= number <= rounds:
        raise Refused(f"site {name}: asked for round {number} of {rounds}; update the server")
    return number


def _reference(message: Message) -> ShiftReference | None:
    arrays = messages.read_reference(message)
    return ShiftReference.from_arrays(arrays) if arrays else None


def _site(instruction: Instruction, context: Context) -> LocalSite:
    return _opened(instruction, site_of_node(instruction.experiment, context.node_config), context)


def _opened(instruction: Instruction, site: Site, context: Context) -> LocalSite:
    experiment = at_home(instruction.experiment, context.node_config)
    salt, given_up = messages.given_up_images(instruction, site.name)
    return open_site(experiment, site, salt, given_up, messages.frozen_trunk(instruction))


def _effective(instruction: Instruction, site: LocalSite) -> dict[str, float]:
    """Return the effective number where it is asked for; it tells how many images are malignant."""
    experiment = instruction.experiment
    if experiment.strategy.weighting != "effective" or site.settings.role != "train":
        return {}
    data = site.train_set(experiment.training)
    _require_cells(site, data, "strategy.weighting: effective")
    return {"effective": data.effective()}


def _require_cells(site: LocalSite, data: TrainSet, what: str) -> None:
    counts = np.bincount(data.classes)
    if ((counts > 0) & (counts < site.settings.min_cell)).any():
        raise Refused(
            f"site {site.settings.name}: {what} would tell a class of fewer than "
            f"{site.settings.min_cell} images (its min_cell); leave it out of the config, "
            "or lower min_cell at the site"
        )


def _training_site(instruction: Instruction, context: Context) -> LocalSite:
    site = _site(instruction, context)
    if site.settings.role != "train":
        raise Refused(f"site {site.settings.name} is held out: it refuses to train")
    return site


def _train_set(instruction: Instruction, site: LocalSite, context: Context) -> tuple[TrainSet, str]:
    """Return what to train on and whose it is: the site's own images, or the pooled baseline's."""
    experiment = instruction.experiment
    if not instruction.values.get("pooled", False):
        own = site.train_set(experiment.training)
        return _with_budget(own, instruction.values), site.settings.name
    members = [_opened(instruction, one, context) for one in experiment.sites if one.role == "train"]
    # One site's pool is that site: it draws what it would draw in a federation of one.
    name = members[0].settings.name if len(members) == 1 else "(pooled)"
    balanced = experiment.training.source_balanced
    if balanced is None:
        balanced = experiment.training.local_steps is not None
    pooled = pool([member.train_set(experiment.training) for member in members], balanced=balanced)
    return _with_budget(pooled, instruction.values), name


def _with_budget(data: TrainSet, values: Mapping[str, Any]) -> TrainSet:
    """Return the images with the whole federation's image updates, where the message names them."""
    updates = int(values.get("image_updates", 0))
    return replace(data, updates=updates) if updates else data
