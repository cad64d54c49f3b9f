"""A Ctrl-C ends a command, also one that Python drops on its way."""

from __future__ import annotations

import os
import signal

import pytest

from gpuqueue.dev.signals import stoppable


class Dropped:
    """As a client of Redis, whose ``__del__`` may run when the signal comes."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_python_drops_is_raised_again() -> None:
    passed = False
    with pytest.raises(KeyboardInterrupt), stoppable() as check_stop:
        check_stop()
        Dropped()
        passed = True
        check_stop()
    assert passed
