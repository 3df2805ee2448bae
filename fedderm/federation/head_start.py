"""The exchange before the first round that fits the heads in closed form."""

from collections.abc import Sequence

import numpy as np

from fedderm import messages
from fedderm.federation.session import Session
from fedderm.head_start import Moments, differentiation_head, four_class_heads, total, triage_head
from fedderm.weights import Arrays
from strategies.exchange import Member


def start_heads(session: Session, members: Sequence[Member], initial: Arrays) -> Arrays:
    """Return the heads' arrays, fitted on the training sites' summed moments under the ``initial`` trunk.

    Raises ValueError where a site cannot answer: the heads would otherwise depend on who was there.
    """
    experiment = session.experiment
    found: list[dict[str, Moments]] = []
    record = messages.to_record(initial)
    pooled = experiment.baseline == "pooled"
    for reply in session.ask("head start", messages.HEAD, members, record, pooled=pooled):
        if reply.message is None:
            raise ValueError(str(reply.reason))
        try:
            found.append(_moments(messages.read_moments(reply.message)))
        except (KeyError, ValueError) as error:
            raise ValueError(f"site {reply.member.name}: its head start cannot be used: {error}") from error
    penalty = experiment.training.head_penalty
    of_all = total([one["all"] for one in found])
    if experiment.model.scheme == "four_class":
        return four_class_heads(of_all, penalty)
    heads = triage_head(of_all, penalty)
    if experiment.model.scheme == "cascade":
        heads |= differentiation_head(total([one["malignant"] for one in found]), penalty)
    return heads


def _moments(arrays: Arrays) -> dict[str, Moments]:
    names = {name.partition(".")[0] for name in arrays}
    return {
        name: Moments(*(arrays[f"{name}.{part}"].astype(np.float64) for part in ("gram", "targets")))
        for name in names
    }
