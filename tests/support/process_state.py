"""What test modules must leave as they found it: later ones run in the same process."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import _state, signals
from kombu.serialization import registry
from kombu.transport import redis as transport

#: Variables of the project, by how they begin. Libraries set others as they are imported.
OURS = ("GPUQUEUE_", "GPU_", "CELERY_", "T4_", "MIG_", "KUBE", "HOME", "PATH", "PYTHON")
#: Loggers whose level, handlers and flags count.
LOGGERS = ("", "celery", "celery.task", "gpuqueue", "kombu", "redis")


def seen() -> dict[str, object]:
    """Return each thing that must be as before, by its name in messages."""
    found: dict[str, object] = {
        f"os.environ[{name!r}]": value
        for name, value in os.environ.items()
        if name.startswith(OURS)
    }
    found |= {
        f"the handler of {each!r}": signal.getsignal(each)
        for each in signal.Signals
        if each is not signal.SIGALRM  # pytest-timeout has it
    }
    found |= {f"the logger {name!r}": _logger(name) for name in LOGGERS}
    found |= {
        f"celery.signals.{name}": _receivers(each)
        for name, each in vars(signals).items()
        if hasattr(each, "receivers")
    }
    return found | {
        "the working directory": Path.cwd(),
        "logging.disable": logging.root.manager.disable,
        "sys.excepthook": sys.excepthook,
        "threading.excepthook": threading.excepthook,
        "sys.getrecursionlimit()": sys.getrecursionlimit(),
        "socket.getdefaulttimeout()": socket.getdefaulttimeout(),
        "gc.isenabled()": gc.isenabled(),
        "what kombu refuses to read": sorted(registry._disabled_content_types),
    }


def _logger(name: str) -> object:
    logger = logging.getLogger(name)
    # pytest adds and removes its own.
    handlers = [each for each in logger.handlers if "_pytest" not in type(each).__module__]
    return logger.level, handlers, logger.propagate, logger.disabled


def _receivers(each: Any) -> int:
    """Count those that stay when their owner is dropped."""
    return sum(not isinstance(receiver, weakref.ref) for _, receiver in each.receivers or ())


def changes(before: dict[str, object]) -> list[str]:
    """Return what is not as before, in a line each."""
    now = seen()
    return [
        f"{name}: {before.get(name)!r} → {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


@contextmanager
def given_back(module: str) -> Iterator[None]:
    """Fail where a module leaves the process changed; give back what applications replace.

    An application that is made is Celery's current one, and an executor's has other channels.
    """
    kinds = (transport.Transport, transport.SentinelTransport)
    channels = [each.Channel for each in kinds]
    current = getattr(_state._tls, "current_app", None)
    before = seen()
    yield
    for each, channel in zip(kinds, channels, strict=True):
        each.Channel = channel
    _state._tls.current_app = current
    changed = changes(before)
    if changed:
        pytest.fail(
            "\n".join([f"{module} leaves changed in its process:", *changed]), pytrace=False
        )
