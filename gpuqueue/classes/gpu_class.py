"""A GPU class: interchangeable shares of GPUs, with a resource name, slots, and memory per share.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any

from gpuqueue.errors import SettingsError
from gpuqueue.model.names import CHORDS, EXCLUSIVE, MIG_PROFILE, SHARED, QueueName

#: Memory of one T4, in bytes: 16 GB less the reserve of the driver (nvidia-smi shows 15360 MiB).
T4_MEMORY = 15_360 * 1024**2
_MIG_MEMORY = re.compile(r"(\d+)gb")
#: The domains of a class: see :attr:`GpuClass.domain`.
CLASS, NODE, DEVICE = DOMAINS = ("class", "node", "device")
#: Unlocks of chords that run at once: each waits for one chord, and gives way to those in line. An
#: idle process or pod is cheap, but not free.
_UNLOCKS = 8
#: Seconds that the pod of an unlock waits for another one: a retry comes within a second or so.
_UNLOCK_WARM = 30.0


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
    domain: str | None = None
    """Where shared and exclusive jobs must not meet: ``class``, all its GPUs together; ``node``,
    each of its nodes by itself (Kubernetes; a machine in local mode is one node); ``device``, each
    GPU of a machine by itself (local mode). Slots are those of a domain. None: ``device`` for
    several GPUs, unless ``exclusive_slots`` counts more than one.
    """
    nodes: Sequence[str] = field(default_factory=list, hash=False)
    """Kubernetes: the nodes of a class whose domain is ``node``, by name. Empty: those that its
    pods may run on, as the cluster lists them, which needs the right to list nodes.
    """
    scale_to: int | None = None
    """Kubernetes: how many nodes a class whose domain is ``node`` may have in all, those included
    that an autoscaler has not added yet. None: those that exist.
    """
    domains: int = 1
    """How many domains the class has; no setting: a dispatcher of its machine says so."""
    warm_seconds: float = 0.0
    """Kubernetes: seconds that the pod of a job may wait for another one (see ``gpu(warm=)``)."""
    warm_jobs: int = 100
    """How many jobs such a pod runs at most."""
    warm_age: float = 3600.0
    """Seconds after its start in which such a pod takes jobs."""
    default_time_limit: float | None = None
    """Time limit in seconds of a job that sets none, and whose task declares none. None:
    ``max_time_limit``.
    """
    max_time_limit: float | None = None
    """Largest time limit in seconds. A message that asks for more is refused; a limit that the task
    declares is cut to it. None: any.
    """
    held_timeout: float | str | None = None
    """Kubernetes: seconds that a job waits while its class is held, or "never". None:
    GPU_HELD_TIMEOUT."""
    price_per_hour: str | None = None
    """What one domain costs per hour, in any currency: each GPU with ``domain`` ``device``, each
    node with ``node``, else the whole class. `gpuqueue usage` shows costs. None: no costs.
    """
    larger: str | None = None
    """The class in which a job with ``escalate`` runs once more that runs out of GPU memory here.
    None: the next one with more memory.
    """
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
    gpus: int = 1
    """Kubernetes: units of ``resource`` that each job requests. 2 or more: whole GPUs of one node.
    0: none, since claims of ``pod_template`` bring the GPU.
    """
    shm_size: str | None = None
    """Size of /dev/shm, within the memory limit of the job. None: GPU_SHM_SIZE."""
    ephemeral_storage: str | None = None
    """Disk of the node that a job requests and its limit: files in the container, logs, emptyDir
    volumes. None: neither.
    """
    runtime_class: str | None = None
    """RuntimeClass of its pods. None: that of the pod template, or of the cluster."""
    priority_class: str | None = None
    """PriorityClass of its pods. None: that of the pod template, or of the cluster."""
    service_account: str | None = None
    """Service account of its pods, finishers included. None: that of the pod template."""
    namespace: str | None = None
    """Namespace of its Jobs and pods, which must have the Secret and the service account of their
    executors. None: GPU_JOB_NAMESPACE.
    """
    secret_name: str | None = None
    """Secret of its executors and finishers. None: GPU_SECRET_NAME."""
    quota_timeout: float | None = None
    """Seconds that a Job waits for its pod while a quota or a policy refuses it. None:
    GPU_QUOTA_TIMEOUT.
    """
    unschedulable_timeout: float | None = None
    """Seconds that a pod may wait for a node. None: GPU_UNSCHEDULABLE_TIMEOUT."""
    image_pull_timeout: float | None = None
    """Seconds that images and volumes may take. None: GPU_IMAGE_PULL_TIMEOUT."""
    start_timeout: float | None = None
    """Seconds from the start of the container until its executor has claimed the job. None:
    GPUQUEUE_START_TIMEOUT.
    """
    pod_template: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """A pod template for its pods only, in addition to GPUQUEUE_POD_TEMPLATE: tables ``metadata``,
    ``spec`` and ``job``.
    """

    def slots(self, isolation: str) -> int:
        """Return the number of slots of one isolation, of all domains together. The domains of a
        class by node are known to the state alone: it has these slots in each.
        """
        return self.domains * (self.shared_slots if isolation == SHARED else self.exclusive_slots)

    @property
    def most_slots(self) -> int | None:
        """The slots of the isolation that has more of them, of all domains together; None: they are
        not known, since its nodes are those that the cluster lists.
        """
        slots = max(self.shared_slots, self.exclusive_slots)
        if self.domain != NODE:
            return self.domains * slots
        return max(len(self.nodes), self.scale_to or 0) * slots if self.nodes else None

    def price_of_slot(self, isolation: str) -> Fraction | None:
        """Return what one slot costs per hour; None: it has no price, or the class no such slot."""
        slots = self.shared_slots if isolation == SHARED else self.exclusive_slots
        return Fraction(self.price_per_hour) / slots if self.price_per_hour and slots else None

    @property
    def slots_of_domain(self) -> dict[str, int]:
        """The slots of one domain by isolation."""
        return {SHARED: self.shared_slots, EXCLUSIVE: self.exclusive_slots}

    @property
    def has_gpu(self) -> bool:
        """Whether its jobs get a GPU, or a share of one: not those of the class of unlocks, which
        has no resource.
        """
        return bool(self.resource)

    @property
    def has_sharing(self) -> bool:
        """Whether jobs can share a GPU of this class."""
        return self.shared_slots > 0

    @property
    def default_isolation(self) -> str:
        """The isolation of a job that names none: shared if the class shares."""
        return SHARED if self.has_sharing else EXCLUSIVE

    @property
    def time_limit(self) -> float | None:
        """The time limit in seconds of a job that sets none; None: it has none."""
        return self.default_time_limit or self.max_time_limit

    @property
    def queues(self) -> list[str]:
        """The queues of this class whose jobs can start."""
        if not self.has_gpu:
            return []
        if not self.has_sharing:
            return [str(QueueName(self.name, None))]
        return [
            str(QueueName(self.name, isolation))
            for isolation in (SHARED, EXCLUSIVE)
            if self.slots(isolation)
        ]

    @property
    def taken_queues(self) -> list[str]:
        """The queues from which its dispatchers take messages: also those whose jobs they refuse,
        since a message that none takes waits unseen.
        """
        kinds = (None, SHARED, EXCLUSIVE) if self.has_gpu else (None,)
        return [str(QueueName(self.name, isolation)) for isolation in kinds]

    def on(self, devices: int) -> GpuClass:
        """Return the class of a machine that deals it so many GPUs, and is one node."""
        if self.domain == NODE:
            return replace(self, domain=CLASS)
        by_device = self.domain == DEVICE or (self.domain is None and self.exclusive_slots <= 1)
        return replace(self, domains=devices) if devices > 1 and by_device else self

    def spec(self, devices: int = 0) -> dict[str, Any]:
        """Return the fields that the scripts use to decide.

        ``devices`` is the number of GPUs to hand out; 0: the launcher hands out none.
        """
        domain = DEVICE if self.domains > 1 else NODE if self.domain == NODE else None
        return {
            "shared_slots": self.shared_slots,
            "exclusive_slots": self.exclusive_slots,
            "exclusive_patience": self.exclusive_patience,
            "shared_patience": self.shared_patience,
            "devices": devices,
            **({"domain": domain} if domain else {}),
        }

    def public(self) -> dict[str, Any]:
        """Return the fields for the commands ``status`` and ``classes``: all but the pod template,
        which may hold what only its pods should know.
        """
        found = asdict(self)
        del found["pod_template"]
        return found


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


def chords_class(classes: Iterable[GpuClass]) -> GpuClass:
    """Make the class of the unlocks of chords. They run without a GPU, on any node that takes the
    jobs of one of the ``classes``.
    """
    tolerations: list[Mapping[str, Any]] = []
    for toleration in (dict(one) for each in classes for one in each.tolerations):
        if toleration not in tolerations:
            tolerations.append(toleration)
    return GpuClass(
        CHORDS,
        resource="",
        shared_slots=_UNLOCKS,
        warm_seconds=_UNLOCK_WARM,
        tolerations=tolerations,
    )
