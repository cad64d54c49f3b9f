"""Dispatchers have exactly the rights that the code uses."""

from __future__ import annotations

import ast
import contextlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import gpuqueue.launchers.kubernetes as launcher
from gpuqueue.launchers.kubernetes.api.access import DISPATCHER
from gpuqueue.launchers.kubernetes.api.errors import Unreachable
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.api.transport import Transport
from tests.deploy.rendering import EVERYTHING, OVERLAYS, Objects, render

Right = tuple[str, str, str]
#: An example call of each request.
ASKED: dict[str, Callable[[Requests], Any]] = {
    "create_job": lambda api: api.create_job({"metadata": {"name": "x"}}),
    "get_job": lambda api: api.get_job("x"),
    "delete_job": lambda api: api.delete_job("x"),
    "list_jobs": lambda api: api.list_jobs("a=b"),
    "job_events": lambda api: api.job_events("x"),
    "list_pods": lambda api: api.list_pods("a=b"),
    "watch_pods": lambda api: api.watch_pods("a=b", "1", 1, 1),
    "pod_log": lambda api: api.pod_log("x", 1, 1),
    "follow_log": lambda api: list(api.follow_log("x", 1)),
}
#: Additional requests of `gpuqueue doctor`, with the rights of its user.
DOCTORS = {"can", "get_namespace", "list_nodes", "get_secret_keys", "server_version"}


class Overheard(Transport):
    """A transport without a server, which records requests."""

    def __init__(self) -> None:
        self.rights: set[Right] = set()

    def send(
        self, asked: str, method: str, path: str, query: Any = None, body: Any = None
    ) -> bytes:
        self.rights.add(right(method, path, query or {}))
        raise Unreachable("no server", request=asked)

    def open(self, asked: str, path: str, query: Any, silence: float | None) -> Any:
        return self.send(asked, "GET", path, query)


def right(method: str, path: str, query: dict[str, Any]) -> Right:
    """Return API group, resource and verb of a request, as the API server does."""
    parts = path.strip("/").split("/")
    group = parts[1] if parts[0] == "apis" else ""
    _, _, resource, *rest = parts[3 if group else 2 :]
    if len(rest) == 2:
        return group, f"{resource}/{rest[1]}", "get"
    if method == "GET" and not rest:
        return group, resource, "watch" if query.get("watch") == "true" else "list"
    return (
        group,
        resource,
        {"POST": "create", "GET": "get", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}[
            method
        ],
    )


def verbs() -> set[str]:
    """Return the request methods."""
    return {
        name
        for name, _ in inspect.getmembers(Requests, inspect.isfunction)
        if not name.startswith("_")
    }


def used() -> set[str]:
    """Return the requests in the modules of the launcher."""
    found = set()
    for path in Path(launcher.__path__[0]).rglob("*.py"):
        if path.parent.name != "api":
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Attribute)
                    and node.attr in verbs()
                    and "api" in ast.unparse(node.value)
                ):
                    found.add(node.attr)
    return found


def rights_of(requests: set[str]) -> set[Right]:
    overheard = Overheard()
    for name in requests:
        with contextlib.suppress(Unreachable):
            ASKED[name](Requests(overheard, "gpu-jobs"))
    return overheard.rights


def granted(role: Any) -> list[Right]:
    return [
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def test_every_request_of_the_code_is_known_here() -> None:
    assert verbs() == set(ASKED) | DOCTORS
    assert used() == set(ASKED) - {"follow_log"}, (
        "follow_log is for `gpuqueue logs`, and needs no more than pod_log"
    )
    assert rights_of({"follow_log"}) == rights_of({"pod_log"})


def test_the_codes_own_list_of_rights_is_what_it_asks_for() -> None:
    listed = {
        (right.group, "/".join(filter(None, (right.resource, right.subresource))), right.verb)
        for right in DISPATCHER
    }
    assert rights_of(used()) == listed


@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_a_dispatcher_may_do_what_it_asks_for_and_nothing_else(source: str, name: str) -> None:
    (role,) = render(source, name).of("Role")
    found = granted(role)
    assert len(found) == len(set(found))
    assert set(found) == rights_of(used())
    assert not any("*" in part for each in found for part in each)


def test_the_role_stands_where_operators_look_for_it() -> None:
    file = OVERLAYS.parent / "base" / "rbac" / "gpu-job-launcher-rbac.yaml"
    (role,) = [each for each in yaml.safe_load_all(file.read_text()) if each["kind"] == "Role"]
    assert set(granted(role)) == rights_of(used())


@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_nothing_has_rights_in_the_whole_cluster(source: str, name: str) -> None:
    assert not render(source, name).of("ClusterRole", "ClusterRoleBinding")


@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_the_role_is_bound_to_the_dispatchers_in_the_namespace_of_jobs(
    source: str, name: str
) -> None:
    found = render(source, name)
    (role,), (binding,) = found.of("Role"), found.of("RoleBinding")
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "Role",
        "name": role["metadata"]["name"],
    }
    assert binding["metadata"]["namespace"] == role["metadata"]["namespace"]
    (subject,) = binding["subjects"]
    assert accounts(found) == {(subject["namespace"], subject["name"])}
    assert found.one("ServiceAccount", subject["name"], subject["namespace"])


def accounts(found: Objects) -> set[tuple[str, str]]:
    """Return the service accounts of pods with a token."""

    def each() -> Iterator[tuple[str, str]]:
        for workload in found.of("Deployment", "StatefulSet"):
            pod = workload["spec"]["template"]["spec"]
            if pod["automountServiceAccountToken"]:
                yield workload["metadata"]["namespace"], pod["serviceAccountName"]

    return set(each())
