"""Objects of one kind, kept in sync by a list and a watch for as long as a caller asks for them.

For what is needed seldom: an idle leader follows its pods alone. A user who may not watch gets the
same by lists, one every few seconds.

Never here: what an object means. An object that is missing may still exist.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from gpuqueue.launchers.kubernetes.api.backoff import Backoff
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Expired, Forbidden
from gpuqueue.launchers.kubernetes.api.object_reader import PAGE
from gpuqueue.launchers.kubernetes.api.objects import Meta
from gpuqueue.launchers.kubernetes.api.watch import Watch
from gpuqueue.steps import Steps

logger = logging.getLogger(__name__)
#: Seconds for which the objects are followed after a caller has asked for them.
KEPT = 60.0
#: Seconds until a watch is renewed: it cannot end earlier if no caller asks any more.
WATCH_SECONDS = 60.0
#: Seconds between two lists where watches are not allowed, for each page; and for how long they
#: stay so.
POLL_EVERY, POLLED_FOR = 5.0, 600.0
#: Seconds after which the end of a watch is no failure.
HEALTHY_AFTER = 5.0


class Named(Protocol):
    """Any object of the API."""

    @property
    def metadata(self) -> Meta:
        """Its name, uid and version."""
        ...


T = TypeVar("T", bound=Named)


class Followed(Generic[T]):
    """Objects by a name that the caller chooses. Thread-safe.

    Args:
        kind: of the objects, for logs.
        list_all: returns all objects, and the version of the list.
        watch: returns a watch from a version on, of so many seconds.
        name_of: returns the name under which callers ask for an object.
    """

    def __init__(
        self,
        kind: str,
        list_all: Callable[[], tuple[list[T], str]],
        watch: Callable[[str, float], Watch[T]],
        name_of: Callable[[T], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kind = kind
        self._list_all = list_all
        self._watch = watch
        self._name_of = name_of
        self._clock = clock
        self._steps = Steps()
        self._lock = threading.Lock()
        self._run: _Run[T] | None = None
        self._wanted_until = 0.0

    def want(self) -> bool:
        """Follow the objects for a while from now on. Return whether a list has come, or cannot be
        had.
        """
        with self._lock:
            self._wanted_until = self._clock() + KEPT
            if self._run is None:
                self._run = run = _Run[T]()
                name = f"gpuqueue-{self._kind}"
                threading.Thread(target=self._follow, args=(run,), name=name, daemon=True).start()
            return self._run.listed or self._run.refused

    def known(self) -> bool:
        """Return whether a list has come: what is missing since then was missing then."""
        run = self._run
        return run is not None and run.listed

    def of(self, name: str) -> list[T]:
        """Return the objects of a name, in their latest state."""
        with self._lock:
            return list(self._run.objects.get(name, {}).values()) if self._run else []

    def stop(self) -> None:
        """Follow nothing, and forget all objects. Does not wait for the thread."""
        with self._lock:
            run, self._run = self._run, None
        if run is not None:
            run.stopped.set()
            if (watch := run.watch) is not None:
                watch.close()

    # -- the thread --------------------------------------------------------------------------------

    def _follow(self, run: _Run[T]) -> None:
        backoff = Backoff()
        while self._goes_on(run):
            wait = 0.0
            try:
                if not run.version:
                    self._relist(run)
                if self._clock() < run.polled_until:
                    run.version, wait = "", POLL_EVERY * run.pages
                elif self._watch_on(run):
                    backoff.reset()
                else:
                    wait = backoff.next()
            except Forbidden as exc:
                wait = self._forbidden(run, exc)
            except ApiError as exc:
                run.version, wait = "", backoff.next(exc.retry_after)
                if not isinstance(exc, Expired):
                    logger.info("%s: %s", self._kind, exc, extra={"action": "not_followed"})
            except Exception as exc:
                run.version, wait = "", backoff.next()
                self._steps.failed(self._kind, exc)
            else:
                self._steps.succeeded(self._kind)
            run.stopped.wait(wait)

    def _goes_on(self, run: _Run[T]) -> bool:
        with self._lock:
            if self._run is run and self._clock() >= self._wanted_until:
                self._run = None
            return self._run is run

    def _forbidden(self, run: _Run[T], exc: Forbidden) -> float:
        """Note what is not allowed; return the seconds until the next request."""
        if run.version:
            run.version, run.polled_until = "", self._clock() + POLLED_FOR
            logger.warning(
                "%s: %s; listed every %.0f s instead",
                self._kind,
                exc,
                POLL_EVERY,
                extra={"action": "polls"},
            )
        elif not run.refused:
            run.refused = True
            logger.warning("%s: %s", self._kind, exc, extra={"action": "not_followed"})
        return POLL_EVERY

    def _relist(self, run: _Run[T]) -> None:
        found, version = self._list_all()
        objects: dict[str, dict[str, T]] = {}
        for each in found:
            objects.setdefault(self._name_of(each), {})[each.metadata.uid] = each
        with self._lock:
            run.objects = objects
            run.listed, run.refused, run.version = True, False, version
            run.pages = max(1, math.ceil(len(found) / PAGE))

    def _watch_on(self, run: _Run[T]) -> bool:
        """Follow changes until the watch ends. Return whether it lasted."""
        began = self._clock()
        with self._watch(run.version, WATCH_SECONDS) as watch:
            run.watch = watch
            try:
                if run.stopped.is_set():
                    return True
                for event in watch:
                    if event.type != "BOOKMARK":
                        self._change(run, event.object, event.type == "DELETED")
                    run.version = event.object.metadata.resource_version
            finally:
                run.watch = None
        return self._clock() - began >= HEALTHY_AFTER

    def _change(self, run: _Run[T], changed: T, deleted: bool) -> None:
        name, uid = self._name_of(changed), changed.metadata.uid
        with self._lock:
            others = run.objects.setdefault(name, {})
            if deleted:
                others.pop(uid, None)
            else:
                others[uid] = changed
            if not others:
                del run.objects[name]


class _Run(Generic[T]):
    """The state between a start and a stop: a late thread cannot affect the next one."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.watch: Watch[T] | None = None
        self.objects: dict[str, dict[str, T]] = {}  # name → uid → object
        self.version = ""  # to watch from; "": list first
        self.listed = False
        self.refused = False  # whether even lists are not allowed
        self.polled_until = 0.0
        self.pages = 1  # of the last list: each is a request
