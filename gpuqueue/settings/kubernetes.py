"""Settings of dispatchers that launch Kubernetes Jobs, read from the environment.

Each field states its unit, default and reason. They are read only if GPU_EXECUTION_MODE=k8s_job.
GPUQUEUE_GRACE_SECONDS (also the grace period of pods) and GPUQUEUE_START_TIMEOUT (from the start of
the container until the executor has claimed its job) apply too.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gpuqueue.classes.kubernetes_fields import NO_SHM
from gpuqueue.model.kube_syntax import (
    CPU_FIX,
    MEMORY_FIX,
    NAMESPACE_FIX,
    amount,
    is_cpu,
    is_dns_label,
    is_label_key,
    is_label_value,
    is_memory,
    is_subdomain,
)
from gpuqueue.settings.dispatcher import read
from gpuqueue.settings.image_patterns import ImagePattern, parse_patterns
from gpuqueue.settings.redis import EnvironmentSettings

#: GPU_RUN_AS_USER where the platform assigns user IDs.
PLATFORM = "platform"
_DAY = 86_400
_LABEL_FIX = "use up to 63 letters, digits, '.', '_', '-'"


def _seconds(default: float, alias: str, least: float = 1) -> Any:
    return Field(default, ge=least, le=_DAY, validation_alias=alias)


def _assigned(user: object) -> object:
    return None if user == PLATFORM else user


class ClusterSettings(EnvironmentSettings):
    """Cluster settings for operators. Code uses the field name, the environment its alias."""

    job_namespace: str | None = Field(None, validation_alias="GPU_JOB_NAMESPACE")
    """Namespace of the Jobs, unless their class names one. Unset: the namespace of the dispatcher
    within a cluster, that of the kubeconfig context outside.
    """
    owner: str | None = Field(None, validation_alias="GPU_OWNER")
    """Name on every Job of this queue, shared by its dispatchers. Unset: the first dispatcher makes
    it of namespace, cluster and Redis URL, so that two queues never touch each other's Jobs, and
    Redis keeps it. Set it for a copy of a Redis that is to be another queue.
    """

    executor_image: str | None = Field(None, validation_alias="GPU_EXECUTOR_IMAGE")
    """Image of executors, with the application in it, if neither job nor class names one."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, validation_alias="GPU_IMAGE_PULL_POLICY"
    )
    """When nodes pull images. Unset: the default of Kubernetes, Always for the tag ``latest`` and
    IfNotPresent for others.
    """
    image_allow: str = Field("", validation_alias="GPU_IMAGE_ALLOW")
    """Images that jobs may name: patterns separated by commas, such as ``registry.example/team/*``.
    Unset: only configured images, since anyone who can send a message could otherwise run any
    program in the cluster.
    """
    executor_command: str = Field(
        "python3 -m gpuqueue.executor", validation_alias="GPU_EXECUTOR_COMMAND"
    )
    """Command of the executor container, split as by a shell. python3: not every image has
    ``python``.
    """
    secret_name: str = Field("gpuqueue", validation_alias="GPU_SECRET_NAME")
    """Name of the Secret with CELERY_BROKER_URL and, if used, CELERY_RESULT_BACKEND and
    GPUQUEUE_REDIS_URL.
    """

    job_ttl_seconds: int = Field(600, ge=0, le=7 * _DAY, validation_alias="GPU_JOB_TTL_SECONDS")
    """Seconds until an ended Job is deleted, once its end and its log are stored. 600: time to look
    at it, and lists stay short. A Job that no dispatcher has read stays for a day longer.
    """
    node_selector_key: str | None = Field(None, validation_alias="GPU_NODE_SELECTOR_KEY")
    """Label key of the nodes for all jobs. A class can add more labels (``node_selector``)."""
    node_selector_value: str | None = Field(None, validation_alias="GPU_NODE_SELECTOR_VALUE")
    """Value of the label GPU_NODE_SELECTOR_KEY."""
    cpu_request: str = Field("250m", validation_alias="GPU_CPU_REQUEST")
    """Cores that a job requests, unless its class sets ``cpu``. 250m: eight shared jobs fit on four
    cores, with room to spare.
    """
    memory_request: str = Field("1Gi", validation_alias="GPU_MEMORY_REQUEST")
    """Host memory that a job requests, unless its class sets ``host_memory``. 1Gi: eight shared
    jobs fit on a node of 16 GB.
    """
    memory_limit: str | None = Field(None, validation_alias="GPU_MEMORY_LIMIT")
    """Limit of host memory; a job above it ends as HOST_OOM. Unset: the memory of the node, since
    frameworks differ too much for a default.
    """
    shm_size: str = Field("8Gi", validation_alias="GPU_SHM_SIZE")
    """Size of /dev/shm, unless the class sets ``shm_size``; never above the memory limit of the
    job, which its content counts against. 8Gi: several loading processes with large batches;
    memory is used only as it is filled. 0: what the container runtime sets, mostly 64 MiB.
    """
    run_as_user: Annotated[int | None, BeforeValidator(_assigned)] = Field(
        1000,
        ge=1,
        le=2**31 - 1,
        validation_alias="GPU_RUN_AS_USER",
        json_schema_extra={"or": PLATFORM},
    )
    """User ID of containers. Pod Security "restricted" forbids root. 1000: the first user of most
    images. ``platform``: none is asked for, and the platform assigns one, as OpenShift does.
    """
    pod_template: Path | None = Field(None, validation_alias="GPUQUEUE_POD_TEMPLATE")
    """YAML or JSON file with a pod template for every pod: volumes, environment, priority."""

    service_mesh: Literal["off", "on"] = Field("off", validation_alias="GPU_SERVICE_MESH")
    """Whether service meshes (Istio, Linkerd, Consul, Kuma) may inject their proxy into pods. off:
    a proxy delays the start of a job, and may run on after its end.
    """

    launch_timeout: float = _seconds(600, "GPU_LAUNCH_TIMEOUT")
    """Seconds that a launch is retried while the API server does not answer, or creates no pod;
    then the slot is free, and the class is held. 600: the upgrade of a control plane.
    """
    quota_timeout: float = _seconds(60, "GPU_QUOTA_TIMEOUT")
    """Seconds that a Job waits for its pod while a quota or a policy refuses it; then its slot is
    free, and its class is held. 60: pods still count for some seconds after their end.
    """
    unschedulable_timeout: float = _seconds(600, "GPU_UNSCHEDULABLE_TIMEOUT")
    """Seconds that a pod may wait for a node, unless an autoscaler adds one; then its slot is free,
    and its class is held. 600: an autoscaler adds a GPU node, driver included, in 3 to 8 minutes.
    """
    node_silent_seconds: float = _seconds(60, "GPU_NODE_SILENT_SECONDS")
    """Seconds that a node may take to accept a pod that was assigned to it. After that, the node
    counts as silent: the attempt keeps its slot, and an alert fires. 60: a kubelet accepts a pod
    within a second, and Kubernetes calls a node silent after 40 to 50 s.
    """
    image_pull_timeout: float = _seconds(900, "GPU_IMAGE_PULL_TIMEOUT")
    """Seconds from scheduling to the start of the container, while no pull fails; then the slot is
    free, and jobs with this image are held. 900: 10 GB at 12 MB/s.
    """
    image_error_grace: float = _seconds(120, "GPU_IMAGE_ERROR_GRACE", least=0)
    """Seconds that pulls, or a network or volume of the node, may keep failing. A job that names an
    image that does not exist ends then; for other failures, jobs with this image are held. 120: a
    kubelet tries four times, after 0, 10, 30 and 70 s.
    """
    config_error_grace: float = _seconds(30, "GPU_CONFIG_ERROR_GRACE", least=0)
    """Seconds that a Secret, ConfigMap, volume or runtime may be missing; then the class is held.
    30: one applied at the same time exists by then.
    """
    held_timeout: Annotated[float, Field(ge=1, lt=float("inf"))] | Literal["never"] = Field(
        "never", validation_alias="GPU_HELD_TIMEOUT"
    )
    """Seconds that a job waits while its class or its image is held, until it fails; ``never``: it
    waits until the class goes on. A class can set its own (``held_timeout``). never: the cluster is
    at fault, not the job, and a job that must not wait has ``expires``.
    """
    terminating_timeout: float = _seconds(60, "GPU_TERMINATING_TIMEOUT")
    """Seconds beyond the grace period that a deleted pod may take to end. After that, ``why`` shows
    UNCONFIRMED and the slot stays taken. 60: Kubernetes marks a silent node after 40 to 50 s.
    """

    api_timeout: float = _seconds(10, "GPU_API_TIMEOUT", least=0.1)
    """Seconds for one response of the API server. 10: it responds in milliseconds or not at all."""
    watch_seconds: float = _seconds(300, "GPU_WATCH_SECONDS")
    """Seconds until a watch is renewed. 300: API servers end watches after 5 to 10 minutes."""
    watch_silence_seconds: float = _seconds(90, "GPU_WATCH_SILENCE_SECONDS")
    """Seconds without an event or bookmark until a watch counts as dead. 90: bookmarks come about
    once a minute.
    """
    pod_relist_seconds: float = _seconds(600, "GPU_POD_RELIST_SECONDS")
    """Seconds between full lists of the pods, in case a watch misses an event. 600: one request in
    ten minutes costs nothing.
    """
    log_tail_bytes: int = Field(16_384, ge=0, le=1_048_576, validation_alias="GPU_LOG_TAIL_BYTES")
    """Bytes kept in Redis from the end of a pod log. 16384: a traceback and some 150 lines before
    it.
    """

    def claim_within(self, start_timeout: float) -> float:
        """Return within how many seconds of its launch an attempt must be claimed, all waits
        included: the last resort, since each wait has a shorter clock. ``start_timeout``: seconds
        from the start of its container.
        """
        waits = self.launch_timeout, self.unschedulable_timeout, self.image_pull_timeout
        return sum(waits) + start_timeout

    @model_validator(mode="after")
    def _valid_for_kubernetes(self) -> ClusterSettings:
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        if self.job_namespace is not None and not is_dns_label(self.job_namespace):
            value = self.job_namespace
            yield f"GPU_JOB_NAMESPACE={value!r} is not a valid namespace name; {NAMESPACE_FIX}"
        if self.owner is not None and not is_label_value(self.owner):
            yield f"GPU_OWNER={self.owner!r} is not a valid label value; {_LABEL_FIX}"
        if not is_subdomain(self.secret_name):
            yield (
                f"GPU_SECRET_NAME={self.secret_name!r} is not a valid Secret name; use"
                " lower-case letters, digits, '.' and '-'"
            )
        if self.executor_image is not None and self.executor_image.split() != [self.executor_image]:
            yield (
                f"GPU_EXECUTOR_IMAGE={self.executor_image!r} is not an image reference; use e.g."
                " registry/name:tag"
            )
        for pattern in self.image_patterns:
            if pattern.problem:
                yield (
                    f"GPU_IMAGE_ALLOW: {pattern.text!r} {pattern.problem}; "
                    "use e.g. registry.example/team/*, or * alone for any image"
                )
        try:
            if not self.executor_words:
                yield (
                    "GPU_EXECUTOR_COMMAND is blank; unset it, or use e.g. 'python3 -m"
                    " gpuqueue.executor'"
                )
        except ValueError as exc:
            yield (
                f"GPU_EXECUTOR_COMMAND={self.executor_command!r} cannot be split into words: {exc};"
                " close the quote"
            )
        yield from self._selector_problems()
        yield from self._resource_problems()

    def _selector_problems(self) -> Iterator[str]:
        key, value = self.node_selector_key, self.node_selector_value
        if (key is None) != (value is None):
            yield (
                f"GPU_NODE_SELECTOR_KEY={key!r} and GPU_NODE_SELECTOR_VALUE={value!r} belong"
                " together; set both or neither"
            )
        elif key is not None and not is_label_key(key):
            yield (
                f"GPU_NODE_SELECTOR_KEY={key!r} is not a valid label key; use e.g."
                " nvidia.com/device-plugin.config"
            )
        elif value is not None and not is_label_value(value):
            yield f"GPU_NODE_SELECTOR_VALUE={value!r} is not a valid label value; {_LABEL_FIX}"

    def _resource_problems(self) -> Iterator[str]:
        if not is_cpu(self.cpu_request):
            yield f"GPU_CPU_REQUEST={self.cpu_request!r} is not a CPU quantity; {CPU_FIX}"
        sizes = {"GPU_MEMORY_REQUEST": self.memory_request, "GPU_MEMORY_LIMIT": self.memory_limit}
        wrong = [alias for alias, size in sizes.items() if size is not None and not is_memory(size)]
        for alias in wrong:
            yield f"{alias}={sizes[alias]!r} is not a memory quantity; {MEMORY_FIX}"
        if self.shm_size != NO_SHM and not is_memory(self.shm_size):
            yield (
                f"GPU_SHM_SIZE={self.shm_size!r} is not a memory quantity; {MEMORY_FIX}, or 0 for"
                " the size that the runtime sets"
            )
        request, limit = amount(self.memory_request), amount(self.memory_limit)
        if not wrong and request is not None and limit is not None and request > limit:
            yield (
                f"GPU_MEMORY_REQUEST={self.memory_request!r} exceeds"
                f" GPU_MEMORY_LIMIT={self.memory_limit!r}; request at most the limit"
            )

    @property
    def image_patterns(self) -> tuple[ImagePattern, ...]:
        """The patterns of images that jobs may name."""
        return parse_patterns(self.image_allow)

    @property
    def executor_words(self) -> list[str]:
        """The executor command, split into words."""
        return shlex.split(self.executor_command)

    @property
    def node_selector(self) -> dict[str, str]:
        """Node labels for all jobs."""
        return (
            {self.node_selector_key: self.node_selector_value}
            if self.node_selector_key and self.node_selector_value
            else {}
        )


def load_cluster(**overrides: Any) -> ClusterSettings:
    """Read the settings from the environment. Raises :class:`SettingsError` for wrong ones."""
    return read(ClusterSettings, **overrides)
