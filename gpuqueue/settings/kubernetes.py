"""Settings of dispatchers that launch Kubernetes Jobs, from the environment. Each says its unit,
default and reason.

Read only where GPU_EXECUTION_MODE=k8s_job. Beside them apply GPUQUEUE_GRACE_SECONDS (also the pods'
grace) and GPUQUEUE_START_TIMEOUT (from the container's start until the executor has claimed its
job).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gpuqueue.model.kube_syntax import (
    CPU_FIX,
    MEMORY_FIX,
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

_DAY = 86_400


def _seconds(default: float, alias: str, least: float = 1) -> Any:
    return Field(default, ge=least, le=_DAY, validation_alias=alias)


class ClusterSettings(BaseSettings):
    """What operators can set for a cluster. Fields are named in code as here, and in the
    environment by their alias.
    """

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True, env_ignore_empty=True)

    job_namespace: str | None = Field(None, validation_alias="GPU_JOB_NAMESPACE")
    """Where Jobs are made. Unset: the dispatcher's own namespace in a cluster, outside one the
    namespace of its context.
    """
    owner: str | None = Field(None, validation_alias="GPU_OWNER")
    """Whose Jobs these are; dispatchers of one queue share it. Unset: made of namespace, cluster
    and Redis address, so that two queues never touch each other's Jobs. To be set where dispatchers
    reach one Redis by several names."""

    executor_image: str | None = Field(None, validation_alias="GPU_EXECUTOR_IMAGE")
    """The image of executors, with the application in it, where neither job nor class names one."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, validation_alias="GPU_IMAGE_PULL_POLICY"
    )
    """When images are pulled. Unset: Kubernetes' own rule, always for the tag ``latest`` and else
    where absent.
    """
    image_allow: str = Field("", validation_alias="GPU_IMAGE_ALLOW")
    """Images that jobs may name, as patterns with commas (see image_patterns.py). Unset: only those
    that are configured, since whoever can send a message could run any program in the cluster."""
    executor_command: str = Field(
        "python3 -m gpuqueue.executor", validation_alias="GPU_EXECUTOR_COMMAND"
    )
    """What an executor's container runs, as a shell would split it. python3: not every image has
    ``python``.
    """
    secret_name: str = Field("gpuqueue", validation_alias="GPU_SECRET_NAME")
    """The Secret with CELERY_BROKER_URL and, where they are used, CELERY_RESULT_BACKEND and
    GPUQUEUE_REDIS_URL.
    """

    job_ttl_seconds: int = Field(600, ge=0, le=7 * _DAY, validation_alias="GPU_JOB_TTL_SECONDS")
    """Seconds that an ended Job stays. 600: dispatchers that are upgraded meanwhile still read its
    end, and lists stay short.
    """
    node_selector_key: str | None = Field(None, validation_alias="GPU_NODE_SELECTOR_KEY")
    """A label of the nodes that jobs run on, with its value below; classes may name more
    (``node_selector``).
    """
    node_selector_value: str | None = Field(None, validation_alias="GPU_NODE_SELECTOR_VALUE")
    cpu_request: str = Field("250m", validation_alias="GPU_CPU_REQUEST")
    """Cores that a job is promised, unless its class says so. 250m: eight shared jobs fit on four
    cores, with room to spare.
    """
    memory_request: str = Field("1Gi", validation_alias="GPU_MEMORY_REQUEST")
    """Host memory that a job is promised, unless its class says so. 1Gi: eight shared jobs fit on a
    node of 16 GB.
    """
    memory_limit: str | None = Field(None, validation_alias="GPU_MEMORY_LIMIT")
    """Host memory at which a job is killed as HOST_OOM. Unset: what the node has; frameworks' needs
    differ too much to guess.
    """
    run_as_user: int = Field(1000, ge=1, le=2**31 - 1, validation_alias="GPU_RUN_AS_USER")
    """The user id of containers: Pod Security "restricted" wants one that is not root. 1000: the
    first user of most images.
    """
    pod_template: Path | None = Field(None, validation_alias="GPUQUEUE_POD_TEMPLATE")
    """A pod template, as YAML or JSON, that is laid over every pod: volumes, environment, priority
    (see overlay_rules.py).
    """

    launch_timeout: float = _seconds(600, "GPU_LAUNCH_TIMEOUT")
    """Seconds that a launch is tried again while the API server does not take it. 600: a control
    plane's upgrade.
    """
    quota_timeout: float = _seconds(60, "GPU_QUOTA_TIMEOUT")
    """Seconds that a launch waits for the namespace's quota. 60: pods that just ended still count
    for some seconds.
    """
    unschedulable_timeout: float = _seconds(600, "GPU_UNSCHEDULABLE_TIMEOUT")
    """Seconds that a pod may find no node. 600: an autoscaler brings a GPU node, driver included,
    in 3 to 8 minutes.
    """
    image_pull_timeout: float = _seconds(900, "GPU_IMAGE_PULL_TIMEOUT")
    """Seconds from a node's being found to the container's start, while nothing fails. 900: 10 GB
    at 12 MB/s.
    """
    image_error_grace: float = _seconds(120, "GPU_IMAGE_ERROR_GRACE", least=0)
    """Seconds that pulling may go on failing. 120: a kubelet tries four times within it, after 0,
    10, 30 and 70 s.
    """
    config_error_grace: float = _seconds(30, "GPU_CONFIG_ERROR_GRACE", least=0)
    """Seconds that a Secret or ConfigMap may be missing. 30: one that is applied in the same moment
    is there by then.
    """
    terminating_timeout: float = _seconds(60, "GPU_TERMINATING_TIMEOUT")
    """Seconds beyond its grace that a deleted pod may take to end, before ``why`` says UNCONFIRMED;
    its slot stays taken. 60: a node is called silent after 40 to 50."""

    api_timeout: float = _seconds(10, "GPU_API_TIMEOUT", least=0.1)
    """Seconds for one answer of the API server. 10: it answers in milliseconds, or not at all."""
    watch_seconds: float = _seconds(300, "GPU_WATCH_SECONDS")
    """Seconds after which a watch is begun anew. 300: API servers end them after 5 to 10 minutes
    anyway.
    """
    watch_silence_seconds: float = _seconds(90, "GPU_WATCH_SILENCE_SECONDS")
    """Seconds without an event or bookmark until a watch is taken for dead. 90: bookmarks come
    about once a minute.
    """
    pod_relist_seconds: float = _seconds(600, "GPU_POD_RELIST_SECONDS")
    """Seconds between full lists of the pods: the net below the watch. 600: one request in ten
    minutes costs nothing.
    """
    log_tail_bytes: int = Field(16_384, ge=0, le=1_048_576, validation_alias="GPU_LOG_TAIL_BYTES")
    """Bytes of an ended pod's log that are kept in Redis. 16384: a traceback with some 150 lines
    before it.
    """

    @model_validator(mode="after")
    def _fit_for_kubernetes(self) -> ClusterSettings:
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        name_fix = "use up to 63 lower-case letters, digits and '-'"
        if self.job_namespace is not None and not is_dns_label(self.job_namespace):
            yield f"GPU_JOB_NAMESPACE={self.job_namespace!r} cannot name a namespace; {name_fix}"
        if self.owner is not None and not is_label_value(self.owner):
            yield (
                f"GPU_OWNER={self.owner!r} cannot be a label's value; use up to 63 letters, digits,"
                " '.', '_', '-'"
            )
        if not is_subdomain(self.secret_name):
            yield (
                f"GPU_SECRET_NAME={self.secret_name!r} cannot name a Secret; use lower-case"
                " letters, digits, '.' and '-'"
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
                    "write e.g. registry.example/team/*, or * alone for any image"
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
                f"GPU_NODE_SELECTOR_KEY={key!r} and GPU_NODE_SELECTOR_VALUE={value!r} need each"
                " other; set both or neither"
            )
        elif key is not None and not is_label_key(key):
            yield (
                f"GPU_NODE_SELECTOR_KEY={key!r} cannot be a label's key; use e.g."
                " nvidia.com/device-plugin.config"
            )
        elif value is not None and not is_label_value(value):
            yield (
                f"GPU_NODE_SELECTOR_VALUE={value!r} cannot be a label's value; use up to 63"
                " letters, digits, '.', '_', '-'"
            )

    def _resource_problems(self) -> Iterator[str]:
        if not is_cpu(self.cpu_request):
            yield f"GPU_CPU_REQUEST={self.cpu_request!r} is not a number of cores; {CPU_FIX}"
        sizes = {"GPU_MEMORY_REQUEST": self.memory_request, "GPU_MEMORY_LIMIT": self.memory_limit}
        wrong = [alias for alias, size in sizes.items() if size is not None and not is_memory(size)]
        for alias in wrong:
            yield f"{alias}={sizes[alias]!r} is not an amount of memory; {MEMORY_FIX}"
        request, limit = amount(self.memory_request), amount(self.memory_limit)
        if not wrong and request is not None and limit is not None and request > limit:
            yield (
                f"GPU_MEMORY_REQUEST={self.memory_request!r} is more than"
                f" GPU_MEMORY_LIMIT={self.memory_limit!r}; ask for no more than the limit"
            )

    @property
    def image_patterns(self) -> tuple[ImagePattern, ...]:
        """The images that jobs may name."""
        return parse_patterns(self.image_allow)

    @property
    def executor_words(self) -> list[str]:
        """The executor's command, word by word."""
        return shlex.split(self.executor_command)

    @property
    def node_selector(self) -> dict[str, str]:
        """Labels of the nodes that every job runs on."""
        return (
            {self.node_selector_key: self.node_selector_value}
            if self.node_selector_key and self.node_selector_value
            else {}
        )


def load_cluster(**overrides: Any) -> ClusterSettings:
    """Read the settings from the environment. Raises :class:`SettingsError` that names each wrong
    one.
    """
    return read(ClusterSettings, **overrides)
