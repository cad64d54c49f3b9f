"""A GPU class: interchangeable shares of GPUs, with a resource name, slots, and memory per share.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gpuqueue.errors import SettingsError
from gpuqueue.model.names import EXCLUSIVE, MIG_PROFILE, SHARED, QueueName

#: Memory of one T4, in bytes: 16 GB less the reserve of the driver (nvidia-smi shows 15360 MiB).
T4_MEMORY = 15_360 * 1024**2
_MIG_MEMORY = re.compile(r"(\d+)gb")


@dataclass(frozen=True, slots=True)
class GpuClass:
    """One class."""

    name: str
    resource: str = "nvidia.com/gpu"
    """The Kubernetes resource that a job requests."""
    shared_slots: int = 0
    """Shared jobs that run at once."""
    exclusive_slots: int = 0
    """Exclusive jobs that run at once."""
    memory: int | None = None
    """Bytes of memory of the whole GPU or slice; None: unknown."""
    slices: int = 1
    """Compute slices of a MIG profile (its first number); 1 for a whole GPU."""
    exclusive_patience: int = 8
    """K: number of later shared jobs that may overtake the first waiting exclusive job."""
    shared_patience: int = 1
    """M: number of exclusive jobs that may start in a row while shared jobs wait."""
    devices: tuple[int, ...] | None = None
    """Local launcher: indexes of the GPUs of this class. None: all that no other class names."""
    warm_seconds: float = 0.0
    """Kubernetes: seconds that the pod of a job may wait for another one (see ``gpu(warm=)``)."""
    warm_jobs: int = 100
    """How many jobs such a pod runs at most."""
    warm_age: float = 3600.0
    """Seconds after its start in which such a pod takes jobs."""
    # Kubernetes. Dicts and lists, since a class travels as JSON and must compare equal after that;
    # therefore they are left out of the hash.
    image: str | None = None
    """Image of its executors, for jobs that name none. None: GPU_EXECUTOR_IMAGE."""
    node_selector: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Labels of its nodes, in addition to GPU_NODE_SELECTOR_KEY."""
    tolerations: Sequence[Mapping[str, Any]] = field(default_factory=list, hash=False)
    """Tolerations for the taints of its nodes, in addition to ``nvidia.com/gpu``."""
    cpu: str | None = None
    """Cores that a job requests. None: GPU_CPU_REQUEST."""
    host_memory: str | None = None
    """Host memory that a job requests and its limit. None: GPU_MEMORY_REQUEST and _LIMIT."""

    def slots(self, isolation: str) -> int:
        """Return the number of slots of one isolation."""
        return self.shared_slots if isolation == SHARED else self.exclusive_slots

    @property
    def has_sharing(self) -> bool:
        """Whether jobs can share a GPU of this class."""
        return self.shared_slots > 0

    @property
    def default_isolation(self) -> str:
        """The isolation of a job that names none: shared if the class shares."""
        return SHARED if self.has_sharing else EXCLUSIVE

    @property
    def queues(self) -> list[str]:
        """The queues of this class whose jobs can start."""
        if not self.has_sharing:
            return [str(QueueName(self.name, None))]
        return [
            str(QueueName(self.name, isolation))
            for isolation in (SHARED, EXCLUSIVE)
            if self.slots(isolation)
        ]

    def spec(self, devices: int = 0) -> dict[str, int]:
        """Return the fields that the scripts use to decide.

        ``devices`` is the number of GPUs to hand out; 0: the launcher hands out none.
        """
        return {
            "shared_slots": self.shared_slots,
            "exclusive_slots": self.exclusive_slots,
            "exclusive_patience": self.exclusive_patience,
            "shared_patience": self.shared_patience,
            "devices": devices,
        }

    def public(self) -> dict[str, Any]:
        """Return all fields, for the commands ``status`` and ``classes``."""
        return asdict(self)


def mig_class(resource: str, slots: int, **options: Any) -> GpuClass:
    """Make the class of a MIG resource. Its name is the profile (``mig-1g.5gb``)."""
    name = resource.rpartition("/")[2]
    if not MIG_PROFILE.match(name):
        raise SettingsError(
            f"GPU_RESOURCE_NAME={resource!r} is not a MIG profile, but MIG_TOTAL_SLOTS requires"
            " one; use nvidia.com/mig-<profile>"
        )
    gb = _MIG_MEMORY.search(name)
    return GpuClass(
        name,
        resource,
        exclusive_slots=slots,
        memory=int(gb.group(1)) * 10**9 if gb else None,
        slices=int(name[4]),
        **options,
    )
