"""Settings of dispatchers and of the command line, from the environment. Each says its unit,
default and reason.

The executor does not read these: it is told all it needs by the dispatcher (see executor.py), so
that application images need no pydantic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import AliasChoices, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gpuqueue.errors import SettingsError
from gpuqueue.model.redis_url import mask, tls_problems, unix

S = TypeVar("S", bound=BaseSettings)


def _env(*names: str) -> AliasChoices:
    return AliasChoices(*names)


class Settings(BaseSettings):
    """What operators can set. Fields are named in code as here, and in the environment by their
    alias.
    """

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True, env_ignore_empty=True)

    broker_url: str | None = Field(None, validation_alias=_env("CELERY_BROKER_URL"))
    """Celery's broker: Redis. The queue's own state lives there too unless GPUQUEUE_REDIS_URL says
    otherwise.
    """
    result_backend: str | None = Field(None, validation_alias=_env("CELERY_RESULT_BACKEND"))
    """Celery's result backend; the broker when unset. It must be the one that the applications use.
    """
    state_url: str | None = Field(None, validation_alias=_env("GPUQUEUE_REDIS_URL"))
    """Where the queue's own state lives, when that is not the broker's Redis."""
    app: str | None = Field(None, validation_alias=_env("GPUQUEUE_APP"))
    """The application that executors load: what follows ``celery -A``."""
    cert_store: str | None = Field(None, validation_alias=_env("GPUQUEUE_CERT_STORE"))
    """PEM files with the certificates of those who may send jobs, as a folder or glob; unset:
    applications alone verify.
    """
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias=_env("GPUQUEUE_LOG_LEVEL")
    )
    """What executors log."""
    execution_mode: Literal["local", "k8s_job"] = Field(
        "local", validation_alias=_env("GPU_EXECUTION_MODE")
    )

    t4_shared_slots: int = Field(8, ge=0, le=10_000, validation_alias=_env("T4_SHARED_SLOTS"))
    """Shared jobs at once on the class ``t4``. 8: the replicas of the time-slicing profile that we
    deploy.
    """
    t4_exclusive_slots: int = Field(1, ge=0, le=10_000, validation_alias=_env("T4_EXCLUSIVE_SLOTS"))
    mig_total_slots: int = Field(0, ge=0, le=10_000, validation_alias=_env("MIG_TOTAL_SLOTS"))
    """Slices of the MIG class that GPU_RESOURCE_NAME names; 0: there is none."""
    resource_name: str | None = Field(None, validation_alias=_env("GPU_RESOURCE_NAME"))
    """The resource a job requests: of the class ``t4`` (default nvidia.com/gpu), or of the MIG
    class.
    """
    classes_file: Path | None = Field(None, validation_alias=_env("GPUQUEUE_CLASSES_FILE"))
    """More classes, as TOML: see docs/GPU_QUEUE.md."""
    exclusive_patience: int = Field(
        8, ge=1, le=1_000_000, validation_alias=_env("GPUQUEUE_EXCLUSIVE_PATIENCE")
    )
    """K: later shared jobs that may overtake the first waiting exclusive job. 8: one full round of
    shared slots.
    """
    shared_patience: int = Field(
        1, ge=1, le=1_000_000, validation_alias=_env("GPUQUEUE_SHARED_PATIENCE")
    )
    """M: exclusive jobs that may start in a row while shared ones wait. 1: they take turns."""

    max_attempts: int = Field(3, ge=1, le=100, validation_alias=_env("GPUQUEUE_MAX_ATTEMPTS"))
    """Attempts at one delivery when the infrastructure is at fault."""
    grace_seconds: float = Field(10, ge=0, le=3600, validation_alias=_env("GPUQUEUE_GRACE_SECONDS"))
    """Between SIGTERM and SIGKILL of a job that is stopped. 10: time to write a checkpoint, as
    `docker stop` gives.
    """
    start_timeout: float = Field(
        120, gt=0, le=86_400, validation_alias=_env("GPUQUEUE_START_TIMEOUT")
    )
    """Seconds from launch until the executor has claimed its job. 120: a cold disk importing a
    large framework.
    """
    lease_seconds: float = Field(3, ge=0.5, le=60, validation_alias=_env("GPUQUEUE_LEASE_SECONDS"))
    """How long the watcher's leader may be silent before another takes over (measured fail-over at
    3: 2.9 s).
    """
    tick_seconds: float = Field(1, ge=0.05, le=60, validation_alias=_env("GPUQUEUE_TICK_SECONDS"))
    """The longest sleep of the watcher's loop; whatever is due earlier, or an event, wakes it."""
    relist_seconds: float = Field(
        2, ge=0.1, le=600, validation_alias=_env("GPUQUEUE_RELIST_SECONDS")
    )
    """How often the watcher compares all holders with what really runs."""
    repair_seconds: float = Field(
        5, ge=0.5, le=600, validation_alias=_env("GPUQUEUE_REPAIR_SECONDS")
    )
    """How old an unfinished step must be before another process takes it for abandoned and repeats
    it.
    """
    tombstone_seconds: float = Field(
        86_400, ge=60, validation_alias=_env("GPUQUEUE_TOMBSTONE_SECONDS")
    )
    """How long an ended job is remembered, so that a redelivery of its message is known for one. It
    must exceed the broker's visibility timeout (Celery's default: 3600)."""
    visibility_seconds: int = Field(
        60, ge=1, le=3600, validation_alias=_env("GPUQUEUE_VISIBILITY_SECONDS")
    )
    """How long a message may be in a dispatcher's hands (milliseconds, normally) before it is
    delivered again.
    """
    metrics_port: int = Field(9464, ge=0, le=65_535, validation_alias=_env("GPUQUEUE_METRICS_PORT"))
    """Where a dispatcher serves /metrics, /healthz and /readyz; 0: nowhere. 9464: Prometheus' port
    for exporters within applications. Where nobody has set it and it is taken, as by a second
    dispatcher on a laptop, there is but a warning."""
    metrics_host: str | None = Field(None, validation_alias=_env("GPUQUEUE_METRICS_HOST"))
    """The address that they are served at. Unset: every one in mode k8s_job, this machine alone
    (127.0.0.1) in mode local.
    """
    launch_threads: int = Field(8, ge=1, le=256, validation_alias=_env("GPUQUEUE_LAUNCH_THREADS"))
    """Launches under way at once in one dispatcher."""
    devices: str | None = Field(None, validation_alias=_env("GPUQUEUE_DEVICES"))
    """GPUs that local jobs may use: indexes or UUIDs with commas, ``none``, or unset for all that
    NVML finds.
    """

    @model_validator(mode="after")
    def _redis_only(self) -> Settings:
        schemes = ("redis://", "rediss://", "redis+socket://")  # what Celery's transport knows
        for alias, url in (
            ("CELERY_BROKER_URL", self.broker_url),
            ("GPUQUEUE_REDIS_URL", self.state_url),
        ):
            if url and not url.startswith(schemes):
                raise ValueError(
                    f"{alias}={mask(url)!r} is not Redis; use one of {', '.join(schemes)}"
                )
        return self

    @model_validator(mode="after")
    def _tls_is_meant(self) -> Settings:
        for problem in tls_problems(self.addresses):
            raise ValueError(problem)
        return self

    @property
    def addresses(self) -> dict[str, str | None]:
        """The addresses of Redis, by the settings that say them."""
        return {
            "CELERY_BROKER_URL": self.broker_url,
            "CELERY_RESULT_BACKEND": self.result_backend,
            "GPUQUEUE_REDIS_URL": self.state_url,
        }

    @property
    def metrics_address(self) -> str:
        """The address for /metrics; empty: every one."""
        if self.metrics_host is not None:
            return self.metrics_host
        return "127.0.0.1" if self.execution_mode == "local" else ""

    @property
    def redis_setting(self) -> str:
        """The name of the setting that :attr:`redis_url` comes from, for messages."""
        return "GPUQUEUE_REDIS_URL" if self.state_url else "CELERY_BROKER_URL"

    @property
    def redis_url(self) -> str:
        """Where the queue's state lives. Raises :class:`SettingsError` when nothing says so."""
        url = self.state_url or self.broker_url
        if not url:
            raise SettingsError(
                "CELERY_BROKER_URL is not set; set it to the applications' broker, e.g."
                " redis://localhost:6379/0"
            )
        return unix(url)


def load(**overrides: Any) -> Settings:
    """Read the settings from the environment. Raises :class:`SettingsError` that names each wrong
    one.
    """
    return read(Settings, **overrides)


def read(kind: type[S], **overrides: Any) -> S:
    """Read one kind of settings from the environment. Raises :class:`SettingsError` that names each
    wrong one.
    """
    try:
        return kind(**overrides)
    except ValidationError as exc:
        raise SettingsError("; ".join(_explain(error) for error in exc.errors())) from None


def _explain(error: Any) -> str:
    if not error["loc"]:
        return str(error["ctx"]["error"])
    return (
        f"{error['loc'][0]}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}; set it"
        " to such a value or unset it"
    )
