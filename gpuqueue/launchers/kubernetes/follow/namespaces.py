"""The namespaces in use: that of the dispatcher, and those of its classes. Each has its follower.

The dispatcher's own decides whether a leader sees the cluster. What is unknown of another one
concerns the classes of that namespace only.
"""

from __future__ import annotations

import builtins
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from gpuqueue.launchers.base import LauncherUnavailable
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.follower import Follower
from gpuqueue.launchers.kubernetes.follow.jobs_elsewhere import JobsElsewhere
from gpuqueue.launchers.kubernetes.follow.pods import Pods
from gpuqueue.launchers.kubernetes.manifest.names import parse_instance
from gpuqueue.model.attempt import LiveAttempt
from gpuqueue.model.ends import End
from gpuqueue.steps import Steps

logger = logging.getLogger(__name__)


class Namespaces:
    """The followers of all namespaces in use, and the Jobs in namespaces of before.

    Args:
        api: the cluster, and the dispatcher's own namespace.
        classes: class → the namespace of its Jobs.
        follow: makes the follower of a namespace.
        elsewhere: finds the end of attempts in other namespaces.
    """

    def __init__(
        self,
        api: Requests,
        classes: Mapping[str, str],
        follow: Callable[[Requests], Follower],
        elsewhere: JobsElsewhere,
    ) -> None:
        self._classes = classes
        self._elsewhere = elsewhere
        self._steps = Steps()
        others = sorted(set(classes.values()) - {api.namespace})
        self._apis = {api.namespace: api} | {each: api.within(each) for each in others}
        self._own = follow(api)
        self._others = {each: follow(self._apis[each]) for each in others}
        self._followers = {api.namespace: self._own} | self._others
        self._behind: frozenset[str] = frozenset()
        self.sight = self._own.sight

    def api(self, namespace: str) -> Requests:
        """Return the requests to a namespace in use."""
        return self._apis[namespace]

    def within(self, namespace: str) -> tuple[Requests, Pods]:
        """Return the requests to a namespace in use, and its pods."""
        return self._apis[namespace], self._followers[namespace].pods

    # -- follow: see ``Follower`` ------------------------------------------------------------------

    def lead(self, leads: bool) -> None:
        """Start to follow the pods, or leave that to another dispatcher."""
        self._behind = frozenset()
        for each in self._followers.values():
            each.lead(leads)

    def end_of(self, instance: str) -> End | None:
        """Return how an instance ended. None: it runs, or its namespace is not known now. Raises
        :class:`LauncherUnavailable`.
        """
        parsed = parse_instance(instance)
        if parsed is None:
            return self._own.end_of(instance)
        follower = self._followers.get(parsed.namespace)
        if follower is None:
            return self._elsewhere.end_of(parsed)
        if follower is self._own:
            return follower.end_of(instance)
        try:
            return None if follower.is_behind else follower.end_of(instance)
        except LauncherUnavailable:
            return None

    def list(self) -> builtins.list[LiveAttempt]:
        """Return the attempts of all namespaces but those that are :attr:`unknown`. Raises
        :class:`LauncherUnavailable` if the dispatcher's own is.
        """
        found = self._own.list()
        behind: set[str] = set()
        for namespace, follower in self._others.items():
            if namespace in self._behind and follower.is_behind:  # no second wait for it
                behind.add(namespace)
                continue
            try:
                found += follower.list()
            except LauncherUnavailable as exc:
                behind.add(namespace)
                if namespace not in self._behind:
                    logger.warning(
                        "namespace %s: %s; its classes are not repaired",
                        namespace,
                        exc,
                        extra={"action": "namespace_unknown"},
                    )
        self._behind = frozenset(behind)
        return found

    @property
    def unknown(self) -> frozenset[str]:
        """The classes of which the last :meth:`list` has told nothing."""
        behind = self._behind
        return frozenset(name for name, each in self._classes.items() if each in behind)

    def check(self, now: float) -> None:
        """Check each namespace: see ``Follower.check``. What fails in one stops no other."""
        for namespace, follower in self._others.items():
            step = partial(follower.check, now)
            self._steps.run("launcher", step, None, job=f"namespace {namespace}")
        self._own.check(now)

    @property
    def silent(self) -> Mapping[tuple[str, str], int]:
        """(class, node) → attempts that hold a slot on a silent node."""
        count: Counter[tuple[str, str]] = Counter()
        for each in self._followers.values():
            count.update(each.silent)
        return count

    @property
    def elsewhere(self) -> Mapping[str, str]:
        """Class → the other cluster whose nodes are its domains."""
        found: dict[str, str] = {}
        for each in self._followers.values():
            found |= each.nodes.elsewhere
        return found

    # -- stop --------------------------------------------------------------------------------------

    def stop(self, instance: str) -> bool:
        """Delete the Job of an instance and its pod; return False if it is gone.

        A leader that does not know the pods stops none: one that has ended is still to be read.
        Raises :class:`LauncherUnavailable` and :class:`StopRefused`.
        """
        parsed = parse_instance(instance)
        follower = self._followers.get(parsed.namespace) if parsed else self._own
        if (follower or self._own).is_behind:
            raise LauncherUnavailable("its pod is not known yet")
        if parsed is None:
            return False
        if follower is None:
            return self._elsewhere.stop(parsed)
        follower.before_stop(parsed.job)
        return self.delete(parsed.namespace, parsed.job)

    def delete(self, namespace: str, job: str) -> bool:
        """Delete a Job in a namespace in use; return False if it is gone. Raises
        :class:`LauncherUnavailable` and :class:`StopRefused`.
        """
        try:
            return self._followers[namespace].delete(job)
        except ApiError as exc:
            raise LauncherUnavailable(str(exc)) from exc

    def close(self) -> None:
        """Stop following. Jobs go on, and another dispatcher follows them."""
        for each in self._followers.values():
            each.close()
