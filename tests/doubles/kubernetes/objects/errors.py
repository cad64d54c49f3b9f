"""What the API server says when it refuses a request: one exception, and a function for each kind
of refusal.

The words are those of the recordings, and of the same server's messages where a refusal was not
recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.doubles.kubernetes.objects.kinds import Resource


class Refused(Exception):
    """A request that is answered with a ``Status`` object.

    Args:
        code: the HTTP status.
        reason: the machine-readable reason, such as ``NotFound``; empty if the server gives none.
        message: the sentence.
        details: group, kind, name, causes, as far as the server gives them.
        headers: HTTP headers of the answer.
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
        """The body."""
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
    """Why one field is refused; ``reason`` as in ``FieldValueInvalid``."""

    field: str
    reason: str
    message: str


def bad_value(field: str, value: str, why: str) -> Cause:
    """A value that cannot be; ``value`` as the server quotes it."""
    return Cause(field, "FieldValueInvalid", f"Invalid value: {value}: {why}")


def required(field: str, why: str = "") -> Cause:
    """A value that is missing."""
    return Cause(field, "FieldValueRequired", "Required value" + (f": {why}" if why else ""))


def unsupported(field: str, value: object, supported: Sequence[str]) -> Cause:
    """A value that is none of the few."""
    names = ", ".join(f'"{name}"' for name in supported)
    return Cause(
        field, "FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {names}'
    )


def duplicate(field: str, value: str) -> Cause:
    """A value that may occur once."""
    return Cause(field, "FieldValueDuplicate", f'Duplicate value: "{value}"')


def forbidden_field(field: str, why: str) -> Cause:
    """A field that may not be set here."""
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
    """404: no such object."""
    return Refused(404, "NotFound", f'{resource.title} "{name}" not found', _named(resource, name))


def no_such_path() -> Refused:
    """404: nothing is served there."""
    return Refused(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: Resource, name: str) -> Refused:
    """409: the name is taken."""
    return Refused(
        409, "AlreadyExists", f'{resource.title} "{name}" already exists', _named(resource, name)
    )


def conflict(resource: Resource, name: str, why: str) -> Refused:
    """409: another object, or another version of it, than the request says."""
    message = f'Operation cannot be fulfilled on {resource.title} "{name}": {why}'
    return Refused(409, "Conflict", message, _named(resource, name))


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> Refused:
    """422: fields are wrong."""
    told = [f"{cause.field}: {cause.message}" for cause in causes]
    text = told[0] if len(told) == 1 else "[" + ", ".join(told) + "]"
    details = _named(resource, name, kind=True)
    details["causes"] = [
        {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes
    ]
    return Refused(422, "Invalid", f'{resource.kind_title} "{name}" is invalid: {text}', details)


def bad_request(message: str) -> Refused:
    """400: the request cannot be understood."""
    return Refused(400, "BadRequest", message)


def forbidden(resource: Resource, name: str, why: str) -> Refused:
    """403: an object or a name that may not be."""
    subject = f'{resource.title} "{name}"' if name else resource.title
    return Refused(403, "Forbidden", f"{subject} is forbidden: {why}", _named(resource, name))


def unauthorized() -> Refused:
    """401: no such token."""
    return Refused(401, "Unauthorized", "Unauthorized")


def not_allowed() -> Refused:
    """405: the resource has not this verb."""
    return Refused(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
        {},
    )


def expired(wanted: str, oldest: int) -> Refused:
    """410 (in a watch): the history does not reach back so far."""
    return Refused(410, "Expired", f"too old resource version: {wanted} ({oldest})")


def too_large(wanted: str, current: int) -> Refused:
    """504: a version that is still to come, perhaps of another life of the server."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    message = f"Timeout: Too large resource version: {wanted}, current: {current}"
    return Refused(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})


def continue_expired() -> Refused:
    """410: a page of a list that is too old to go on with."""
    return Refused(
        410,
        "Expired",
        "The provided continue parameter is too old to display a consistent list result. You can"
        " start a new list without the continue parameter.",
    )


def no_initial_events() -> Refused:
    """500 (in a watch): sendInitialEvents is not to be had, as recorded."""
    return Refused(
        500,
        "InternalError",
        "a watch stream was requested by the client but the required storage feature"
        " RequestWatchProgress is disabled",
    )
