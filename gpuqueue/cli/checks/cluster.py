"""The doctor's checks of a cluster: access, rights, the Secret, nodes, dry runs of Jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gpuqueue.classes.gpu_class import NODE, GpuClass
from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.cli.checks.namespaces import in_namespace
from gpuqueue.cli.checks.nodes import overlaps, slots
from gpuqueue.cli.checks.quotas import demands
from gpuqueue.errors import GpuQueueError, SettingsError
from gpuqueue.launchers.kubernetes.api.access import BY_NODE
from gpuqueue.launchers.kubernetes.api.client import Api
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Forbidden
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.assemble import context, dry_run, namespaces_of, owner_of
from gpuqueue.launchers.kubernetes.manifest.job import Manifest
from gpuqueue.launchers.kubernetes.manifest.sample import sample
from gpuqueue.settings.classes import of_class
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import load_cluster
from gpuqueue.store.owners import Owners

#: The oldest Kubernetes whose features the Jobs use, and the newest that was recorded.
LEAST, NEWEST = (1, 31), (1, 36)


def cluster(
    settings: Settings, classes: Mapping[str, GpuClass], owners: Owners | None
) -> Iterator[Check]:
    """Yield every check that the access allows. ``owners``: as Redis knows them; None: unknown."""
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
    owner = chosen.owner or "unknown"
    if owners is not None:
        try:
            owner = owner_of(
                api, chosen, settings.redis_url, owners, namespaces_of(classes), keep=False
            )
        except GpuQueueError as exc:
            yield Check.failed("owner", exc)
    try:
        common = context(settings, chosen, api, owner)
    except SettingsError as exc:
        yield Check.failed("pod template", exc)
        common = context(settings, chosen.model_copy(update={"pod_template": None}), api, owner)
    else:
        if chosen.pod_template:
            yield Check("pod template", Level.OK, str(chosen.pod_template))
    yield Check("owner", Level.OK, f"{common.owner} in namespace {api.namespace}")
    secrets: dict[str, set[str]] = {api.namespace: set()}
    for each in classes.values():
        named = secrets.setdefault(common.of_class(each).namespace, set())
        named.add(of_class(chosen, each).secret_name)
    for name, named in secrets.items():
        own = name == api.namespace
        yield from in_namespace(api if own else api.within(name), named, own=own)
    if by_node := [each for each in classes.values() if each.domain == NODE and not each.nodes]:
        yield from _rights_of_nodes(api, by_node)
    jobs: dict[str, Manifest] = {}
    for name, gpu_class in classes.items():
        try:
            jobs[name] = sample(gpu_class, chosen, common)
        except GpuQueueError as exc:
            yield Check.failed("jobs", exc, f"class {name!r}: ")
        else:
            yield _job(api, name, jobs[name])
    yield from demands(api, jobs)
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


def _rights_of_nodes(api: Requests, classes: Sequence[GpuClass]) -> Iterator[Check]:
    names = ", ".join(each.name for each in classes)
    fix = (
        "allow dispatchers to get, list and watch nodes by a ClusterRole, or name the nodes in the"
        f" field `nodes` of {names}: no job of it starts"
    )
    for right in BY_NODE:
        try:
            allowed, reason = api.can(right.verb, right.resource, namespace="")
        except ApiError as exc:
            yield Check("rights", Level.WARN, f"{right}: {exc}", "ask with `kubectl auth can-i`")
            return
        saw = str(right) if allowed else f"may not {right}" + (f" ({reason})" if reason else "")
        yield Check("rights", Level.OK if allowed else Level.FAIL, saw, "" if allowed else fix)


def _job(api: Requests, name: str, manifest: Manifest) -> Check:
    """Ask the server to dry-run a Job of the class."""
    image = manifest["spec"]["template"]["spec"]["containers"][0]["image"]
    try:
        dry_run(api, manifest)
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
    pods = {name: job["spec"]["template"]["spec"] for name, job in jobs.items()}
    for name, gpu_class in classes.items():
        yield slots(gpu_class, nodes, pods[name])
    yield from overlaps(classes, nodes, pods)
