"""What a hospital's node answers, whatever it is sent: the section ``policy`` of its site file.

Role and minimum cell size are settings of every site and stand beside it (``role``, ``min_cell``).
"""

from typing import Annotated, Final, Literal, get_args

from pydantic import Field

from fedderm.training_settings import Positive, Settings, TrainingSettings
from sites.site import Role

Kind = Literal["query", "train", "train.head", "evaluate", "recalibrate"]
"""The exchanges of a federation by the names of a site file (docs/architecture.md, "What travels")."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

TRAINING: Final[tuple[Kind, ...]] = ("train", "train.head")
"""Exchanges in which something learned from the train split leaves."""

JUDGING: Final[tuple[Kind, ...]] = ("evaluate", "recalibrate")

LEAST_CELL: Final = 10
"""The minimum cell size of a site file that names none: counts of one to nine do not leave."""


class Policy(Settings):
    """What leaves a hospital, and when."""

    answers: list[Kind] | None = None
    """Exchanges that are answered. None: all that the role takes part in; a held-out site never trains."""
    rounds_per_day: Annotated[int, Field(ge=1)] | None = None
    """Answers to ``train`` and ``train.head`` in any 24 hours, all runs together; None: no limit."""
    evaluations_per_day: Annotated[int, Field(ge=1)] | None = None
    """Answers to ``evaluate`` and ``recalibrate`` in any 24 hours; a run of R rounds needs R + 2."""
    differential_privacy: Literal["optional", "required"] = "optional"
    """required: what was learned from the train split leaves only with differential privacy."""
    max_epsilon: Positive = 8.0
    """What all private training here, of all runs together, may add up to at ``delta``; with it a round that
    would exceed it is refused."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    approve_runs: bool = False
    """A person at the hospital says yes to each run before anything is answered."""

    def answered(self, role: Role) -> tuple[Kind, ...]:
        """Return the exchanges that a site of this role answers, in the order of ``KINDS``."""
        wanted = KINDS if self.answers is None else self.answers
        return tuple(one for one in KINDS if one in wanted and (role == "train" or one not in TRAINING))

    def per_day(self, kind: Kind) -> tuple[int | None, tuple[Kind, ...], str]:
        """Return the limit that an exchange falls under, the exchanges that share it, and its key."""
        if kind in TRAINING:
            return self.rounds_per_day, TRAINING, "rounds_per_day"
        if kind in JUDGING:
            return self.evaluations_per_day, JUDGING, "evaluations_per_day"
        return None, (kind,), ""


def is_private(training: TrainingSettings) -> bool:
    """Return whether the weights that leave are differentially private."""
    return training.privacy is not None


def policy_in_words(policy: Policy, name: str, role: Role, min_cell: int) -> list[str]:
    """Return what the policy means, a sentence each, for the person who answers for the hospital."""
    answered = policy.answered(role)
    told = [f"{name} is {'a training site' if role == 'train' else 'held out: it never trains'}."]
    told.append(f"It answers {', '.join(answered)}." if answered else "It answers nothing.")
    told.append(
        f"Counts from 1 to {min_cell - 1} do not leave."
        if min_cell > 1
        else "Counts leave however small they are (min_cell)."
    )
    limits = ((policy.rounds_per_day, "rounds of training"), (policy.evaluations_per_day, "evaluations"))
    for limit, what in limits:
        told.append(f"At most {limit} {what} in 24 hours." if limit else f"No limit on {what}.")
    told.append(
        f"What is learned here leaves only with differential privacy, at most epsilon {policy.max_epsilon:g} "
        f"(delta {policy.delta:g}) over all runs."
        if policy.differential_privacy == "required"
        else "What is learned here may leave without differential privacy."
    )
    told.append(
        "A person approves each run first (fedderm site pending, fedderm site approve)."
        if policy.approve_runs
        else "No person has to approve a run."
    )
    return told
