"""The doctor's checks of one namespace of Jobs: it exists, the dispatchers' rights, the Secrets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.launchers.kubernetes.api.access import DISPATCHER, WITH_LISTS_INSTEAD
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Forbidden
from gpuqueue.launchers.kubernetes.api.requests import Requests

_NEEDED_KEY = "CELERY_BROKER_URL"
#: How to choose another namespace: that of the dispatcher, and that of a class.
_OWN, _OF_CLASS = "set GPU_JOB_NAMESPACE", "set namespace of its classes"


def in_namespace(api: Requests, secrets: Iterable[str], *, own: bool) -> Iterator[Check]:
    """Check a namespace. ``own``: that of the dispatcher, rather than that of some classes only.
    ``secrets``: those of executors there.
    """
    yield from _namespace(api, _OWN if own else _OF_CLASS)
    where = "" if own else f" in namespace {api.namespace}"
    yield from _rights(api, where)
    for secret in sorted(secrets):
        yield _secret(api, secret, where)


def _namespace(api: Requests, instead: str) -> Iterator[Check]:
    try:
        found = api.get_namespace(api.namespace)
    except Forbidden:
        yield Check(
            "namespace",
            Level.OK,
            f"{api.namespace}: not checked, `get namespaces` is not allowed",
        )
        return
    except ApiError as exc:
        yield Check("namespace", Level.WARN, f"{api.namespace}: {exc}", "run the doctor again")
        return
    if found is None:
        fix = f"kubectl create namespace {api.namespace}, or {instead}"
        yield Check("namespace", Level.FAIL, f"{api.namespace} does not exist", fix)
    elif found.status.phase == "Terminating":
        yield Check(
            "namespace",
            Level.FAIL,
            f"{api.namespace} is being deleted",
            f"{instead} to another",
        )
    else:
        yield Check("namespace", Level.OK, api.namespace)


def _rights(api: Requests, where: str) -> Iterator[Check]:
    for right in DISPATCHER:
        try:
            allowed, reason = api.can(right.verb, right.resource, right.group, right.subresource)
        except ApiError as exc:
            yield Check(
                "rights", Level.WARN, f"{right}{where}: {exc}", "ask with `kubectl auth can-i`"
            )
            return
        fix = "" if allowed else f"allow it by a Role in namespace {api.namespace}"
        why = f" ({reason})" if reason else ""
        saw = f"{right}{where}" if allowed else f"may not {right}{where}{why}"
        missing = Level.WARN if right in WITH_LISTS_INSTEAD else Level.FAIL
        yield Check("rights", Level.OK if allowed else missing, saw, fix)


def _secret(api: Requests, name: str, where: str) -> Check:
    saw = f"{name}{where}"
    try:
        keys = api.get_secret_keys(name)
    except Forbidden:
        fix = "run the doctor as a user with the right `get secrets`"
        return Check("secret", Level.WARN, f"{saw}: not checked", fix)
    except ApiError as exc:
        return Check("secret", Level.WARN, f"{saw}: {exc}", "run the doctor again")
    fix = (
        f"kubectl -n {api.namespace} create secret generic {name}"
        f" --from-literal={_NEEDED_KEY}=redis://…"
    )
    if keys is None:
        return Check("secret", Level.FAIL, f"{saw} does not exist", fix)
    has = ", ".join(sorted(keys)) or "nothing"
    if _NEEDED_KEY not in keys:
        return Check("secret", Level.FAIL, f"{saw} has no {_NEEDED_KEY}; it has {has}", fix)
    return Check("secret", Level.OK, f"{saw} has {has}")
