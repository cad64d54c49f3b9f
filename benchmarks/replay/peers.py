"""The peers: other rules for the same GPUs, as small simulators. Pure.

All of them keep the isolations apart on each GPU, pack shared jobs onto the fullest GPU with room,
and give an exclusive job an idle one.
"""

from __future__ import annotations

from collections import deque

from benchmarks.replay.loop import Start
from benchmarks.replay.traces import Job, Shape


class Peer:
    """The GPUs of a peer, and its line."""

    label = ""
    tick = 0.0
    whole = False

    def __init__(self, shape: Shape) -> None:
        self._slots = shape.slots
        self._shared = [0] * shape.gpus
        self._exclusive = [False] * shape.gpus
        self._where: dict[int, int] = {}

    def arrive(self, job: Job, now: float) -> list[Start]:
        """Put a job in line, and answer what starts."""
        self._enter(job)
        return [] if self.tick else self.decide(now)

    def end(self, job: Job, now: float) -> list[Start]:
        """Free the slot of a job, and answer what starts."""
        gpu = self._where.pop(job.number)
        if job.shares:
            self._shared[gpu] -= 1
        else:
            self._exclusive[gpu] = False
        return [] if self.tick else self.decide(now)

    def decide(self, now: float) -> list[Start]:
        """Answer what starts."""
        raise NotImplementedError

    def _enter(self, job: Job) -> None:
        raise NotImplementedError

    def _idle(self) -> list[int]:
        return [
            gpu
            for gpu, shared in enumerate(self._shared)
            if not shared and not self._exclusive[gpu]
        ]

    def _place(self, job: Job) -> int | None:
        """Return the GPU that the job can start on; None: there is none."""
        if job.shares:
            room = [gpu for gpu, shared in enumerate(self._shared) if 0 < shared < self._slots]
            if room:
                return max(room, key=lambda gpu: (self._shared[gpu], -gpu))
        return next(iter(self._idle()), None)

    def _start(self, job: Job, gpu: int) -> Start:
        self._where[job.number] = gpu
        if job.shares:
            self._shared[gpu] += 1
        else:
            self._exclusive[gpu] = True
        return Start(job.number, gpu)


class Fifo(Peer):
    """Strict order of arrival: a job that cannot start blocks all behind it."""

    label = "strict FIFO"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._line: deque[Job] = deque()

    def _enter(self, job: Job) -> None:
        self._line.append(job)

    def decide(self, now: float) -> list[Start]:
        """Start the first jobs, up to one that cannot."""
        starts = []
        while self._line and (gpu := self._place(self._line[0])) is not None:
            starts.append(self._start(self._line.popleft(), gpu))
        return starts


class _TwoLines(Peer):
    """A line for each isolation."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._shared_line: deque[Job] = deque()
        self._exclusive_line: deque[Job] = deque()

    def _enter(self, job: Job) -> None:
        (self._shared_line if job.shares else self._exclusive_line).append(job)

    def _first(self) -> list[deque[Job]]:
        """Return the lines with jobs, that of the earliest arrival first."""
        lines = [line for line in (self._shared_line, self._exclusive_line) if line]
        return sorted(lines, key=lambda line: line[0].number)


class WaitForIdle(_TwoLines):
    """Every 0.5 s, all jobs start that can, in the order of arrival: a shared job where a slot is
    free, an exclusive job only where a GPU happens to be idle.
    """

    label = "waits for an idle GPU"
    tick = 0.5

    def decide(self, now: float) -> list[Start]:
        """Start the first of either line that can, until none can."""
        starts = []
        while True:
            for line in self._first():
                gpu = self._place(line[0])
                if gpu is not None:
                    starts.append(self._start(line.popleft(), gpu))
                    break
            else:
                return starts


class WaitForIdleClass(WaitForIdle):
    """The same, with all GPUs as one domain: an exclusive job starts only while no shared job runs
    at all, and a shared one only while no exclusive job does.
    """

    label = "waits for an idle class"
    whole = True

    def _place(self, job: Job) -> int | None:
        if any(self._exclusive) if job.shares else any(self._shared):
            return None
        return super()._place(job)


class PhaseFair(_TwoLines):
    """Phases take turns on each GPU, as in a phase-fair lock of readers and writers.

    As many GPUs as exclusive jobs wait take no shared job more: first those with the fewest. When
    one of them is idle, it takes an exclusive job. After it, the shared jobs that wait fill the
    GPU, before another exclusive job gets it.
    """

    label = "phase-fair"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self._closed: set[int] = set()
        self._was_exclusive = [False] * shape.gpus

    def decide(self, now: float) -> list[Start]:
        """Begin exclusive phases, close GPUs for others, and start shared jobs on the rest."""
        starts = self._exclusive_phases()
        while self._shared_line:
            gpu = self._open_gpu()
            if gpu is None:
                break
            starts.append(self._start(self._shared_line.popleft(), gpu))
            self._was_exclusive[gpu] = False
        return starts + self._exclusive_phases()

    def _exclusive_phases(self) -> list[Start]:
        starts = []
        for gpu in self._idle():
            turn = gpu in self._closed or not self._was_exclusive[gpu] or not self._shared_line
            if self._exclusive_line and turn:
                starts.append(self._start(self._exclusive_line.popleft(), gpu))
                self._was_exclusive[gpu] = True
        # Those that were closed before stay so, as long as enough jobs wait.
        busy = [gpu for gpu, count in enumerate(self._shared) if count]
        order = sorted(busy, key=lambda gpu: (gpu not in self._closed, self._shared[gpu], gpu))
        self._closed = set(order[: len(self._exclusive_line)])
        return starts

    def _open_gpu(self) -> int | None:
        """Return the fullest open GPU with room for a shared job, else an idle one."""
        open_ = [
            gpu
            for gpu, count in enumerate(self._shared)
            if count < self._slots and not self._exclusive[gpu] and gpu not in self._closed
        ]
        return max(open_, key=lambda gpu: (self._shared[gpu], -gpu), default=None)
