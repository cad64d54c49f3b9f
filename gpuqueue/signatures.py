"""``gpuqueue.run(...)``: a container job as a Celery signature, checked where it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpuqueue.container import CONTAINER_TASK, parse_container


def run(
    image: str,
    command: Sequence[str] | None = None,
    args: Sequence[str] | None = None,
    env: Mapping[str, str | int | float] | None = None,
    working_dir: str | None = None,
    *,
    app: Any = None,
) -> Any:
    """Return the signature of a container job, to be sent, set, or chained as any other.

    ``gpuqueue.run("cuda:12", ["nvidia-smi"]).apply_async(**gpu("t4"))``

    Args:
        image: what to run; dispatchers must allow it (GPU_IMAGE_ALLOW).
        command: words in place of the image's ENTRYPOINT.
        args: words in place of its CMD.
        env: variables; numbers are written as text.
        working_dir: an absolute path.
        app: the Celery application that sends it; the current one if None.

    Its result is ``{"exit_code": 0, "message": …, "log": …}``; any other exit code raises ContainerFailed.

    Raises:
        InvalidJob: a value that cannot be; the text names the field, the value and the fix.
    """
    from celery import signature  # not needed by whoever only wants gpu(...)

    said = {"command": command, "args": args, "env": env, "working_dir": working_dir}
    _, container = parse_container([image], {name: value for name, value in said.items() if value is not None})
    # Immutable: in a chain the result of the job before it is no argument of a container.
    return signature(CONTAINER_TASK, kwargs={"image": image, **container}, immutable=True, app=app)
