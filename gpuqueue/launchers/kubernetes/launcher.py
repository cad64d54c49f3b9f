"""The Kubernetes launcher: one Job per attempt, whose pod shows its progress and end.

Every dispatcher launches; only the leader follows the pods and reports ends.
"""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable, Mapping

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.launchers.base import (
    CannotLaunch,
    LauncherUnavailable,
    LaunchLater,
    Observations,
    OnEnd,
)
from gpuqueue.launchers.kubernetes.api.errors import AlreadyExists, ApiError, Invalid, QuotaRejected
from gpuqueue.launchers.kubernetes.api.objects import Job
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.finisher_jobs import FinisherJobs
from gpuqueue.launchers.kubernetes.follow.follower import Follower
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
    parse_instance,
    record_of,
    selector,
)
from gpuqueue.launchers.kubernetes.manifest.warm import settings_name
from gpuqueue.model.attempt import LiveAttempt, RunningAttempt
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.ends import End
from gpuqueue.model.place import Site
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.model.record import Record, goes_on
from gpuqueue.settings.kubernetes import ClusterSettings


class KubernetesLauncher:
    """Starts attempts as Jobs, and follows their pods while this process leads.

    Args:
        api: the cluster and namespace.
        settings: clocks, images, resources.
        common: what all Jobs share.
        classes: the classes of this dispatcher, by name.
        on_end: called with each end, from the thread that follows the pods.
        observations: where observations are recorded.
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
    ) -> None:
        self.owner = common.owner
        images = {name: each.image or settings.executor_image for name, each in classes.items()}
        self.site = Site(
            application=common.app or "",
            images={name: image for name, image in images.items() if image},
            pods={n: settings_name(each, settings, common) for n, each in classes.items()},
        )
        # The last resort: each wait has a shorter clock.
        waits = (
            settings.launch_timeout,
            settings.unschedulable_timeout,
            settings.image_pull_timeout,
            common.start_timeout,
        )
        self.claim_within = sum(waits)
        self._api = api
        self._settings = settings
        self._common = common
        self._classes = classes
        self._closed = threading.Event()
        self._follower = Follower(api, self._selector(), settings, common, on_end, observations)
        self._finisher_jobs = FinisherJobs(
            api, self._follower.pods, classes, settings, common, self._closed
        )

    def _selector(self) -> str:
        classes = ",".join(sorted(label_value(name) for name in self._classes))
        return f"{selector(self.owner)},{CLASS} in ({classes})"

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
            self._api.create_job(manifest)
        except InvalidJob as exc:  # the settings changed since the job was accepted
            raise CannotLaunch(str(exc)) from exc
        except AlreadyExists:
            self._check_ours(name, record)
        except ApiError as exc:
            raise self._refused(exc) from exc
        return instance_of(self._common.namespace, name)

    def _check_ours(self, name: str, record: Record) -> None:
        """Raise unless the existing Job is the one of this attempt: a launch may be repeated.

        A stray Job of this owner, of an attempt with another token, is deleted first.
        """
        try:
            job = self._api.get_job(name)
        except ApiError as exc:
            raise self._refused(exc) from exc
        if job is None or job.metadata.deletion_timestamp is not None:
            raise self._later(f"Job {name} is being deleted", None)
        found = record_of(job.metadata.annotations or {})
        if found is None or found.get("owner") != self.owner:
            raise CannotLaunch(
                f"a Job {name} of another owner exists in namespace {self._common.namespace};"
                " delete it"
            )
        if found["token"] != record["token"] and goes_on(found) and _runs(job):
            raise self._later(f"Job {name} of an earlier state has gone on with another job", None)
        if found["token"] != record["token"]:
            try:
                self._api.delete_job(name)
            except ApiError as exc:
                raise self._refused(exc) from exc
            raise self._later(f"a stray Job {name} is being deleted", None)

    def _refused(self, exc: ApiError) -> CannotLaunch | LaunchLater:
        if isinstance(exc, QuotaRejected):
            limit = self._settings.quota_timeout
            return LaunchLater(
                str(exc), after=None, limit=limit, wait=WaitReason.QUOTA, reason=EndReason.QUOTA
            )
        if exc.passing:
            return self._later(str(exc), exc.retry_after)
        return CannotLaunch(
            str(exc), EndReason.BAD_SPEC if isinstance(exc, Invalid) else EndReason.INFRA
        )

    def _later(self, text: str, after: float | None) -> LaunchLater:
        limit = self._settings.launch_timeout
        return LaunchLater(
            text, after=after, limit=limit, wait=WaitReason.LAUNCH_REFUSED, reason=EndReason.INFRA
        )

    # -- stop --------------------------------------------------------------------------------------

    def stop(self, instance: str, signal: str) -> bool:
        """Delete the Job and its pod, for any ``signal``: SIGTERM, then SIGKILL after the grace."""
        parsed = parse_instance(instance)
        return parsed is not None and self._delete(parsed.job)

    def abandon(self, record: Record) -> bool:
        """Delete the Job of an unconfirmed launch; return True if there was none."""
        return "token" not in record or not self._delete(job_name(self.owner, record))

    def _delete(self, name: str) -> bool:
        try:
            existed = self._api.delete_job(name)
        except ApiError as exc:
            raise LauncherUnavailable(str(exc)) from exc
        self._follower.deleted(name)
        return existed

    # -- follow: see ``Follower`` ------------------------------------------------------------------

    def lead(self, leads: bool) -> None:
        """Start to follow the pods, or leave that to another dispatcher."""
        self._follower.lead(leads)

    def end_of(self, instance: str) -> End | None:
        """Return how an instance ended, from its pod, or from its Job if it has no pod."""
        return self._follower.end_of(instance)

    def list(self) -> builtins.list[LiveAttempt]:
        """Return every attempt whose pod has not ended, and those whose Job has no pod yet."""
        return self._follower.list()

    def watch(self, running: RunningAttempt) -> None:
        """Do nothing: the leader follows the pods of every dispatcher."""

    def check(self, now: float) -> None:
        """Record what attempts wait for, and give up those whose clock ran out."""
        self._follower.check(now)

    def finish(
        self, record: Record, finisher: str, timeout: float, wanted: Callable[[], bool]
    ) -> str:
        """Run the executor again, as a Job without a GPU: see ``FinisherJobs``."""
        return self._finisher_jobs.finish(record, finisher, timeout, wanted)

    def close(self) -> None:
        """Stop following. Jobs go on, and another dispatcher follows them."""
        self._closed.set()
        self._follower.close()


def _runs(job: Job) -> bool:
    return not any(each.status == "True" for each in job.status.conditions or ())
