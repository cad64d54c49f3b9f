"""GPUs that fail jobs, as the model knows them: set aside for a growing while, tried by one job."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gpuqueue.model.names import SHARED

FIRST_PAUSE, LONGEST_PAUSE, PROVEN, FORGOTTEN, ENOUGH, AVOIDED = 2, 300, 60, 3600, 2, 5
Holder = tuple[str, int]


@dataclass
class Gpu:
    """One GPU with failures. ``jobs``: id → delivery, how often."""

    last: float
    jobs: dict[str, tuple[str, int]] = field(default_factory=dict)
    until: float | None = None
    pause: float = 0
    probe: Holder | None = None


@dataclass
class Gpus:
    """The GPUs of a class, by index."""

    total: int
    dealt: dict[Holder, int] = field(default_factory=dict)
    failed: dict[int, Gpu] = field(default_factory=dict)

    def standing(self, index: int, now: float, running: dict[Holder, float]) -> str:
        """``in use``, ``held`` or ``due``. ``running``: holder that has claimed → since when, or
        infinity for one that has not.
        """
        gpu = self.failed.get(index)
        if gpu is None or gpu.until is None:
            return "in use"
        probing = gpu.probe in running
        if probing and gpu.probe is not None and now - running[gpu.probe] >= PROVEN:
            return "in use"
        return "held" if probing or gpu.until > now else "due"

    def pick(
        self,
        isolation: str,
        slots: int,
        now: float,
        running: dict[Holder, float],
        avoid: tuple[int, ...] = (),
    ) -> int | None:
        """The GPU of the next job; None: none can take it."""
        jobs = [list(self.dealt.values()).count(index) for index in range(self.total)]
        stands = [self.standing(index, now, running) for index in range(self.total)]
        room = math.ceil(slots / self.total) if isolation == SHARED else 1
        usable = [
            (index in avoid, stands[index] == "in use", jobs[index], index)
            for index in range(self.total)
            if stands[index] != "held" and jobs[index] < room
        ]
        if usable:
            return min(usable)[-1]
        return None if set(stands) != {"in use"} else jobs.index(min(jobs))

    def start(self, holder: Holder, index: int, now: float, running: dict[Holder, float]) -> None:
        if self.standing(index, now, running) == "due":
            self.failed[index].probe = holder
        self.dealt[holder] = index

    def fail(self, index: int, job: str, delivery: str, holder: Holder, now: float) -> list[str]:
        """An attempt failed there. Answer: the deliveries with failures that do not count, each as
        often as it is named.
        """
        gpu = self.failed.setdefault(index, Gpu(now))
        gpu.last = now
        if job in gpu.jobs or len(gpu.jobs) < 8:
            gpu.jobs[job] = (delivery, gpu.jobs.get(job, ("", 0))[1] + 1)
        if gpu.until is not None:
            if gpu.probe == holder:
                gpu.pause = min(LONGEST_PAUSE, gpu.pause * 2)
                gpu.until, gpu.probe = now + gpu.pause, None
            return [delivery]
        if len(gpu.jobs) < ENOUGH:
            return []
        gpu.pause, gpu.until = FIRST_PAUSE, now + FIRST_PAUSE
        return [
            delivery if name == job else other
            for name, (other, times) in gpu.jobs.items()
            for _ in range(times)
        ]

    def succeed(self, index: int, holder: Holder) -> None:
        gpu = self.failed.get(index)
        if gpu is not None and (gpu.until is None or gpu.probe == holder):
            del self.failed[index]

    def forget(self, now: float, running: dict[Holder, float]) -> None:
        for index, gpu in list(self.failed.items()):
            probing = gpu.probe in running
            proven = probing and gpu.probe is not None and now - running[gpu.probe] >= PROVEN
            idle = max(gpu.last, gpu.until or 0) + FORGOTTEN < now
            if proven or (idle and not probing):
                del self.failed[index]
