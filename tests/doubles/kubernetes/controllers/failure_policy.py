"""podFailurePolicy: which rule a failed pod matches."""

from __future__ import annotations

from tests.doubles.kubernetes.objects.bodies import Body


def match(job: Body, pod: Body) -> tuple[str, str]:
    """Return the action for a failed pod (``Count`` if no rule matches), and the message of the
    condition for ``FailJob``.
    """
    rules = (job["spec"].get("podFailurePolicy") or {}).get("rules") or ()
    where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    for index, rule in enumerate(rules):
        action = rule["action"]
        if (codes := rule.get("onExitCodes")) is not None:
            found = _by_exit(pod, codes)
            if found is not None:
                name, code = found
                return (
                    action,
                    (
                        f"Container {name} for pod {where} failed with exit code {code} matching"
                        f" {action} rule at index {index}"
                    ),
                )
        for pattern in rule.get("onPodConditions") or ():
            if _has(pod, pattern["type"], pattern.get("status", "True")):
                return (
                    action,
                    (
                        f"Pod {where} has condition {pattern['type']} matching {action} rule at"
                        f" index {index}"
                    ),
                )
    return "Count", ""


def _by_exit(pod: Body, codes: Body) -> tuple[str, int] | None:
    for kind in ("initContainerStatuses", "containerStatuses"):
        for status in pod["status"].get(kind, ()):
            ended = status.get("state", {}).get("terminated")
            if (
                ended is None
                or codes.get("containerName") not in (None, status["name"])
                or ended["exitCode"] == 0
            ):
                continue
            if (ended["exitCode"] in codes["values"]) is (codes["operator"] == "In"):
                return status["name"], ended["exitCode"]
    return None


def _has(pod: Body, kind: str, status: str) -> bool:
    return any(
        item["type"] == kind and item["status"] == status
        for item in pod["status"].get("conditions", ())
    )
