"""The rounds: a guarded round of training, an evaluation of all sites, and both on disk before the next."""

from collections.abc import Sequence
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import Strategy

from fedderm import messages
from fedderm.evaluation.counts import Counts
from fedderm.evaluation.long_format import LongRow, long_rows_of_counts
from fedderm.evaluation.recalibration import federation_point
from fedderm.federation.head_start import fed3r_round, start_heads
from fedderm.federation.roll_call import SiteCard, training_members
from fedderm.federation.session import Answers, Session
from fedderm.settings import StrategySettings
from fedderm.weights import Arrays
from strategies.catalogue import REMEMBERS, build
from strategies.fed3r import Fed3R
from strategies.rounds import RoundResult, RoundSettings, train_round

SPLITS = "calibration,test"


def run_rounds(session: Session, cards: Sequence[SiteCard], initial: Arrays) -> ArrayRecord:
    """Return the final global model; finished rounds of an earlier sitting are not repeated."""
    folder, experiment = session.folder, session.experiment
    done = int(folder.state()["round"])
    strategy = _strategy(experiment.strategy, resumed=0 < done < experiment.rounds)
    members = training_members(session, cards)
    if not done and experiment.training.head_start == "ridge":
        initial = {**initial, **start_heads(session, members, initial).arrays}
    arrays = messages.to_record(folder.latest_arrays() or initial)
    settings = RoundSettings(
        deadline_s=experiment.strategy.deadline,
        quorum=experiment.strategy.quorum,
        fraction=experiment.strategy.fraction,
        seed=experiment.seed,
        weighting=experiment.strategy.weighting,
    )
    for number in range(done + 1, experiment.rounds + 1):
        session.observer.stage(f"round {number}/{experiment.rounds}: train", [one.name for one in members])
        if isinstance(strategy, Fed3R):
            result = fed3r_round(session, members, arrays)
        else:
            result = train_round(
                strategy,
                session.grid,
                number,
                arrays,
                session.config(pooled=experiment.baseline == "pooled"),
                members,
                settings,
                session.observer.site,
                session.should_stop,
            )
            session.traffic.down += result.bytes_down
            session.traffic.up += result.bytes_up
        arrays = result.arrays
        for sentence in result.refused.values():
            session.observer.warn(sentence)
        rows, missing = _evaluate_round(session, cards, arrays, number)
        entry = {**_entry(result), "not_evaluated": missing}
        folder.finish_round(number, messages.from_record(arrays), entry, rows)
        session.note_traffic()
        session.observer.round_done(number, experiment.rounds, rows)
    return arrays


def evaluate_counts(
    session: Session, cards: Sequence[SiteCard], arrays: ArrayRecord, splits: str, views: int, title: str
) -> Answers[dict[str, Counts]]:
    """Return each site's counts by split; a site that cannot answer is missing, with a warning."""
    members = [card.member for card in cards]
    answers = session.gather(
        title, messages.EVALUATE, members, arrays, _read_counts, splits=splits, views=views
    )
    for sentence in answers.missing.values():
        session.observer.warn(sentence)
    return answers


def _read_counts(message: Message) -> dict[str, Counts]:
    return {split: Counts.from_array(one) for split, one in messages.read_counts(message).items()}


def _evaluate_round(
    session: Session, cards: Sequence[SiteCard], arrays: ArrayRecord, number: int
) -> tuple[list[LongRow], dict[str, str]]:
    """Return the round's rows, and site to the sentence why it has none.

    Only a look at how training goes: a site that is missing does not stop it, as long as one answers.
    """
    experiment = session.experiment
    if number % experiment.evaluation.every and number != experiment.rounds:
        return [], {}
    title = f"round {number}/{experiment.rounds}: evaluate"
    answers = evaluate_counts(session, cards, arrays, SPLITS, 1, title)
    answers.require(0.0, title)
    found = answers.found
    roles = {card.member.name: card.role for card in cards}
    point, _ = federation_point(
        calibration_counts(found, roles),
        experiment.evaluation.target_sensitivity,
        experiment.evaluation.confidence,
    )
    rows: list[LongRow] = []
    pools: dict[str, Counts] = {}

    def add(counts: Counts, **where: Any) -> None:
        rows.extend(long_rows_of_counts(counts, point, experiment.model.scheme, round_=number, **where))

    for name, splits in found.items():
        test = splits.get("test", Counts.zero())
        add(test, site=name, role=roles[name], split="test")
        pools[roles[name]] = pools.get(roles[name], Counts.zero()) + test
    for role, pool in pools.items():
        add(pool, role=role, split="test")
    return rows, answers.missing


def calibration_counts(found: dict[str, dict[str, Counts]], roles: dict[str, str]) -> Counts:
    """Return the summed calibration counts of the training sites."""
    parts = [
        splits.get("calibration", Counts.zero()) for name, splits in found.items() if roles[name] == "train"
    ]
    return sum(parts, Counts.zero())


def _strategy(settings: StrategySettings, *, resumed: bool) -> Strategy:
    if resumed and settings.name in REMEMBERS:
        raise ValueError(
            f"strategy {settings.name} keeps a momentum between rounds that is not stored yet, so that a "
            "resumed run would differ from one that never stopped; start the experiment anew"
        )
    return build_strategy(settings)


def build_strategy(settings: StrategySettings) -> Strategy:
    """Return the strategy of these settings; raises ValueError where it has not such parameters."""
    own = {"proximal_mu": settings.proximal_mu} if settings.name == "fedprox" else {}
    parameters = {**settings.parameters, **own}
    return build(settings.name, **parameters)


def _entry(result: RoundResult) -> dict[str, Any]:
    return {
        "seconds": round(result.seconds, 2),
        "bytes_down": result.bytes_down,
        "bytes_up": result.bytes_up,
        "sites": result.metrics,
        "refused": result.refused,
    }
