"""FedProx on the server: it tells the sites mu and otherwise is FedAvg."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from memory_grid import MemoryGrid, f32, members, record, reply, values

from strategies.catalogue import build
from strategies.round_settings import RoundSettings
from strategies.rounds import train_round

SETTINGS = RoundSettings(deadline_s=10, quorum=1, fraction=1, seed=3, weighting="examples")


def quadratic_site(target: np.ndarray, examples: int):
    """Return a site that minimises ``1/2 ||w - target||^2 + mu/2 ||w - w_t||^2`` in closed form.

    The gradient ``(w - target) + mu (w - w_t)`` is zero at ``w = (target + mu w_t) / (1 + mu)``.
    """

    def answer(message: Message) -> RecordDict:
        mu = float(message.content["config"].get("proximal-mu", 0.0))
        start = message.content["arrays"]["w"].numpy()
        solution = ((target + mu * start) / (1 + mu)).astype(np.float32)
        return reply(record(w=solution), examples)

    return answer


def after_a_round(name: str, **parameters: float) -> ArrayRecord:
    sites = members(10, 30)
    answers = {101: quadratic_site(f32(8, 0), 10), 102: quadratic_site(f32(0, 16), 30)}
    strategy = build(name, **parameters)
    arrays = record(w=f32(4, 4))
    return train_round(strategy, MemoryGrid(answers), 1, arrays, ConfigRecord(), sites, SETTINGS).arrays


def test_mu_reaches_the_sites_and_holds_them_back() -> None:
    """With mu = 1, (target + w_t) / 2 = (6, 2) and (2, 10); (10 (6, 2) + 30 (2, 10)) / 40 = (3, 8)."""
    np.testing.assert_array_equal(values(after_a_round("fedprox", proximal_mu=1.0))["w"], f32(3, 8))


def test_mu_zero_gives_fedavgs_weights_exactly() -> None:
    fedavg = values(after_a_round("fedavg"))["w"]
    np.testing.assert_array_equal(fedavg, f32(2, 12))
    np.testing.assert_array_equal(values(after_a_round("fedprox", proximal_mu=0))["w"], fedavg)


def test_a_large_mu_leaves_the_model_where_it_was() -> None:
    np.testing.assert_allclose(values(after_a_round("fedprox", proximal_mu=1e6))["w"], f32(4, 4), rtol=1e-5)


@pytest.mark.parametrize("mu", [-0.1, np.nan, np.inf])
def test_mu_must_be_zero_or_above(mu: float) -> None:
    with pytest.raises(ValueError, match="proximal_mu must be zero or above"):
        build("fedprox", proximal_mu=mu)


def test_the_callers_config_is_left_alone() -> None:
    config = ConfigRecord({"experiment": "{}"})
    answers = {101: quadratic_site(f32(1), 5)}
    strategy = build("fedprox", proximal_mu=0.5)
    train_round(strategy, MemoryGrid(answers), 1, record(w=f32(0)), config, members(5), SETTINGS)
    assert dict(config) == {"experiment": "{}"}
