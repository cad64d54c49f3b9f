"""A signal that does not exist is refused where it enters."""

from __future__ import annotations

from signal import Signals
from typing import Any

import pytest

from gpuqueue.errors import InvalidSignal
from gpuqueue.model.signals import is_signal, number_of, parse_signal


@pytest.mark.parametrize(
    ("given", "name"),
    [(None, "TERM"), ("TERM", "TERM"), ("sigkill", "KILL"), ("SIGINT", "INT"), (9, "KILL")],
)
def test_a_signal_has_one_name(given: Any, name: str) -> None:
    assert parse_signal(given) == name
    assert is_signal(name)
    assert number_of(name) is Signals[f"SIG{name}"]


def repr_of(given: Any) -> str:
    return "large" if isinstance(given, int) and given > 100 else repr(given)


@pytest.mark.parametrize(
    "given",
    [
        *("NONSENSE", "", "SIG", "15", "TERM ", "SIG_DFL", "é", "\0", 0, 99, -9, 10**5000),
        *(True, False, 9.0, float("nan"), [], ["TERM"], {}, b"TERM"),
    ],
    ids=repr_of,
)
def test_what_is_no_signal_is_refused(given: Any) -> None:
    with pytest.raises(InvalidSignal, match="is no signal of this system; use a name"):
        parse_signal(given)
    assert not is_signal(given)
    assert number_of(given) is None
