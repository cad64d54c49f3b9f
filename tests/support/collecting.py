"""When Python may collect garbage in a test run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep finalizers out of a block that parses Python, as a report of pytest does.

    A collection within ``ast.parse`` may run a finalizer that parses too, such as one whose
    warning or traceback is shown.
    CPython 3.11 then raises ``SystemError: AST constructor recursion depth mismatch``.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
