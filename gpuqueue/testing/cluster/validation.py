"""What the API server refuses in a Job and in a pod."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpuqueue.testing.cluster import names
from gpuqueue.testing.cluster.errors import Cause, bad_value, duplicate, forbidden_field, required, unsupported
from gpuqueue.testing.cluster.kinds import Resource
from gpuqueue.testing.cluster.quantity import parse

Body = dict[str, Any]

_PULL = ("Always", "IfNotPresent", "Never")
_MESSAGE = ("File", "FallbackToLogsOnError")
_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")
_INT32 = 2**31 - 1
#: Resources that may be split; everything with a domain in its name comes in whole pieces.
_NATIVE = ("cpu", "memory", "ephemeral-storage")


def check_meta(resource: Resource, metadata: Body) -> list[Cause]:
    """What is wrong with the metadata of an object."""
    del resource
    return [
        *names.check_name(metadata.get("name", ""), "metadata.name"),
        *names.check_labels(metadata.get("labels") or {}, "metadata.labels"),
        *names.check_annotations(metadata.get("annotations") or {}, "metadata.annotations"),
    ]


def check_job(job: Body) -> list[Cause]:
    """What is wrong with a Job as it was sent, before the defaults."""
    return [*_meta(job["metadata"], "metadata"), *_job_spec(job["spec"], job["metadata"].get("name", ""))]


def check_pod(pod: Body) -> list[Cause]:
    """What is wrong with a pod."""
    return [*_meta(pod["metadata"], "metadata"), *_pod_spec(pod["spec"], "spec")]


def check_unchanged(old: Body, new: Body) -> list[Cause]:
    """What may not change in the spec of a Job."""
    fixed = ("completions", "selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy")
    changed = [field for field in fixed if old.get(field) != new.get(field)]
    wrong = [bad_value(f"spec.{field}", f'"{new.get(field)}"', "field is immutable") for field in changed]
    # While a Job is suspended and has not started, its template may be directed elsewhere; the rest of it is fixed.
    if old.get("template") != new.get("template") and not old.get("suspend"):
        wrong.append(bad_value("spec.template", '""', "field is immutable"))
    return wrong + list(
        _numbers(new, "spec", ("parallelism", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"))
    )


def _meta(metadata: Body, path: str) -> Iterator[Cause]:
    yield from names.check_name(metadata.get("name", ""), f"{path}.name")
    yield from _labels(metadata, path)


def _labels(metadata: Body, path: str) -> Iterator[Cause]:
    yield from names.check_labels(metadata.get("labels") or {}, f"{path}.labels")
    yield from names.check_annotations(metadata.get("annotations") or {}, f"{path}.annotations")


def _job_spec(spec: Body, name: str) -> Iterator[Cause]:
    fields = ("parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
    yield from _numbers(spec, "spec", fields)
    if spec.get("selector") and not spec.get("manualSelector"):
        yield bad_value("spec.selector", '""', "`selector` not auto-generated")
    template = spec.get("template") or {}
    pod = template.get("spec") or {}
    yield from _labels(template.get("metadata") or {}, "spec.template")
    if len(name) > names._LABEL_LIMIT:
        yield bad_value("spec.template.labels", f'"{name}"', names.too_long(names._LABEL_LIMIT))
    restart = pod.get("restartPolicy")
    if restart in (None, "", "Always"):
        yield required("spec.template.spec.restartPolicy", 'valid values: "OnFailure", "Never"')
    elif restart not in ("OnFailure", "Never"):
        yield unsupported("spec.template.spec.restartPolicy", restart, ("OnFailure", "Never"))
    yield from _failure_policy(spec, restart)
    yield from _pod_spec(pod, "spec.template.spec")


def _failure_policy(spec: Body, restart: str | None) -> Iterator[Cause]:
    replacement = spec.get("podReplacementPolicy")
    policy = spec.get("podFailurePolicy")
    if replacement not in (None, "Failed", "TerminatingOrFailed"):
        yield unsupported("spec.podReplacementPolicy", replacement, ("Failed", "TerminatingOrFailed"))
    if policy is None:
        return
    if replacement == "TerminatingOrFailed":
        yield unsupported("spec.podReplacementPolicy", replacement, ("Failed",))
    if restart != "Never":
        path = "spec.template.spec.restartPolicy"
        yield bad_value(path, f'"{restart or ""}"', 'only "Never" is supported when podFailurePolicy is specified')
    for index, rule in enumerate(policy.get("rules") or []):
        path = f"spec.podFailurePolicy.rules[{index}]"
        if rule.get("action") not in _ACTIONS:
            yield unsupported(f"{path}.action", rule.get("action", ""), _ACTIONS)
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions")
        if bool(codes) == bool(conditions):
            told = "specifying one of OnExitCodes and OnPodConditions is required"
            both = "specifying both OnExitCodes and OnPodConditions is not supported"
            yield bad_value(path, "{}", both if codes else told)
        if codes and codes.get("operator") not in ("In", "NotIn"):
            yield unsupported(f"{path}.onExitCodes.operator", codes.get("operator", ""), ("In", "NotIn"))
        if codes and codes.get("operator") == "In" and 0 in (codes.get("values") or []):
            yield bad_value(f"{path}.onExitCodes.values[0]", "0", "must not be 0 for the In operator")


def _pod_spec(spec: Body, path: str) -> Iterator[Cause]:
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
        yield bad_value(f"{path}.terminationGracePeriodSeconds", str(grace), "must be greater than or equal to 0")
    if deadline is not None and not 1 <= deadline <= _INT32:
        yield bad_value(f"{path}.activeDeadlineSeconds", str(deadline), f"must be between 1 and {_INT32}, inclusive")
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
        yield bad_value(f"{path}.image", f'"{image}"', "must not have leading or trailing whitespace")
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
        yield bad_value(f"{path}.valueFrom", '""', "may not have more than one field specified at a time")
    for kind in ("secretKeyRef", "configMapKeyRef"):
        if (ref := source.get(kind)) is not None:
            yield from (required(f"{path}.valueFrom.{kind}.{field}") for field in ("name", "key") if not ref.get(field))


def _resources(resources: Body, path: str) -> Iterator[Cause]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            at = f"{path}.{kind}[{name}]"
            if "/" not in name and name not in _NATIVE and not name.startswith("hugepages-"):
                yield bad_value(at, f'"{name}"', "must be a standard resource type or fully qualified")
            if parse(amount) < 0:
                yield bad_value(at, f'"{amount}"', "must be greater than or equal to 0")
            elif "/" in name and parse(amount) != int(parse(amount)):
                yield bad_value(at, f'"{amount}"', "must be an integer")
    for name, amount in requests.items():
        limit = limits.get(name)
        if "/" in name and limit is None:
            yield required(f"{path}.limits", "Limit must be set for non overcommitable resources")
        elif "/" in name and parse(limit) != parse(amount):
            yield bad_value(f"{path}.requests", f'"{amount}"', f"must be equal to {name} limit of {limit}")
        elif limit is not None and parse(amount) > parse(limit):
            yield bad_value(f"{path}.requests", f'"{amount}"', f"must be less than or equal to {name} limit of {limit}")


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
            yield bad_value(f"{below}.weight", str(wish.get("weight", 0)), "must be in the range 1-100")
        yield from _term(wish.get("preference") or {}, f"{below}.preference")


def _term(term: Body, path: str) -> Iterator[Cause]:
    for index, need in enumerate(term.get("matchExpressions") or []):
        at = f"{path}.matchExpressions[{index}]"
        operator, values = need.get("operator"), need.get("values") or []
        if operator in ("In", "NotIn") and not values:
            yield required(f"{at}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist") and values:
            yield forbidden_field(f"{at}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        elif operator in ("Gt", "Lt") and len(values) != 1:
            yield required(f"{at}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
        elif operator not in ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"):
            yield bad_value(f"{at}.operator", f'"{operator or ""}"', "not a valid selector operator")
        yield from (bad_value(f"{at}.key", f'"{need.get("key", "")}"', why) for why in names.qualified(need.get("key", "")))
    for index, need in enumerate(term.get("matchFields") or []):
        at = f"{path}.matchFields[{index}]"
        operator, values = need.get("operator"), need.get("values") or []
        if operator not in ("In", "NotIn"):
            yield bad_value(f"{at}.operator", f'"{operator or ""}"', "not a valid selector operator")
        elif len(values) != 1:
            why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            yield required(f"{at}.values", why)
        if need.get("key") != "metadata.name":
            yield bad_value(f"{at}.key", f'"{need.get("key", "")}"', "not a valid field selector key")


def _toleration(toleration: Body, path: str) -> Iterator[Cause]:
    operator, effect = toleration.get("operator", "Equal"), toleration.get("effect", "")
    if operator not in ("Equal", "Exists"):
        yield unsupported(f"{path}.operator", operator, ("Equal", "Exists"))
    elif not toleration.get("key") and operator != "Exists":
        yield bad_value(
            f"{path}.operator",
            f'"{operator}"',
            'operator must be Exists when `key` is empty, which means "match all values and all keys"',
        )
    elif operator == "Exists" and toleration.get("value"):
        yield bad_value(f"{path}.operator", f'"{operator}"', "value must be empty when `operator` is 'Exists'")
    if effect not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
        yield unsupported(f"{path}.effect", effect, ("NoSchedule", "PreferNoSchedule", "NoExecute"))
    if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
        yield bad_value(f"{path}.effect", f'"{effect}"', "effect must be 'NoExecute' when `tolerationSeconds` is set")


def _numbers(spec: Body, path: str, fields: tuple[str, ...]) -> Iterator[Cause]:
    for field in fields:
        if spec.get(field) is not None and spec[field] < 0:
            yield bad_value(f"{path}.{field}", str(spec[field]), "must be greater than or equal to 0")
