"""Objects as JSON has them, and what many parts read in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Body = dict[str, Any]
#: Namespace and name; the namespace of a cluster-scoped object is empty.
Key = tuple[str, str]

_TERMINAL = ("Succeeded", "Failed")


def key_of(body: Body) -> Key:
    """Return the key under which the store keeps an object."""
    return body["metadata"].get("namespace", ""), body["metadata"]["name"]


def containers_of(spec: Body) -> Iterator[Body]:
    """Yield all containers of a pod, init containers first."""
    yield from spec.get("initContainers") or ()
    yield from spec.get("containers") or ()


def has_ended(pod: Body) -> bool:
    """Whether a pod is in a terminal phase."""
    return pod.get("status", {}).get("phase") in _TERMINAL


def is_terminating(body: Body) -> bool:
    """Whether an object is being deleted."""
    return "deletionTimestamp" in body["metadata"]


def condition_of(body: Body, kind: str) -> Body | None:
    """Return the condition of a type, None if the status has none."""
    conditions: list[Body] = body["status"].get("conditions", [])
    return next((item for item in conditions if item["type"] == kind), None)


def put_condition(body: Body, condition: Body) -> None:
    """Append a condition to the status in place of the one of the same type."""
    others = [
        item for item in body["status"].get("conditions", []) if item["type"] != condition["type"]
    ]
    body["status"]["conditions"] = [*others, condition]


def merge_patch(target: Any, change: Any) -> Any:
    """Apply a merge patch (RFC 7386): null removes, objects merge, other values replace."""
    if not isinstance(change, dict):
        return change
    result = target if isinstance(target, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result
