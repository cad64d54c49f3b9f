"""The demo's script: sends the jobs, cancels two at the right moment, waits for the rest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.demo.promises import Evidence
from gpuqueue.cli.demo.view import Look, View, look
from gpuqueue.dev.stack import Stack
from gpuqueue.launchers.local.identity import Instance
from gpuqueue.model.states import JobState
from gpuqueue.store.reader import Reader

#: Seconds that the whole demo may take. Measured on two slow cores: 45 to 60; with two slots 92;
#: with PyTorch 111.
LIMIT = 170.0
#: Seconds between two polls.
LOOK_EVERY = 0.3
BEST, FAILING, ENDLESS, UNNEEDED = "pick the best", "read cropped", "train for hours", "not needed"


class Story:
    """The jobs of the demo, and the actions on them."""

    def __init__(self, submit: Any, reader: Reader, gpu_class: GpuClass, slots: int) -> None:
        self._submit = submit
        self._reader = reader
        self._class = gpu_class
        self._slots = slots
        self.begin = time.time()
        self._started = time.monotonic()
        self.jobs: dict[str, Any] = {}
        self._grid: list[str] = []
        self._exclusive: list[str] = []
        self._cancelled: set[str] = set()
        self._stopped_at: Mapping[str, Any] = {}
        self._instance = ""

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def play(self, stack: Stack, view: View) -> None:
        """Send the jobs and poll until all have ended and freed their slots, or time is up."""
        self._open(view)
        while True:
            stack.check()
            seen = look(self._reader, self._class, self.jobs, time.time())
            view.show(self.jobs, seen)
            self._act(seen, view)
            if self._over(seen):
                return
            if lost := [label for label in self._grid if self.jobs[label].failed()]:
                view.say(f"failed, so the rest proves nothing: {', '.join(lost)}", time.time())
                return
            if self.seconds > LIMIT:
                view.say(f"time is up after {LIMIT:.0f} s", time.time())
                return
            time.sleep(LOOK_EVERY)

    def evidence(self) -> Evidence:
        """Collect the evidence for the checks."""
        seen = look(self._reader, self._class, self.jobs, time.time())
        states = {label: job.state for label, job in self.jobs.items()}
        todo = self._reader.view(self._class.name, {})
        return Evidence(
            records=seen.records,
            states=states,
            answers={
                label: _answer(job)
                for label, job in self.jobs.items()
                if states[label] in ("SUCCESS", "FAILURE")
            },
            slots=self._slots,
            seconds=self.seconds,
            limit=LIMIT,
            in_line=sum(todo.waiting_total.values()) + todo.delayed + todo.finishing,
            holders=len(self._reader.holders(self._class.name)),
            grid=self._grid,
            best=BEST,
            exclusive=self._exclusive,
            failing=FAILING,
            stopped=ENDLESS,
            withdrawn=UNNEEDED,
            stopped_at=self._stopped_at,
            process_gone=bool(self._instance) and not Instance.parse(self._instance).process.runs,
        )

    def close(self) -> None:
        """Release the results while their Redis runs: Celery unsubscribes from each, and would wait
        for it.
        """
        for job in self.jobs.values():
            job.backend.remove_pending_result(job)
        if self.jobs:
            self.jobs[ENDLESS].backend.result_consumer.stop()
        self.jobs.clear()

    def _open(self, view: View) -> None:
        self.jobs[ENDLESS] = self._submit.send_endless()
        best, points = self._submit.send_grid()
        self.jobs |= {**points, BEST: best, FAILING: self._submit.send_failing()}
        self._grid = list(points)
        view.say(
            f"sent {len(points)} trainings as a chord, one of hours and one with a mistake in it",
            time.time(),
        )

    def _act(self, seen: Look, view: View) -> None:
        """Send or cancel the next jobs once the time has come; each action once."""
        if not self._exclusive and any(
            seen.in_state(label, JobState.RUNNING) for label in self._grid
        ):
            alone = self._submit.send_whole_gpu()
            self._exclusive = list(alone)
            self.jobs |= {**alone, UNNEEDED: self._submit.send_unneeded()}
            view.say(
                "sent three jobs that want the GPU for themselves, ahead of the grid", seen.now
            )
        # A cancellation proves something only if the job was seen waiting, or running.
        if seen.in_state(UNNEEDED, JobState.WAITING) and self._cancel(UNNEEDED, view):
            self.jobs[UNNEEDED].revoke()
        self._stopped_at = seen.progress.get(ENDLESS, self._stopped_at)
        queued = all(seen.in_state(label, JobState.WAITING) for label in self._exclusive)
        if self._exclusive and queued and ENDLESS in seen.progress and self._cancel(ENDLESS, view):
            self._instance = seen.records[ENDLESS].get("instance", "")
            self.jobs[ENDLESS].revoke(terminate=True)

    def _cancel(self, label: str, view: View) -> bool:
        if label in self._cancelled:
            return False
        self._cancelled.add(label)
        view.say(f"cancelling “{label}”", time.time())
        return True

    def _over(self, seen: Look) -> bool:
        through = all(seen.in_state(label, JobState.ENDED) for label in self.jobs)
        return bool(self._exclusive) and through and not self._reader.holders(self._class.name)


def _answer(job: Any) -> Any:
    try:
        return job.get(timeout=10)
    except Exception as exc:
        return exc.with_traceback(None)  # its frames would keep the result alive
