"""Requests to the API on jobs and pods: one method per verb, with paths, queries and decoding.

Every method may raise :class:`~gpuqueue.launchers.kubernetes.api.errors.ApiError` and can be called
from any thread. Never here: retries.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from gpuqueue.launchers.kubernetes.api.answers import (
    EVENT_EVENTS,
    JOB_EVENTS,
    POD_EVENTS,
    Event,
    Listed,
    Watched,
)
from gpuqueue.launchers.kubernetes.api.cluster_objects import (
    LimitRange,
    Namespace,
    Node,
    Quota,
    Review,
    Secret,
    Version,
)
from gpuqueue.launchers.kubernetes.api.errors import ApiError, NotFound, Unreachable
from gpuqueue.launchers.kubernetes.api.object_reader import ObjectReader
from gpuqueue.launchers.kubernetes.api.objects import CONTAINER, Job, Pod
from gpuqueue.launchers.kubernetes.api.watch import Watch

T = TypeVar("T")
#: The events that report why a Job has no pod.
_REJECTED_PODS = "involvedObject.kind=Job,reason=FailedCreate"
#: Seconds until an answer must begin that tells whether the API is in sight.
LOOK_TIMEOUT = 5.0
#: A pod that does not exist: a list of it is the cheapest request with the right of all lists.
_NO_POD = "metadata.name=gpuqueue-look"


class Requests(ObjectReader):
    """Requests to one server and one namespace."""

    def within(self, namespace: str) -> Requests:
        """Return the same requests to another namespace."""
        return Requests(self._transport, namespace)

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

    def watch_jobs(
        self, selector: str, resource_version: str, timeout_seconds: float, silence: float
    ) -> Watch[Job]:
        """Watch Jobs, as :meth:`watch_pods` does pods."""
        query = {"labelSelector": selector}
        span = resource_version, timeout_seconds, silence
        return self._watch("jobs", self._jobs, JOB_EVENTS, query, *span)

    def list_rejections(self) -> tuple[list[Event], str]:
        """Return the events of all Jobs that report rejected pods, and the version of the list."""
        query = {"fieldSelector": _REJECTED_PODS}
        return self._list("events", f"{self._core}/events", _events, query)

    def watch_rejections(
        self, resource_version: str, timeout_seconds: float, silence: float
    ) -> Watch[Event]:
        """Watch the events of :meth:`list_rejections`, as :meth:`watch_pods` does pods."""
        query = {"fieldSelector": _REJECTED_PODS}
        span = resource_version, timeout_seconds, silence
        return self._watch("events", f"{self._core}/events", EVENT_EVENTS, query, *span)

    def pod_events(self, pod_name: str) -> list[Event]:
        """Return the events of a pod, oldest first: of its kubelet, the scheduler, autoscalers."""
        query = {"fieldSelector": f"involvedObject.kind=Pod,involvedObject.name={pod_name}"}
        events = self._list("events", f"{self._core}/events", _events, query)[0]
        return sorted(events, key=lambda event: event.last_seen or 0.0)

    # -- pods --------------------------------------------------------------------------------------

    def list_pods(self, selector: str) -> tuple[list[Pod], str]:
        """Return the pods that match a label selector, and the version to watch from."""
        return self._list("pods", f"{self._core}/pods", _pods, {"labelSelector": selector})

    def look(self) -> None:
        """Ask for no pod, with the right that all lists of pods need: whether the API answers."""
        query = {"fieldSelector": _NO_POD, "resourceVersion": "0"}
        request = f"list pods in {self.namespace}"
        timeout = min(LOOK_TIMEOUT, self._transport.timeout)
        self._transport.send(request, "GET", f"{self._core}/pods", query, timeout=timeout)

    def watch_pods(
        self, selector: str, resource_version: str, timeout_seconds: float, silence: float
    ) -> Watch[Pod]:
        """Watch pods from a version on, until the server closes after ``timeout_seconds``.

        Yields events of type ADDED, MODIFIED, DELETED (``object`` is the last state) or BOOKMARK
        (all changes up to its resourceVersion were sent). The iteration ends when the stream closes
        or breaks, which does not concern any pod. Raises Expired (list again), StreamSilent after
        ``silence`` seconds without data, or the error that the server reports.
        """
        query = {"labelSelector": selector}
        span = resource_version, timeout_seconds, silence
        return self._watch("pods", f"{self._core}/pods", POD_EVENTS, query, *span)

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

    def whole_log(self, pod: str) -> Iterator[bytes]:
        """Yield all of a pod's log that its node has, up to now. Raises Unreachable if it breaks
        off.
        """
        request = f"get whole log of pod {pod} in {self.namespace}"
        query = {"container": CONTAINER}
        timeout = self._transport.timeout
        with self._transport.open(request, self._log(pod), query, timeout) as stream:
            yield from stream
            if stream.broken:
                raise Unreachable("the connection has broken off", request=request)

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

    def get_node(self, name: str) -> Node | None:
        """Return a node; None if it does not exist."""
        body = self._get(f"get node {name}", f"/api/v1/nodes/{quote(name, safe='')}")
        return None if body is None else self._decode(f"get node {name}", _node, body)

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

    def list_quotas(self) -> list[Quota]:
        """Return the ResourceQuotas of the namespace."""
        return self._list("resourcequotas", f"{self._core}/resourcequotas", _quotas, {})[0]

    def list_limit_ranges(self) -> list[LimitRange]:
        """Return the LimitRanges of the namespace."""
        return self._list("limitranges", f"{self._core}/limitranges", _limit_ranges, {})[0]

    def server_version(self) -> str:
        """Return the version of the server, like ``v1.36.2``."""
        request = "get version of the server"
        return self._decode(
            request, _version, self._transport.send(request, "GET", "/version")
        ).git_version

    # -- helpers -----------------------------------------------------------------------------------

    def _watch(
        self,
        kind: str,
        path: str,
        events: msgspec.json.Decoder[Watched[T]],
        selection: Mapping[str, str],
        resource_version: str,
        timeout_seconds: float,
        silence: float,
    ) -> Watch[T]:
        query: dict[str, str | int] = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            **selection,
            "resourceVersion": resource_version,
            "timeoutSeconds": max(1, int(timeout_seconds)),
        }
        request = f"watch {kind} in {self.namespace}"
        return Watch(request, self._transport.open(request, path, query, silence), events)

    def _log(self, pod: str) -> str:
        return f"{self._core}/pods/{quote(pod, safe='')}/log"


_job = msgspec.json.Decoder(Job)
_jobs = msgspec.json.Decoder(Listed[Job])
_pods = msgspec.json.Decoder(Listed[Pod])
_events = msgspec.json.Decoder(Listed[Event])
_node = msgspec.json.Decoder(Node)
_nodes = msgspec.json.Decoder(Listed[Node])
_namespace = msgspec.json.Decoder(Namespace)
_quotas = msgspec.json.Decoder(Listed[Quota])
_limit_ranges = msgspec.json.Decoder(Listed[LimitRange])
_secret = msgspec.json.Decoder(Secret)
_review = msgspec.json.Decoder(Review)
_version = msgspec.json.Decoder(Version)
