"""Stopping a command: every way of asking for it is Ctrl-C."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_is_ctrl_c() -> Iterator[None]:
    """Let SIGTERM (timeout, systemd, Slurm, a CI) and SIGINT raise KeyboardInterrupt while the context lasts.

    SIGINT as well: a shell starts what runs in the background with it ignored, and a person who sends it to
    such a command means it.
    """
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
