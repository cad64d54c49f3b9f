"""The doctor's check of the application, imported in a separate process as executors do.

``python -m gpuqueue.cli.checks.application APP`` prints what :class:`Application` holds, as JSON on
its last line.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta

from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.errors import GpuQueueError
from gpuqueue.model.celery_redis import PREFIX, for_celery
from gpuqueue.model.redis_url import mask
from gpuqueue.settings.dispatcher import Settings

#: Seconds an import may take: large frameworks from a cold disk.
IMPORT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Application:
    """The settings of an application that ``doctor`` checks.

    ``error`` says why the import failed. ``result_expires`` is in seconds; None means never.
    """

    error: str | None = None
    tasks: list[str] = field(default_factory=list)
    broker_url: str | None = None
    result_backend: str | None = None
    broker_prefix: str = ""
    result_expires: float | None = None
    task_serializer: str = "json"
    result_serializer: str = "json"
    results_accepted: list[str] = field(default_factory=lambda: ["json"])


def begin(name: str, env: Mapping[str, str] = os.environ) -> subprocess.Popen[str]:
    """Start the process that imports the application."""
    command = [sys.executable, "-m", "gpuqueue.cli.checks.application", name]
    return subprocess.Popen(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def finish(looking: subprocess.Popen[str], name: str) -> Application:
    """Return its report, within 120 s."""
    try:
        out, _ = looking.communicate(timeout=IMPORT_SECONDS)
        return Application(**json.loads(out.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return Application(
            error=f"GPUQUEUE_APP={name!r} was not imported within {IMPORT_SECONDS:.0f} s"
        )
    except (ValueError, IndexError, TypeError):
        return Application(
            error=(
                f"GPUQUEUE_APP={name!r} ended the process that imported it (status"
                f" {looking.returncode})"
            )
        )
    finally:
        if looking.poll() is None:
            looking.kill()
            looking.wait()


def check(name: str | None, seen: Application | None, settings: Settings) -> Iterator[Check]:
    """Check that executors can load the application and read its messages."""
    if name is None or seen is None:
        yield Check(
            "application",
            Level.WARN,
            "GPUQUEUE_APP is not set here",
            "set it to the argument of `celery -A` to check the application",
        )
        return
    if seen.error:
        problem, _, fix = seen.error.rpartition("; ")
        yield Check(
            "application", Level.FAIL, problem or fix, fix if problem else "correct GPUQUEUE_APP"
        )
        return
    level, fix = Level.OK, ""
    if not seen.tasks:
        level, fix = (
            Level.FAIL,
            "import the tasks where the application is created, or list their modules in `include`",
        )
    elif seen.task_serializer not in ("json", "auth"):
        level, fix = (
            Level.FAIL,
            f"task_serializer={seen.task_serializer!r} is refused on GPU queues; set it to 'json'",
        )
    elif seen.task_serializer == "json" and settings.cert_store:
        level, fix = (
            Level.FAIL,
            (
                "it does not sign messages, and GPUQUEUE_CERT_STORE accepts only signed ones; sign"
                " them, or unset it"
            ),
        )
    elif seen.result_serializer != "json" or not {"json", "application/json"} & set(
        seen.results_accepted
    ):
        level, fix = (
            Level.FAIL,
            (
                "set result_serializer='json' and result_accept_content=['json']; dispatchers write"
                " results too"
            ),
        )
    elif seen.broker_prefix != settings.redis.broker_prefix:
        level = Level.FAIL
        fix = (
            f"its broker has {PREFIX}={seen.broker_prefix!r}, dispatchers have"
            f" {settings.redis.broker_prefix!r}; set GPUQUEUE_BROKER_TRANSPORT_OPTIONS to its"
            " broker_transport_options"
        )
    elif seen.broker_url != for_celery(settings.redis.broker):
        level = Level.WARN
        fix = (
            f"its broker_url is {mask(seen.broker_url or 'unset')}; submit jobs where"
            " CELERY_BROKER_URL is the same as for dispatchers"
        )
    how = ", signed" if seen.task_serializer == "auth" else ""
    yield Check("application", level, f"{name}: {len(seen.tasks)} tasks{how}", fix)


def _normal(url: str | None) -> str | None:
    try:
        return for_celery(url)
    except ValueError:  # not for the doctor to say: the application connects by itself
        return url


def _look(name: str) -> Application:
    from gpuqueue.executor.application import find

    try:
        app = find(name)
    except GpuQueueError as exc:
        return Application(error=str(exc))
    expires = app.conf.result_expires
    return Application(
        tasks=sorted(each for each in app.tasks if not each.startswith("celery.")),
        broker_url=_normal(app.conf.broker_url),
        broker_prefix=str(app.conf.broker_transport_options.get(PREFIX) or ""),
        result_backend=app.conf.result_backend,
        result_expires=(
            expires.total_seconds() if isinstance(expires, timedelta) else expires or None
        ),
        task_serializer=app.conf.task_serializer,
        result_serializer=app.conf.result_serializer,
        results_accepted=list(app.conf.result_accept_content or app.conf.accept_content or []),
    )


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # keep the application's own prints apart
        seen = _look(sys.argv[1])
    sys.stdout.write(json.dumps(asdict(seen)) + "\n")
