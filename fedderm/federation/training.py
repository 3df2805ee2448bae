"""The rounds: a guarded round of training, an evaluation of all sites, and both on disk before the next."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import Strategy

from fedderm import messages
from fedderm.evaluation.counts import Counts
from fedderm.evaluation.disclosure import FLOOR, understood
from fedderm.evaluation.long_format import PERSONAL, LongRow, long_rows_of_counts
from fedderm.evaluation.recalibration import federation_point
from fedderm.federation.head_start import fed3r_round, start_heads
from fedderm.federation.roll_call import SiteCard, baseline_budget, teaching, training_members
from fedderm.federation.session import Answers, Session
from fedderm.privacy_ledger import Spent, epsilon
from fedderm.settings import StrategySettings
from fedderm.weights import Arrays
from strategies.arrays import to_record
from strategies.catalogue import build
from strategies.fed3r import Fed3R
from strategies.half_precision import as_received
from strategies.memory import remembered, restore
from strategies.round_settings import RoundSettings
from strategies.rounds import RoundResult, train_round

SPLITS = "calibration,test"
CLIENT_DELTA = 1e-5


@dataclass(frozen=True)
class Initial:
    """The first global model."""

    arrays: Arrays
    statistics: Sequence[str]
    """Names of the running means and variances among the arrays."""


def run_rounds(session: Session, cards: Sequence[SiteCard], initial: Initial) -> ArrayRecord:
    """Return the final global model, as sites receive it: what is judged is what is kept.

    Finished rounds of an earlier sitting are not repeated. ``initial``: the model to begin with, where no
    round has finished; its arrays are taken out of it.
    """
    folder, experiment = session.folder, session.experiment
    settings, done = experiment.strategy, int(folder.state()["round"])
    strategy = build_strategy(settings)
    restore(strategy, settings.name, folder.latest_memory())
    members = training_members(session, cards)
    budget = baseline_budget(session, cards)
    if not done:
        session.note(statistics=sorted(initial.statistics), run=secrets.token_hex(8))
    first = dict(initial.arrays)
    initial.arrays.clear()  # or whoever made it would keep it in memory through all rounds
    if not done and experiment.training.head_start == "ridge":
        first = {**first, **start_heads(session, members, first).arrays}
    arrays = to_record(folder.latest_arrays() or first)
    del first
    round_settings = RoundSettings(
        deadline_s=settings.deadline,
        quorum=settings.quorum,
        fraction=settings.fraction,
        seed=experiment.training_seed,
        weighting=settings.weighting,
        exchange=settings.exchange,
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
                session.config(**budget),
                members,
                round_settings,
                session.observer.site,
                session.should_stop,
                private=session.site_states("-"),
                statistics=session.statistics,
            )
            session.traffic.down += result.bytes_down
            session.traffic.up += result.bytes_up
        arrays = result.arrays
        for sentence in result.refused.values():
            session.observer.warn(sentence)
        states = session.site_states(just_now=dict.fromkeys(result.metrics, number))
        before = replace(session.traffic)
        rows, missing = _evaluate_round(session, cards, arrays, number, states)
        evaluation = {
            "evaluation_bytes_down": session.traffic.down - before.down,
            "evaluation_bytes_up": session.traffic.up - before.up,
        }
        entry = {
            **_entry(result),
            **evaluation,
            **_client_privacy(settings, number),
            "not_evaluated": missing,
        }
        memory = remembered(strategy, settings.name)
        traffic = asdict(session.traffic)
        folder.finish_round(number, messages.from_record(arrays), entry, rows, memory, traffic)
        session.observer.round_done(number, experiment.rounds, rows)
    if settings.average_last > 1:
        arrays = to_record(folder.mean_of_last(settings.average_last))
    return as_received(arrays, session.halved_names(arrays))


def _client_privacy(settings: StrategySettings, rounds: int) -> dict[str, float]:
    """Return what so many rounds tell of one site's taking part, where the server adds noise: all of them."""
    if settings.name != "dpfedavg":
        return {}
    noise = float(settings.parameters["noise_multiplier"])
    spent = [Spent("", number, noise, 1.0, 1) for number in range(1, rounds + 1)]
    return {"client_epsilon": epsilon(spent, CLIENT_DELTA), "client_delta": CLIENT_DELTA}


def evaluate_counts(
    session: Session,
    cards: Sequence[SiteCard],
    arrays: ArrayRecord,
    splits: str,
    views: int,
    title: str,
    states: Mapping[str, Mapping[str, Any]],
) -> Answers[dict[str, Counts]]:
    """Return each site's counts by split; a site that cannot answer is missing, with a warning."""
    members = [card.member for card in cards]
    answers = session.gather(
        title,
        messages.EVALUATE,
        members,
        arrays,
        read_counts,
        private=states,
        splits=splits,
        views=views,
    )
    for sentence in answers.missing.values():
        session.observer.warn(sentence)
    return answers


def read_counts(message: Message) -> dict[str, Counts]:
    """Return the counts of a reply by split, and ``split-floor`` where the site merges small cells."""
    return understood({name: Counts.from_array(one) for name, one in messages.read_counts(message).items()})


def _evaluate_round(
    session: Session,
    cards: Sequence[SiteCard],
    arrays: ArrayRecord,
    number: int,
    states: Mapping[str, Mapping[str, Any]],
) -> tuple[list[LongRow], dict[str, str]]:
    """Return the round's rows, and site to the sentence why it has none.

    Only a look at how training goes: a site that is missing does not stop it, as long as one answers.
    """
    experiment = session.experiment
    if number % experiment.evaluation.every and number != experiment.rounds:
        return [], {}
    title = f"round {number}/{experiment.rounds}: evaluate"
    answers = evaluate_counts(session, cards, arrays, SPLITS, 1, title, states)
    answers.require(0.0, title)
    found = answers.found
    roles = {card.member.name: card.role for card in cards}
    taught = {
        one.member.name: found[one.member.name]
        for one in teaching(session, cards)
        if one.member.name in found
    }
    point, _ = federation_point(
        calibration_counts(taught),
        experiment.evaluation.target_sensitivity,
        experiment.evaluation.confidence,
        floor=calibration_counts(taught, FLOOR),
    )
    rows: list[LongRow] = []
    pools: dict[str, Counts] = {}

    def add(counts: Counts, **where: Any) -> None:
        rows.extend(long_rows_of_counts(counts, point, experiment.model.scheme, round_=number, **where))

    for name, splits in found.items():
        test = splits.get("test", Counts.zero())
        add(test, site=name, role=roles[name], split="test")
        if PERSONAL in splits:
            add(splits[PERSONAL], site=name, role=roles[name], split=PERSONAL)
        pools[roles[name]] = pools.get(roles[name], Counts.zero()) + test
    for role, pool in pools.items():
        add(pool, role=role, split="test")
    return rows, answers.missing


def calibration_counts(found: Mapping[str, Mapping[str, Counts]], side: str = "") -> Counts:
    """Return the summed calibration counts of sites; with ``FLOOR`` the floor, of sites that merge theirs."""
    zero, name = Counts.zero(), "calibration"
    return sum((told.get(name + side, told.get(name, zero)) for told in found.values()), zero)


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
