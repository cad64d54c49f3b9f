"""Imports that garbage collection does not slow down."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: A threshold of the collector that no import reaches; no application sets just this one.
_NEVER = 2_000_000_000, 10, 10


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the collector from an import: what that makes stays, and looking through it is a tenth
    of the time. Code that says itself when objects are collected is heard.
    """
    before = gc.get_threshold()
    gc.set_threshold(*_NEVER)
    try:
        yield
    finally:
        if gc.get_threshold() == _NEVER:
            gc.set_threshold(*before)
