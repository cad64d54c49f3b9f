"""Creation, change and deletion of objects, for clients and controllers alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from tests.doubles.kubernetes.objects import deletion
from tests.doubles.kubernetes.objects.admission import quota, ranges, security
from tests.doubles.kubernetes.objects.admission.defaults import (
    complete_job,
    complete_namespace,
    complete_pod,
    complete_secret,
    encode_secret,
)
from tests.doubles.kubernetes.objects.admission.schema import decode_as, strict_error
from tests.doubles.kubernetes.objects.admission.validation import (
    check_job,
    check_meta,
    check_pod,
    check_unchanged,
)
from tests.doubles.kubernetes.objects.bodies import Body, is_terminating, key_of, merge_patch
from tests.doubles.kubernetes.objects.deletion import Deletion
from tests.doubles.kubernetes.objects.errors import (
    already_exists,
    bad_request,
    denied_by_policy,
    forbidden,
    invalid,
    not_found,
)
from tests.doubles.kubernetes.objects.kinds import (
    JOBS,
    LIMIT_RANGES,
    NAMESPACES,
    PODS,
    PRIORITY_CLASSES,
    SECRETS,
    SERVICE_ACCOUNTS,
    Resource,
)
from tests.doubles.kubernetes.objects.store import Store
from tests.doubles.kubernetes.objects.wire import decode, encode, generated, new_uid, stamp

#: Fields of the metadata that only the server writes.
_SERVER_FIELDS = (
    "resourceVersion",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "selfLink",
    "managedFields",
)


class Registry:
    """Decodes, completes and checks objects before the store accepts them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.policies: dict[Resource, tuple[str, str]] = {}
        """Kinds that a ValidatingAdmissionPolicy denies: its name, and its message."""
        self.webhooks: list[Callable[[Resource, Body], None]] = []
        """Change new objects before they are checked, as mutating webhooks do."""

    def create(
        self,
        resource: Resource,
        namespace: str,
        sent: Any,
        *,
        unknown: str = "Warn",
        dry_run: bool = False,
    ) -> tuple[Body, list[str]]:
        """Store a new object; returns it and the warnings of the response.

        Args:
            resource: the kind.
            namespace: the namespace, empty for a cluster-scoped kind.
            sent: the object as the client sent it; it is not changed.
            unknown: the handling of unknown fields: ``Ignore``, ``Warn`` or ``Strict``.
            dry_run: store nothing.

        Raises:
            Refused: 400, 403, 404, 409 or 422.
        """
        if not isinstance(sent, Mapping):
            raise bad_request("couldn't get version/kind; json parse error: the body is no object")
        body, warnings = _decoded(resource, dict(sent), unknown)
        return self._create(resource, namespace, body, warnings, dry_run=dry_run)

    def create_pod(self, namespace: str, metadata: Body, spec: Body) -> Body:
        """Store a pod of a Job. Its template was checked when the Job was created.

        Raises:
            Refused: 403, 404 or 422.
        """
        body = decode(encode({"metadata": metadata, "spec": spec}))
        return self._create(PODS, namespace, body, [], dry_run=False, checked=True)[0]

    def _create(
        self,
        resource: Resource,
        namespace: str,
        body: Body,
        warnings: list[str],
        *,
        dry_run: bool,
        checked: bool = False,
    ) -> tuple[Body, list[str]]:
        metadata = body["metadata"] = body.get("metadata") or {}
        _place(resource, namespace, metadata)
        for name in _SERVER_FIELDS:
            metadata.pop(name, None)
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = generated(metadata["generateName"])
        for webhook in self.webhooks:
            webhook(resource, body)
        with self.store.lock:
            self._check_namespace(namespace)
            if denied := self.policies.get(resource):
                raise denied_by_policy(resource, metadata["name"], *denied)
            warnings += self._complete(resource, namespace, body, checked=checked)
            if resource in (JOBS, PODS):
                quota.admit(self.store, resource, body)
            if self.store.get(resource, *key_of(body)) is not None:
                raise already_exists(resource, metadata["name"])
            body.pop("kind", None)
            body.pop("apiVersion", None)
            if dry_run:
                metadata |= {"uid": metadata.get("uid") or new_uid(), "creationTimestamp": stamp()}
            else:
                self.store.add(resource, body)
            return body, warnings

    def delete(
        self, resource: Resource, namespace: str, name: str, how: Deletion
    ) -> tuple[Body, bool]:
        """Delete an object; see :func:`tests.doubles.kubernetes.objects.deletion.delete`."""
        return deletion.delete(self.store, resource, namespace, name, how)

    def patch(self, resource: Resource, namespace: str, name: str, change: Any) -> Body:
        """Merge a change into an object; returns its new version.

        Raises:
            Refused: 400, 404 or 422.
        """
        if not isinstance(change, dict):
            raise bad_request(
                "error decoding patch: json: cannot unmarshal the body into an object"
            )
        change = {
            key: value
            for key, value in change.items()
            if key not in ("kind", "apiVersion", "status")
        }
        with self.store.lock:
            body = self.store.get(resource, namespace, name)
            if body is None:
                raise not_found(resource, name)
            merged = merge_patch(copy.deepcopy(body), change)
            causes = check_unchanged(body["spec"], merged["spec"]) if resource is JOBS else []
            if causes := causes + check_meta(merged["metadata"]):
                raise invalid(resource, name, causes)
            if merged.get("spec") != body.get("spec") and "generation" in body["metadata"]:
                merged["metadata"]["generation"] += 1
            if resource is SECRETS:
                encode_secret(merged)
            body.clear()
            body.update(merged)
            self.store.save(resource, body)
            return body

    def _check_namespace(self, namespace: str) -> None:
        if not namespace:
            return
        space = self.store.get(NAMESPACES, "", namespace)
        if space is None:
            raise not_found(NAMESPACES, namespace)
        if is_terminating(space):
            why = (
                f"unable to create new content in namespace {namespace} because it is being"
                " terminated"
            )
            raise forbidden(NAMESPACES, namespace, why)

    def _complete(
        self, resource: Resource, namespace: str, body: Body, *, checked: bool
    ) -> list[str]:
        """Add the defaults of an object and check it; returns the warnings."""
        metadata, name = body["metadata"], body["metadata"].get("name", "")
        warnings: list[str] = []
        if resource is JOBS:
            metadata["uid"], metadata["generation"], body["status"] = new_uid(), 1, {}
            causes = check_job(body)
            if not causes:
                complete_job(body, metadata["uid"])
                warnings = security.warn(self._namespace(namespace), body["spec"]["template"])
        elif resource is PODS:
            metadata["generation"] = 1
            complete_pod(body, self.store.bodies(PRIORITY_CLASSES))
            causes = [] if checked else check_pod(body)
            if not causes:
                self._admit_pod(namespace, body)
        else:
            if resource is SECRETS:
                complete_secret(body)
            elif resource is LIMIT_RANGES:
                ranges.complete_range(body)
            elif resource is NAMESPACES:
                complete_namespace(body)
            causes = check_meta(metadata)
        if causes:
            raise invalid(resource, name, causes)
        return warnings

    def _admit_pod(self, namespace: str, pod: Body) -> None:
        spec, name = pod["spec"], pod["metadata"]["name"]
        account = spec["serviceAccountName"]
        if account != "default" and self.store.get(SERVICE_ACCOUNTS, namespace, account) is None:
            why = (
                f"error looking up service account {namespace}/{account}: serviceaccount"
                f' "{account}" not found'
            )
            raise forbidden(PODS, name, why)
        wanted = spec.get("priorityClassName")
        if wanted and self.store.get(PRIORITY_CLASSES, "", wanted) is None:
            raise forbidden(PODS, name, f"no PriorityClass with name {wanted} was found")
        ranges.apply(self.store, namespace, pod)
        security.enforce(self._namespace(namespace), pod)

    def _namespace(self, name: str) -> Body:
        return self.store.get(NAMESPACES, "", name) or {}


def _decoded(resource: Resource, body: Body, unknown: str) -> tuple[Body, list[str]]:
    if resource not in (JOBS, PODS):
        return copy.deepcopy(body), []
    clean, fields = decode_as(resource.kind, body)
    if fields and unknown == "Strict":
        raise strict_error(resource.kind, resource.version, fields)
    clean.setdefault("spec", {})
    return clean, [f'unknown field "{path}"' for path in fields] if unknown == "Warn" else []


def _place(resource: Resource, namespace: str, metadata: Body) -> None:
    if not resource.namespaced:
        metadata.pop("namespace", None)
    elif metadata.setdefault("namespace", namespace) != namespace:
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
