"""The Kubernetes launcher: one Job per attempt, whose pod shows its progress and end.

Every dispatcher launches; only the leader follows the pods and reports ends.
"""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable, Collection, Mapping

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.launchers.base import (
    CannotLaunch,
    LaunchHeld,
    LaunchLater,
    LogSource,
    Observations,
    OnEnd,
    WholeLogs,
)
from gpuqueue.launchers.kubernetes.api.errors import AlreadyExists, ApiError
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.finisher_jobs import FinisherJobs
from gpuqueue.launchers.kubernetes.follow.follower import Follower
from gpuqueue.launchers.kubernetes.follow.jobs_elsewhere import JobsElsewhere
from gpuqueue.launchers.kubernetes.follow.log_source import find as find_log
from gpuqueue.launchers.kubernetes.follow.namespaces import Namespaces
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.images import check_image, image_of
from gpuqueue.launchers.kubernetes.manifest.job import (
    attempt_manifest,
    container_manifest,
)
from gpuqueue.launchers.kubernetes.manifest.names import (
    CLASS,
    instance_of,
    job_name,
    label_value,
    record_of,
    selector,
)
from gpuqueue.launchers.kubernetes.manifest.warm import settings_name
from gpuqueue.launchers.kubernetes.status.refusals import is_own_fault, kind_of_refusal
from gpuqueue.model.attempt import LiveAttempt, RunningAttempt
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.ends import End
from gpuqueue.model.kube_syntax import NEVER
from gpuqueue.model.place import Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record, goes_on
from gpuqueue.settings.classes import of_class
from gpuqueue.settings.kubernetes import ClusterSettings


class KubernetesLauncher:
    """Starts attempts as Jobs, and follows their pods while this process leads.

    Args:
        api: the cluster, and the namespace of classes that name none.
        settings: clocks, images, resources.
        common: what all Jobs share.
        classes: the classes of this dispatcher, by name.
        on_end: called with each end, from the thread that follows the pods.
        observations: where observations are recorded.
        whole_logs: takes whole logs; None: nothing does.
    """

    #: They only wait for pods, and use no CPU of this machine.
    finishers = 16

    def __init__(
        self,
        api: Requests,
        settings: ClusterSettings,
        common: ManifestContext,
        classes: Mapping[str, GpuClass],
        on_end: OnEnd,
        observations: Observations,
        whole_logs: WholeLogs | None = None,
    ) -> None:
        self.owner = common.owner
        images = {name: each.image or settings.executor_image for name, each in classes.items()}
        self.site = Site(
            application=common.app or "",
            images={name: image for name, image in images.items() if image},
            pods={n: settings_name(each, settings, common) for n, each in classes.items()},
            held=_limits_of_holds(classes, settings),
        )
        self.claim_within = max(
            of_class(settings, each).claim_within(each.start_timeout or common.start_timeout)
            for each in (GpuClass(""), *classes.values())
        )
        self._api = api
        self._settings = settings
        self._common = common
        self._classes = classes
        self._closed = threading.Event()
        self._namespaces = Namespaces(
            api,
            {name: each.namespace or api.namespace for name, each in classes.items()},
            # Each has all classes: the Jobs of a class may be where it was before.
            lambda within: Follower(
                *(within, self._selector(), settings, common, on_end, observations, classes),
                whole_logs=whole_logs,
            ),
            JobsElsewhere(api, observations, self.claim_within, settings.log_tail_bytes),
        )
        self._finisher_jobs = FinisherJobs(
            self._namespaces.within, classes, settings, common, self._closed
        )

    def _selector(self) -> str:
        classes = ",".join(sorted(label_value(name) for name in self._classes))
        return f"{selector(self.owner)},{CLASS} in ({classes})"

    def find_log(self, where: Mapping[str, str]) -> LogSource | None:
        """Return the source of a log: see :data:`gpuqueue.launchers.base.FindLog`."""
        return find_log(self._api, self.owner, where)

    # -- launch ------------------------------------------------------------------------------------

    def check_job(self, record: Record, gpu_class: GpuClass) -> None:
        """Refuse a job whose image is not allowed or not set."""
        image = record.get("image")
        if image is not None:
            check_image(image, self._settings, gpu_class)
        elif record["task"] != CONTAINER_TASK:
            image_of(None, gpu_class, self._settings)

    def start(self, record: Record) -> str:
        """Create the attempt's Job; see :class:`gpuqueue.launchers.base.Launcher`."""
        gpu_class = self._classes.get(record["gpu_class"])
        if gpu_class is None:
            raise CannotLaunch(
                f"class {record['gpu_class']!r} is not configured here", EndReason.INFRA
            )
        build = container_manifest if record["task"] == CONTAINER_TASK else attempt_manifest
        try:
            manifest = build(record, gpu_class, self._settings, self._common)
            name: str = manifest["metadata"]["name"]
            namespace: str = manifest["metadata"]["namespace"]
            api = self._namespaces.api(namespace)
            api.create_job(manifest)
        except InvalidJob as exc:  # the settings changed since the job was accepted
            raise CannotLaunch(str(exc)) from exc
        except AlreadyExists:
            self._check_ours(api, name, record)
        except ApiError as exc:
            raise self._refused(exc, record) from exc
        return instance_of(namespace, name)

    def _check_ours(self, api: Requests, name: str, record: Record) -> None:
        """Raise unless the existing Job is the one of this attempt: a launch may be repeated.

        A stray Job of this owner, of an attempt with another token, is deleted first.
        """
        try:
            job = api.get_job(name)
        except ApiError as exc:
            raise self._later(str(exc), exc.retry_after) from exc
        if job is None or job.metadata.deletion_timestamp is not None:
            raise self._later(f"Job {name} is being deleted", None)
        found = record_of(job.metadata.annotations or {})
        if found is None or found.get("owner") != self.owner:
            raise CannotLaunch(
                f"a Job {name} of another owner exists in namespace {api.namespace}; delete it"
            )
        if found["token"] != record["token"] and goes_on(found) and not job.status.ended:
            raise self._later(f"Job {name} of an earlier state has gone on with another job", None)
        if found["token"] != record["token"]:
            try:
                api.delete_job(name)
            except ApiError as exc:
                raise self._later(str(exc), exc.retry_after) from exc
            raise self._later(f"a stray Job {name} is being deleted", None)

    def _refused(self, exc: ApiError, record: Record) -> CannotLaunch | LaunchHeld | LaunchLater:
        """Return what a refused creation means: for the job alone, or for every job of the class.

        Only a server that does not answer, or asks for time, may have created the Job.
        """
        if is_own_fault(exc.status, exc.fields, record, denied=exc.denied):
            return CannotLaunch(str(exc), EndReason.BAD_SPEC)
        if not exc.refused:
            return self._later(str(exc), exc.retry_after)
        return LaunchHeld(str(exc), kind_of_refusal(str(exc)))

    def _later(self, text: str, after: float | None) -> LaunchLater:
        return LaunchLater(text, after=after, limit=self._settings.launch_timeout)

    # -- stop --------------------------------------------------------------------------------------

    def stop(self, instance: str, signal: str) -> bool:
        """Delete the Job and its pod, for any ``signal``: SIGTERM, then SIGKILL after the grace.

        See ``Namespaces.stop``.
        """
        return self._namespaces.stop(instance)

    def abandon(self, record: Record) -> bool:
        """Delete the Job of an unconfirmed launch; return True if there was none."""
        if "token" not in record:
            return True
        gpu_class = self._classes.get(record["gpu_class"]) or GpuClass(record["gpu_class"])
        namespace = self._common.of_class(gpu_class).namespace
        return not self._namespaces.delete(namespace, job_name(self.owner, record))

    # -- follow: see ``Namespaces`` ----------------------------------------------------------------

    def lead(self, leads: bool) -> None:
        """Start to follow the pods, or leave that to another dispatcher."""
        self._namespaces.lead(leads)

    def look(self) -> bool:
        """Return whether the API lets this process list the pods now."""
        return self._namespaces.sight.look()

    def unseen(self) -> float:
        """Return the age of the API's last good answer on pods; 0 while nothing asks for it."""
        return self._namespaces.sight.age()

    def end_of(self, instance: str) -> End | None:
        """Return how an instance ended, from its pod, or from its Job if it has no pod."""
        return self._namespaces.end_of(instance)

    def list(self) -> builtins.list[LiveAttempt]:
        """Return every attempt whose pod has not ended, and those whose Job has no pod yet."""
        return self._namespaces.list()

    @property
    def unknown(self) -> Collection[str]:
        """Classes in namespaces of which the last :meth:`list` has told nothing."""
        return self._namespaces.unknown

    def watch(self, running: RunningAttempt) -> None:
        """Do nothing: the leader follows the pods of every dispatcher."""

    @property
    def silent(self) -> Mapping[tuple[str, str], int]:
        """(class, node) → attempts that hold a slot on a silent node."""
        return self._namespaces.silent

    @property
    def elsewhere(self) -> Mapping[str, str]:
        """Class → the other cluster whose nodes are its domains."""
        return self._namespaces.elsewhere

    def check(self, now: float) -> None:
        """Record what attempts wait for, and give up those whose clock ran out."""
        self._namespaces.check(now)

    def finish(
        self, record: Record, finisher: str, timeout: float, wanted: Callable[[], bool]
    ) -> str:
        """Run the executor again, as a Job without a GPU: see ``FinisherJobs``."""
        return self._finisher_jobs.finish(record, finisher, timeout, wanted)

    def close(self) -> None:
        """Stop following. Jobs go on, and another dispatcher follows them."""
        self._closed.set()
        self._namespaces.close()


def _limits_of_holds(
    classes: Mapping[str, GpuClass], settings: ClusterSettings
) -> dict[str, float]:
    limits = {name: each.held_timeout or settings.held_timeout for name, each in classes.items()}
    return {name: float(limit) for name, limit in limits.items() if limit != NEVER}
