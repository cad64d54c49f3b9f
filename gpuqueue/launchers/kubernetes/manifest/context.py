"""What all Jobs of a dispatcher share. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.kubernetes.manifest.pod_template import PodTemplate


@dataclass(frozen=True, slots=True)
class ManifestContext:
    """What all Jobs of a dispatcher share beside the cluster settings. Times in seconds."""

    namespace: str
    """Where the Jobs of a class are that names no namespace."""
    owner: str
    app: str | None = None
    """GPUQUEUE_APP. None: the image sets it."""
    log_level: str = "INFO"
    tombstone_seconds: float = 86_400
    grace_seconds: float = 10
    start_timeout: float = 120
    load_timeout: float = 120
    start: str = "fork"
    states: str = "all"
    pod_template: PodTemplate | None = None

    def of_class(self, gpu_class: GpuClass) -> ManifestContext:
        """Return what the Jobs of a class share: they may have a namespace for themselves."""
        return replace(self, namespace=gpu_class.namespace or self.namespace)
