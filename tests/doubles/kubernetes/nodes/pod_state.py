"""The status that a kubelet gives of a pod, worked out from its containers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.doubles.kubernetes.nodes.container import Container
from tests.doubles.kubernetes.objects.store import Body
from tests.doubles.kubernetes.objects.wire import stamp

_COMPLETE = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}


@dataclass(slots=True)
class PodState:
    """What a kubelet knows of a pod.

    ``ended`` is the terminal phase once it is told, ``why`` its reason and message where the
    kubelet has its own, ``sandbox`` whether the pod has one, ``addressed`` whether its address has
    been seen.
    """

    initial: Sequence[Container]
    main: Sequence[Container]
    ended: str = ""
    why: tuple[str, str] = ("", "")
    admitted: bool = False
    sandbox: bool = False
    addressed: bool = False
    started: str = field(default_factory=stamp)

    @property
    def containers(self) -> list[Container]:
        """All containers, the initial ones first."""
        return [*self.initial, *self.main]

    @property
    def over(self) -> bool:
        """Whether no container that counts runs or will run: sidecars do not count."""
        firsts = (container for container in self.initial if not container.sidecar)
        if any(container.exit is not None and container.exit.code != 0 for container in firsts):
            return True
        return all(container.exit is not None for container in self.main)

    @property
    def outcome(self) -> str:
        """The terminal phase of a pod that is over."""
        exits = [container.exit for container in self.containers if not container.sidecar]
        return "Succeeded" if all(how is not None and how.code == 0 for how in exits) else "Failed"

    def status(self, generation: int, host: str, address: str) -> Body:
        """The status, without the conditions that others set."""
        phase = self.ended or (
            "Running" if any(item.started is not None for item in self.main) else "Pending"
        )
        status: Body = {"phase": phase, "startTime": self.started, "observedGeneration": generation}
        reason, message = self.why
        if self.ended and reason:
            status |= {"reason": reason, "message": message}
        if not self.admitted:
            return status
        status |= {"hostIP": host, "hostIPs": [{"ip": host}]}
        if self.initial:
            status["initContainerStatuses"] = [container.status() for container in self.initial]
        status["containerStatuses"] = [container.status() for container in self.main]
        if self.addressed:
            status |= {"podIP": address, "podIPs": [{"ip": address}]}
        status["conditions"] = self._conditions(generation)
        return status

    def _conditions(self, generation: int) -> list[Body]:
        # A pod whose containers were never found keeps the conditions that it had.
        complete = (
            _COMPLETE[self.outcome]
            if self.over and not any(item.lost for item in self.main)
            else None
        )
        initialized: Body = {"status": "True"}
        waiting = [container.name for container in self.initial if not container.ready]
        if waiting:
            told = f"containers with incomplete status: [{' '.join(waiting)}]"
            initialized = {"status": "False", "reason": "ContainersNotInitialized", "message": told}
        elif complete == "PodCompleted":
            initialized["reason"] = complete
        unready = [container.name for container in self.main if not container.ready]
        ready: Body = {"status": "False" if unready else "True"}
        if complete is not None:
            ready["reason"] = complete
        elif unready:
            ready |= {
                "reason": "ContainersNotReady",
                "message": f"containers with unready status: [{' '.join(unready)}]",
            }
        sandbox: Body = {"status": "True" if self.sandbox else "False"}
        parts = {
            "PodReadyToStartContainers": sandbox,
            "Initialized": initialized,
            "Ready": ready,
            "ContainersReady": ready,
        }
        return [
            {"type": kind, **condition, "observedGeneration": generation}
            for kind, condition in parts.items()
        ]


def dated(conditions: Sequence[Body], before: Sequence[Body]) -> list[Body]:
    """Conditions with the time since when they are so."""
    known = {item["type"]: (item["status"], item["lastTransitionTime"]) for item in before}
    told = []
    for condition in conditions:
        status, since = known.get(condition["type"], (None, ""))
        told.append(
            {
                **condition,
                "lastProbeTime": None,
                "lastTransitionTime": since if status == condition["status"] else stamp(),
            }
        )
    return told
