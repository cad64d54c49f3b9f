"""Reads one frame of ``gpuqueue top``, and frame after frame in a thread: a Redis that does not
answer stops neither the screen nor its keys.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis

from gpuqueue.cli.commands.status import collect
from gpuqueue.cli.view.state import State, open_state
from gpuqueue.cli.view.top import frame
from gpuqueue.errors import ServerUnreachable
from gpuqueue.store.passing import describe

#: Holders of one isolation of a class that are read: those that began first.
MOST_HELD = 500


def read(state: State, most: int, only: str | None = None) -> dict[str, Any]:
    """Return the data of a frame, from at most ``most`` waiting jobs of each line; of one class, if
    ``only`` names it.
    """
    status = collect(state, most, only=only, held=MOST_HELD)
    return {**frame(status), "only": only}


@dataclass(frozen=True, slots=True)
class News:
    """What is known now: the newest frame (None: none yet), why there is no newer one (empty: there
    is), when the frame was read (monotonic), and the error that ends it all.
    """

    found: dict[str, Any] | None = None
    problem: str = ""
    at: float = 0.0
    fatal: BaseException | None = None


class Feed:
    """Reads again and again; a context manager.

    Args:
        most: waiting jobs of each line to read.
        interval: seconds between two reads.
        only: the class to read; None: all.
        changed: called after each read, in the thread of the feed.
    """

    def __init__(
        self, most: int, interval: float, only: str | None, changed: Callable[[], None]
    ) -> None:
        self.news = News()
        self._most, self._interval, self._only = most, interval, only
        self._changed = changed
        self._state: State | None = None
        self._asked: float | None = None
        self._over = threading.Event()
        # A read that waits for Redis must not keep the process.
        self._thread = threading.Thread(target=self._run, name="top-feed", daemon=True)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def waits(self) -> float:
        """Return for how many seconds the present read has waited for Redis; 0: there is none."""
        asked = self._asked
        return 0.0 if asked is None else time.monotonic() - asked

    def _run(self) -> None:
        while not self._over.is_set():
            began = self._asked = time.monotonic()
            self.news = self._next()
            self._asked = None
            self._changed()
            if self.news.fatal is not None:
                return
            self._over.wait(max(0.0, self._interval - (time.monotonic() - began)))

    def _next(self) -> News:
        last = self.news
        try:
            if self._state is None:
                self._state = open_state()
            return News(read(self._state, self._most, self._only), "", time.monotonic())
        except ServerUnreachable as exc:
            return News(last.found, str(exc), last.at)
        except redis.RedisError as exc:
            # The next read asks for the layout again: it may be another server.
            if self._state is not None:
                with suppress(redis.RedisError):
                    self._state.client.close()
                self._state = None
            return News(last.found, f"Redis {describe(exc).problem}: {exc}", last.at)
        except Exception as exc:
            return News(last.found, "", last.at, exc)
