"""Reading the URL: which verb on which resource a request is about."""

from __future__ import annotations

from dataclasses import dataclass

from tests.doubles.kubernetes.http.messages import Request
from tests.doubles.kubernetes.objects.errors import no_such_path, not_allowed
from tests.doubles.kubernetes.objects.kinds import BY_PATH, NAMESPACES, SUBRESOURCES, Resource

_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """What a request is about. ``verb`` is one of RBAC: get, list, watch, create, update, patch,
    delete, deletecollection.
    """

    verb: str
    resource: Resource
    namespace: str
    name: str
    subresource: str

    @property
    def space(self) -> str:
        """The namespace that holds the object; empty for cluster-scoped kinds, also Namespace."""
        return self.namespace if self.resource.namespaced else ""

    @property
    def resource_name(self) -> str:
        """The resource as RBAC names it: ``pods``, ``pods/log``."""
        plural = self.resource.plural
        return f"{plural}/{self.subresource}" if self.subresource else plural


def read_url(request: Request) -> RequestInfo:
    """Return what a request is about.

    Raises:
        Refused: 404 if nothing is served at this path; 405 if the method is not supported there.
    """
    steps = [step for step in request.path.split("/") if step]
    if steps[:2] == ["api", "v1"]:
        group, rest = "", steps[2:]
    elif steps[:1] == ["apis"] and len(steps) > 3:
        group, rest = steps[1], steps[3:]
        if steps[2] != "v1":
            raise no_such_path()
    else:
        raise no_such_path()
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, rest[0])) if rest else None
    if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
        raise no_such_path()
    name, subresource = (*rest[1:], "", "")[:2]
    if subresource and subresource not in SUBRESOURCES.get(resource, ()):
        raise no_such_path()
    verb = _VERBS.get(request.method)
    if verb is None or (verb == "create" and bool(name) is not bool(subresource)):
        raise not_allowed()
    if verb == "get" and not name:
        verb = "watch" if request.flag("watch") else "list"
    elif verb == "delete" and not name:
        verb = "deletecollection"
    if resource is NAMESPACES:
        namespace = name
    return RequestInfo(verb, resource, namespace, name, subresource)
