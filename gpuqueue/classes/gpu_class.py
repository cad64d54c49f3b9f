"""GPU classes, and which of them a job can use. Pure: no I/O, no clock.

A class is a set of interchangeable GPU shares: a resource name, how many slots, how much memory a
share has.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from gpuqueue.classes.kubernetes_fields import placement
from gpuqueue.errors import InvalidJob, SettingsError
from gpuqueue.model.names import CHOOSING, CLASS_NAME, EXCLUSIVE, MIG_PROFILE, SHARED, QueueName
from gpuqueue.model.request import GpuRequest, parse_memory

#: Memory of one T4, in bytes: 16 GB less what the driver keeps (nvidia-smi shows 15360 MiB in all).
T4_MEMORY = 15_360 * 1024**2
#: What driver and context keep of a share, in bytes: a CUDA context alone is 200-500 MiB.
DRIVER_RESERVE = 512 * 1024**2
_MIG_MEMORY = re.compile(r"(\d+)gb")


@dataclass(frozen=True, slots=True)
class GpuClass:
    """One class. ``memory`` is in bytes for the whole GPU or slice; None where nobody said."""

    name: str
    resource: str = "nvidia.com/gpu"
    shared_slots: int = 0
    exclusive_slots: int = 0
    memory: int | None = None
    slices: int = 1
    """Compute slices of a MIG profile (its first number); 1 for a whole GPU."""
    exclusive_patience: int = 8
    shared_patience: int = 1
    devices: tuple[int, ...] | None = None
    """Local launcher: indexes of the GPUs that are this class's; None: all that no other class
    names.
    """
    # Kubernetes. Dicts and lists, since a class travels as JSON and is to be the same after it; so
    # they are not hashed.
    image: str | None = None
    """The image of its executors, where a job names none; None: GPU_EXECUTOR_IMAGE."""
    node_selector: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Labels of its nodes, beside GPU_NODE_SELECTOR_KEY."""
    tolerations: Sequence[Mapping[str, Any]] = field(default_factory=list, hash=False)
    """What its nodes' taints ask for, beside ``nvidia.com/gpu``."""
    cpu: str | None = None
    """Cores that a job is promised; None: GPU_CPU_REQUEST."""
    host_memory: str | None = None
    """Host memory that a job is promised, and more than which it may not use; None:
    GPU_MEMORY_REQUEST and _LIMIT.
    """

    def slots(self, isolation: str) -> int:
        """Slots of one isolation."""
        return self.shared_slots if isolation == SHARED else self.exclusive_slots

    @property
    def has_sharing(self) -> bool:
        """Whether jobs may run beside others here."""
        return self.shared_slots > 0

    @property
    def queues(self) -> list[str]:
        """The queues of this class that can start jobs."""
        if not self.has_sharing:
            return [str(QueueName(self.name, None))]
        return [
            str(QueueName(self.name, isolation))
            for isolation in (SHARED, EXCLUSIVE)
            if self.slots(isolation)
        ]

    def spec(self, devices: int = 0) -> dict[str, int]:
        """Return what the scripts need to decide; ``devices`` is the number of GPUs to hand out (0:
        none).
        """
        return {
            "shared_slots": self.shared_slots,
            "exclusive_slots": self.exclusive_slots,
            "exclusive_patience": self.exclusive_patience,
            "shared_patience": self.shared_patience,
            "devices": devices,
        }

    def public(self) -> dict[str, Any]:
        """Return all of it, for `status` and `classes`."""
        return asdict(self)


def mig_class(resource: str, slots: int, **options: Any) -> GpuClass:
    """Make the class of a MIG resource, named as its profile (``mig-1g.5gb``)."""
    name = resource.rpartition("/")[2]
    if not MIG_PROFILE.match(name):
        raise SettingsError(
            f"GPU_RESOURCE_NAME={resource!r} is no MIG profile, and MIG_TOTAL_SLOTS is set; use"
            " nvidia.com/mig-<profile>"
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


def from_toml(text: str, source: str, **defaults: Any) -> dict[str, GpuClass]:
    """Read ``[classes.<name>]`` tables. Raises :class:`SettingsError` naming file, field, value and
    fix.
    """
    try:
        tables = tomllib.loads(text).get("classes", {})
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"GPUQUEUE_CLASSES_FILE={source!r} is not TOML: {exc}") from None
    return {
        name: _from_table(name, table, f"{source}: classes.{name}", defaults)
        for name, table in tables.items()
    }


def _from_table(
    name: str, table: Mapping[str, Any], where: str, defaults: Mapping[str, Any]
) -> GpuClass:
    if not CLASS_NAME.match(name) or name in CHOOSING:
        raise SettingsError(
            f"{where}: {name!r} cannot name a class; use lower-case letters, digits, '.', '-' (not"
            f" {', '.join(CHOOSING)})"
        )
    known = {each.name for each in fields(GpuClass)} - {"name"}
    for key in table:
        if key not in known:
            raise SettingsError(
                f"{where}.{key}={table[key]!r} is unknown; known: {', '.join(sorted(known))}"
            )
    values = {**defaults, **table}
    for key in (
        "shared_slots",
        "exclusive_slots",
        "exclusive_patience",
        "shared_patience",
        "slices",
    ):
        least = 0 if key.endswith("slots") else 1
        if key in values and (
            not isinstance(values[key], int) or isinstance(values[key], bool) or values[key] < least
        ):
            raise SettingsError(
                f"{where}.{key}={values[key]!r} is not a whole number of at least {least}; set it"
                " to one"
            )
    if "memory" in values:
        try:
            values["memory"] = parse_memory(values["memory"])
        except InvalidJob as exc:
            raise SettingsError(f"{where}: {exc}") from None
    if "devices" in values:
        devices = values["devices"]
        if not isinstance(devices, list) or not all(
            type(index) is int and index >= 0 for index in devices
        ):
            raise SettingsError(
                f"{where}.devices={devices!r} is not a list of GPU indexes; write e.g. devices ="
                " [0, 1]"
            )
        values["devices"] = tuple(devices)
    values |= placement(table, where)
    made = GpuClass(name, **values)
    if not made.shared_slots and not made.exclusive_slots:
        raise SettingsError(f"{where} has no slots; set shared_slots or exclusive_slots")
    return made


def resolve(
    classes: Mapping[str, GpuClass], queue: QueueName, request: GpuRequest
) -> tuple[list[GpuClass], str]:
    """Return the classes that could run a job, cheapest first, and its isolation.

    A queue that names a class gives that class alone. Raises :class:`InvalidJob` when no class
    could ever run it.
    """
    if queue.gpu_class not in CHOOSING and queue.gpu_class not in classes:
        known = ", ".join(sorted(name for each in classes.values() for name in each.queues))
        raise InvalidJob.field(
            "queue",
            str(queue),
            f"names the unknown class {queue.gpu_class!r}",
            f"this dispatcher has: {known}",
        )
    if queue.isolation and request.isolation and queue.isolation != request.isolation:
        raise InvalidJob.field(
            "gpu.isolation", request.isolation, f"contradicts the queue {queue}", "say it once"
        )
    if queue.gpu_class in CHOOSING:
        candidates = [
            each
            for each in classes.values()
            if queue.gpu_class == "auto" or MIG_PROFILE.match(each.name)
        ]
        if not candidates:
            raise InvalidJob.field(
                "queue",
                str(queue),
                "finds no class to choose from",
                "set MIG_TOTAL_SLOTS and GPU_RESOURCE_NAME",
            )
    else:
        candidates = [classes[queue.gpu_class]]
    wanted = queue.isolation or request.isolation
    problems: list[InvalidJob] = []
    fitting: list[GpuClass] = []
    for each in sorted(candidates, key=_cost):
        problem = _problem(each, wanted or default_isolation(each), request)
        if problem:
            problems.append(problem)
        else:
            fitting.append(each)
    if not fitting:
        raise problems[-1]
    return fitting, wanted or default_isolation(fitting[0])


def default_isolation(each: GpuClass) -> str:
    """Return the isolation of a job that names none: shared where the class shares."""
    return SHARED if each.has_sharing else EXCLUSIVE


def choose(
    fitting: list[GpuClass], isolation: str | None, free: Callable[[str, str], int]
) -> GpuClass:
    """Return the cheapest class that has a free slot, else the one with the fewest waiting a slot.

    ``free(class name, isolation)`` answers free slots, or minus the number of jobs waiting where
    none is free.
    """
    load = {each.name: free(each.name, isolation or default_isolation(each)) for each in fitting}
    for each in fitting:
        if load[each.name] > 0:
            return each
    return min(
        fitting,
        key=lambda each: (
            -load[each.name] / max(1, each.slots(isolation or default_isolation(each)))
        ),
    )


def _cost(each: GpuClass) -> tuple[float, int, str]:
    # Memory before slices: smallest-fit by slices alone never picks 4g.20gb where 3g.20gb exists.
    return (each.memory if each.memory is not None else float("inf"), each.slices, each.name)


def _problem(each: GpuClass, isolation: str, request: GpuRequest) -> InvalidJob | None:
    if not each.slots(isolation):
        return InvalidJob.field(
            "gpu.isolation",
            isolation,
            f"has no slots on class {each.name!r}",
            f"route to {' or '.join(each.queues)}",
        )
    if (
        request.memory is not None
        and each.memory is not None
        and request.memory > each.memory - DRIVER_RESERVE
    ):
        usable = f"{(each.memory - DRIVER_RESERVE) / 2**30:.1f}GiB"
        return InvalidJob.field(
            "gpu.memory",
            f"{request.memory / 2**30:.1f}GiB",
            f"is more than class {each.name!r} can ever give ({usable})",
            "ask for less, or add a larger class",
        )
    if request.slices is not None and request.slices > each.slices:
        return InvalidJob.field(
            "gpu.slices",
            request.slices,
            f"is more than class {each.name!r} has ({each.slices})",
            "ask for fewer, or add a larger profile",
        )
    return None
