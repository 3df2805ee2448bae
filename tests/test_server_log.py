"""What Flower prints where a run ends: one sentence for what a person can mend, all of it for a fault."""

import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import RecordDict
from memory_grid import MemoryGrid, members, raising

from fedderm import config, server_app
from strategies.exchange import exchange, wait_for_nodes


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """Yield what Flower's logger prints meanwhile."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    server_app.log.addHandler(handler)
    yield text
    server_app.log.removeHandler(handler)


def ended(act: Callable[[], object]) -> None:
    """Log an app's end as Flower does."""
    try:
        act()
    except Exception as caught:
        server_app.log.error("%s raised an exception", "ServerApp", exc_info=caught)


def nobody() -> None:
    wait_for_nodes(MemoryGrid({}), 2, 0.0)


class Silent(MemoryGrid):
    """A grid whose sites never answer."""

    def _answer(self, *_: object) -> None:
        return


def stopped() -> None:
    asked = [(members(1)[0], RecordDict())]
    list(exchange(Silent({101: raising(ValueError())}), asked, "train", 9.0, should_stop=lambda: True))


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (nobody, "0 of 2 sites connected within 0 s; start the missing ones, or take them out of the config"),
        (stopped, "stopped while waiting for sites; the run can be resumed"),
        (lambda: config.load(Path("absent.yaml")), "absent.yaml"),
    ],
    ids=["quorum", "interrupted", "config"],
)
def test_a_sentence_is_printed_alone(printed: io.StringIO, act: Callable[[], object], expected: str) -> None:
    ended(act)
    assert expected in printed.getvalue()
    assert printed.getvalue().count("\n") == 1


def test_with_debugging_it_has_its_traceback(printed: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDDERM_DEBUG", "1")
    ended(nobody)
    assert "Traceback" in printed.getvalue()


@pytest.mark.parametrize("act", [lambda: {}["arrays"], lambda: np.zeros(2) + np.zeros(3)])
def test_a_fault_keeps_its_traceback(printed: io.StringIO, act: Callable[[], object]) -> None:
    ended(act)
    assert printed.getvalue().startswith("ServerApp raised an exception\nTraceback")
