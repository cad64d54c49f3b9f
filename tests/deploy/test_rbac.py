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
from gpuqueue.launchers.kubernetes.api.access import BY_NODE, DISPATCHER
from gpuqueue.launchers.kubernetes.api.access import Right as Listed
from gpuqueue.launchers.kubernetes.api.errors import Unreachable
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.api.transport import Transport
from tests.deploy.rendering import EVERYTHING, OVERLAYS, Objects, chart, render, values

Right = tuple[str, str, str]
#: An example call of each request.
ASKED: dict[str, Callable[[Requests], Any]] = {
    "create_job": lambda api: api.create_job({"metadata": {"name": "x"}}),
    "get_job": lambda api: api.get_job("x"),
    "delete_job": lambda api: api.delete_job("x"),
    "list_jobs": lambda api: api.list_jobs("a=b"),
    "watch_jobs": lambda api: api.watch_jobs("a=b", "1", 1, 1),
    "list_rejections": lambda api: api.list_rejections(),
    "watch_rejections": lambda api: api.watch_rejections("1", 1, 1),
    "look": lambda api: api.look(),
    "pod_events": lambda api: api.pod_events("x"),
    "list_pods": lambda api: api.list_pods("a=b"),
    "watch_pods": lambda api: api.watch_pods("a=b", "1", 1, 1),
    "pod_log": lambda api: api.pod_log("x", 1, 1),
    "follow_log": lambda api: list(api.follow_log("x", 1)),
    "whole_log": lambda api: list(api.whole_log("x")),
    "list_nodes": lambda api: api.list_nodes("a=b"),
}
#: Requests for classes whose domains are the nodes of the cluster.
OF_NODES = {"list_nodes"}
#: Additional requests of `gpuqueue doctor`, with the rights of its user.
DOCTORS = {
    *("can", "get_namespace", "get_secret_keys", "server_version"),
    *("list_quotas", "list_limit_ranges"),
}
OPERATORS = {"get_node"}
#: A dispatcher does without them if it may not: the UID of kube-system is one mark of a cluster,
#: and the node of a deleted pod tells whether it was drained.
OPTIONAL = {"get_namespace", "get_node"}
#: Send no request.
MAKES = {"within", "server_time"}


class Overheard(Transport):
    """A transport without a server, which records requests."""

    timeout = 1.0

    def __init__(self) -> None:
        self.rights: set[Right] = set()

    def send(
        self,
        asked: str,
        method: str,
        path: str,
        query: Any = None,
        body: Any = None,
        timeout: float | None = None,
    ) -> bytes:
        self.rights.add(right(method, path, query or {}))
        raise Unreachable("no server", request=asked)

    def open(self, asked: str, path: str, query: Any, silence: float | None) -> Any:
        return self.send(asked, "GET", path, query)


def right(method: str, path: str, query: dict[str, Any]) -> Right:
    """Return API group, resource and verb of a request, as the API server does."""
    parts = path.strip("/").split("/")
    group = parts[1] if parts[0] == "apis" else ""
    if len(parts) == 3:  # of no namespace
        return group, parts[2], "list"
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
                    and node.attr in verbs() - OPTIONAL - MAKES
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
    assert verbs() == set(ASKED) | DOCTORS | OPERATORS | MAKES
    assert used() == set(ASKED) - {"follow_log"}, (
        "follow_log is for `gpuqueue logs`, and needs no more than pod_log"
    )
    assert rights_of({"follow_log"}) == rights_of({"pod_log"})


@pytest.mark.parametrize("rights", [DISPATCHER, BY_NODE], ids=["of the namespace", "of nodes"])
def test_the_codes_own_list_of_rights_is_what_it_asks_for(rights: tuple[Listed, ...]) -> None:
    listed = {
        (right.group, "/".join(filter(None, (right.resource, right.subresource))), right.verb)
        for right in rights
    }
    asked = used() - OF_NODES if rights is DISPATCHER else OF_NODES
    assert rights_of(asked) == listed


@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_a_dispatcher_may_do_what_it_asks_for_and_nothing_else(source: str, name: str) -> None:
    (role,) = render(source, name).of("Role")
    found = granted(role)
    assert len(found) == len(set(found))
    assert set(found) == rights_of(used() - OF_NODES)
    assert not any("*" in part for each in found for part in each)


def test_the_role_stands_where_operators_look_for_it() -> None:
    file = OVERLAYS.parent / "base" / "rbac" / "gpu-job-launcher-rbac.yaml"
    (role,) = [each for each in yaml.safe_load_all(file.read_text()) if each["kind"] == "Role"]
    assert set(granted(role)) == rights_of(used() - OF_NODES)


READS_NODES = [("", "nodes", verb) for verb in ("get", "list", "watch")]
BY_NAME = '[classes.a]\ndomain = "node"\nnodes = ["n"]\n'
#: The values of a dispatcher → whether it lists the nodes of the cluster.
LISTS: dict[str, tuple[dict[str, Any], bool]] = {
    "T4 by node": ({"t4": {"sharedSlots": 1}, "settings": {"T4_DOMAIN": "node"}}, True),
    "no T4": ({"settings": {"T4_DOMAIN": "node"}, "mig": {"totalSlots": 1}}, False),
    "T4 as a class": ({"t4": {"sharedSlots": 1}, "settings": {"T4_DOMAIN": "class"}}, False),
    "a class by node": ({"classes": "[classes.a]\n domain='node' # each"}, True),
    "a class with a list": ({"classes": BY_NAME}, False),
    "the second class": ({"classes": f'{BY_NAME}[classes.b]\ndomain = "node"'}, True),
    "another word": ({"classes": '[classes.a]\n# domain = "node"\ndomain = "class"'}, False),
}


@pytest.mark.parametrize(("source", "name"), EVERYTHING)
def test_only_nodes_may_be_read_outside_the_namespace(source: str, name: str) -> None:
    found = render(source, name)
    roles, bindings = found.of("ClusterRole"), found.of("ClusterRoleBinding")
    assert len(roles) == len(bindings) == (name == "production")
    for role, binding in zip(roles, bindings, strict=True):
        assert granted(role) == READS_NODES
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        (subject,) = binding["subjects"]
        assert accounts(found) == {(subject["namespace"], subject["name"])}


@pytest.mark.parametrize(("dispatcher", "lists"), LISTS.values(), ids=LISTS)
def test_a_chart_reads_nodes_for_classes_without_a_list(
    dispatcher: dict[str, Any], lists: bool
) -> None:
    given = values("minimal") | {"jobs": {"image": "x:1"}}
    mig = {"resourceName": "nvidia.com/mig-1g.5gb"} if "mig" in dispatcher else {}
    given["dispatchers"] = [{"name": "one", **dispatcher, **mig}]
    assert len(chart(given).of("ClusterRole")) == lists
    given["rbac"] = {"getNodes": True}
    found = chart(given)
    (role,), (binding,) = found.of("ClusterRole"), found.of("ClusterRoleBinding")
    assert granted(role) == (READS_NODES if lists else READS_NODES[:1])
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    given["rbac"]["create"] = False
    assert chart(given).of("ClusterRole") == []


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
