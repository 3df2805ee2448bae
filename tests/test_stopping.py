"""SIGINT and SIGTERM are Ctrl-C, also where a shell started the command with SIGINT ignored."""

import os
import signal

import pytest

from fedderm.cli.stopping import stop_is_ctrl_c


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_a_signal_that_was_ignored_stops_and_is_ignored_again_afterwards(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), stop_is_ctrl_c():
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_IGN
        os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)
