"""Submit jobs: ``gpu(...)`` returns options for ``apply_async`` and ``.set()``, ``run(...)`` the
signature of a container job.

Both check their arguments at the call. Never here: a connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpuqueue.errors import InvalidJob
from gpuqueue.model.container import CONTAINER_TASK, parse_container
from gpuqueue.model.names import CHOOSING, MIG_PROFILE, QueueName, check_class_name
from gpuqueue.model.request import HEADER, MOST_SECONDS, GpuRequest


def gpu(
    gpu_class: str | Sequence[str] = "auto",
    *,
    isolation: str | None = None,
    memory: str | int | None = None,
    slices: int | None = None,
    gpus: int | None = None,
    tenant: str | None = None,
    image: str | None = None,
    reuse: int | None = None,
    warm: float | None = None,
    escalate: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Return options that route a task to a GPU queue.

    ``train.apply_async((x,), **gpu("t4", isolation="exclusive", time_limit=3600))``

    Args:
        gpu_class: a class (``t4``, ``mig-1g.5gb``), or ``auto`` or ``mig`` to let the dispatcher
            choose a class that fits. A list of classes, the preferred one first: the first that
            fits and would start it at once, else the one that is expected to start it soonest.
        isolation: ``shared`` (with other jobs on a time-sliced GPU) or ``exclusive`` (alone); None:
            the default of the class.
        memory: GPU memory that the job needs, in bytes or as text (``9GiB``).
        slices: MIG compute slices that the job needs, 1 to 7.
        gpus: whole GPUs of one machine, or node, that the job gets for itself. Above 1, its
            isolation is ``exclusive``.
        tenant: the owner of the job, for fair sharing.
        image: container image of the executor (Kubernetes).
        reuse: how many jobs of this task and tenant one process may run, one after the other, so
            that a model stays loaded. 0 or 1: each job has its own process. Between
            two jobs, the process keeps its GPU memory, and all else that the task left.
        warm: for how many seconds the pod of the job may wait for another job, once it has ended
            (Kubernetes). 0: it ends with the job. None: as the class says (``warm_seconds``).
        escalate: if the job runs out of GPU memory, run it once more, in the next larger place: a
            shared job exclusively, any other one in a larger class.
        options: any other option of ``apply_async``: ``time_limit``, ``soft_time_limit``,
            ``priority``, ``headers``, …

    Raises:
        InvalidJob: a value is invalid; the message states field, value, problem and fix.
    """
    classes = None
    if not isinstance(gpu_class, str) and isinstance(gpu_class, Sequence):
        classes, gpu_class = gpu_class, "auto"
    check_class_name(gpu_class)
    if "queue" in options:
        raise InvalidJob.field(
            "queue", options["queue"], "contradicts gpu(...)", "leave it out: gpu() sets the queue"
        )
    if "classes" in options:
        raise InvalidJob.field(
            "classes", options["classes"], "is no option", "use gpu(['t4', ...])"
        )
    fields = {
        "isolation": isolation,
        "memory": memory,
        "slices": slices,
        "gpus": gpus,
        "tenant": tenant,
        "image": image,
        "reuse": reuse,
        "warm": warm,
        "classes": classes,
        "escalate": escalate,
    }
    request = GpuRequest.parse({key: value for key, value in fields.items() if value is not None})
    for key in ("time_limit", "soft_time_limit"):
        limit = options.get(key)
        if limit is not None and (
            not isinstance(limit, (int, float))
            or isinstance(limit, bool)
            or not 0 < limit <= MOST_SECONDS
        ):
            fix = f"use a number above 0, and up to {MOST_SECONDS}"
            raise InvalidJob.field(key, limit, "is not a number of seconds", fix)
    # The queues of MIG profiles, ``auto`` and ``mig`` have no isolation: it travels in the header.
    plain = gpu_class in CHOOSING or MIG_PROFILE.match(gpu_class) is not None
    queue = QueueName(gpu_class, None if plain else request.isolation)
    headers = options.pop("headers", None) or {}
    if not isinstance(headers, Mapping):
        raise InvalidJob.field("headers", headers, "is not a dict", "use e.g. {'trace': 'x'}")
    return {"queue": str(queue), "headers": {**headers, HEADER: request.header()}, **options}


def run(
    image: str,
    command: Sequence[str] | None = None,
    args: Sequence[str] | None = None,
    env: Mapping[str, str | int | float] | None = None,
    working_dir: str | None = None,
    *,
    app: Any = None,
) -> Any:
    """Return the signature of a container job. You can send, set and chain it like any other.

    ``gpuqueue.run("cuda:12", ["nvidia-smi"]).apply_async(**gpu("t4"))``

    Args:
        image: the image to run; dispatchers must allow it (GPU_IMAGE_ALLOW).
        command: words that replace the ENTRYPOINT of the image.
        args: words that replace its CMD.
        env: environment variables; numbers are converted to text.
        working_dir: an absolute path.
        app: the Celery application that sends it; None: the current one.

    The result is ``{"exit_code": 0, "message": …, "log": …}``; any other exit code raises
    ContainerFailed.

    Raises:
        InvalidJob: a value is invalid; the message states field, value, problem and fix.
    """
    from celery import signature  # gpu(...) alone does not need Celery

    fields = {"command": command, "args": args, "env": env, "working_dir": working_dir}
    _, container = parse_container(
        [image], {name: value for name, value in fields.items() if value is not None}
    )
    # Immutable: in a chain, the result of the previous task is not an argument of the container.
    return signature(CONTAINER_TASK, kwargs={"image": image, **container}, immutable=True, app=app)
