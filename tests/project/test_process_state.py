"""A module that leaves its process changed fails, with what it left."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from celery import Celery, current_app, signals
from kombu.transport import redis as transport

from tests.support.process_state import given_back


def listen(**_: object) -> None:
    """A receiver."""


@contextmanager
def variable() -> Iterator[None]:
    os.environ["GPUQUEUE_LEFT"] = "1"
    yield
    del os.environ["GPUQUEUE_LEFT"]


@contextmanager
def folder() -> Iterator[None]:
    before = os.getcwd()  # noqa: PTH109
    os.chdir(os.sep)
    yield
    os.chdir(before)


@contextmanager
def level() -> Iterator[None]:
    logging.getLogger("gpuqueue").setLevel("DEBUG")
    yield
    logging.getLogger("gpuqueue").setLevel(logging.NOTSET)


@contextmanager
def receiver() -> Iterator[None]:
    signals.worker_ready.connect(listen, weak=False)
    yield
    signals.worker_ready.disconnect(listen)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (variable, r"it leaves changed in its process:\nos.environ\['GPUQUEUE_LEFT'\]: None → '1'"),
        (folder, "the working directory: "),
        (level, "the logger 'gpuqueue': "),
        (receiver, "celery.signals.worker_ready: 0 → 1"),
    ],
)
def test_what_a_module_leaves_is_named(change: Callable[..., object], words: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=words), given_back("it"):
        held = change()
        held.__enter__()  # type: ignore[attr-defined]
    held.__exit__(None, None, None)  # type: ignore[attr-defined]


def test_what_an_application_replaces_is_given_back() -> None:
    before = current_app._get_current_object(), transport.Transport.Channel
    with given_back("it"):
        Celery("made")
        transport.Transport.Channel = object
    assert (current_app._get_current_object(), transport.Transport.Channel) == before
