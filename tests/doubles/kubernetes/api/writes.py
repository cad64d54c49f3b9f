"""POST, PATCH and DELETE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.doubles.kubernetes.api import access
from tests.doubles.kubernetes.api.access import Access, User
from tests.doubles.kubernetes.api.answers import body_of, success, warnings
from tests.doubles.kubernetes.api.watches import wanted_of
from tests.doubles.kubernetes.http.messages import Answer, Ask, Request
from tests.doubles.kubernetes.objects import deletion, errors
from tests.doubles.kubernetes.objects.deletion import PRESERVED, Deletion
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.kinds import JOBS, PODS, SERVICE_ACCOUNTS, Resource
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import key_of
from tests.doubles.kubernetes.objects.wire import encode, stamp


@dataclass(slots=True)
class Writes:
    """Carries such requests out. All raise :class:`Refused`."""

    registry: Registry
    access: Access

    def create(self, ask: Ask, request: Request) -> Answer:
        """POST of a new object."""
        body, told = self.registry.create(
            ask.resource,
            ask.space,
            body_of(request),
            unknown=request.query.get("fieldValidation") or "Warn",
            dry_run=request.query.get("dryRun") == "All",
        )
        return Answer(201, self._encoded(ask.resource, body), warnings(told))

    def create_below(self, ask: Ask, request: Request) -> Answer:
        """POST to a subresource: an eviction, a token."""
        body = body_of(request) or {}
        if ask.sub == "eviction":
            how = Deletion.read(request.query, body.get("deleteOptions") or {})
            deletion.evict(self.registry.store, ask.namespace, ask.name, how)
            return Answer(201, success())
        if ask.resource is not SERVICE_ACCOUNTS:
            raise errors.not_allowed()
        with self.registry.store.lock:
            account = self.registry.store.get(SERVICE_ACCOUNTS, ask.namespace, ask.name)
            if account is None:
                raise errors.not_found(SERVICE_ACCOUNTS, ask.name)
            uid = account["metadata"]["uid"]
        owner = self.access.granted(f"system:serviceaccount:{ask.namespace}:{ask.name}", uid)
        status = {"token": self.access.admit(owner), "expirationTimestamp": stamp()}
        return Answer(
            201,
            encode(
                {
                    **body,
                    "metadata": {"name": ask.name, "namespace": ask.namespace},
                    "status": status,
                }
            ),
        )

    def review(self, ask: Ask, request: Request, user: User) -> Answer:
        """POST of a question about whoever asks."""
        body = body_of(request) or {}
        answer = (
            access.self_review
            if ask.resource.plural == "selfsubjectreviews"
            else access.access_review
        )
        return Answer(201, encode(answer(user, body)))

    def patch(self, ask: Ask, request: Request) -> Answer:
        """PATCH: merge patches; a strategic one is merged plainly, which is the same where no list
        is changed.
        """
        content = request.headers.get("content-type", "")
        if "merge-patch" not in content:
            accepted = "application/merge-patch+json, application/strategic-merge-patch+json"
            message = (
                f"the body of the request was in an unknown format ({content}) - accepted media"
                f" types include: {accepted}"
            )
            raise Refused(415, "UnsupportedMediaType", message)
        body = self.registry.patch(ask.resource, ask.space, ask.name, body_of(request))
        return Answer(200, self._encoded(ask.resource, body))

    def delete(self, ask: Ask, request: Request) -> Answer:
        """DELETE of one object: it, if it still is there or is a pod; else that it is gone."""
        how = Deletion.read(request.query, body_of(request) or {})
        told = warnings([PRESERVED] if ask.resource is JOBS and not how.policy else [])
        try:
            body, gone = self.registry.delete(ask.resource, ask.space, ask.name, how)
        except Refused as refused:
            refused.headers |= told
            raise
        if ask.resource is PODS or not gone:
            return Answer(200, self._encoded(ask.resource, body), told)
        details: dict[str, Any] = {
            "name": ask.name,
            "kind": ask.resource.plural,
            "uid": body["metadata"]["uid"],
        }
        if ask.resource.group:
            details["group"] = ask.resource.group
        return Answer(200, success(details=details), told)

    def delete_all(self, ask: Ask, request: Request) -> Answer:
        """DELETE of all objects that are selected."""
        wanted = wanted_of(ask.resource, ask.namespace, request)
        how = Deletion.read(request.query, body_of(request) or {})
        store = self.registry.store
        with store.lock:
            found = [record for _, record in store.records(ask.resource, ask.namespace)]
            chosen = [
                record.body for record in found if wanted.matches(record.labels, record.fields)
            ]
            for body in chosen:
                self.registry.delete(ask.resource, *key_of(body), how)
            listed = {"kind": f"{ask.resource.kind}List", "apiVersion": ask.resource.api_version}
            return Answer(
                200,
                encode(
                    {**listed, "metadata": {"resourceVersion": str(store.version)}, "items": chosen}
                ),
            )

    def _encoded(self, resource: Resource, body: dict[str, Any]) -> bytes:
        with self.registry.store.lock:
            return encode({"kind": resource.kind, "apiVersion": resource.api_version, **body})
