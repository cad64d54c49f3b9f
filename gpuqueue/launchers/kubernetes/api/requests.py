"""What is asked of the API: one method a verb, paths and queries here, answers decoded into the
fields that are used.

Every method raises :class:`~gpuqueue.launchers.kubernetes.api.errors.ApiError`, and may be called
from any thread. Nothing is tried again here.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from gpuqueue.launchers.kubernetes.api.answers import Event, Listed
from gpuqueue.launchers.kubernetes.api.cluster_answers import (
    Namespace,
    Node,
    Review,
    Secret,
    Version,
)
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Expired, NotFound, Unreachable
from gpuqueue.launchers.kubernetes.api.objects import CONTAINER, Job, Pod
from gpuqueue.launchers.kubernetes.api.transport import Transport
from gpuqueue.launchers.kubernetes.api.watch import Watch

T = TypeVar("T")
#: Objects of one page of a list: what kubectl asks for.
PAGE = 500
#: A list whose next page has expired is begun again; the last time without pages, which cannot
#: expire.
_LIMITS = (PAGE, PAGE, 0)


class Requests:
    """The verbs, on one server and one namespace."""

    def __init__(self, transport: Transport, namespace: str) -> None:
        self._transport = transport
        self.namespace = namespace
        self._jobs = f"/apis/batch/v1/namespaces/{quote(namespace, safe='')}/jobs"
        self._core = f"/api/v1/namespaces/{quote(namespace, safe='')}"

    # -- jobs --------------------------------------------------------------------------------------

    def create_job(self, manifest: Mapping[str, Any], dry_run: bool = False) -> Job:
        """Create a Job; fields that the API does not know are refused. ``dry_run``: only have it
        checked and admitted.
        """
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        asked = f"create job {manifest['metadata']['name']} in {self.namespace}"
        return self._decode(
            asked, _job, self._transport.send(asked, "POST", self._jobs, query, manifest)
        )

    def get_job(self, name: str) -> Job | None:
        """Return a Job; None if there is none."""
        body = self._get(
            f"get job {name} in {self.namespace}", f"{self._jobs}/{quote(name, safe='')}"
        )
        return None if body is None else self._decode(f"get job {name}", _job, body)

    def delete_job(self, name: str, uid: str = "") -> bool:
        """Delete a Job and, in the background, its pods; False if it (the one of this ``uid``, if
        given) was gone already.
        """
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
        }
        if uid:
            options["preconditions"] = {"uid": uid}
        asked = f"delete job {name} in {self.namespace}"
        try:
            self._transport.send(
                asked, "DELETE", f"{self._jobs}/{quote(name, safe='')}", None, options
            )
        except NotFound:
            return False
        except ApiError as exc:
            if uid and exc.status == 409:
                return False  # another Job has the name by now
            raise
        return True

    def list_jobs(self, selector: str) -> tuple[list[Job], str]:
        """Return the Jobs that a label selector selects, and the version of the list."""
        return self._list("jobs", self._jobs, _jobs, {"labelSelector": selector})

    def job_events(self, job_name: str) -> list[Event]:
        """Return what controllers say of a Job, oldest first: that its pod is refused
        (FailedCreate), nothing else tells.
        """
        query = {"fieldSelector": f"involvedObject.kind=Job,involvedObject.name={job_name}"}
        events = self._list("events", f"{self._core}/events", _events, query)[0]
        return sorted(events, key=lambda event: event.last_seen or 0.0)

    # -- pods --------------------------------------------------------------------------------------

    def list_pods(self, selector: str) -> tuple[list[Pod], str]:
        """Return the pods that a label selector selects, and the version to watch from."""
        return self._list("pods", f"{self._core}/pods", _pods, {"labelSelector": selector})

    def watch_pods(
        self, selector: str, resource_version: str, timeout_seconds: float, silence: float
    ) -> Watch:
        """Follow pods from a version on, until the server closes after ``timeout_seconds``.

        Yields events whose ``type`` is ADDED, MODIFIED, DELETED (``object`` is its last state) or
        BOOKMARK (every change up to its resourceVersion has been told). The iteration ends when the
        stream is closed or breaks off, which says nothing about any pod. Raises Expired (list
        again), StreamSilent after ``silence`` seconds without a byte, or what the server reports
        instead.
        """
        query: dict[str, str | int] = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": selector,
            "resourceVersion": resource_version,
            "timeoutSeconds": max(1, int(timeout_seconds)),
        }
        asked = f"watch pods in {self.namespace}"
        return Watch(asked, self._transport.open(asked, f"{self._core}/pods", query, silence))

    def pod_log(self, pod: str, tail_lines: int, limit_bytes: int) -> str:
        """Return up to ``limit_bytes`` of the last lines of a pod's log: the API cuts the end off,
        not the start.
        """
        query: dict[str, str | int] = {
            "container": CONTAINER,
            "tailLines": tail_lines,
            "limitBytes": limit_bytes,
        }
        asked = f"get log of pod {pod} in {self.namespace}"
        return self._transport.send(asked, "GET", self._log(pod), query).decode(errors="replace")

    def follow_log(self, pod: str, tail_lines: int) -> Iterator[str]:
        """Yield a pod's log from its last lines on, as it is written, until its container ends."""
        query: dict[str, str | int] = {
            "container": CONTAINER,
            "follow": "true",
            "tailLines": tail_lines,
        }
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        with self._transport.open(
            f"follow log of pod {pod} in {self.namespace}", self._log(pod), query, None
        ) as stream:
            for part in stream:
                if text := decoder.decode(part):
                    yield text
        if text := decoder.decode(b"", final=True):
            yield text

    # -- what doctor asks --------------------------------------------------------------------------

    def can(
        self,
        verb: str,
        resource: str,
        group: str = "",
        subresource: str = "",
        namespace: str | None = None,
    ) -> tuple[bool, str]:
        """Whether we may, and the reason that the API gives. ``namespace`` "" is the whole cluster;
        None is ours.
        """
        attributes = {
            "verb": verb,
            "resource": resource,
            "group": group,
            "subresource": subresource,
        }
        attributes["namespace"] = self.namespace if namespace is None else namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        asked = f"ask whether {verb} {resource} is allowed"
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        status = self._decode(
            asked, _review, self._transport.send(asked, "POST", path, None, review)
        ).status
        return status.allowed, status.reason or status.evaluation_error

    def get_namespace(self, name: str) -> Namespace | None:
        """Return a namespace; None if there is none."""
        body = self._get(f"get namespace {name}", f"/api/v1/namespaces/{quote(name, safe='')}")
        return None if body is None else self._decode(f"get namespace {name}", _namespace, body)

    def list_nodes(self, label_selector: str = "") -> list[Node]:
        """Return the nodes that a label selector selects ("": all)."""
        return self._list(
            "nodes",
            "/api/v1/nodes",
            _nodes,
            {"labelSelector": label_selector} if label_selector else {},
        )[0]

    def get_secret_keys(self, name: str) -> set[str] | None:
        """Return the keys of a Secret of our namespace; None if there is none."""
        body = self._get(
            f"get secret {name} in {self.namespace}", f"{self._core}/secrets/{quote(name, safe='')}"
        )
        return (
            None
            if body is None
            else set(self._decode(f"get secret {name}", _secret, body).data or ())
        )

    def server_version(self) -> str:
        """Return the server's version, like ``v1.36.2``."""
        asked = "get version of the server"
        return self._decode(
            asked, _version, self._transport.send(asked, "GET", "/version")
        ).git_version

    # -- how ---------------------------------------------------------------------------------------

    def _log(self, pod: str) -> str:
        return f"{self._core}/pods/{quote(pod, safe='')}/log"

    def _get(self, asked: str, path: str) -> bytes | None:
        try:
            return self._transport.send(asked, "GET", path)
        except NotFound:
            return None

    def _list(
        self,
        kind: str,
        path: str,
        decoder: msgspec.json.Decoder[Listed[T]],
        query: Mapping[str, str],
    ) -> tuple[list[T], str]:
        asked = f"list {kind} in {self.namespace}"
        for limit in _LIMITS:
            try:
                return self._pages(
                    asked, path, decoder, {**query, **({"limit": limit} if limit else {})}
                )
            except Expired as exc:
                expired = exc
        raise expired

    def _pages(
        self,
        asked: str,
        path: str,
        decoder: msgspec.json.Decoder[Listed[T]],
        query: dict[str, str | int],
    ) -> tuple[list[T], str]:
        items: list[T] = []
        while True:
            page = self._decode(asked, decoder, self._transport.send(asked, "GET", path, query))
            items += page
            if not page.metadata.continue_:
                return items, page.metadata.resource_version
            query["continue"] = page.metadata.continue_

    def _decode(self, asked: str, decoder: msgspec.json.Decoder[T], body: bytes) -> T:
        try:
            return decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise Unreachable(
                f"{self._transport.server} answers what no Kubernetes API does: {exc}", asked=asked
            ) from exc


_job = msgspec.json.Decoder(Job)
_jobs = msgspec.json.Decoder(Listed[Job])
_pods = msgspec.json.Decoder(Listed[Pod])
_events = msgspec.json.Decoder(Listed[Event])
_nodes = msgspec.json.Decoder(Listed[Node])
_namespace = msgspec.json.Decoder(Namespace)
_secret = msgspec.json.Decoder(Secret)
_review = msgspec.json.Decoder(Review)
_version = msgspec.json.Decoder(Version)
