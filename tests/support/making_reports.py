"""How reports of pytest are made, and made ready to be sent."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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


def sendable(data: Any) -> Any:
    """Return the parts of a report with lone surrogates written out: xdist sends UTF-8 alone."""
    if isinstance(data, str):
        return data.encode(errors="backslashreplace").decode()
    if isinstance(data, dict):
        return {sendable(key): sendable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(map(sendable, data))
    return data
