"""Settings of the dispatcher and the command line, read from the environment.

Each field states its unit, default and reason. The executor reads none of these: the dispatcher
passes its environment (see ``gpuqueue.executor``), so application images need no pydantic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings

from gpuqueue.errors import SettingsError
from gpuqueue.model.log_sink import SinkAddress, parse_sink
from gpuqueue.model.usage import price_text
from gpuqueue.settings.redis import RedisSettings, named

S = TypeVar("S", bound=BaseSettings)


def _price(value: object) -> str | None:
    return None if value is None else price_text(value)


class Settings(RedisSettings):
    """Settings for operators. Code uses the field name, the environment its alias."""

    app: str | None = Field(None, validation_alias=named("GPUQUEUE_APP"))
    """The Celery application that executors load: the argument of ``celery -A``. Required in local
    mode; on Kubernetes, the image can set it instead.
    """
    cert_store: str | None = Field(None, validation_alias=named("GPUQUEUE_CERT_STORE"))
    """Directory or glob of PEM files: the certificates of the senders whose jobs dispatchers
    accept. Unset: only the applications verify signatures.
    """
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias=named("GPUQUEUE_LOG_LEVEL")
    )
    """Log level of executors."""
    execution_mode: Literal["local", "k8s_job"] = Field(
        "local", validation_alias=named("GPU_EXECUTION_MODE")
    )
    """How an attempt runs: ``local`` as a process of this machine, ``k8s_job`` as a Kubernetes
    Job.
    """
    start: Literal["fork", "spawn"] = Field("fork", validation_alias=named("GPUQUEUE_START"))
    """How a runner starts an executor: ``fork`` from its imported application, or ``spawn`` as a
    new process that imports it. ``fork`` spawns, too, where the import opens a GPU or starts
    threads. On Kubernetes, an image may set ``spawn`` for its
    pods.
    """
    runtime_dir: Path | None = Field(None, validation_alias=named("GPUQUEUE_RUNTIME_DIR"))
    """Directory of the runners of local mode. All dispatchers of one machine and user must have the
    same. Unset: ``gpuqueue`` in XDG_RUNTIME_DIR, else ``gpuqueue-UID`` in the directory for
    temporary files.
    """
    log_sink: str | None = Field(None, validation_alias=named("GPUQUEUE_LOG_SINK"))
    """Keeps whole logs: ``/DIRECTORY`` or ``s3://BUCKET/PREFIX``. Unset: only their ends."""

    t4_shared_slots: int = Field(8, ge=0, le=10_000, validation_alias=named("T4_SHARED_SLOTS"))
    """Shared jobs that the class ``t4`` runs at once. 8: the replicas of our time-slicing
    profile.
    """
    t4_exclusive_slots: int = Field(
        1, ge=0, le=10_000, validation_alias=named("T4_EXCLUSIVE_SLOTS")
    )
    """Exclusive jobs that the class ``t4`` runs at once. 1: one GPU. Without any slots,
    there is no class ``t4``.
    """
    t4_domain: Literal["class", "node", "device"] | None = Field(
        None, validation_alias=named("T4_DOMAIN")
    )
    """Where shared and exclusive jobs of ``t4`` must not meet: ``class``, all its GPUs together;
    ``node``, each node of the cluster; ``device``, each GPU of the machine. The slots are those of
    one. Unset: ``device`` where the class has several GPUs and T4_EXCLUSIVE_SLOTS is at most 1.
    """
    t4_scale_to: int | None = Field(None, ge=1, le=5_000, validation_alias=named("T4_SCALE_TO"))
    """How many nodes the class ``t4`` may have in all, those included that an autoscaler has not
    added yet (T4_DOMAIN=node). Unset: those that exist.
    """
    mig_total_slots: int = Field(0, ge=0, le=10_000, validation_alias=named("MIG_TOTAL_SLOTS"))
    """Slices of the MIG class that GPU_RESOURCE_NAME names. 0: no MIG class."""
    resource_name: str | None = Field(None, validation_alias=named("GPU_RESOURCE_NAME"))
    """The Kubernetes resource that a job requests. A MIG resource names the MIG class; any other
    replaces ``nvidia.com/gpu`` of the class ``t4``. Unset: nvidia.com/gpu, and no MIG class.
    """
    classes_file: Path | None = Field(None, validation_alias=named("GPUQUEUE_CLASSES_FILE"))
    """TOML file with more classes. They replace those of the same name."""
    tenants_file: Path | None = Field(None, validation_alias=named("GPUQUEUE_TENANTS_FILE"))
    """Rules of tenants, as TOML."""
    exclusive_patience: int = Field(
        8, ge=1, le=1_000_000, validation_alias=named("GPUQUEUE_EXCLUSIVE_PATIENCE")
    )
    """K: number of later shared jobs that may overtake the first waiting exclusive job. 8: one full
    round of shared slots.
    """
    shared_patience: int = Field(
        1, ge=1, le=1_000_000, validation_alias=named("GPUQUEUE_SHARED_PATIENCE")
    )
    """M: number of exclusive jobs that may start in a row while shared jobs wait. 1: they take
    turns.
    """

    warm_seconds: float = Field(0, ge=0, le=86_400, validation_alias=named("GPUQUEUE_WARM_SECONDS"))
    """Kubernetes: seconds that the pod of a job may wait for another job that fits it, unless the
    job says otherwise (`gpu(..., warm=…)`). 0: each job has its own pod.
    """
    warm_jobs: int = Field(100, ge=1, le=1_000_000, validation_alias=named("GPUQUEUE_WARM_JOBS"))
    """How many jobs such a pod runs at most. 100: what an application leaks stays small."""
    warm_age: float = Field(
        3600, ge=1, le=604_800, validation_alias=named("GPUQUEUE_WARM_AGE_SECONDS")
    )
    """Seconds after its start in which such a pod takes jobs. 3600: after an hour, each has seen a
    changed ConfigMap.
    """

    price_per_hour: Annotated[str | None, BeforeValidator(_price)] = Field(
        None, validation_alias=named("GPUQUEUE_PRICE_PER_HOUR")
    )
    """What one domain of a class costs per hour, unless its table says that. Unset: nothing."""
    usage_entries: int = Field(
        10_000, ge=100, le=1_000_000, validation_alias=named("GPUQUEUE_USAGE_ENTRIES")
    )
    """Attempts of each class that `gpuqueue usage` knows one by one, beside the sums by day."""

    states: Literal["all", "celery"] = Field("all", validation_alias=named("GPUQUEUE_STATES"))
    """States that callers see before a result. ``all``: QUEUED, DISPATCHED and STARTED, too.
    ``celery``: those of a Celery worker, with STARTED for tasks that have ``track_started``.
    """
    max_attempts: int = Field(3, ge=1, le=100, validation_alias=named("GPUQUEUE_MAX_ATTEMPTS"))
    """Attempts at one delivery when the infrastructure is at fault."""
    max_disruptions: int = Field(
        50, ge=0, le=10_000, validation_alias=named("GPUQUEUE_MAX_DISRUPTIONS")
    )
    """Evictions, preemptions and lost nodes that use up no attempt. 50: days on moving nodes."""
    grace_seconds: float = Field(
        10, ge=0, le=3600, validation_alias=named("GPUQUEUE_GRACE_SECONDS")
    )
    """Seconds between SIGTERM and SIGKILL when a job is stopped. 10: time to write a checkpoint.
    """
    start_timeout: float = Field(
        120, gt=0, le=86_400, validation_alias=named("GPUQUEUE_START_TIMEOUT")
    )
    """Seconds from the start of the process or container until the executor must have claimed its
    job. 120: pulling Python and its packages from a cold disk.
    """
    load_timeout: float | None = Field(
        None, gt=0, le=86_400, validation_alias=named("GPUQUEUE_LOAD_TIMEOUT")
    )
    """Seconds from the claim of a job until its application must be loaded; else a new attempt
    follows. Unset: GPUQUEUE_START_TIMEOUT.
    """
    lease_seconds: float = Field(3, ge=0.5, le=60, validation_alias=named("GPUQUEUE_LEASE_SECONDS"))
    """Seconds without a sign of the leader until another dispatcher takes over. 3: measured
    fail-over of 2.9 s.
    """
    tick_seconds: float = Field(1, ge=0.05, le=60, validation_alias=named("GPUQUEUE_TICK_SECONDS"))
    """Longest sleep of the watcher loop, in seconds. An event or an earlier deadline wakes it."""
    relist_seconds: float = Field(
        2, ge=0.1, le=600, validation_alias=named("GPUQUEUE_RELIST_SECONDS")
    )
    """Seconds between two comparisons of all slot holders with the attempts that really run."""
    repair_seconds: float = Field(
        5, ge=0.5, le=600, validation_alias=named("GPUQUEUE_REPAIR_SECONDS")
    )
    """Seconds until an unfinished step counts as abandoned and another process repeats it."""
    finish_seconds: float = Field(
        15, ge=1, le=600, validation_alias=named("GPUQUEUE_FINISH_SECONDS")
    )
    """Seconds that a dispatcher may take to finish a job before another one may repeat the finish.
    15: Redis may be slow.
    """
    finish_timeout: float = Field(
        120, gt=0, le=86_400, validation_alias=named("GPUQUEUE_FINISH_TIMEOUT")
    )
    """Seconds that an application may take to finish a job in place of its executor. On Kubernetes,
    from the start of the container.
    """
    finish_tries: int = Field(3, ge=1, le=100, validation_alias=named("GPUQUEUE_FINISH_TRIES"))
    """How often an application may fail to do so, until the dispatcher writes the result alone."""
    leave_seconds: float = Field(30, ge=1, le=600, validation_alias=named("GPUQUEUE_LEAVE_SECONDS"))
    """Seconds from SIGTERM until a dispatcher exits, even with open work. Must be shorter than
    the grace period of its pod. 30: pending launches take 10 s if the API server does not respond.
    """
    host_silent_seconds: float = Field(
        60, ge=1, le=3600, validation_alias=named("GPUQUEUE_HOST_SILENT_SECONDS")
    )
    """Seconds without a sign of any dispatcher on a host until its local jobs count as lost. 60: a
    restarted dispatcher finds its jobs again.
    """
    tombstone_seconds: float = Field(
        86_400, ge=60, validation_alias=named("GPUQUEUE_TOMBSTONE_SECONDS")
    )
    """Seconds that the record of an ended job is kept, to recognize another copy of its message.
    Must exceed ``GPUQUEUE_VISIBILITY_SECONDS``.
    """
    visibility_seconds: int = Field(
        60, ge=1, le=3600, validation_alias=named("GPUQUEUE_VISIBILITY_SECONDS")
    )
    """Seconds for which a dispatcher may hold a message that it has not accepted yet. Then another
    one takes it. 60: accepting takes milliseconds.
    """
    metrics_port: int = Field(
        9464, ge=0, le=65_535, validation_alias=named("GPUQUEUE_METRICS_PORT")
    )
    """Port for /metrics, /healthz and /readyz; 0 disables it. If unset and the port is in use,
    a warning is logged and nothing is served. 9464: the
    Prometheus port for exporters within applications.
    """
    metrics_host: str | None = Field(None, validation_alias=named("GPUQUEUE_METRICS_HOST"))
    """Address that the metrics port binds to. Unset: all addresses in mode k8s_job, 127.0.0.1 in
    mode local.
    """
    launch_threads: int = Field(8, ge=1, le=256, validation_alias=named("GPUQUEUE_LAUNCH_THREADS"))
    """Launches that one dispatcher runs in parallel."""
    devices: str | None = Field(None, validation_alias=named("GPUQUEUE_DEVICES"))
    """GPUs for local jobs: indexes or UUIDs separated by commas, or ``none``. Unset: every GPU that
    NVML finds.
    """

    @model_validator(mode="after")
    def _valid_sink(self) -> Self:
        _ = self.sink
        return self

    @property
    def sink(self) -> SinkAddress | None:
        """Where whole logs are kept."""
        return parse_sink(self.log_sink) if self.log_sink else None

    @property
    def metrics_address(self) -> str:
        """The address to bind for /metrics; empty: all addresses."""
        if self.metrics_host is not None:
            return self.metrics_host
        return "127.0.0.1" if self.execution_mode == "local" else ""


def load(**overrides: Any) -> Settings:
    """Read the settings from the environment. Raises :class:`SettingsError` for wrong ones."""
    return read(Settings, **overrides)


def read(kind: type[S], **overrides: Any) -> S:
    """Read one settings class from the environment.

    Raises :class:`SettingsError` with every wrong value.
    """
    try:
        return kind(**overrides)
    except ValidationError as exc:
        raise SettingsError("; ".join(_explain(error) for error in exc.errors())) from None


def _explain(error: Any) -> str:
    if not error["loc"]:
        return str(error["ctx"]["error"])
    if error["type"] == "value_error":  # of one of our checks: with the fix
        return f"{error['loc'][0]}={error['input']!r} {error['ctx']['error']}"
    return (
        f"{error['loc'][0]}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}; set"
        " a valid value or unset it"
    )
