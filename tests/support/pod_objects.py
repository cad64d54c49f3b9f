"""Pods to look at: the recorded ones, and pieces to make others of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gpuqueue.launchers.kubernetes.api.answers import POD_EVENTS, PodEvent, StatusBody, read_line
from gpuqueue.launchers.kubernetes.api.objects import Pod

RECORDINGS = Path(__file__).parents[1] / "contract" / "recordings"
#: When the pods made here were created; what happens to them happens so many seconds later.
CREATED = 1_800_000_000.0


def lines(recording: str, watch: str = "pods") -> Iterator[bytes]:
    """The lines of a recorded watch, as the server sent them, but for the end of one that broke
    off.
    """
    for text in (RECORDINGS / f"{recording}.jsonl").read_text().splitlines():
        line = json.loads(text)
        if line.get("watch") == watch and line["type"] != "ERROR":
            yield json.dumps({"type": line["type"], "object": line["object"]}).encode()


def bodies(recording: str, request: str) -> list[dict[str, Any]]:
    """The bodies of the answers to requests that begin so."""
    told = map(json.loads, (RECORDINGS / f"{recording}.jsonl").read_text().splitlines())
    return [line["body"] for line in told if line.get("request", "").startswith(request)]


def pod_events(recording: str) -> list[list[PodEvent]]:
    """The recorded events of each pod, in the order in which the pods came."""
    events: dict[str, list[PodEvent]] = {}
    for line in lines(recording):
        event = read_line(line, POD_EVENTS)
        assert not isinstance(event, StatusBody), event
        events.setdefault(event.object.metadata.name, []).append(event)
    return list(events.values())


def at(second: float) -> str:
    """A time of the API, so many seconds after the pod was created."""
    return f"2027-01-15T08:{int(second) // 60:02}:{int(second) % 60:02}Z"


def waiting(
    reason: str | None, message: str | None = None, name: str = "executor"
) -> dict[str, Any]:
    return {"name": name, "state": {"waiting": {"reason": reason, "message": message}}}


def running(name: str = "executor", since: float = 10) -> dict[str, Any]:
    return {
        "name": name,
        "containerID": f"containerd://{name}",
        "state": {"running": {"startedAt": at(since)}},
    }


def ended(
    code: int, reason: str | None = "Error", message: str | None = None, name: str = "executor"
) -> dict[str, Any]:
    """A container that ended so, 20 s after its pod was made; it had started 10 s before, if it
    had.
    """
    started = {"StartError": "1970-01-01T00:00:00Z", "ContainerStatusUnknown": None}.get(
        reason or "", at(10)
    )
    state = {
        "exitCode": code,
        "reason": reason,
        "message": message,
        "startedAt": started,
        "finishedAt": at(20),
    }
    return {"name": name, "containerID": f"containerd://{name}", "state": {"terminated": state}}


def condition(
    kind: str,
    status: str = "True",
    reason: str | None = None,
    message: str | None = None,
    since: float = 1,
) -> Any:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": at(since),
    }


def disrupted(reason: str, message: str = "so it is said") -> Any:
    return condition("DisruptionTarget", "True", reason, message)


def a_pod(
    *containers: dict[str, Any],
    phase: str = "Pending",
    node: str | None = "node-a",
    inits: Sequence[dict[str, Any]] = (),
    conditions: Sequence[Any] = (),
    reason: str | None = None,
    message: str | None = None,
    deletion: dict[str, Any] | None = None,
) -> Pod:
    """A pod that was scheduled one second after it was made, if it has a node."""
    status = {
        "phase": phase,
        "reason": reason,
        "message": message,
        "conditions": [*([condition("PodScheduled")] if node else []), *conditions],
        "containerStatuses": list(containers),
        "initContainerStatuses": list(inits),
    }
    metadata = {"name": "gpu-job-x", "uid": "1-2-3", "creationTimestamp": at(0), **(deletion or {})}
    return msgspec.convert(
        {"metadata": metadata, "spec": {"nodeName": node} if node else {}, "status": status}, Pod
    )


#: What a pod's metadata say 30 s after it was made, if its deletion was asked then, with 30 s of
#: grace.
DELETION = {"deletionTimestamp": at(60), "deletionGracePeriodSeconds": 30}
