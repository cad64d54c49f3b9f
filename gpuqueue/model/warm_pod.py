"""What the launcher tells a pod that may run other jobs after its own. Pure: no I/O, no clock.

It is part of the contract with images of other versions, which ignore it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Self

#: The variable of such a pod.
WARM_POD = "GPUQUEUE_WARM_POD"
#: What its runner prints when it goes on, before the name of the holder: there the log of a job
#: begins.
GOES_ON = "this pod goes on with"


@dataclass(frozen=True, slots=True)
class WarmPod:
    """How long a pod may go on, and what must be as it was at its start. Times in seconds.

    ``jobs`` and ``age`` are its limits: how many jobs it runs, and in which time after its start it
    takes them. A job with a time limit above ``longest`` could be ended by the deadline of the pod.
    ``site``, ``application`` and ``settings`` name its dispatchers, its application, and what its
    Job was made from. It keeps ``log`` bytes of the output of each job.
    """

    site: str
    application: str
    settings: str
    jobs: int
    age: float
    log: int
    longest: float | None = None

    def text(self) -> str:
        """Return the value of :data:`WARM_POD`."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(known, separators=(",", ":"), sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse it; None: the pod runs one job, since a newer dispatcher means something else."""
        try:
            known = json.loads(text)
            return cls(
                **{each.name: known[each.name] for each in fields(cls) if each.name in known}
            )
        except (ValueError, TypeError):
            return None
