"""ResourceQuota: the usage of a namespace, and the refusal of objects that would exceed it."""

from __future__ import annotations

from decimal import Decimal

from tests.doubles.kubernetes.objects.bodies import Body, containers_of, has_ended
from tests.doubles.kubernetes.objects.errors import Refused, forbidden
from tests.doubles.kubernetes.objects.kinds import JOBS, PODS, QUOTAS, Resource
from tests.doubles.kubernetes.objects.quantity import parse
from tests.doubles.kubernetes.objects.store import Store

#: What a quota demands of every container that it limits.
_DEMANDED = frozenset(
    f"{kind}{name}" for kind in ("", "requests.", "limits.") for name in ("cpu", "memory")
)


def usage(resource: Resource, body: Body) -> dict[str, Decimal]:
    """Return what one object uses of each resource that a quota can limit.

    An ended pod counts as an object only.
    """
    used = {f"count/{resource.title}": Decimal(1)}
    if resource is JOBS:
        return used
    if resource is PODS:
        if has_ended(body):
            return used
        used["pods"] = Decimal(1)
        for container in containers_of(body["spec"]):
            for kind in ("requests", "limits"):
                for name, amount in container.get("resources", {}).get(kind, {}).items():
                    for key in (
                        f"{kind}.{name}",
                        *([name] if kind == "requests" and "/" not in name else []),
                    ):
                        used[key] = used.get(key, Decimal(0)) + parse(amount)
    return used


def admit(store: Store, resource: Resource, body: Body) -> None:
    """Check that an object exceeds no quota of its namespace.

    Raises:
        Refused: 403, a quota would be exceeded, or demands amounts that a container lacks.
    """
    namespace = body["metadata"]["namespace"]
    wanted = usage(resource, body)
    quotas = sorted(
        store.bodies(QUOTAS, namespace), key=lambda quota: str(quota["metadata"]["name"])
    )
    for quota in quotas if resource is PODS else ():
        if missing := _missing(quota["spec"].get("hard", {}), body):
            why = f"failed quota: {quota['metadata']['name']}: must specify {missing}"
            raise forbidden(resource, body["metadata"]["name"], why)
    for quota in quotas:
        hard = {
            name: amount for name, amount in quota["spec"].get("hard", {}).items() if name in wanted
        }
        if not hard:
            continue
        used = used_of(store, namespace, list(hard))
        over = [name for name in sorted(hard) if used[name] + wanted[name] > parse(hard[name])]
        if over:
            raise _exceeded(resource, body["metadata"]["name"], quota, over, wanted, used)


def _missing(hard: Body, pod: Body) -> str:
    """Return the amounts that a quota demands and containers do not set; empty if all are set."""
    texts = []
    for resource in sorted(_DEMANDED.intersection(hard)):
        kind, _, name = resource.rpartition(".")
        without = {
            container["name"]
            for container in containers_of(pod["spec"])
            if name not in container.get("resources", {}).get(kind or "requests", {})
        }
        if without:
            texts.append(f"{resource} for: {','.join(sorted(without))}")
    return "; ".join(texts)


def used_of(store: Store, namespace: str, names: list[str]) -> dict[str, Decimal]:
    """Return how much of each named resource the namespace uses."""
    used = {name: Decimal(0) for name in names}
    for resource in (PODS, JOBS):
        for body in store.bodies(resource, namespace):
            for name, amount in usage(resource, body).items():
                if name in used:
                    used[name] += amount
    return used


def update(store: Store, namespace: str) -> None:
    """Write the usage of a namespace into the status of its quotas."""
    for quota in list(store.bodies(QUOTAS, namespace)):
        hard = quota["spec"].get("hard", {})
        used = used_of(store, namespace, list(hard))
        quota["status"] = {
            "hard": dict(hard),
            "used": {name: _text(amount) for name, amount in used.items()},
        }
        store.save(QUOTAS, quota)


def _exceeded(
    resource: Resource,
    name: str,
    quota: Body,
    over: list[str],
    wanted: dict[str, Decimal],
    used: dict[str, Decimal],
) -> Refused:
    hard = quota["spec"]["hard"]
    lists = [
        ",".join(f"{key}={_text(amounts[key])}" for key in over)
        for amounts in (wanted, used, {key: parse(hard[key]) for key in over})
    ]
    why = (
        f"exceeded quota: {quota['metadata']['name']}, requested: {lists[0]}, used: {lists[1]},"
        f" limited: {lists[2]}"
    )
    return forbidden(resource, name, why)


def _text(amount: Decimal) -> str:
    if amount == amount.to_integral_value():
        return str(int(amount))
    return f"{int(amount * 1000)}m"
