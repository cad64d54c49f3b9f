"""Make the launcher that the settings name, and what its executors are told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gpuqueue.classes.gpu_class import DEVICE, GpuClass
from gpuqueue.dispatcher.log_writer import LogWriter
from gpuqueue.dispatcher.observations import KeptObservations
from gpuqueue.errors import SettingsError
from gpuqueue.launchers.base import OnEnd
from gpuqueue.launchers.local.launcher import LocalLauncher
from gpuqueue.launchers.local.runner import OnProfile
from gpuqueue.model.executor_env import LOAD_TIMEOUT, START, STATES, WHOLE_LOGS
from gpuqueue.nvidia import devices
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.redis import names
from gpuqueue.store.keys import VERSION
from gpuqueue.store.logs import Logs
from gpuqueue.store.owners import Owners
from gpuqueue.store.reader import Reader

if TYPE_CHECKING:
    from gpuqueue.launchers.kubernetes.launcher import KubernetesLauncher


def deal(settings: Settings, classes: Mapping[str, GpuClass]) -> Mapping[str, list[str]]:
    """Return class → the UUIDs of its GPUs, where jobs run on this machine.

    Raises:
        SettingsError: a class has nodes, or domains, that this launcher has not.
    """
    if settings.execution_mode == "local":
        for each in classes.values():
            if each.nodes:
                raise SettingsError(
                    f"class {each.name!r}: nodes={each.nodes!r} needs GPU_EXECUTION_MODE='k8s_job',"
                    " since this machine is the only node; remove nodes"
                )
        found = devices.allowed(devices.find(), settings.devices, devices.visible_now())
        return devices.deal(classes.values(), found)
    for each in classes.values():
        if each.domain == DEVICE:
            raise SettingsError(
                f"class {each.name!r}: domain={DEVICE!r} needs GPU_EXECUTION_MODE='local', since a"
                " cluster deals the GPUs of its nodes; use domain='node', or remove it"
            )
    return {}


def local_launcher(
    settings: Settings,
    classes: Mapping[str, GpuClass],
    dealt: Mapping[str, list[str]],
    reader: Reader,
    logs: Logs,
    on_end: OnEnd,
    on_profile: OnProfile,
    whole_logs: LogWriter | None,
) -> tuple[LocalLauncher, dict[str, int]]:
    """Return the local launcher, and how many GPUs it deals to each class.

    Raises:
        SettingsError: GPUQUEUE_APP is not set, or a class wants several GPUs for each job.
    """
    if not settings.app:
        raise SettingsError(
            "GPUQUEUE_APP is not set; set it to the argument of `celery -A` for the application"
            " whose tasks run here"
        )
    for each in classes.values():
        if each.gpus != 1:
            raise SettingsError(
                f"class {each.name!r}: gpus={each.gpus} needs GPU_EXECUTION_MODE='k8s_job'; on this"
                " machine each job gets one GPU: remove gpus"
            )
    sinks = {WHOLE_LOGS: "1"} if whole_logs is not None else {}
    launcher = LocalLauncher(
        on_end,
        {**executor_environment(settings), START: settings.start, **sinks},
        settings.start_timeout,
        dealt,
        # A silent machine is gone with its jobs: it is off, or its container has restarted.
        lambda machine: reader.host_heard(machine, settings.host_silent_seconds),
        keep_log=lambda attempt, text: logs.keep(attempt, text, settings.tombstone_seconds),
        whole_logs=whole_logs,
        on_profile=on_profile,
        directory=settings.runtime_dir,
        unread=names(Settings),
    )
    return launcher, {name: len(gpus) for name, gpus in dealt.items()}


def kubernetes_launcher(
    settings: Settings,
    classes: Mapping[str, GpuClass],
    on_end: OnEnd,
    observations: KeptObservations,
    owners: Owners,
    whole_logs: LogWriter | None,
) -> KubernetesLauncher:
    """Return the launcher of Jobs.

    Raises:
        SettingsError: its packages are not installed, or a setting of the cluster is wrong.
    """
    try:
        from gpuqueue.launchers.kubernetes.assemble import assemble
    except ImportError as exc:
        raise SettingsError(
            f"GPU_EXECUTION_MODE='k8s_job' needs {exc.name}; install gpuqueue[kubernetes]"
        ) from exc
    return assemble(settings, classes, on_end, observations, owners, whole_logs)


def executor_environment(settings: Settings) -> dict[str, str]:
    """Return the environment of every executor, independent of that of this process."""
    variables = {
        "GPUQUEUE_APP": settings.app,
        "GPUQUEUE_LAYOUT": str(VERSION),
        "GPUQUEUE_LOG_LEVEL": settings.log_level,
        "GPUQUEUE_TOMBSTONE_SECONDS": str(settings.tombstone_seconds),
        "GPUQUEUE_GRACE_SECONDS": str(settings.grace_seconds),
        LOAD_TIMEOUT: str(settings.load_timeout or settings.start_timeout),
        STATES: settings.states if settings.states != "all" else None,
        **settings.redis.environment(),
        "PYTHONUNBUFFERED": os.environ.get("PYTHONUNBUFFERED", "1"),
    }
    if settings.devices == "none":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return {name: value for name, value in variables.items() if value is not None}
