"""What keeps autoscalers and service meshes away from pods. Pure.

These are defaults of the pods, not of their Jobs: a pod template can override each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gpuqueue.launchers.kubernetes.manifest.names import FINISHER_ROLE
from gpuqueue.settings.kubernetes import ClusterSettings

#: Cluster-autoscaler and Karpenter move pods to empty a node: a job would start again.
_STAYS = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
#: Istio reads the label, and older versions the annotation; Kuma the label; Linkerd and Consul the
#: annotation. A proxy that is injected as a second container runs on after the executor.
_NO_MESH_LABELS = {
    "sidecar.istio.io/inject": "false",
    "kuma.io/sidecar-injection": "disabled",
}
_NO_MESH_ANNOTATIONS = {
    "sidecar.istio.io/inject": "false",
    "linkerd.io/inject": "disabled",
    "consul.hashicorp.com/connect-inject": "false",
}


class OptOuts(NamedTuple):
    """Labels and annotations of a pod."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def opt_outs(role: str, settings: ClusterSettings) -> OptOuts:
    """Return those of a pod with this role. A finisher may be moved: it is started again."""
    stays = {} if role == FINISHER_ROLE else _STAYS
    if settings.service_mesh == "on":
        return OptOuts({}, stays)
    return OptOuts(_NO_MESH_LABELS, {**stays, **_NO_MESH_ANNOTATIONS})
