"""What matters of a recording: for each object, the histories of what its writers say, without
names, uids and times.

The controllers of a real cluster race, and so do those of the double. A history has what one writer
says, in order, and equal neighbours merged; between writers only what follows from one another is
compared (``life``: a pod's phase, containers, deletion).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any

from tests.contract.recorder import Row

#: (kind, object, aspect) → what was said of it, in order
Histories = dict[tuple[str, str, str], list[Any]]

_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: Characters that the server adds to a prefix.
_RANDOM = 5
_NEVER_MADE = re.compile(r"\bgpu-job-[a-z0-9]{5}\b")
#: Events that come of the recorded machine's set-up: no cluster DNS, and a restarted kubelet that
#: mounts again.
_OF_THE_MACHINE = ("MissingClusterDNS", "FailedMount")


def histories(rows: list[Row]) -> Histories:
    """The histories of all objects."""
    found: Histories = defaultdict(list)
    names: dict[str, str] = {}
    rows = [row for row in rows if row.get("type") != "ERROR"]  # a watch that had to begin again
    for row in rows:
        if row.get("watch") == "pods":
            _name(row["object"]["metadata"], names)
    for row in rows:  # where the watch of pods had to begin again
        about = row["object"]["involvedObject"] if row.get("watch") == "events" else {}
        if about.get("kind") == "Pod":
            _name({"generateName": about["name"][:-_RANDOM], **about}, names)
    # Pods are named in the order in which they came, events are about the same ones.
    for row in rows:
        if "watch" not in row:
            continue
        text = json.dumps(row["object"])
        for name, plain in names.items():
            text = text.replace(name, plain)
        # What is left was the name of a pod that never came to be.
        body = json.loads(_NEVER_MADE.sub("gpu-job-?", _UID.sub("<uid>", text)))
        name = body["metadata"]["name"]
        if row["watch"] == "events":
            _event(found, row["type"], body)
            continue
        aspects = _pod(row["type"], body) if row["watch"] == "pods" else _job(row["type"], body)
        for aspect, value in aspects.items():
            history = found[row["watch"], name, aspect]
            if not history or history[-1] != value:
                history.append(value)
    return found


def _name(metadata: Any, names: dict[str, str]) -> None:
    name, prefix = metadata["name"], metadata.get("generateName", "")
    if name not in names:
        earlier = sum(plain.startswith(prefix) for plain in names.values())
        names[name] = f"{prefix}{chr(ord('A') + earlier)}"


def _pod(event: str, pod: Any) -> dict[str, Any]:
    metadata, status = pod["metadata"], pod["status"]
    gone = event == "DELETED"
    containers = [_container(item) for item in status.get("containerStatuses", ())]
    aspects = {
        "life": [
            status.get("phase"),
            status.get("reason"),
            containers,
            metadata.get("deletionGracePeriodSeconds")
            if "deletionTimestamp" in metadata
            else "kept",
            "gone" if gone else "there",
        ],
        # Whether the tracking ends before the object goes, or lets it go, is a race.
        "finalizers": [] if gone else metadata.get("finalizers", []),
        "node": pod["spec"].get("nodeName"),
        "nominated": status.get("nominatedNodeName"),
        "generation": metadata.get("generation"),
        "address": "podIP" in status,
    }
    for condition in status.get("conditions", ()):
        aspects[condition["type"]] = [
            condition["status"],
            condition.get("reason"),
            condition.get("message"),
        ]
    return aspects


def _container(status: Any) -> list[Any]:
    state, detail = next(iter(status["state"].items()))
    told = {name: detail.get(name) for name in ("reason", "message", "exitCode")}
    if state == "terminated":
        started = detail.get("startedAt")
        told["started"] = started if started in (None, "1970-01-01T00:00:00Z") else "some time"
        told["finished"] = None if detail.get("finishedAt") is None else "some time"
    return [
        status["name"],
        state,
        told,
        status["ready"],
        status["started"],
        bool(status["imageID"]),
        status["restartCount"],
    ]


def _job(event: str, job: Any) -> dict[str, Any]:
    metadata, status = job["metadata"], job["status"]
    counts = {name: status.get(name) for name in ("active", "failed", "succeeded", "terminating")}
    uncounted = status.get("uncountedTerminatedPods")
    told = [
        [item["type"], item["status"], item["reason"], item["message"]]
        for item in status.get("conditions", ())
    ]
    return {
        "status": [
            counts,
            uncounted
            if uncounted is None
            else {kind: len(uids) for kind, uids in uncounted.items()},
            told,
            "startTime" in status,
            "completionTime" in status,
        ],
        "life": [
            metadata.get("finalizers", []),
            "deletionTimestamp" in metadata,
            "gone" if event == "DELETED" else "there",
        ],
        "generation": metadata["generation"],
        "suspend": job["spec"]["suspend"],
    }


def _event(found: Histories, event: str, body: Any) -> None:
    if body["reason"] in _OF_THE_MACHINE and "absent" not in body["message"]:
        return
    about = body["involvedObject"]
    told = [
        body["type"],
        body["reason"],
        body["message"],
        body.get("count"),
        body.get("action"),
        about.get("fieldPath"),
    ]
    source = body["source"].get("component", body["reportingComponent"])
    found["events", f"{about['kind']} {about['name']}", source].append([event, *told])


def refusal(row: Row) -> dict[str, Any]:
    """What matters of a refused request: everything but names, uids, numbers, and the server's own
    headers.
    """
    headers = {name.lower(): value for name, value in row["headers"].items()}
    kept = {
        name: headers[name]
        for name in ("content-type", "warning", "retry-after")
        if name in headers
    }
    text = _UID.sub("<uid>", json.dumps(row["body"], sort_keys=True))
    text = re.sub(r"gpu-job-[a-z0-9]{5}\b", "gpu-job-A", text)
    return {
        "status": row["status"],
        "headers": kept,
        "body": json.loads(re.sub(r"version: 1 \(\d+\)", "version: 1 (N)", text)),
    }
