"""Discovery: the version of the server, its API groups and resources, and its health."""

from __future__ import annotations

from tests.doubles.kubernetes.http.messages import Request, Response
from tests.doubles.kubernetes.objects.kinds import BY_PATH, REVIEWS, SUBRESOURCES, VERSION, Resource
from tests.doubles.kubernetes.objects.wire import encode

_VERSION = {"major": "1", "minor": "36", "gitVersion": VERSION, "platform": "linux/amd64"}

_ALL = ["create", "delete", "deletecollection", "get", "list", "patch", "watch"]


def respond(request: Request) -> Response | None:
    """Return the response to a discovery request, None for other requests."""
    if request.method not in ("GET", "HEAD"):
        return None
    path = request.path.rstrip("/")
    if path == "/version":
        return Response(200, encode(_VERSION))
    if path in ("/healthz", "/livez", "/readyz"):
        return Response(200, b"ok", content_type="text/plain")
    if path == "/api":
        return Response(200, encode({"kind": "APIVersions", "versions": ["v1"]}))
    if path == "/apis":
        groups = sorted({group for group, _ in BY_PATH if group})
        return Response(
            200,
            encode(
                {
                    "kind": "APIGroupList",
                    "apiVersion": "v1",
                    "groups": [_group(name) for name in groups],
                }
            ),
        )
    steps = path.strip("/").split("/")
    if steps == ["api", "v1"]:
        return Response(200, encode(_resources("")))
    known = steps[0] == "apis" and len(steps) > 1 and any(group == steps[1] for group, _ in BY_PATH)
    if known and len(steps) == 2:
        return Response(200, encode({"kind": "APIGroup", "apiVersion": "v1", **_group(steps[1])}))
    if known and len(steps) == 3 and steps[2] == "v1":
        return Response(200, encode(_resources(steps[1])))
    return None


def _group(name: str) -> dict[str, object]:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resources(group: str) -> dict[str, object]:
    resources: list[dict[str, object]] = []
    for resource in (item for (owner, _), item in BY_PATH.items() if owner == group):
        resources.append(
            _described(resource, resource.plural, ["create"] if resource in REVIEWS else _ALL)
        )
        resources += [
            _described(resource, f"{resource.plural}/{sub}", ["get"])
            for sub in SUBRESOURCES.get(resource, ())
        ]
    return {
        "kind": "APIResourceList",
        "groupVersion": f"{group}/v1".lstrip("/"),
        "resources": resources,
    }


def _described(resource: Resource, name: str, verbs: list[str]) -> dict[str, object]:
    singular = resource.kind.lower() if "/" not in name else ""
    return {
        "name": name,
        "singularName": singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": verbs,
    }
