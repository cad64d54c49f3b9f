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
from types import MappingProxyType
from typing import Any

from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.errors import GpuQueueError, MalformedMessage
from gpuqueue.model.celery_redis import for_celery
from gpuqueue.model.profile import Profile
from gpuqueue.model.redis_url import mask
from gpuqueue.settings.dispatcher import Settings

#: Seconds an import may take: large frameworks from a cold disk.
IMPORT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Application:
    """The settings of an application that ``doctor`` checks.

    ``error`` says why the import failed. ``described`` is its profile for JSON. ``accepts_it``:
    whether ``accept_content`` names its ``task_serializer``.
    """

    error: str | None = None
    tasks: list[str] = field(default_factory=list)
    broker_url: str | None = None
    described: dict[str, Any] = field(default_factory=dict)
    task_serializer: str = "json"
    accepts_it: bool = True
    results_accepted: list[str] = field(default_factory=lambda: ["json"])

    @property
    def profile(self) -> Profile | None:
        """What it says of its broker and results; None: it cannot be imported here."""
        return Profile.parse(self.described)


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


def check(
    name: str | None,
    seen: Application | None,
    settings: Settings,
    kept: Mapping[str, Profile] = MappingProxyType({}),
) -> Iterator[Check]:
    """Check that executors can load the application and read its messages. ``kept``: what its
    executors have told, by image.
    """
    if name is None or seen is None:
        yield Check(
            "application",
            Level.WARN,
            "GPUQUEUE_APP is not set here",
            "set it to the argument of `celery -A` to check the application",
        )
        return
    if seen.error and settings.execution_mode == "k8s_job":
        yield Check(
            "application",
            Level.OK if kept else Level.WARN,
            f"{name}: known by its pods" if kept else f"{name}: no pod has imported it yet",
            "" if kept else "run a job; its image must be able to import it, this one need not",
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
    elif not seen.accepts_it:
        level, fix = (
            Level.FAIL,
            (
                f"its accept_content refuses what task_serializer={seen.task_serializer!r} sends;"
                f" add {seen.task_serializer!r} to accept_content"
            ),
        )
    elif seen.task_serializer != "auth" and settings.cert_store:
        level, fix = (
            Level.FAIL,
            (
                "it does not sign messages, and GPUQUEUE_CERT_STORE accepts only signed ones; sign"
                " them, or unset it"
            ),
        )
    elif _is_json(seen) and not {"json", "application/json"} & set(seen.results_accepted):
        level, fix = (
            Level.FAIL,
            "add 'json' to its result_accept_content: dispatchers write such results, too",
        )
    elif seen.broker_url != for_celery(settings.redis.broker):
        level = Level.WARN
        fix = (
            f"its broker_url is {mask(seen.broker_url or 'unset')}; submit jobs where"
            " CELERY_BROKER_URL is the same as for dispatchers"
        )
    forms = {"json": "", "auth": ", signed"}
    how = forms.get(seen.task_serializer, f", messages in {seen.task_serializer}")
    yield Check("application", level, f"{name}: {len(seen.tasks)} tasks{how}", fix)


def _is_json(seen: Application) -> bool:
    """Return whether its results are JSON; others it writes itself."""
    return seen.profile is None or seen.profile.serializer == "json"


def _normal(url: str | None) -> str | None:
    try:
        return for_celery(url)
    except ValueError:  # not for the doctor to say: the application connects by itself
        return url


def _accepts(app: Any) -> bool:
    """Return whether executors of an application read what it sends."""
    from kombu.serialization import registry

    from gpuqueue.glue.messages.bodies import accepted

    try:
        return registry.name_to_type.get(app.conf.task_serializer) in accepted(app)
    except MalformedMessage:
        return False


def _look(name: str) -> Application:
    from gpuqueue.executor.application import find
    from gpuqueue.executor.redis_of import told_backend
    from gpuqueue.glue.profile import profile_of

    try:
        app = find(name)
    except GpuQueueError as exc:
        return Application(error=str(exc))
    return Application(
        tasks=sorted(each for each in app.tasks if not each.startswith("celery.")),
        broker_url=_normal(app.conf.broker_url),
        described=profile_of(app, told_backend(os.environ)).described(),
        task_serializer=app.conf.task_serializer,
        accepts_it=_accepts(app),
        results_accepted=list(app.conf.result_accept_content or app.conf.accept_content or []),
    )


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # keep the application's own prints apart
        seen = _look(sys.argv[1])
    sys.stdout.write(json.dumps(asdict(seen)) + "\n")
