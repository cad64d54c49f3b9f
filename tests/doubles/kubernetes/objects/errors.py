"""The refusals of the API server: one exception, and a function for each kind of refusal.

Messages are those of the recordings. Refusals without a recording have the messages of the same
server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.doubles.kubernetes.objects.kinds import Resource


class Refused(Exception):
    """A request that the server refuses with a ``Status`` object.

    Args:
        code: the HTTP status code.
        reason: the machine-readable reason, such as ``NotFound``; empty if the server gives none.
        message: the message.
        details: group, kind, name and causes, as far as the server gives them.
        headers: HTTP headers of the response.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.headers = dict(headers or {})

    def status(self) -> dict[str, Any]:
        """Return the body of the response."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
        }
        body |= {"message": self.message, "reason": self.reason, "code": self.code}
        if self.details is not None:
            body["details"] = dict(self.details)
        return body


@dataclass(frozen=True, slots=True)
class Cause:
    """Why the server refuses one field; ``reason`` as in ``FieldValueInvalid``."""

    field: str
    reason: str
    message: str


def bad_value(field: str, value: str, why: str) -> Cause:
    """Return the cause for an invalid value; ``value`` as the server quotes it."""
    return Cause(field, "FieldValueInvalid", f"Invalid value: {value}: {why}")


def required(field: str, why: str = "") -> Cause:
    """Return the cause for a missing value."""
    return Cause(field, "FieldValueRequired", "Required value" + (f": {why}" if why else ""))


def unsupported(field: str, value: object, supported: Sequence[str]) -> Cause:
    """Return the cause for a value outside an enumeration."""
    names = ", ".join(f'"{name}"' for name in supported)
    return Cause(
        field, "FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {names}'
    )


def duplicate(field: str, value: str) -> Cause:
    """Return the cause for a value that occurs twice."""
    return Cause(field, "FieldValueDuplicate", f'Duplicate value: "{value}"')


def forbidden_field(field: str, why: str) -> Cause:
    """Return the cause for a field that must not be set."""
    return Cause(field, "FieldValueForbidden", f"Forbidden: {why}")


def _named(resource: Resource, name: str, *, kind: bool = False) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if name:
        details["name"] = name
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.kind if kind else resource.plural
    return details


def not_found(resource: Resource, name: str) -> Refused:
    """Return 404: the object does not exist."""
    return Refused(404, "NotFound", f'{resource.title} "{name}" not found', _named(resource, name))


def no_such_path() -> Refused:
    """Return 404: the server has no such path."""
    return Refused(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: Resource, name: str) -> Refused:
    """Return 409: the name is in use."""
    return Refused(
        409, "AlreadyExists", f'{resource.title} "{name}" already exists', _named(resource, name)
    )


def conflict(resource: Resource, name: str, why: str) -> Refused:
    """Return 409: the stored object or its version is not the one of the request."""
    message = f'Operation cannot be fulfilled on {resource.title} "{name}": {why}'
    return Refused(409, "Conflict", message, _named(resource, name))


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> Refused:
    """Return 422: fields are invalid."""
    lines = [f"{cause.field}: {cause.message}" for cause in causes]
    text = lines[0] if len(lines) == 1 else "[" + ", ".join(lines) + "]"
    details = _named(resource, name, kind=True)
    details["causes"] = [
        {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes
    ]
    return Refused(422, "Invalid", f'{resource.kind_title} "{name}" is invalid: {text}', details)


def bad_request(message: str) -> Refused:
    """Return 400: the request cannot be parsed."""
    return Refused(400, "BadRequest", message)


def forbidden(resource: Resource, name: str, why: str) -> Refused:
    """Return 403: the user lacks a right, or admission rejects the object."""
    subject = f'{resource.title} "{name}"' if name else resource.title
    return Refused(403, "Forbidden", f"{subject} is forbidden: {why}", _named(resource, name))


def denied_by_policy(resource: Resource, name: str, policy: str, why: str) -> Refused:
    """Return 422: a ValidatingAdmissionPolicy denies the object. It names no field."""
    denied = f"ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: {why}"
    details = _named(resource, name) | {"causes": [{"message": denied}]}
    return Refused(422, "Invalid", f'{resource.title} "{name}" is forbidden: {denied}', details)


def unauthorized() -> Refused:
    """Return 401: the token is unknown."""
    return Refused(401, "Unauthorized", "Unauthorized")


def not_allowed() -> Refused:
    """Return 405: the resource does not support this verb."""
    return Refused(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
        {},
    )


def expired(wanted: str, oldest: int) -> Refused:
    """Return 410 (in a watch): the history no longer has this version."""
    return Refused(410, "Expired", f"too old resource version: {wanted} ({oldest})")


def too_large(wanted: str, current: int) -> Refused:
    """Return 504: the version is newer than the newest of the server."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    message = f"Timeout: Too large resource version: {wanted}, current: {current}"
    return Refused(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})


def continue_expired() -> Refused:
    """Return 410: the history no longer has the version of a list's pages."""
    return Refused(
        410,
        "Expired",
        "The provided continue parameter is too old to display a consistent list result. You can"
        " start a new list without the continue parameter.",
    )


def no_initial_events() -> Refused:
    """Return 500 (in a watch): the recorded server does not support sendInitialEvents."""
    return Refused(
        500,
        "InternalError",
        "a watch stream was requested by the client but the required storage feature"
        " RequestWatchProgress is disabled",
    )
