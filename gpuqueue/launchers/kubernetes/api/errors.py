"""Errors of the Kubernetes API. Each one knows whether a retry may succeed.

A message is one line: the request, and the message of the server.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence

import msgspec

from gpuqueue.errors import GpuQueueError
from gpuqueue.launchers.kubernetes.api.answers import StatusBody
from gpuqueue.launchers.kubernetes.api.server_clock import unix

#: Longest Retry-After that is obeyed, in seconds: a wrong date must not stop the queue.
MAX_RETRY_AFTER = 60.0
#: Characters shown of a response that is not a Status object.
_SHOWN = 300
#: The 4xx statuses after which the same request may succeed later.
_PASSING = frozenset({401, 408, 409, 410, 429})
#: The one of them that is a refusal until a credential changes.
_REFUSING = frozenset({401})
#: The words of a server whose webhook does not answer: status 500.
_WEBHOOK = "failed calling webhook"
#: Those of etcd, and of the client of it, for an object that is too large: status 500.
_TOO_LARGE = re.compile(
    r"etcdserver: request is too large|trying to send message larger than max", re.IGNORECASE
)
#: Those of a webhook or a policy that refuses an object.
_DENIED = re.compile(r"denied (the )?request")


class ApiError(GpuQueueError):
    """The API rejected a request, or did not respond.

    Attributes:
        request: verb and resource.
        status: the HTTP status; 0 without a response. 413 for what is too large for etcd, too.
        reason: the reason in the Status object (``Forbidden``, ``AlreadyExists``…), or "".
        message: the message of the server.
        retry_after: the Retry-After of the server in seconds, at most MAX_RETRY_AFTER; None if the
            server sets none.
        fields: the fields of the object that the server names as invalid.
    """

    def __init__(
        self,
        text: str,
        *,
        request: str = "",
        status: int = 0,
        reason: str = "",
        retry_after: float | None = None,
        fields: Sequence[str] = (),
    ) -> None:
        what = " ".join(word for word in (str(status or ""), reason) if word)
        super().__init__(
            ": ".join(part for part in (request, what, " ".join(text.split())) if part)
        )
        self.request = request
        self.status = status
        self.reason = reason
        self.message = " ".join(text.split())
        self.retry_after = retry_after
        self.fields = tuple(fields)

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later.

        True for no response, an overload, a conflict, and a token that is being renewed.
        """
        return self.status in _PASSING or not 400 <= self.status < 500

    @property
    def denied(self) -> bool:
        """Whether a webhook or a policy refuses the object: with the status and the fields that it
        chooses.
        """
        return _DENIED.search(self.message) is not None

    @property
    def refused(self) -> bool:
        """Whether the server has certainly not carried out the request, and would refuse it again.

        Its rights, policies or objects must change first. It does not need more time.
        """
        if self.denied or _WEBHOOK in self.message:
            return True
        needs_time = self.status in _PASSING - _REFUSING
        return 400 <= self.status < 500 and not needs_time


class Unreachable(ApiError):
    """The response is missing or does not come from a Kubernetes API.

    The server may still have carried out the request.
    """


class Forbidden(ApiError):
    """RBAC, Pod Security or an admission plugin rejects the request."""

    @property
    def passing(self) -> bool:
        """True for a message with ``RBAC:``: a server that just started does not know all roles."""
        return "RBAC: " in self.message


class QuotaRejected(ApiError):
    """A ResourceQuota rejects the object now; a retry may succeed after other pods end."""

    passing = True


class NotFound(ApiError):
    """The object, or its namespace, does not exist."""


class AlreadyExists(ApiError):
    """An object with that name already exists."""

    passing = False


class Invalid(ApiError):
    """The object is invalid: the message names the field."""


class Expired(ApiError):
    """The requested version or page is no longer available: list again."""


class StreamSilent(ApiError):
    """A watch received nothing for too long, not even a bookmark.

    Something between client and server may have dropped the connection.
    """


class _Refusal(StatusBody, frozen=True):
    kind: str = ""


_refusal = msgspec.json.Decoder(_Refusal)
_BY_STATUS: dict[int, type[ApiError]] = {
    400: Invalid,
    403: Forbidden,
    404: NotFound,
    410: Expired,
    413: Invalid,
    422: Invalid,
}


def refusal(request: str, http_status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """Return the error of a response without success. ``headers`` ignore case (urllib3)."""
    retry_after = _retry_after(headers)
    try:
        status = _refusal.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        status = _Refusal()
    if status.kind == "Status":
        return from_status(request, status, http_status, retry_after)
    text = body[: 4 * _SHOWN].decode(errors="replace")[:_SHOWN].strip() or "no message"
    if http_status in (404, 410):
        # Only the API itself can tell that a Job is gone. A load balancer cannot.
        return Unreachable(
            f"HTTP {http_status} without a Status object, not from a Kubernetes API: {text}",
            request=request,
            retry_after=retry_after,
        )
    kind = _BY_STATUS.get(http_status, ApiError)
    return kind(text, request=request, status=http_status, retry_after=retry_after)


def from_status(
    request: str, status: StatusBody, http_status: int = 0, retry_after: float | None = None
) -> ApiError:
    """Return the error of a Status object, from a response or an ERROR event of a watch."""
    code, text = status.code or http_status, status.message or "no message"
    if code == 500 and _TOO_LARGE.search(text):
        code = 413  # as the API server says of what is too large for itself
    kind = _BY_STATUS.get(code, ApiError)
    if status.reason == "AlreadyExists":
        kind = AlreadyExists
    elif kind is Forbidden and "exceeded quota" in text:
        kind = QuotaRejected
    if retry_after is None and status.details and status.details.retry_after_seconds:
        retry_after = min(float(status.details.retry_after_seconds), MAX_RETRY_AFTER)
    causes = (status.details and status.details.causes) or ()
    return kind(
        text,
        request=request,
        status=code,
        reason=status.reason or "",
        retry_after=retry_after,
        fields=[each.field for each in causes if each.field],
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        until = unix(value)
        if until is None:
            return None
        # By the clock of the server, if it sends its time: ours may differ.
        now = unix(headers.get("Date", ""))
        seconds = until - (time.time() if now is None else now)
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if seconds == seconds else None
