"""Validation of a Job, of a pod, and of the metadata of every object."""

from __future__ import annotations

from collections.abc import Iterator

from tests.doubles.kubernetes.objects.admission import names
from tests.doubles.kubernetes.objects.admission.pod_spec import check_pod_spec
from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.errors import Cause, bad_value, required, unsupported

_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")


def check_meta(metadata: Body) -> list[Cause]:
    """Return the invalid fields of an object's metadata."""
    return list(_meta(metadata, "metadata"))


def check_job(job: Body) -> list[Cause]:
    """Return the invalid fields of a Job as the client sent it, before the defaults."""
    return [
        *check_meta(job["metadata"]),
        *_job_spec(job["spec"], job["metadata"].get("name", "")),
    ]


def check_pod(pod: Body) -> list[Cause]:
    """Return the invalid fields of a pod."""
    return [*check_meta(pod["metadata"]), *check_pod_spec(pod["spec"], "spec")]


def check_unchanged(old: Body, new: Body) -> list[Cause]:
    """Return the immutable or invalid fields of a Job's new spec."""
    fixed = (
        "completions",
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
    )
    changed = [field for field in fixed if old.get(field) != new.get(field)]
    wrong = [
        bad_value(f"spec.{field}", f'"{new.get(field)}"', "field is immutable") for field in changed
    ]
    # A suspended Job that has not started accepts new scheduling directives in its template. The
    # double accepts any change there.
    if old.get("template") != new.get("template") and not old.get("suspend"):
        wrong.append(bad_value("spec.template", '""', "field is immutable"))
    return wrong + list(
        _numbers(
            new,
            "spec",
            ("parallelism", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"),
        )
    )


def _meta(metadata: Body, path: str) -> Iterator[Cause]:
    yield from names.check_name(metadata.get("name", ""), f"{path}.name")
    yield from _labels(metadata, path)


def _labels(metadata: Body, path: str) -> Iterator[Cause]:
    yield from names.check_labels(metadata.get("labels") or {}, f"{path}.labels")
    yield from names.check_annotations(metadata.get("annotations") or {}, f"{path}.annotations")


def _job_spec(spec: Body, name: str) -> Iterator[Cause]:
    fields = (
        "parallelism",
        "completions",
        "backoffLimit",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
    )
    yield from _numbers(spec, "spec", fields)
    if spec.get("selector") and not spec.get("manualSelector"):
        yield bad_value("spec.selector", '""', "`selector` not auto-generated")
    template = spec.get("template") or {}
    pod = template.get("spec") or {}
    yield from _labels(template.get("metadata") or {}, "spec.template")
    if len(name) > names.LABEL_LIMIT:
        yield bad_value("spec.template.labels", f'"{name}"', names.too_long(names.LABEL_LIMIT))
    restart = pod.get("restartPolicy")
    if restart in (None, "", "Always"):
        yield required("spec.template.spec.restartPolicy", 'valid values: "OnFailure", "Never"')
    elif restart not in ("OnFailure", "Never"):
        yield unsupported("spec.template.spec.restartPolicy", restart, ("OnFailure", "Never"))
    yield from _failure_policy(spec, restart)
    yield from check_pod_spec(pod, "spec.template.spec")


def _failure_policy(spec: Body, restart: str | None) -> Iterator[Cause]:
    replacement = spec.get("podReplacementPolicy")
    policy = spec.get("podFailurePolicy")
    if replacement not in (None, "Failed", "TerminatingOrFailed"):
        yield unsupported(
            "spec.podReplacementPolicy", replacement, ("Failed", "TerminatingOrFailed")
        )
    if policy is None:
        return
    if replacement == "TerminatingOrFailed":
        yield unsupported("spec.podReplacementPolicy", replacement, ("Failed",))
    if restart != "Never":
        path = "spec.template.spec.restartPolicy"
        yield bad_value(
            path,
            f'"{restart or ""}"',
            'only "Never" is supported when podFailurePolicy is specified',
        )
    for index, rule in enumerate(policy.get("rules") or []):
        path = f"spec.podFailurePolicy.rules[{index}]"
        if rule.get("action") not in _ACTIONS:
            yield unsupported(f"{path}.action", rule.get("action", ""), _ACTIONS)
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions")
        if bool(codes) == bool(conditions):
            neither = "specifying one of OnExitCodes and OnPodConditions is required"
            both = "specifying both OnExitCodes and OnPodConditions is not supported"
            yield bad_value(path, "{}", both if codes else neither)
        if codes and codes.get("operator") not in ("In", "NotIn"):
            yield unsupported(
                f"{path}.onExitCodes.operator", codes.get("operator", ""), ("In", "NotIn")
            )
        if codes and codes.get("operator") == "In" and 0 in (codes.get("values") or []):
            yield bad_value(
                f"{path}.onExitCodes.values[0]", "0", "must not be 0 for the In operator"
            )


def _numbers(spec: Body, path: str, fields: tuple[str, ...]) -> Iterator[Cause]:
    for field in fields:
        if spec.get(field) is not None and spec[field] < 0:
            yield bad_value(
                f"{path}.{field}", str(spec[field]), "must be greater than or equal to 0"
            )
