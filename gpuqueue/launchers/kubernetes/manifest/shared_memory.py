"""The shared memory of a pod, /dev/shm: a container runtime mostly gives 64 MiB. Pure.

Processes of one job pass data through it: workers that load batches, ranks that reduce gradients.
One that writes more than its size is killed by a bus error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.classes.kubernetes_fields import NO_SHM
from gpuqueue.errors import SettingsError
from gpuqueue.launchers.kubernetes.api.objects import CONTAINER
from gpuqueue.model.kube_syntax import amount
from gpuqueue.settings.kubernetes import ClusterSettings

PATH = "/dev/shm"
#: The volume. No template can have one of this name.
VOLUME = "gpuqueue-shm"


def with_shared_memory(
    spec: Mapping[str, Any], gpu_class: GpuClass, settings: ClusterSettings
) -> dict[str, Any]:
    """Return a pod spec with /dev/shm in its executor, unless a template has mounted one.

    Its content counts against the memory limit of the container, and its size never exceeds it:
    what does not fit ends as HOST_OOM. Raises :class:`SettingsError` for a class that wants more.
    """
    size = gpu_class.shm_size or settings.shm_size
    if size == NO_SHM:
        return dict(spec)
    containers = [_mounted(each, size, gpu_class) for each in spec["containers"]]
    found = [(each, made) for each, made in containers if made]
    if not found:
        return dict(spec)
    volume = {"name": VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": found[0][1]}}
    return {
        **spec,
        "containers": [each for each, _ in containers],
        "volumes": [*spec.get("volumes", ()), volume],
    }


def _mounted(
    container: Mapping[str, Any], size: str, gpu_class: GpuClass
) -> tuple[Mapping[str, Any], str]:
    """Return a container with the mount, and the size; the container as it is, and "" if it is not
    the executor, or has a mount there.
    """
    mounts = container.get("volumeMounts", ())
    taken = any(each["mountPath"].rstrip("/") == PATH for each in mounts)
    if container["name"] != CONTAINER or taken:
        return container, ""
    limit = container.get("resources", {}).get("limits", {}).get("memory")
    wanted, most = amount(size), amount(limit)
    if wanted is not None and most is not None and wanted > most:
        if gpu_class.shm_size:
            raise SettingsError(
                f"class {gpu_class.name!r}: shm_size={size!r} exceeds the memory limit {limit!r} of"
                " its jobs, which its content counts against; lower it, or raise host_memory"
            )
        size = limit
    mount = {"name": VOLUME, "mountPath": PATH}
    return {**container, "volumeMounts": [*mounts, mount]}, size
