"""The machine of a node: what a kubelet and its pod workers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.doubles.kubernetes.nodes.images import Image
from tests.doubles.kubernetes.nodes.reporter import Reporter
from tests.doubles.kubernetes.nodes.runtime import Runtime
from tests.doubles.kubernetes.nodes.timers import KubeletTimers
from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.store import Store


@dataclass(slots=True)
class Host:
    """One machine.

    Args:
        name: the name of the node.
        address: the IP address of the node.
        folder: the parent of the pods' folders.
        store: has Secrets and ConfigMaps.
        images: the images of the registry by name.
        runtime_for: returns the runtime of a pod's containers.
        timers: the kubelet's timers.
        reporter: the kubelet's writes to the API server.
        pulled: the names of images that were pulled to this node.
        slow_pulls: real seconds that each pull takes longer.
        registry_answer: the status of each answer of all registries.
        runtimes: the handlers of RuntimeClasses that it has.
        no_sandbox: why the runtime creates no sandbox; empty if it does.
    """

    name: str
    address: str
    folder: Path
    store: Store
    images: Mapping[str, Image]
    runtime_for: Callable[[Body], Runtime]
    timers: KubeletTimers
    reporter: Reporter
    pulled: set[str] = field(default_factory=set)
    slow_pulls: float = 0.0
    registry_answer: int = 200
    runtimes: Sequence[str] = ("runc", "nvidia")
    no_sandbox: str = ""
