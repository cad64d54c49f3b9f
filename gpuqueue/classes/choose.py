"""Which classes fit a job, and which of them it gets. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

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
    """Return the classes that could run a job, and its isolation. They are in the order in which
    the job lists them, or else the cheapest first.

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
    for candidate in _candidates(classes, queue, request.classes):
        isolation = wanted or candidate.default_isolation
        problem = problem_of(candidate, isolation, request, time_limit, in_pods)
        if problem:
            problems.append(problem)
        else:
            fitting.append(candidate)
    if not fitting:
        raise problems[-1]
    if not request.classes:
        fitting = _by_price(fitting, wanted)
    return fitting, wanted or fitting[0].default_isolation


class Room(NamedTuple):
    """How soon a job that comes now would start in a class."""

    starts: bool
    """It would start at once."""
    held: bool
    """It would not, and the end of a job would not suffice: the class has no node, its GPUs are set
    aside, its jobs are held, or the tenant is at a limit.
    """
    waiting: int
    """Jobs in its line."""
    slots: int
    """Slots of the isolation, of all domains together."""


def choose(
    fitting: list[GpuClass],
    isolation: str | None,
    room: Callable[[str, str], Room],
    run_time: Callable[[str, str], float | None] = lambda name, isolation: None,
) -> GpuClass:
    """Return the first class where the job would start at once, else the one that is expected to
    start it soonest; one that is held only if all are.

    ``room(class name, isolation)`` tells of a class, and is asked no further than to the first that
    starts the job; ``run_time`` of the same returns how many seconds a recent job took, None if
    that is not known.
    """
    rooms: list[tuple[GpuClass, Room]] = []
    for each in fitting:
        found = room(each.name, isolation or each.default_isolation)
        if found.starts:
            return each
        rooms.append((each, found))
    open_ones = [(each, found) for each, found in rooms if not found.held] or rooms
    seconds = {
        each.name: run_time(each.name, isolation or each.default_isolation) for each, _ in open_ones
    }
    known = [each for each in seconds.values() if each is not None]
    others = sum(known) / len(known) if known else 1.0  # a class without a run is as the others are

    def wait(each: GpuClass, found: Room) -> float:
        own = seconds[each.name]
        return expected_wait(found.waiting, found.slots, others if own is None else own)

    return min(open_ones, key=lambda each: wait(*each))[0]


def expected_wait(waiting: int, slots: int, run_time: float) -> float:
    """Return how many seconds a job is expected to wait in a class without a free slot: until as
    many jobs have ended as wait before it, and one more. A forecast of starts would say more, but
    takes a hundred times as long as a dispatcher needs to accept a message.
    """
    return (waiting + 1) * run_time / max(1, slots)


def larger(
    classes: Mapping[str, GpuClass],
    gpu_class: GpuClass,
    isolation: str,
    request: GpuRequest,
    time_limit: float | None = None,
    *,
    in_pods: bool = False,
) -> list[tuple[GpuClass, str]]:
    """Return the places (class, isolation) for a job that runs out of GPU memory in its own, the
    next larger one first.

    A shared job has the memory that others leave: exclusive in its class, it has all. After that
    come the classes of its list behind its own; without a list, the one that its class names
    (``larger``), or else all with more memory, in the order of their memory. Its isolation stays,
    or becomes exclusive.
    """
    places = [(gpu_class, EXCLUSIVE)] if isolation == SHARED else []
    if request.classes:
        names = list(request.classes)
        after = names.index(gpu_class.name) + 1 if gpu_class.name in names else 0
        others = [classes[name] for name in names[after:] if name in classes]
    elif gpu_class.larger:
        others = [classes[gpu_class.larger]] if gpu_class.larger in classes else []
    else:
        others = [each for each in sorted(classes.values(), key=_cost) if each.memory]
        others = others if gpu_class.memory else []
    places += [
        (each, isolation if each.slots(isolation) else EXCLUSIVE)
        for each in others
        if each.name != gpu_class.name and has_more_memory(each, gpu_class)
    ]
    return [place for place in places if not problem_of(*place, request, time_limit, in_pods)]


def has_more_memory(one: GpuClass, other: GpuClass) -> bool:
    """Whether a class has more GPU memory than another, or may have: of one it is unknown."""
    return one.memory is None or other.memory is None or one.memory > other.memory


def _candidates(
    classes: Mapping[str, GpuClass], queue: QueueName, listed: Sequence[str] | None
) -> list[GpuClass]:
    if listed is not None:
        return _listed(classes, queue, listed)
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
    return sorted(candidates, key=_cost)


def _listed(
    classes: Mapping[str, GpuClass], queue: QueueName, listed: Sequence[str]
) -> list[GpuClass]:
    if queue.gpu_class != "auto":
        raise InvalidJob.field(
            "gpu.classes",
            list(listed),
            f"contradicts the queue {queue}",
            "send it to gpu.auto, or leave the list out",
        )
    for name in listed:
        if name not in classes:
            raise InvalidJob.field(
                "gpu.classes",
                name,
                "is an unknown class",
                f"this dispatcher has: {', '.join(sorted(classes))}",
            )
    return [classes[name] for name in listed]


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


def _by_price(fitting: list[GpuClass], wanted: str | None) -> list[GpuClass]:
    """Sort classes by the price of one slot. If one has no price, none counts."""
    prices = {each.name: each.price_of_slot(wanted or each.default_isolation) for each in fitting}
    known = [price for price in prices.values() if price is not None]
    if len(known) < len(fitting):
        return fitting
    return sorted(fitting, key=lambda each: prices[each.name] or 0)


def problem_of(
    each: GpuClass, isolation: str, request: GpuRequest, time_limit: float | None, in_pods: bool
) -> InvalidJob | None:
    """Return why a job can never run on a class; None: it can."""
    problem = _problem_of_request(each, isolation, request, time_limit)
    several = not problem and (request.gpus or 1) > 1
    return _problem_of_several(each, request.gpus or 1, in_pods) if several else problem


def _problem_of_request(
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
