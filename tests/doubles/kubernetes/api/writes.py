"""POST, PATCH and DELETE: objects, evictions, tokens and reviews."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.doubles.kubernetes.api import access
from tests.doubles.kubernetes.api.access import Access, User
from tests.doubles.kubernetes.api.request_info import RequestInfo
from tests.doubles.kubernetes.api.responses import body_of, success, warnings
from tests.doubles.kubernetes.api.selection import Selection
from tests.doubles.kubernetes.http.messages import Request, Response
from tests.doubles.kubernetes.objects import deletion, errors
from tests.doubles.kubernetes.objects.bodies import key_of
from tests.doubles.kubernetes.objects.deletion import PRESERVED, Deletion
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.kinds import JOBS, PODS, SERVICE_ACCOUNTS, Resource
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.wire import encode, stamp


@dataclass(slots=True)
class Writes:
    """Carries out requests that change objects. Every method may raise :class:`Refused`."""

    registry: Registry
    access: Access

    def create(self, info: RequestInfo, request: Request) -> Response:
        """Create an object."""
        body, texts = self.registry.create(
            info.resource,
            info.space,
            body_of(request),
            unknown=request.query.get("fieldValidation") or "Warn",
            dry_run=request.query.get("dryRun") == "All",
        )
        return Response(201, self._encoded(info.resource, body), warnings(texts))

    def create_subresource(self, info: RequestInfo, request: Request) -> Response:
        """Create a subresource: an eviction or a token."""
        body = body_of(request) or {}
        if info.subresource == "eviction":
            how = Deletion.read(request.query, body.get("deleteOptions") or {})
            deletion.evict(self.registry.store, info.namespace, info.name, how)
            return Response(201, success())
        if info.resource is not SERVICE_ACCOUNTS:
            raise errors.not_allowed()
        with self.registry.store.lock:
            account = self.registry.store.get(SERVICE_ACCOUNTS, info.namespace, info.name)
            if account is None:
                raise errors.not_found(SERVICE_ACCOUNTS, info.name)
            uid = account["metadata"]["uid"]
        owner = self.access.granted(f"system:serviceaccount:{info.namespace}:{info.name}", uid)
        status = {"token": self.access.admit(owner), "expirationTimestamp": stamp()}
        return Response(
            201,
            encode(
                {
                    **body,
                    "metadata": {"name": info.name, "namespace": info.namespace},
                    "status": status,
                }
            ),
        )

    def review(self, info: RequestInfo, request: Request, user: User) -> Response:
        """Review the identity or the rights of the user."""
        is_identity = info.resource.plural == "selfsubjectreviews"
        review = access.self_review if is_identity else access.access_review
        return Response(201, encode(review(user, body_of(request) or {})))

    def patch(self, info: RequestInfo, request: Request) -> Response:
        """Apply a merge patch.

        A strategic merge patch is applied as a merge patch: the two differ for lists only.
        """
        content = request.headers.get("content-type", "")
        if "merge-patch" not in content:
            accepted = "application/merge-patch+json, application/strategic-merge-patch+json"
            message = (
                f"the body of the request was in an unknown format ({content}) - accepted media"
                f" types include: {accepted}"
            )
            raise Refused(415, "UnsupportedMediaType", message)
        body = self.registry.patch(info.resource, info.space, info.name, body_of(request))
        return Response(200, self._encoded(info.resource, body))

    def delete(self, info: RequestInfo, request: Request) -> Response:
        """Delete an object; the response has the object, or a success if it is gone and no pod."""
        how = Deletion.read(request.query, body_of(request) or {})
        headers = warnings([PRESERVED] if info.resource is JOBS and not how.policy else [])
        try:
            body, gone = self.registry.delete(info.resource, info.space, info.name, how)
        except Refused as refused:
            refused.headers |= headers
            raise
        if info.resource is PODS or not gone:
            return Response(200, self._encoded(info.resource, body), headers)
        details: dict[str, Any] = {
            "name": info.name,
            "kind": info.resource.plural,
            "uid": body["metadata"]["uid"],
        }
        if info.resource.group:
            details["group"] = info.resource.group
        return Response(200, success(details=details), headers)

    def delete_all(self, info: RequestInfo, request: Request) -> Response:
        """Delete all selected objects; the response is their list."""
        selection = Selection.of(info.resource, info.namespace, request)
        how = Deletion.read(request.query, body_of(request) or {})
        store = self.registry.store
        with store.lock:
            chosen = [record.body for record in selection.records(store)]
            for body in chosen:
                self.registry.delete(info.resource, *key_of(body), how)
            listed = {"kind": f"{info.resource.kind}List", "apiVersion": info.resource.api_version}
            return Response(
                200,
                encode(
                    {**listed, "metadata": {"resourceVersion": str(store.version)}, "items": chosen}
                ),
            )

    def _encoded(self, resource: Resource, body: dict[str, Any]) -> bytes:
        with self.registry.store.lock:
            return encode({"kind": resource.kind, "apiVersion": resource.api_version, **body})
