"""What Flower prints where a run ends: one sentence for what a person can mend, all of it for a fault."""

import io
import logging
from collections.abc import Iterator

import pytest

from fedderm import server_app
from strategies.errors import Interrupted, QuorumLost


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """Yield what Flower's logger prints meanwhile."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    server_app.log.addHandler(handler)
    yield text
    server_app.log.removeHandler(handler)


def ended(error: Exception) -> None:
    """Log an app's end as Flower does."""
    try:
        raise error
    except Exception as caught:
        server_app.log.error("%s raised an exception", "ServerApp", exc_info=caught)


@pytest.mark.parametrize("kind", [QuorumLost, Interrupted, ValueError])
def test_a_sentence_is_printed_alone(printed: io.StringIO, kind: type[Exception]) -> None:
    ended(kind("round 3: 1 of 2 sites answered"))
    assert printed.getvalue() == "round 3: 1 of 2 sites answered\n"


def test_with_debugging_it_has_its_traceback(printed: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDDERM_DEBUG", "1")
    ended(QuorumLost("round 3"))
    assert "Traceback" in printed.getvalue()


def test_a_fault_keeps_its_traceback(printed: io.StringIO) -> None:
    ended(KeyError("arrays"))
    assert printed.getvalue().startswith("ServerApp raised an exception\nTraceback")
