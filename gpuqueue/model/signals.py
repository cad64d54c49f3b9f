"""Signals as records name them: ``TERM``, ``KILL``, ``INT``. Pure."""

from __future__ import annotations

from signal import Signals
from typing import Any

from gpuqueue.errors import InvalidSignal, shown

TERM = "TERM"
#: Names without ``SIG``.
NAMES = frozenset(each.name.removeprefix("SIG") for each in Signals)


def is_signal(name: Any) -> bool:
    """Return whether a record can name this signal."""
    return isinstance(name, str) and name in NAMES


def parse_signal(signal: Any) -> str:
    """Return the name of a signal that a caller names (``TERM``, ``sigterm``) or numbers; that of
    SIGTERM for None. Raises :class:`InvalidSignal`.
    """
    if signal is None:
        return TERM
    if isinstance(signal, int) and not isinstance(signal, bool) and signal in _NUMBERS:
        return _NUMBERS[signal]
    if isinstance(signal, str) and (name := signal.upper().removeprefix("SIG")) in NAMES:
        return name
    raise InvalidSignal(
        f"signal={shown(signal, 40)} is no signal of this system; use a name, such as TERM or KILL"
    )


def number_of(name: Any) -> Signals | None:
    """Return the number of a signal that a record names, as Celery tells applications; None for
    anything else.
    """
    return Signals[f"SIG{name}"] if is_signal(name) else None


_NUMBERS = {int(each): each.name.removeprefix("SIG") for each in Signals}
