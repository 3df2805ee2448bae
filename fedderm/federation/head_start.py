"""The exchange that fits the heads in closed form: before the first round, or as Fed3R's only one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import ArrayRecord

from fedderm import messages
from fedderm.federation.session import Session
from fedderm.head_start import Moments, differentiation_head, four_class_heads, total, triage_head
from fedderm.settings import Experiment
from fedderm.weights import Arrays
from sites.diagnoses import CLASSES
from strategies.arrays import to_record
from strategies.exchange import Member
from strategies.rounds import RoundResult


@dataclass(frozen=True)
class FittedHeads:
    """The heads' arrays, and site to the number of images that its moments are of."""

    arrays: Arrays
    examples: dict[str, int]


def fed3r_round(session: Session, members: Sequence[Member], arrays: ArrayRecord) -> RoundResult:
    """Return Fed3R's only round: the model with heads in closed form, without a step of gradient descent."""
    start, before = time.monotonic(), replace(session.traffic)
    initial = messages.from_record(arrays)
    fitted = start_heads(session, members, initial)
    return RoundResult(
        arrays=to_record({**initial, **fitted.arrays}),
        metrics={name: {"num-examples": n, "steps": 0, "images": 0} for name, n in fitted.examples.items()},
        refused={},
        seconds=time.monotonic() - start,
        bytes_down=session.traffic.down - before.down,
        bytes_up=session.traffic.up - before.up,
    )


def start_heads(session: Session, members: Sequence[Member], initial: Arrays) -> FittedHeads:
    """Return the heads, fitted on the training sites' summed moments under the ``initial`` trunk.

    Raises ValueError where a site cannot answer: the heads would otherwise depend on who was there.
    """
    experiment = session.experiment
    found: dict[str, dict[str, Moments]] = {}
    record = to_record(initial)
    pooled = experiment.baseline == "pooled"
    for reply in session.ask("head start", messages.HEAD, members, record, pooled=pooled):
        if reply.message is None:
            raise ValueError(str(reply.reason))
        try:
            found[reply.member.name] = _moments(
                messages.read_moments(reply.message),
                initial["triage.weight"].shape[1],
                reply.member,
                experiment,
            )
        except (KeyError, ValueError) as error:
            raise ValueError(f"site {reply.member.name}: its head start cannot be used: {error}") from error
    # The constant's own moment is the sum of weights, whose mean is 1.
    examples = {name: round(float(one["all"].gram[-1, -1])) for name, one in found.items()}
    return FittedHeads(_heads(list(found.values()), experiment), examples)


def _heads(found: Sequence[dict[str, Moments]], experiment: Experiment) -> Arrays:
    penalty, of_all = experiment.training.head_penalty, total([one["all"] for one in found])
    if experiment.model.scheme == "four_class":
        return four_class_heads(of_all, penalty)
    heads = triage_head(of_all, penalty)
    if experiment.model.scheme == "cascade":
        heads |= differentiation_head(total([one["malignant"] for one in found]), penalty)
    return heads


def _moments(arrays: Arrays, features: int, member: Member, experiment: Experiment) -> dict[str, Moments]:
    """Return a site's moments, checked: they would otherwise go into everybody's heads as they are.

    Raises ValueError for other names or shapes, a matrix that is no second moment, or sums of other than the
    registered number of images (their weights have a mean of one).
    """
    parts = {"all": len(CLASSES)}
    if experiment.model.scheme == "cascade":
        parts["malignant"] = len(CLASSES) - 1
    wanted = {f"{name}.{part}" for name in parts for part in ("gram", "targets")}
    if set(arrays) != wanted:
        held = ", ".join(sorted(arrays)) or "nothing"
        raise ValueError(f"expected {', '.join(sorted(wanted))}; found {held}")
    found = {}
    for name, classes in parts.items():
        gram, targets = (arrays[f"{name}.{part}"].astype(np.float64) for part in ("gram", "targets"))
        if gram.shape != (features + 1, features + 1) or targets.shape != (features + 1, classes):
            raise ValueError(f"{name} has shapes {list(gram.shape)} and {list(targets.shape)}")
        if not np.allclose(gram, gram.T, rtol=1e-6) or (np.diag(gram) < 0).any():
            raise ValueError(f"{name}.gram is no second moment")
        found[name] = Moments(gram, targets)
    images = found["all"].gram[-1, -1]
    # A pool with its sources alike weighs images otherwise; it is on this machine.
    if experiment.baseline == "none" and abs(images - member.num_examples) > 1e-6 * member.num_examples:
        raise ValueError(f"its sums are of {images:g} images but it registered {member.num_examples}")
    return found
