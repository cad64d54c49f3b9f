"""What a kubelet knows of a pod, and the status that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.doubles.kubernetes.nodes.container import Container
from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.wire import stamp

_COMPLETE = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}


@dataclass(slots=True)
class PodState:
    """The state of a pod on its node.

    ``final_phase`` is the terminal phase once the kubelet reports it. ``why`` has its reason and
    message where the kubelet ended the pod. ``sandbox`` is whether the pod has a sandbox, and
    ``addressed`` whether the kubelet has seen its address.
    """

    initial: Sequence[Container]
    main: Sequence[Container]
    final_phase: str = ""
    why: tuple[str, str] = ("", "")
    admitted: bool = False
    sandbox: bool = False
    addressed: bool = False
    started: str = field(default_factory=stamp)

    @classmethod
    def of(cls, spec: Body, folder: Path) -> PodState:
        """Return the state of a new pod whose containers have their folders in ``folder``."""
        initial = [
            Container(item, folder / item["name"], True)
            for item in spec.get("initContainers") or ()
        ]
        main = [Container(item, folder / item["name"], False) for item in spec["containers"]]
        if initial:
            for container in main:
                container.shown = ("PodInitializing", "")
        return cls(initial, main)

    @property
    def containers(self) -> list[Container]:
        """All containers, init containers first."""
        return [*self.initial, *self.main]

    @property
    def busy(self) -> bool:
        """Whether a container runs or is about to."""
        return any(container.begun and container.exit is None for container in self.containers)

    @property
    def over(self) -> bool:
        """Whether no container except sidecars runs or will run."""
        firsts = (container for container in self.initial if not container.sidecar)
        if any(container.exit is not None and container.exit.code != 0 for container in firsts):
            return True
        return self.main_ended

    @property
    def main_ended(self) -> bool:
        """Whether all main containers have ended."""
        return all(container.exit is not None for container in self.main)

    @property
    def outcome(self) -> str:
        """The terminal phase of a pod that is over."""
        exits = [container.exit for container in self.containers if not container.sidecar]
        return "Succeeded" if all(how is not None and how.code == 0 for how in exits) else "Failed"

    def pids(self) -> list[int]:
        """Return the processes of all containers."""
        handles = (container.handle for container in self.containers)
        return [pid for handle in handles if handle is not None for pid in handle.pids()]

    def status(self, generation: int, host: str, address: str) -> Body:
        """Return the status without the conditions that other components own."""
        running = any(item.started is not None for item in self.main)
        phase = self.final_phase or ("Running" if running else "Pending")
        status: Body = {"phase": phase, "startTime": self.started, "observedGeneration": generation}
        reason, message = self.why
        if self.final_phase and reason:
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
        # A pod whose containers were lost keeps the conditions that it had.
        lost = any(item.lost for item in self.main)
        beside = [container for container in self.initial if container.sidecar]
        runs_on = any(each.started is not None and each.exit is None for each in beside)
        over = self.over and not runs_on and not lost
        complete = _COMPLETE[self.outcome] if over else None
        initialized: Body = {"status": "True"}
        waiting = [container.name for container in self.initial if not container.initialized]
        if waiting:
            initialized = {
                "status": "False",
                "reason": "ContainersNotInitialized",
                "message": f"containers with incomplete status: [{' '.join(waiting)}]",
            }
        elif complete == "PodCompleted":
            initialized["reason"] = complete
        unready = [each.name for each in (*beside, *self.main) if not each.ready]
        ready: Body = {"status": "False" if unready else "True"}
        if complete is not None:
            ready["reason"] = complete
        elif unready:
            ready |= {
                "reason": "ContainersNotReady",
                "message": f"containers with unready status: [{' '.join(unready)}]",
            }
        conditions = {
            "PodReadyToStartContainers": {"status": "True" if self.sandbox else "False"},
            "Initialized": initialized,
            "Ready": ready,
            "ContainersReady": ready,
        }
        return [
            {"type": kind, **condition, "observedGeneration": generation}
            for kind, condition in conditions.items()
        ]
