"""What all Jobs of a dispatcher share. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gpuqueue.launchers.kubernetes.manifest.pod_template import PodTemplate


@dataclass(frozen=True, slots=True)
class ManifestContext:
    """What all Jobs of a dispatcher share beside the cluster settings. Times in seconds."""

    namespace: str
    owner: str
    app: str | None = None
    """GPUQUEUE_APP. None: the image sets it."""
    log_level: str = "INFO"
    tombstone_seconds: float = 86_400
    grace_seconds: float = 10
    start_timeout: float = 120
    load_timeout: float = 120
    start: str = "fork"
    pod_template: PodTemplate | None = None
