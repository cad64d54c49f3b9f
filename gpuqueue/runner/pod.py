"""The runner of a pod: process 1 of its container. It claims the attempt of the pod, imports the
application, forks the executor, and ends as the executor does, once nothing is left of the attempt.

``python -m gpuqueue.executor`` comes here, since that is the command of every manifest, and images
have other versions than dispatchers. It is the executor itself for a finisher, for an executor that
a runner starts, and outside of pods.

The claim precedes the import, so that the watcher sees an import that hangs, and one that kills
this process. Light as long as executors are spawned: the rest is imported where it is needed.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gpuqueue.imports import uncollected
from gpuqueue.model.executor_env import FINISHER, POD_UID, START
from gpuqueue.model.warm_pod import WARM_POD
from gpuqueue.runner import child
from gpuqueue.runner.descendants import Strays, children, pause

if TYPE_CHECKING:
    from gpuqueue.executor.process import Executor
    from gpuqueue.executor.warm import Warm
    from gpuqueue.runner.pod_output import PodOutput

#: Not a logger of Celery (as in gpuqueue.executor).
logger = logging.getLogger("gpuqueue.start")
#: Seconds for which what the attempt left may resist SIGKILL. The kernel ends it with process 1.
RESISTING = 10.0
#: Seconds between two looks of a pod that may run several jobs whether Redis knows its job.
LOOK = 2.0


def run() -> NoReturn:
    """Run the attempt, or the finish, that the environment names: the entry point."""
    if not is_runner(os.environ, sys.argv[1:]):
        _import_run()()
    before = dict(os.environ)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a parent may have had it ignored
    # Process 1 has no default action: a signal before its handler would be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, child.SIGNALS)
    child.adopt_orphans()
    if os.environ.get(START) == "spawn":
        spawn = partial(os.execv, child.SPAWNED[0], child.SPAWNED)
        _end_as(_run_all(Pod(), spawn, None))
    _import_run()(partial(_fork, Path.cwd(), before))


def _import_run() -> Callable[..., NoReturn]:
    """Import what runs an executor late: the runner of spawned ones does without."""
    with uncollected():
        from gpuqueue.executor.main import run
    gc.freeze()  # no collection looks through it
    return run


def is_runner(environ: Mapping[str, str], arguments: Sequence[str]) -> bool:
    """Return whether this process is the runner of a pod."""
    return bool(environ.get(POD_UID)) and FINISHER not in environ and child.ALONE not in arguments


def _fork(folder: Path, before: Mapping[str, str]) -> int:
    """Import the application, and fork the executor. Returns the exit status of an attempt that
    gets no further.
    """
    from gpuqueue.errors import ApplicationNotFound
    from gpuqueue.executor import main
    from gpuqueue.executor.process import Executor
    from gpuqueue.runner import parent

    signal.pthread_sigmask(signal.SIG_UNBLOCK, child.SIGNALS)
    executor = Executor(os.environ)
    if status := executor.claim():
        return status
    parent.import_late()
    try:
        executor.describe(parent.become(os.environ))
    except ApplicationNotFound as exc:
        return executor.not_loaded(exc)
    executor.disconnect()
    why = parent.settle()
    # From here on, signals are for the executor.
    signal.pthread_sigmask(signal.SIG_BLOCK, child.SIGNALS)
    if why:
        _spawn_instead(why, folder, before)
    ready = partial(parent.be_ready, os.environ.get("GPUQUEUE_APP"))
    pod = Pod()
    status = _run_all(pod, partial(main.run, executor.work), executor, ready)
    parent.shut_down(os.environ, status, pod.stopped_by)
    return _end_as(status)


def _nothing() -> None:
    pass


def _run_all(
    pod: Pod,
    start: Callable[[], object],
    executor: Executor | None,
    ready: Callable[[], object] = _nothing,
) -> int:
    """Run the attempt of the pod, and the jobs that follow it there; return the exit status.

    Args:
        pod: has run nothing yet.
        start: becomes the executor, in a new process.
        executor: has claimed the attempt; None: the new process claims it.
        ready: called once the first process is forked.
    """
    if not os.environ.get(WARM_POD):
        return pod.run(start, ready)
    from gpuqueue.errors import SettingsError
    from gpuqueue.executor.process import Executor
    from gpuqueue.executor.warm import Warm
    from gpuqueue.runner.pod_output import PodOutput
    from gpuqueue.runner.temporary import temporary_files

    try:
        warm = Warm.of(executor or Executor(os.environ), time.monotonic())
    except SettingsError:
        warm = None  # the executor says so, too
    if warm is None:
        return pod.run(start, ready)
    while True:
        output = PodOutput(warm.log_bytes, warm.mark)
        with temporary_files():
            status = pod.run(
                partial(output.into, start),
                partial(_begin, output, ready),
                partial(_watch, output, warm),
            )
        ready = _nothing
        printed = output.close()
        _follow(output, warm)
        if printed is None:
            return status
        warm.keep(printed)
        if status or pod.stopped_by:
            return status
        taken = warm.next()
        pod.stopped_by = warm.stopped_by
        if taken is None:
            return status
        if taken:
            return taken


def _begin(output: PodOutput, ready: Callable[[], object]) -> None:
    output.follow()
    ready()


def _follow(output: PodOutput, warm: Warm) -> None:
    for turn in output.turns():
        try:
            warm.turned(*turn)
        except Exception:  # the job goes on
            logger.exception("a turn to another job is not noted", extra={"action": "turn"})


def _watch(output: PodOutput, warm: Warm) -> None:
    _follow(output, warm)
    try:
        warm.watch()
    except Exception:  # the job goes on
        logger.exception("Redis was not told what runs here", extra={"action": "watch"})


def _spawn_instead(why: str, folder: Path, before: Mapping[str, str]) -> NoReturn:
    """Begin again, in the folder and the environment of before, as a runner that has not imported
    the application: memory, threads, GPUs and processes of the import are gone. Its executor claims
    the attempt again, as the same instance.
    """
    logger.warning(
        "the executor is started, not forked: %s; GPUQUEUE_START=spawn saves the first import",
        why,
        extra={"action": "spawns"},
    )
    sys.stdout.flush()
    sys.stderr.flush()
    if Path.cwd() != folder:
        os.chdir(folder)
    Pod(kept=()).sweep()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**before, START: "spawn"})


class Pod:
    """The processes of a pod. For one thread, which blocks :data:`child.SIGNALS`.

    Args:
        kept: see :class:`Strays`.
    """

    def __init__(self, kept: Collection[int] | None = None) -> None:
        self._strays = Strays(kept)
        self.stopped_by = ""
        """The signal that has asked the pod to end."""

    def run(
        self,
        executor: Callable[[], object],
        begun: Callable[[], object] = _nothing,
        watch: Callable[[], object] | None = None,
    ) -> int:
        """Run an executor to its end; return the exit status of the pod. ``begun`` is called once
        it is forked, ``watch`` every :data:`LOOK` seconds.
        """
        pid = child.fork(executor)
        begun()
        code = self._await(pid, watch)
        self.sweep()
        return code if code >= 0 else 128 - code

    def _await(self, pid: int, watch: Callable[[], object] | None) -> int:
        """Pass signals on and reap orphans until the executor has ended; return how."""
        while True:
            # A signal that came before is still pending: nothing is missed.
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid == pid:
                    return child.reap(pid)
                os.waitpid(ended.si_pid, 0)
            number = _next_signal(watch)
            if number in (signal.SIGTERM, signal.SIGINT):
                self.stopped_by = signal.Signals(number).name
            if number != signal.SIGCHLD:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def sweep(self) -> None:
        """End what the attempt left, or the import of its application."""
        began = time.monotonic()
        while self._strays.end(set(), ("attempt",)):
            since = time.monotonic() - began
            if since > RESISTING:
                return
            time.sleep(pause(since))


def _next_signal(watch: Callable[[], object] | None) -> int:
    if watch is None:
        return signal.sigwait(child.SIGNALS)
    while (came := signal.sigtimedwait(child.SIGNALS, LOOK)) is None:
        watch()
    return came.si_signo


def _end_as(status: int) -> NoReturn:
    """End with a status, and with the processes that the import of the application started."""
    for pid in children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
