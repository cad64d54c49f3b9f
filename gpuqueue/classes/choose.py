"""Which classes fit a job, and which of them it gets. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpuqueue.classes.gpu_class import CLASS, DEVICE, GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.model.names import CHOOSING, EXCLUSIVE, MIG_PROFILE, SHARED, QueueName
from gpuqueue.model.request import GpuRequest

#: Bytes of a share that driver and context use: a CUDA context alone takes 200-500 MiB.
DRIVER_RESERVE = 512 * 1024**2


def resolve(
    classes: Mapping[str, GpuClass],
    queue: QueueName,
    request: GpuRequest,
    time_limit: float | None = None,
    *,
    in_pods: bool = False,
) -> tuple[list[GpuClass], str]:
    """Return the classes that could run a job, cheapest first, and its isolation.

    A queue that names a class gives that class alone. ``time_limit``: of the message, in seconds;
    ``in_pods``: whether jobs run in pods of a cluster. Raises :class:`InvalidJob` when no class
    could ever run the job.
    """
    _check_class(classes, queue)
    if queue.isolation and request.isolation and queue.isolation != request.isolation:
        raise InvalidJob.field(
            "gpu.isolation",
            request.isolation,
            f"contradicts the queue {queue}",
            "set only one of them",
        )
    gpus = request.gpus or 1
    if gpus > 1 and queue.isolation == SHARED:
        raise InvalidJob.field(
            "gpu.gpus",
            gpus,
            f"needs GPUs that no other job shares, but its queue is {queue}",
            f"route to gpu.{queue.gpu_class}.{EXCLUSIVE}, or set gpus=1",
        )
    wanted = queue.isolation or request.kind
    problems: list[InvalidJob] = []
    fitting: list[GpuClass] = []
    for candidate in sorted(_candidates(classes, queue), key=_cost):
        isolation = wanted or candidate.default_isolation
        problem = _problem(candidate, isolation, request, time_limit)
        if not problem and gpus > 1:
            problem = _problem_of_several(candidate, gpus, in_pods)
        if problem:
            problems.append(problem)
        else:
            fitting.append(candidate)
    if not fitting:
        raise problems[-1]
    return fitting, wanted or fitting[0].default_isolation


def choose(
    fitting: list[GpuClass], isolation: str | None, free: Callable[[str, str], int], gpus: int = 1
) -> GpuClass:
    """Return the cheapest class with as many free slots as the job needs ``gpus``, else the class
    with the fewest waiting per slot.

    ``free(class name, isolation)`` returns the free slots, or minus the number of waiting jobs if
    none is free.
    """
    isolations = {each.name: isolation or each.default_isolation for each in fitting}
    load = {name: free(name, kind) for name, kind in isolations.items()}
    for each in fitting:
        if load[each.name] >= gpus:
            return each
    return min(
        fitting,
        key=lambda each: -min(0, load[each.name]) / max(1, each.slots(isolations[each.name])),
    )


def _candidates(classes: Mapping[str, GpuClass], queue: QueueName) -> list[GpuClass]:
    if queue.gpu_class not in CHOOSING:
        return [classes[queue.gpu_class]]
    candidates = [
        each
        for each in classes.values()
        if queue.gpu_class == "auto" or MIG_PROFILE.match(each.name)
    ]
    if not candidates:
        raise InvalidJob.field(
            "queue",
            str(queue),
            "has no class to choose from",
            "set MIG_TOTAL_SLOTS and GPU_RESOURCE_NAME",
        )
    return candidates


def _check_class(classes: Mapping[str, GpuClass], queue: QueueName) -> None:
    if queue.gpu_class not in CHOOSING and queue.gpu_class not in classes:
        known = ", ".join(sorted(name for each in classes.values() for name in each.queues))
        raise InvalidJob.field(
            "queue",
            str(queue),
            f"names the unknown class {queue.gpu_class!r}",
            f"this dispatcher has: {known}",
        )


def _cost(each: GpuClass) -> tuple[float, int, str]:
    # Memory before slices: smallest-fit by slices alone never picks 4g.20gb where 3g.20gb exists.
    return (each.memory if each.memory is not None else float("inf"), each.slices, each.name)


def _problem(
    each: GpuClass, isolation: str, request: GpuRequest, time_limit: float | None
) -> InvalidJob | None:
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
            f"exceeds the usable memory of class {each.name!r} ({usable})",
            "ask for less, or add a larger class",
        )
    if request.slices is not None and request.slices > each.slices:
        return InvalidJob.field(
            "gpu.slices",
            request.slices,
            f"exceeds the slices of class {each.name!r} ({each.slices})",
            "ask for fewer, or add a larger profile",
        )
    most = each.max_time_limit
    if time_limit is not None and most is not None and time_limit > most:
        return InvalidJob.field(
            "time_limit",
            time_limit,
            f"exceeds max_time_limit of class {each.name!r} ({most:g} s)",
            f"ask for up to {most:g}, or use another class",
        )
    return None


def _problem_of_several(each: GpuClass, gpus: int, in_pods: bool) -> InvalidJob | None:
    """Return why no job of several GPUs can run on a class; None: one can."""
    name, slots = each.name, each.exclusive_slots
    problem = fix = ""
    if MIG_PROFILE.match(each.resource.rpartition("/")[2]):
        problem = (
            f"needs whole GPUs, but class {name!r} has MIG slices, of which a process uses one"
        )
        fix = "ask for a larger slice, or for a class of whole GPUs"
    elif each.gpus != 1:
        problem = (
            f"needs a class that counts single GPUs, but each job of class {name!r} gets"
            f" {each.gpus or 'those of its claims'}"
        )
        fix = "leave gpus out, or set gpus = 1 for the class"
    elif in_pods and each.has_sharing:
        problem = f"needs whole GPUs, but those of class {name!r} are shared (shared_slots)"
        fix = "use a class without shared_slots"
    elif gpus > slots and (each.domains > 1 or each.domain == DEVICE):
        problem = f"exceeds 1, as each GPU of class {name!r} is a domain by itself"
        fix = f'set domain = "{CLASS}" and exclusive_slots = {gpus} for the class'
    elif gpus > slots:
        problem = f"exceeds the exclusive slots of class {name!r} ({slots} in one domain)"
        fix = f"ask for up to {slots}, or raise exclusive_slots where nodes have {gpus} GPUs"
    return InvalidJob.field("gpu.gpus", gpus, problem, fix) if problem else None
