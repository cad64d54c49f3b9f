"""Validation of the spec of a pod or a pod template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.doubles.kubernetes.objects.admission import names
from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.errors import (
    Cause,
    bad_value,
    duplicate,
    forbidden_field,
    required,
    unsupported,
)
from tests.doubles.kubernetes.objects.quantity import parse

_PULL = ("Always", "IfNotPresent", "Never")
_MESSAGE = ("File", "FallbackToLogsOnError")
_INT32 = 2**31 - 1
#: Resources that accept fractions; resources with a domain in their name take integers only.
_NATIVE = ("cpu", "memory", "ephemeral-storage")


def check_pod_spec(spec: Body, path: str) -> Iterator[Cause]:
    """Yield the invalid fields of a pod spec at a path."""
    containers = spec.get("containers") or []
    if not containers:
        yield required(f"{path}.containers")
    seen: set[str] = set()
    volumes = {volume.get("name") for volume in spec.get("volumes") or []}
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(kind) or []):
            at = f"{path}.{kind}[{index}]"
            name = container.get("name", "")
            if name in seen:
                yield duplicate(f"{at}.name", name)
            seen.add(name)
            yield from _container(container, at, volumes)
    grace, deadline = spec.get("terminationGracePeriodSeconds"), spec.get("activeDeadlineSeconds")
    if grace is not None and grace < 0:
        yield bad_value(
            f"{path}.terminationGracePeriodSeconds",
            str(grace),
            "must be greater than or equal to 0",
        )
    if deadline is not None and not 1 <= deadline <= _INT32:
        yield bad_value(
            f"{path}.activeDeadlineSeconds",
            str(deadline),
            f"must be between 1 and {_INT32}, inclusive",
        )
    yield from names.check_labels(spec.get("nodeSelector") or {}, f"{path}.nodeSelector")
    yield from _affinity(spec.get("affinity") or {}, f"{path}.affinity")
    for index, toleration in enumerate(spec.get("tolerations") or []):
        yield from _toleration(toleration, f"{path}.tolerations[{index}]")


def _container(container: Body, path: str, volumes: set[Any]) -> Iterator[Cause]:
    name = container.get("name", "")
    if not name:
        yield required(f"{path}.name")
    else:
        yield from (bad_value(f"{path}.name", f'"{name}"', why) for why in names.label_name(name))
    image = container.get("image", "")
    if not image:
        yield required(f"{path}.image")
    elif image != image.strip():
        yield bad_value(
            f"{path}.image", f'"{image}"', "must not have leading or trailing whitespace"
        )
    for field, values in (("imagePullPolicy", _PULL), ("terminationMessagePolicy", _MESSAGE)):
        if container.get(field) not in (None, *values):
            yield unsupported(f"{path}.{field}", container[field], values)
    for index, variable in enumerate(container.get("env") or []):
        yield from _variable(variable, f"{path}.env[{index}]")
    for index, mount in enumerate(container.get("volumeMounts") or []):
        if mount.get("name") not in volumes:
            at = f"{path}.volumeMounts[{index}].name"
            yield Cause(at, "FieldValueNotFound", f'Not found: "{mount.get("name", "")}"')
        if not mount.get("mountPath"):
            yield required(f"{path}.volumeMounts[{index}].mountPath")
    yield from _resources(container.get("resources") or {}, f"{path}.resources")


def _variable(variable: Body, path: str) -> Iterator[Cause]:
    name = variable.get("name", "")
    if not name:
        yield required(f"{path}.name")
    else:
        yield from (bad_value(f"{path}.name", f'"{name}"', why) for why in names.env_name(name))
    source = variable.get("valueFrom")
    if source is None:
        return
    if variable.get("value"):
        yield bad_value(f"{path}.valueFrom", '""', "may not be specified when `value` is not empty")
    if len(source) != 1:
        yield bad_value(
            f"{path}.valueFrom", '""', "may not have more than one field specified at a time"
        )
    for kind in ("secretKeyRef", "configMapKeyRef"):
        if (ref := source.get(kind)) is not None:
            yield from (
                required(f"{path}.valueFrom.{kind}.{field}")
                for field in ("name", "key")
                if not ref.get(field)
            )


def _resources(resources: Body, path: str) -> Iterator[Cause]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            at = f"{path}.{kind}[{name}]"
            if "/" not in name and name not in _NATIVE and not name.startswith("hugepages-"):
                yield bad_value(
                    at, f'"{name}"', "must be a standard resource type or fully qualified"
                )
            if parse(amount) < 0:
                yield bad_value(at, f'"{amount}"', "must be greater than or equal to 0")
            elif "/" in name and parse(amount) != int(parse(amount)):
                yield bad_value(at, f'"{amount}"', "must be an integer")
    for name, amount in requests.items():
        limit = limits.get(name)
        if "/" in name and limit is None:
            yield required(f"{path}.limits", "Limit must be set for non overcommitable resources")
        elif "/" in name and parse(limit) != parse(amount):
            yield bad_value(
                f"{path}.requests", f'"{amount}"', f"must be equal to {name} limit of {limit}"
            )
        elif limit is not None and parse(amount) > parse(limit):
            yield bad_value(
                f"{path}.requests",
                f'"{amount}"',
                f"must be less than or equal to {name} limit of {limit}",
            )


def _affinity(affinity: Body, path: str) -> Iterator[Cause]:
    node = affinity.get("nodeAffinity") or {}
    needed = node.get("requiredDuringSchedulingIgnoredDuringExecution")
    at = f"{path}.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
    if needed is not None:
        terms = needed.get("nodeSelectorTerms") or []
        if not terms:
            yield required(f"{at}.nodeSelectorTerms", "must have at least one node selector term")
        for index, term in enumerate(terms):
            yield from _term(term, f"{at}.nodeSelectorTerms[{index}]")
    wished = "preferredDuringSchedulingIgnoredDuringExecution"
    for index, wish in enumerate(node.get(wished) or []):
        below = f"{path}.nodeAffinity.{wished}[{index}]"
        if not 1 <= wish.get("weight", 0) <= 100:
            yield bad_value(
                f"{below}.weight", str(wish.get("weight", 0)), "must be in the range 1-100"
            )
        yield from _term(wish.get("preference") or {}, f"{below}.preference")


def _term(term: Body, path: str) -> Iterator[Cause]:
    for index, need in enumerate(term.get("matchExpressions") or []):
        at = f"{path}.matchExpressions[{index}]"
        operator, values = need.get("operator"), need.get("values") or []
        if operator in ("In", "NotIn") and not values:
            yield required(f"{at}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist") and values:
            yield forbidden_field(
                f"{at}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            )
        elif operator in ("Gt", "Lt") and len(values) != 1:
            yield required(
                f"{at}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'"
            )
        elif operator not in ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"):
            yield bad_value(
                f"{at}.operator", f'"{operator or ""}"', "not a valid selector operator"
            )
        yield from (
            bad_value(f"{at}.key", f'"{need.get("key", "")}"', why)
            for why in names.qualified(need.get("key", ""))
        )
    for index, need in enumerate(term.get("matchFields") or []):
        at = f"{path}.matchFields[{index}]"
        operator, values = need.get("operator"), need.get("values") or []
        if operator not in ("In", "NotIn"):
            yield bad_value(
                f"{at}.operator", f'"{operator or ""}"', "not a valid selector operator"
            )
        elif len(values) != 1:
            why = (
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            )
            yield required(f"{at}.values", why)
        if need.get("key") != "metadata.name":
            yield bad_value(
                f"{at}.key", f'"{need.get("key", "")}"', "not a valid field selector key"
            )


def _toleration(toleration: Body, path: str) -> Iterator[Cause]:
    operator, effect = toleration.get("operator", "Equal"), toleration.get("effect", "")
    if operator not in ("Equal", "Exists"):
        yield unsupported(f"{path}.operator", operator, ("Equal", "Exists"))
    elif not toleration.get("key") and operator != "Exists":
        yield bad_value(
            f"{path}.operator",
            f'"{operator}"',
            'operator must be Exists when `key` is empty, which means "match all values and all'
            ' keys"',
        )
    elif operator == "Exists" and toleration.get("value"):
        yield bad_value(
            f"{path}.operator", f'"{operator}"', "value must be empty when `operator` is 'Exists'"
        )
    if effect not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
        yield unsupported(f"{path}.effect", effect, ("NoSchedule", "PreferNoSchedule", "NoExecute"))
    if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
        yield bad_value(
            f"{path}.effect",
            f'"{effect}"',
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        )
