"""Requests to the API on jobs and pods: one method per verb, with paths, queries and decoding.

Every method may raise :class:`~gpuqueue.launchers.kubernetes.api.errors.ApiError` and can be called
from any thread. Never here: retries.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from gpuqueue.launchers.kubernetes.api.answers import Event, Listed
from gpuqueue.launchers.kubernetes.api.cluster_objects import (
    Namespace,
    Node,
    Review,
    Secret,
    Version,
)
from gpuqueue.launchers.kubernetes.api.errors import ApiError, NotFound
from gpuqueue.launchers.kubernetes.api.object_reader import ObjectReader
from gpuqueue.launchers.kubernetes.api.objects import CONTAINER, Job, Pod
from gpuqueue.launchers.kubernetes.api.watch import PodWatch


class Requests(ObjectReader):
    """Requests to one server and one namespace."""

    # -- jobs --------------------------------------------------------------------------------------

    def create_job(self, manifest: Mapping[str, Any], dry_run: bool = False) -> Job:
        """Create a Job. The API rejects unknown fields. ``dry_run`` only validates it."""
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        request = f"create job {manifest['metadata']['name']} in {self.namespace}"
        return self._decode(
            request, _job, self._transport.send(request, "POST", self._jobs, query, manifest)
        )

    def get_job(self, name: str) -> Job | None:
        """Return a Job; None if it does not exist."""
        body = self._get(
            f"get job {name} in {self.namespace}", f"{self._jobs}/{quote(name, safe='')}"
        )
        return None if body is None else self._decode(f"get job {name}", _job, body)

    def delete_job(self, name: str, uid: str = "") -> bool:
        """Delete a Job and, in the background, its pods.

        With ``uid``, only the Job with that uid. Returns False if it did not exist.
        """
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
        }
        if uid:
            options["preconditions"] = {"uid": uid}
        request = f"delete job {name} in {self.namespace}"
        try:
            self._transport.send(
                request, "DELETE", f"{self._jobs}/{quote(name, safe='')}", None, options
            )
        except NotFound:
            return False
        except ApiError as exc:
            if uid and exc.status == 409:
                return False  # the name belongs to another Job by now
            raise
        return True

    def list_jobs(self, selector: str) -> tuple[list[Job], str]:
        """Return the Jobs that match a label selector, and the version of the list."""
        return self._list("jobs", self._jobs, _jobs, {"labelSelector": selector})

    def job_events(self, job_name: str) -> list[Event]:
        """Return the events of a Job, oldest first. Only they report rejected pods."""
        query = {"fieldSelector": f"involvedObject.kind=Job,involvedObject.name={job_name}"}
        events = self._list("events", f"{self._core}/events", _events, query)[0]
        return sorted(events, key=lambda event: event.last_seen or 0.0)

    # -- pods --------------------------------------------------------------------------------------

    def list_pods(self, selector: str) -> tuple[list[Pod], str]:
        """Return the pods that match a label selector, and the version to watch from."""
        return self._list("pods", f"{self._core}/pods", _pods, {"labelSelector": selector})

    def watch_pods(
        self, selector: str, resource_version: str, timeout_seconds: float, silence: float
    ) -> PodWatch:
        """Watch pods from a version on, until the server closes after ``timeout_seconds``.

        Yields events of type ADDED, MODIFIED, DELETED (``object`` is the last state) or BOOKMARK
        (all changes up to its resourceVersion were sent). The iteration ends when the stream closes
        or breaks, which does not concern any pod. Raises Expired (list again), StreamSilent after
        ``silence`` seconds without data, or the error that the server reports.
        """
        query: dict[str, str | int] = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": selector,
            "resourceVersion": resource_version,
            "timeoutSeconds": max(1, int(timeout_seconds)),
        }
        request = f"watch pods in {self.namespace}"
        return PodWatch(
            request, self._transport.open(request, f"{self._core}/pods", query, silence)
        )

    def pod_log(
        self, pod: str, tail_lines: int, limit_bytes: int, since: float | None = None
    ) -> str:
        """Return the last lines of a pod log, up to ``limit_bytes``. The API cuts off the end.

        ``since``: only lines written from the second of this time on (Unix seconds), each with its
        time and a space before it.
        """
        query: dict[str, str | int] = {
            "container": CONTAINER,
            "tailLines": tail_lines,
            "limitBytes": limit_bytes,
        }
        if since is not None:
            # The API server passes whole seconds on to the node.
            second = datetime.fromtimestamp(int(since), UTC)
            query |= {"sinceTime": f"{second:%Y-%m-%dT%H:%M:%SZ}", "timestamps": "true"}
        request = f"get log of pod {pod} in {self.namespace}"
        return self._transport.send(request, "GET", self._log(pod), query).decode(errors="replace")

    def follow_log(self, pod: str, tail_lines: int) -> Iterator[str]:
        """Yield a pod log from its last lines on, as it is written, until the container ends."""
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

    # -- requests of doctor ------------------------------------------------------------------------

    def can(
        self,
        verb: str,
        resource: str,
        group: str = "",
        subresource: str = "",
        namespace: str | None = None,
    ) -> tuple[bool, str]:
        """Return whether access is allowed, and the reason.

        ``namespace``: "" is the whole cluster, None the own namespace.
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
        request = f"ask whether {verb} {resource} is allowed"
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        status = self._decode(
            request, _review, self._transport.send(request, "POST", path, None, review)
        ).status
        return status.allowed, status.reason or status.evaluation_error

    def get_namespace(self, name: str) -> Namespace | None:
        """Return a namespace; None if it does not exist."""
        body = self._get(f"get namespace {name}", f"/api/v1/namespaces/{quote(name, safe='')}")
        return None if body is None else self._decode(f"get namespace {name}", _namespace, body)

    def list_nodes(self, label_selector: str = "") -> list[Node]:
        """Return the nodes that match a label selector ("": all)."""
        return self._list(
            "nodes",
            "/api/v1/nodes",
            _nodes,
            {"labelSelector": label_selector} if label_selector else {},
        )[0]

    def get_secret_keys(self, name: str) -> set[str] | None:
        """Return the keys of a Secret in the own namespace; None if it does not exist."""
        body = self._get(
            f"get secret {name} in {self.namespace}", f"{self._core}/secrets/{quote(name, safe='')}"
        )
        return (
            None
            if body is None
            else set(self._decode(f"get secret {name}", _secret, body).data or ())
        )

    def server_version(self) -> str:
        """Return the version of the server, like ``v1.36.2``."""
        request = "get version of the server"
        return self._decode(
            request, _version, self._transport.send(request, "GET", "/version")
        ).git_version

    # -- helpers -----------------------------------------------------------------------------------

    def _log(self, pod: str) -> str:
        return f"{self._core}/pods/{quote(pod, safe='')}/log"


_job = msgspec.json.Decoder(Job)
_jobs = msgspec.json.Decoder(Listed[Job])
_pods = msgspec.json.Decoder(Listed[Pod])
_events = msgspec.json.Decoder(Listed[Event])
_nodes = msgspec.json.Decoder(Listed[Node])
_namespace = msgspec.json.Decoder(Namespace)
_secret = msgspec.json.Decoder(Secret)
_review = msgspec.json.Decoder(Review)
_version = msgspec.json.Decoder(Version)
