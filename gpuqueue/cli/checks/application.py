"""Import an application in a separate process and report what executors will find in it.

``python -m gpuqueue.cli.checks.application APP`` prints what :class:`Application` holds, as JSON on
its last line.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta

from gpuqueue.errors import GpuQueueError

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


def _look(name: str) -> Application:
    from gpuqueue.executor.application import find

    try:
        app = find(name)
    except GpuQueueError as exc:
        return Application(error=str(exc))
    expires = app.conf.result_expires
    return Application(
        tasks=sorted(each for each in app.tasks if not each.startswith("celery.")),
        broker_url=app.conf.broker_url,
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
