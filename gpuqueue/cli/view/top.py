"""The data of a frame of ``gpuqueue top``, from the data of the status. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

from gpuqueue.model.names import ISOLATIONS

#: The tenant of a job that names none.
NO_TENANT = "(none)"


def frame(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a frame: the status, and beside it ``tenants``, ``running`` (the longest
    running jobs first) and ``next`` (the line of each class and isolation that has one).
    """
    classes = [{**each, "boxes": boxes(each)} for each in status["classes"]]
    return {
        **{name: value for name, value in status.items() if name != "classes"},
        "classes": classes,
        "tenants": tenants(classes),
        "running": running(classes),
        "next": lines(classes),
    }


def boxes(of: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the domains of a class; a class that is one domain is one box without a name."""
    aside = {each["domain"] for each in of["places"] if each["set_aside"]}
    if of["domains"]:
        return [{**each, "set_aside": each["name"] in aside} for each in of["domains"]]
    slots = of["slots"]
    return [
        {
            "name": "",
            "slots": {kind: slots[kind]["total"] for kind in ISOLATIONS},
            "held": {kind: slots[kind]["used"] for kind in ISOLATIONS},
            "drained": bool(of["gate"] and of["gate"]["closed"]),
            "reserved": False,
            "set_aside": False,
        }
    ]


def tenants(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return tenants with their running and waiting jobs, those with the most running first.

    They are counted among the jobs that were read: the numbers are lower bounds where others wait.
    """
    counts: dict[str, Counter[str]] = {"running": Counter(), "waiting": Counter()}
    for each in classes:
        counts["running"].update(_tenant(job) for job in each["holders"])
        counts["waiting"].update(_tenant(job) for job in each["waiting"])
    found = [
        {"tenant": name, **{what: counted[name] for what, counted in counts.items()}}
        for name in counts["running"] | counts["waiting"]
    ]
    return sorted(found, key=_activity)


def _activity(one: dict[str, Any]) -> tuple[int, int, bool, str]:
    return -one["running"], -one["waiting"], one["tenant"] == NO_TENANT, one["tenant"]


def _tenant(job: Mapping[str, Any]) -> str:
    return job.get("tenant") or NO_TENANT


def running(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the jobs that hold a slot, those that hold it the longest first."""
    found = [job for each in classes for job in each["holders"]]
    return sorted(found, key=lambda job: job.get("since") or 0)


def lines(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines that are not empty: their class, isolation, length, reason, first jobs."""
    found = []
    for each, kind in itertools.product(classes, ISOLATIONS):
        jobs = [job for job in each["waiting"] if job["isolation"] == kind]
        total = each["waiting_total"][kind]
        if total:
            reason = jobs[0]["reason"] if jobs else None
            found.append(
                {
                    "gpu_class": each["name"],
                    "isolation": kind,
                    "total": total,
                    "reason": reason,
                    "jobs": jobs,
                }
            )
    return found
