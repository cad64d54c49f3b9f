"""The doctor's checks of a cluster: access, rights, the Secret, nodes, dry runs of Jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.cli.checks.nodes import slots
from gpuqueue.errors import GpuQueueError, SettingsError
from gpuqueue.launchers.kubernetes.api.access import DISPATCHER
from gpuqueue.launchers.kubernetes.api.client import Api
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Forbidden
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.assemble import context, sample
from gpuqueue.launchers.kubernetes.manifest.job import Manifest
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import load_cluster

#: The oldest Kubernetes whose features the Jobs use, and the newest that was recorded.
LEAST, NEWEST = (1, 31), (1, 36)
_NEEDED_KEY = "CELERY_BROKER_URL"


def cluster(settings: Settings, classes: Mapping[str, GpuClass]) -> Iterator[Check]:
    """Yield every check that the access allows."""
    try:
        chosen = load_cluster()
        api = Api(chosen)
    except SettingsError as exc:
        yield Check.failed("cluster", exc)
        return
    try:
        version = api.server_version()
    except ApiError as exc:
        yield Check(
            "cluster", Level.FAIL, f"{api.server}: {exc}", "start it, or correct KUBECONFIG"
        )
        return
    yield _version(api.server, version)
    try:
        common = context(settings, chosen, api)
    except SettingsError as exc:
        yield Check.failed("pod template", exc)
        common = context(settings, chosen.model_copy(update={"pod_template": None}), api)
    else:
        if chosen.pod_template:
            yield Check("pod template", Level.OK, str(chosen.pod_template))
    yield Check("owner", Level.OK, f"{common.owner} in namespace {api.namespace}")
    yield from _namespace(api)
    yield from _rights(api)
    yield from _secret(api, chosen.secret_name)
    jobs: dict[str, Manifest] = {}
    for name, gpu_class in classes.items():
        try:
            jobs[name] = sample(gpu_class, chosen, common)
        except GpuQueueError as exc:
            yield Check.failed("jobs", exc, f"class {name!r}: ")
        else:
            yield _job(api, name, jobs[name])
    yield from _nodes(api, {name: classes[name] for name in jobs}, jobs)


def _version(server: str, version: str) -> Check:
    found = tuple(
        int("".join(filter(str.isdigit, part)) or 0) for part in version.lstrip("v").split(".")[:2]
    )
    saw = f"{server}, Kubernetes {version}"
    if found < LEAST:
        return Check("cluster", Level.FAIL, saw, f"use Kubernetes {LEAST[0]}.{LEAST[1]} or newer")
    newer = found > NEWEST
    fix = (
        f"newer than the newest tested version ({NEWEST[0]}.{NEWEST[1]}); test it before you"
        " rely on it"
        if newer
        else ""
    )
    return Check("cluster", Level.WARN if newer else Level.OK, saw, fix)


def _namespace(api: Requests) -> Iterator[Check]:
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
        fix = f"kubectl create namespace {api.namespace}, or set GPU_JOB_NAMESPACE"
        yield Check("namespace", Level.FAIL, f"{api.namespace} does not exist", fix)
    elif found.status.phase == "Terminating":
        yield Check(
            "namespace",
            Level.FAIL,
            f"{api.namespace} is being deleted",
            "set GPU_JOB_NAMESPACE to another",
        )
    else:
        yield Check("namespace", Level.OK, api.namespace)


def _rights(api: Requests) -> Iterator[Check]:
    for right in DISPATCHER:
        try:
            allowed, reason = api.can(right.verb, right.resource, right.group, right.subresource)
        except ApiError as exc:
            yield Check("rights", Level.WARN, f"{right}: {exc}", "ask with `kubectl auth can-i`")
            return
        fix = "" if allowed else f"allow it by a Role in namespace {api.namespace}"
        saw = str(right) if allowed else f"may not {right}" + (f" ({reason})" if reason else "")
        yield Check("rights", Level.OK if allowed else Level.FAIL, saw, fix)


def _secret(api: Requests, name: str) -> Iterator[Check]:
    try:
        keys = api.get_secret_keys(name)
    except Forbidden:
        yield Check(
            "secret",
            Level.WARN,
            f"{name}: not checked",
            "run the doctor as a user with the right `get secrets`",
        )
        return
    except ApiError as exc:
        yield Check("secret", Level.WARN, f"{name}: {exc}", "run the doctor again")
        return
    fix = (
        f"kubectl -n {api.namespace} create secret generic {name}"
        f" --from-literal={_NEEDED_KEY}=redis://…"
    )
    if keys is None:
        yield Check("secret", Level.FAIL, f"{name} does not exist", fix)
    elif _NEEDED_KEY not in keys:
        yield Check(
            "secret",
            Level.FAIL,
            f"{name} has no {_NEEDED_KEY}; it has {', '.join(sorted(keys)) or 'nothing'}",
            fix,
        )
    else:
        yield Check("secret", Level.OK, f"{name} has {', '.join(sorted(keys))}")


def _job(api: Requests, name: str, manifest: Manifest) -> Check:
    """Ask the server to dry-run a Job of the class."""
    image = manifest["spec"]["template"]["spec"]["containers"][0]["image"]
    try:
        api.create_job(manifest, dry_run=True)
    except ApiError as exc:
        if exc.passing:
            return Check("jobs", Level.WARN, f"{name}: not checked: {exc}", "run the doctor again")
        fix = (
            "allow what is missing"
            if isinstance(exc, Forbidden)
            else "correct what the server names"
        )
        return Check("jobs", Level.FAIL, f"{name}: the server refuses its Jobs: {exc}", fix)
    return Check("jobs", Level.OK, f"{name}: the server accepts its Jobs (image {image})")


def _nodes(
    api: Requests, classes: Mapping[str, GpuClass], jobs: Mapping[str, Manifest]
) -> Iterator[Check]:
    try:
        nodes = api.list_nodes()
    except Forbidden:
        fix = "run the doctor as a user with the right `list nodes`; dispatchers do not need it"
        yield Check("nodes", Level.WARN, "not checked", fix)
        return
    except ApiError as exc:
        yield Check("nodes", Level.WARN, str(exc), "run the doctor again")
        return
    for name, gpu_class in classes.items():
        yield slots(gpu_class, nodes, jobs[name]["spec"]["template"]["spec"])
